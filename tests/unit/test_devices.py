"""Which device a task gets, with a pretend torch.cuda and a pretend task: here is no GPU."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.fingerprints.colour_histogram import described
from image_similarity.runtime import devices
from image_similarity.runtime.devices import Devices
from image_similarity.settings import EmbeddingsSettings
from image_similarity.stages.embeddings import embedder, workers
from image_similarity.stages.embeddings.checkpoints import CheckpointCount
from image_similarity.stages.embeddings.embedder import Work

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "conf" / "discover_gpus.sh"
VISIBLE = "CUDA_VISIBLE_DEVICES"


class Machine:
    """What torch and Spark tell a task here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self._set = monkeypatch.setattr
        monkeypatch.delenv(VISIBLE, raising=False)
        self.gpus(0)
        self.task()

    def gpus(self, count: int, answer: Any = lambda *_, **__: None) -> None:
        """torch sees ``count`` GPUs; ``answer`` is what a first use does."""
        self._set(torch.cuda, "is_available", lambda: count > 0)
        self._set(torch.cuda, "device_count", lambda: count)
        self._set(torch.cuda, "set_device", lambda _: None)
        self._set(torch, "zeros", answer)

    def task(self, address: str | None = None, partition: int = 0) -> None:
        """This is a task of ``partition``, to which Spark gave ``address``."""
        given = {} if address is None else {"gpu": SimpleNamespace(addresses=[address])}
        task = SimpleNamespace(resources=lambda: given, partitionId=lambda: partition)
        self._set(devices, "_task", lambda: task)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def device(requested: str = "auto", fallback: str = "fail", local: bool = False) -> str:
    return Devices(requested, fallback, 1, local).of_task()


# -- on a cluster ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("requested", ["auto", "cuda"])
@pytest.mark.parametrize("visible", [None, "4,5,6,7", "GPU-a,GPU-b,GPU-c,GPU-d"])
def test_an_address_is_torchs_number_whatever_is_visible(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, visible: str | None, requested: str
) -> None:
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    machine.gpus(4)
    machine.task("2", partition=3)
    assert device(requested) == "cuda:2"


def test_an_address_that_is_no_number_is_looked_for_among_those_visible(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.gpus(2)
    machine.task("MIG-b")
    monkeypatch.setenv(VISIBLE, "GPU-a, MIG-b")
    assert device() == "cuda:1"
    monkeypatch.setenv(VISIBLE, "GPU-a,GPU-c")
    with pytest.raises(JobFailed, match=r"^\S+: GPU MIG-b, .* neither a number nor listed \(.*'GPU-a,GPU-c'\); repair"):
        device()
    monkeypatch.delenv(VISIBLE)
    with pytest.raises(JobFailed, match="CUDA_VISIBLE_DEVICES is not set"):
        device()


def test_a_task_that_was_given_none_takes_none(machine: Machine) -> None:
    machine.gpus(2)  # visible, and maybe somebody else's
    assert device("auto") == "cpu"
    with pytest.raises(JobFailed, match="device is cuda, and Spark gave a task no GPU"):
        device("cuda")
    assert device("cuda", "cpu") == "cpu"


def test_cpu_is_cpu(machine: Machine) -> None:
    machine.gpus(2)
    machine.task("1")
    assert device("cpu") == "cpu" and device("cpu", local=True) == "cpu"


@pytest.mark.parametrize(
    "count, told",
    [
        (0, "GPU 1, which Spark gave a task, cannot be used: torch finds no GPU"),
        (1, "GPU 1, which Spark gave a task, is not there: torch sees 1, from 0 on"),
    ],
)
def test_a_gpu_that_was_given_and_is_not_there_is_an_error(machine: Machine, count: int, told: str) -> None:
    machine.gpus(count)
    machine.task("1")
    with pytest.raises(JobFailed, match=f"{told}.*--set embeddings.device_fallback=cpu"):
        device()
    assert device(fallback="cpu") == "cpu"


def test_numbers_of_the_machine_behind_a_list_are_explained(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "2,3")
    machine.gpus(2)
    machine.task("3")
    with pytest.raises(
        JobFailed, match=r"GPU 3, .* torch sees 2, from 0 on \(CUDA_VISIBLE_DEVICES=2,3: addresses count"
    ):
        device()


def test_a_gpu_that_does_not_answer_is_an_error_of_one_line(machine: Machine) -> None:
    def busy(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: device busy\nCompile with TORCH_USE_CUDA_DSA")

    machine.gpus(1, busy)
    machine.task("0")
    with pytest.raises(JobFailed, match=r"^\S+: GPU 0, .* cannot be used: CUDA error: device busy; repair") as raised:
        device()
    assert "\n" not in str(raised.value)
    assert device(fallback="cpu") == "cpu"


def test_torch_without_cuda_says_so(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    machine.task("0")
    with pytest.raises(JobFailed, match="is built without CUDA"):
        device()


# -- on one machine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks_per_gpu", [1, 3])
def test_no_gpu_gets_more_tasks_than_it_may(machine: Machine, tasks_per_gpu: int) -> None:
    machine.gpus(2)
    of_tasks = Devices("auto", "fail", tasks_per_gpu, in_local_mode=True)
    most = of_tasks.most_tasks()
    assert most == 2 * tasks_per_gpu
    taken = []
    for partition in range(most):
        machine.task(partition=partition)
        taken.append(of_tasks.of_task())
    assert {gpu: taken.count(gpu) for gpu in taken} == {"cuda:0": tasks_per_gpu, "cuda:1": tasks_per_gpu}


def test_without_gpus_tasks_are_as_many_as_ever(machine: Machine) -> None:
    assert Devices("auto", "fail", 1, in_local_mode=True).most_tasks() is None
    assert device("auto", local=True) == "cpu" and device("cuda", "cpu", local=True) == "cpu"
    with pytest.raises(JobFailed, match="device is cuda, and torch finds no GPU"):
        device("cuda", local=True)
    machine.gpus(2)
    assert Devices("cpu", "fail", 1, in_local_mode=True).most_tasks() is None
    assert Devices("auto", "fail", 1, in_local_mode=False).most_tasks() is None, "Spark counts there"


def test_a_task_has_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """In local mode those of the machine, among all tasks that run at a time; on a cluster those that Spark gave it."""
    monkeypatch.setattr(devices, "available_cores", lambda: 16)
    monkeypatch.setattr(devices, "_visible_count", lambda: 2)
    assert Devices("auto", "fail", 1, in_local_mode=True).cores_of_task() == 8
    assert Devices("auto", "fail", 4, in_local_mode=True).cores_of_task() == 2
    assert Devices("auto", "fail", 64, in_local_mode=True).cores_of_task() == 1
    on_cluster = Devices("auto", "fail", 1, in_local_mode=False)
    for cpus, cores in ((1, 2), (6, 6)):
        monkeypatch.setattr(devices, "_task", lambda cpus=cpus: SimpleNamespace(cpus=lambda: cpus))
        assert on_cluster.cores_of_task() == cores


# -- on the driver -----------------------------------------------------------------------------------------------------


def application(master: str, **conf: str) -> Any:
    context = SimpleNamespace(master=master, getConf=lambda: conf)
    return SimpleNamespace(sparkContext=context)


def test_cuda_without_a_gpu_is_refused_before_any_work(machine: Machine) -> None:
    cuda = EmbeddingsSettings(device="cuda")
    with pytest.raises(JobFailed, match="torch finds no GPU") as raised:
        devices.check(application("local[2]"), cuda)
    assert raised.value.exit_code == 1
    with pytest.raises(
        WrongInput, match="asks the cluster for no GPUs: submit it .* conf/spark/cluster-gpu.conf"
    ) as wrong:
        devices.check(application("spark://host:7077"), cuda)
    assert wrong.value.exit_code == 2


def test_what_can_work_is_not_refused(machine: Machine) -> None:
    devices.check(application("local[2]"), EmbeddingsSettings(device="auto"))
    devices.check(application("yarn"), EmbeddingsSettings(device="cuda", device_fallback="cpu"))
    devices.check(application("yarn", **{"spark.task.resource.gpu.amount": "0.5"}), EmbeddingsSettings(device="cuda"))
    machine.gpus(1)
    devices.check(application("local[2]"), EmbeddingsSettings(device="cuda"))


# -- fingerprints of a worker ------------------------------------------------------------------------------------------


def test_a_worker_that_gets_another_gpu_leaves_nothing_on_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    histogram = described("hsv", (2, 2, 2), scaled=True)
    happened: list[str] = []

    def load(_: Any, file: str | None, device: str, logits: bool = False) -> Any:
        happened.append(f"load on {device}")
        return SimpleNamespace(device=device)

    monkeypatch.setattr(type(histogram), "load", load)
    monkeypatch.setattr(devices, "release", lambda: happened.append(f"release, {len(embedder._fingerprints)} held"))
    monkeypatch.setattr(embedder, "_fingerprints", {})
    work = Work(histogram, None, "folder", None)
    got = [embedder._fingerprints_for([(work, on)])[0] for on in ("cuda:0", "cuda:0", "cuda:1")]
    assert [kernel.device for kernel in got] == ["cuda:0", "cuda:0", "cuda:1"]  # type: ignore[attr-defined]
    assert happened == ["load on cuda:0", "release, 0 held", "load on cuda:1"] and len(embedder._fingerprints) == 1


def test_fingerprints_without_a_network_ask_for_no_device(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.task("7")  # which is not there
    monkeypatch.setattr(embedder, "_fingerprints", {})
    monkeypatch.setattr(workers, "TaskContext", SimpleNamespace(get=lambda: None))
    work = Work(described("hsv", (2, 2, 2), scaled=True), None, "folder", None)
    [loaded] = workers._load([work], Devices("cuda", "fail", 1, False), EmbeddingsSettings(), 0.0, workers._attempt())
    assert loaded.device == "cpu"


def test_nothing_saved_yet_is_no_progress(tmp_path: Path) -> None:
    assert CheckpointCount(str(tmp_path / "absent"))() == 0


# -- discovery ---------------------------------------------------------------------------------------------------------


def discovered(path: str, **environment: str) -> tuple[str, str]:
    done = subprocess.run([SCRIPT], env={"PATH": path, **environment}, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr


def addresses(*listed: str) -> str:
    quoted = ", ".join(f'"{one}"' for one in listed)
    return f'{{"name": "gpu", "addresses": [{quoted}]}}'


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with what the script needs, and without any nvidia-smi of this machine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "awk", "tr", "head", "grep"):
        found = next(Path(place, name) for place in os.environ["PATH"].split(":") if Path(place, name).exists())
        (folder / name).symlink_to(found.resolve() if name != "sh" else found)
    return folder


def put_nvidia_smi(tools: Path, program: str) -> None:
    file = tools / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{program}\n")
    file.chmod(0o755)


def test_nvidias_numbers_are_the_addresses(tools: Path) -> None:
    put_nvidia_smi(tools, '[ "$*" = "--query-gpu=index --format=csv,noheader" ] && printf "0\\n1\\n10\\n"')
    assert discovered(str(tools)) == (addresses("0", "1", "10"), "")


@pytest.mark.parametrize(
    "visible, listed",
    [("2,3", "01"), ("GPU-x", "0"), ("MIG-a/1/0", "0"), ("5", "0"), ("1,-1,2", "0"), ("", ""), ("-1", "")],
)
def test_under_a_list_of_visible_gpus_its_entries_are_counted(tools: Path, visible: str, listed: str) -> None:
    put_nvidia_smi(tools, "echo 7")
    told, complaint = discovered(str(tools), CUDA_VISIBLE_DEVICES=visible)
    assert told == addresses(*listed) and bool(complaint) == (listed == "")


@pytest.mark.parametrize(
    "program, told",
    [
        (None, "nvidia-smi is not on PATH"),
        ("echo 'NVIDIA-SMI has failed: no driver'; exit 9", "nvidia-smi failed: NVIDIA-SMI has failed: no driver"),
        ("echo 'No devices were found'", "nvidia-smi says: No devices were found"),
    ],
)
def test_a_machine_without_gpus_has_none_and_says_why(tools: Path, program: str | None, told: str) -> None:
    if program is not None:
        put_nvidia_smi(tools, program)
    printed, complaint = discovered(str(tools))
    assert printed == addresses() and told in complaint and complaint.count("\n") == 1


# -- settings of Spark -------------------------------------------------------------------------------------------------

FILES = sorted((ROOT / "conf" / "spark").glob("*.conf"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_setting_of_spark_has_its_reason(file: Path) -> None:
    """Paragraphs begin with a comment: its settings are what it speaks of."""
    paragraphs = file.read_text().strip().split("\n\n")
    assert [text for text in paragraphs if not text.startswith("# ")] == []
    assert any(line.startswith("spark.") for line in file.read_text().splitlines())


def test_both_kinds_of_cluster_read_and_write_alike() -> None:
    from image_similarity.runtime.session import read_properties

    cpu, gpu = (read_properties(ROOT / "conf" / "spark" / f"cluster-{kind}.conf") for kind in ("cpu", "gpu"))
    others = {name: value for name, value in gpu.items() if "resource.gpu" not in name}
    own = {"spark.task.cpus", "spark.executor.cores", "spark.executorEnv.CUDA_DEVICE_ORDER"}
    assert {name: value for name, value in others.items() if name not in own} == {
        n: v for n, v in cpu.items() if n not in own
    }
    slots = float(gpu["spark.executor.cores"]) / float(gpu["spark.task.cpus"])
    assert slots == float(gpu["spark.executor.resource.gpu.amount"]) / float(gpu["spark.task.resource.gpu.amount"])
