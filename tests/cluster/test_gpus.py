"""GPUs as Spark hands them out on a real cluster, whose workers have made-up ones: torch finds none here."""

import json
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

import standalone
from image_similarity.jobs import build_manifest
from image_similarity.jobs.command_line import main
from processes import ask
from standalone import Cluster
from tools import packaging

WORKERS = 2
CORES = 2
ADDRESSES = ("2", "3")
"""Of each worker's GPUs: not from 0 on, so that a device which is counted and not looked up is a wrong one."""


@pytest.fixture(scope="module")
def cluster(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master, and two workers of two cores each that discover two GPUs, with the script that is shipped."""
    folder = tmp_path_factory.mktemp("gpu-cluster")
    nvidia_smi = folder / "nvidia-smi"
    nvidia_smi.write_text("#!/bin/sh\nprintf '%s\\n' " + " ".join(ADDRESSES) + "\n")
    nvidia_smi.chmod(0o755)
    script = dist / "conf" / "discover_gpus.sh"
    options = [
        f"-Dspark.worker.resource.gpu.amount={len(ADDRESSES)}",
        f"-Dspark.worker.resource.gpu.discoveryScript={script}",
    ]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        environment.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        with standalone.cluster(folder, WORKERS, CORES, worker_options=options) as made:
            yield made


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make package`` writes, and the application that asks for devices."""
    folder = tmp_path_factory.mktemp("gpu-dist")
    packaging.package(folder)
    shutil.copy(Path(__file__).with_name("gpu_tasks.py"), folder / "jobs")
    return folder


Submit = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def submit(cluster: Cluster, dist: Path, bare_python: Path) -> Submit:
    """``submit(job, *arguments, cores=, gpus=, of_task=, executors=, attempts=)``: with cluster-gpu.conf, but for what
    belongs to this cluster.
    """

    def submitted(
        job: str,
        *arguments: object,
        cores: int,
        gpus: int,
        of_task: float = 1,
        executors: int = WORKERS,
        attempts: int = 4,
        **environment: str,
    ) -> "subprocess.CompletedProcess[str]":
        conf = {
            "spark.executor.cores": str(cores),
            "spark.cores.max": str(executors * cores),
            "spark.task.cpus": "1",
            "spark.task.maxFailures": str(attempts),
            "spark.executor.resource.gpu.amount": str(gpus),
            "spark.task.resource.gpu.amount": str(of_task),
            **{f"spark.executorEnv.{name}": value for name, value in environment.items()},
        }
        return cluster.submit(dist, job, *map(str, arguments), python=bare_python, properties="cluster-gpu", conf=conf)

    return submitted


def devices_seen(submit: Submit, folder: Path, visible: str | None = None, **how: Any) -> list[list[str]]:
    """The devices of four tasks that were at work at the same time, executor by executor."""
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    done = submit("gpu_tasks", folder, WORKERS * CORES, 4, **how, **environment)
    assert done.returncode == 0, done.stdout
    told = json.loads((folder / "told.json").read_text())
    assert sorted(one["task"] for one in told) == [0, 1, 2, 3]
    assert {one["visible"] for one in told} == {visible}
    executors = {one["executor"] for one in told}
    return sorted(sorted(one["device"] for one in told if one["executor"] == executor) for executor in executors)


def test_tasks_at_work_together_have_a_gpu_each(submit: Submit, tmp_path: Path) -> None:
    seen = devices_seen(submit, tmp_path, cores=2, gpus=2)
    assert seen == [["cuda:2", "cuda:3"]] * 2


def test_half_a_gpu_each_is_one_for_two(submit: Submit, tmp_path: Path) -> None:
    """Under a list of visible devices, too: the address counts its entries."""
    seen = devices_seen(submit, tmp_path, cores=2, gpus=1, of_task=0.5, visible="GPU-a,GPU-b,GPU-c,GPU-d")
    assert [Counter(devices) for devices in seen] == [{device: 2} for [device, _] in seen]
    assert len(seen) == 2 and {device for devices in seen for device in devices} <= {"cuda:2", "cuda:3"}


def published(warehouse: Path) -> dict[str, Any]:
    return dict(json.loads((warehouse / "_current.json").read_text())["tables"])


def test_a_gpu_that_torch_cannot_use_ends_the_job_unless_settings_allow_it(
    submit: Submit, spark: SparkSession, pictures: Path, tiny: list[str], tmp_path: Path
) -> None:
    common = ["--warehouse", str(tmp_path / "w"), "--set", "embeddings.max_failed_fraction=0.1", *tiny]
    assert main(build_manifest, ["--images", str(pictures), *common], session=spark) == 0
    before = published(tmp_path / "w")

    # Further attempts would fail alike, each after some seconds.
    failed = submit("embed_images", *common, cores=1, gpus=1, executors=1, attempts=1)
    assert failed.returncode == 1
    [line] = [line for line in failed.stdout.splitlines() if line.startswith("embed_images: error: ")]
    assert "which Spark gave a task, cannot be used: torch" in line and "--set embeddings.device_fallback=cpu" in line
    assert "Traceback" not in failed.stdout
    assert published(tmp_path / "w") == before and "embeddings" not in before

    done = submit("embed_images", *common, "--set", "embeddings.device_fallback=cpu", cores=1, gpus=1, executors=1)
    assert done.returncode == 0, done.stdout
    assert "computed on: cpu (4" in done.stdout
    [(counts,)] = ask(tmp_path / "w", "SELECT counts FROM runs WHERE job = 'embed_images'")
    assert json.loads(counts)["devices"] == {"cpu": json.loads(counts)["embedded"]}
    assert ask(tmp_path / "w", "SELECT count(*) FROM embeddings") == [(41,)]
