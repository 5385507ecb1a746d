"""Fixtures of tests on a cluster: the cluster, what is submitted to it, and pictures."""

from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from PIL import Image

import standalone
from standalone import Cluster
from tools import packaging, samples


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master and three workers of one core each."""
    with standalone.cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make package`` writes."""
    folder = tmp_path_factory.mktemp("dist")
    packaging.package(folder)
    return folder


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with all dependencies, in which the library is not installed."""
    return standalone.python_without_library(tmp_path_factory.mktemp("machine") / "venv")


Submit = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def submit(cluster: Cluster, dist: Path, bare_python: Path) -> Submit:
    """``submit(job, *arguments)``: a job from ``dist`` on the cluster, to its end; it must succeed."""

    def submitted(job: str, *arguments: object) -> "CompletedProcess[str]":
        # Two executors are as good as three for what is tried here, and sooner there.
        done = cluster.submit(dist, job, *map(str, arguments), python=bare_python, conf={"spark.cores.max": "2"})
        assert done.returncode == 0, done.stdout
        return done

    return submitted


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of two families, a copy, and a broken one."""
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(40):
        family = ("sunset", "tartan")[index % 2]
        picture: Image.Image = samples.FAMILIES[family](np.random.default_rng(index), (160, 120 + index))
        picture.save(folder / f"{family} {index}.png")
    (folder / "copy.png").write_bytes((folder / "sunset 0.png").read_bytes())
    (folder / "broken.png").write_bytes((folder / "sunset 0.png").read_bytes()[:500])
    return folder
