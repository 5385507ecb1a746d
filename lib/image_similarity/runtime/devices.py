"""The device that a task computes on: a GPU that is its own for the time, or the CPU.

- **On a cluster** Spark counts the GPUs and gives each task the address of its own. Two tasks share one only if
  ``spark.task.resource.gpu.amount`` is below 1. A task without a GPU computes on the CPU, even if GPUs are visible:
  GPUs that Spark did not assign may belong to somebody else.
- **An address** is an index into CUDA_VISIBLE_DEVICES if that is set, otherwise the number of a device. This is the
  rule of pyspark's ``TorchDistributor``, and ``conf/discover_gpus.sh`` prints such addresses. torch numbers visible
  GPUs from 0, so address i is ``cuda:i`` in both cases. An address that is no number (a UUID, a MIG instance) is looked
  up in CUDA_VISIBLE_DEVICES.
- **In local mode** Spark assigns no GPUs, so visible ones are used: partition i uses GPU i % n. No GPU gets more tasks
  than ``embeddings.tasks_per_gpu``, because the number of tasks is limited (`Devices.most_tasks`). A lock between tasks
  would not be enough: each worker process that has ever used a GPU keeps some of its memory.
- **A GPU that was assigned or requested and is unusable is an error**, unless ``embeddings.device_fallback`` is
  ``cpu``.
"""

import gc
import os
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.runtime.session import available_cores, is_local_mode
from image_similarity.settings import EmbeddingsSettings

if TYPE_CHECKING:
    from pyspark import TaskContext
    from pyspark.sql import SparkSession

CPU = "cpu"
_LEAST_CORES = 2
"""A task that tells Spark nothing of its cores has more than one thread all the same."""
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_ADVICE = "repair that, or go on without it by --set embeddings.device_fallback=cpu"


class _Unusable(Exception):
    """Says which GPU is unusable, and why."""


@dataclass(frozen=True)
class Devices:
    """Everything that a task needs to choose its device. Plain values, made on the driver by `for_tasks`."""

    requested: str
    """``embeddings.device``"""
    fallback: str
    """``embeddings.device_fallback``"""
    tasks_per_gpu: int
    in_local_mode: bool

    def of_task(self, number: int | None = None) -> str:
        """In a task: its device, as torch names it. Raises ``JobFailed`` if it is a GPU that is unusable.

        ``number``: the task's, where it is none of Spark's.
        """
        try:
            return CPU if self.requested == CPU else self._of_task(number)
        except _Unusable as fault:
            if self.fallback == CPU:
                return CPU
            raise JobFailed(f"{socket.gethostname()}: {fault}; {_ADVICE}") from None

    def _of_task(self, number: int | None) -> str:
        address = _assigned_address()
        if address is not None:
            return _usable(_index(address), f"GPU {address}, which Spark gave a task,")
        count = _visible_count() if self.in_local_mode else 0
        if not count and self.requested == "cuda":
            raise _Unusable(
                f"embeddings.device is cuda, and {_why_none() if self.in_local_mode else 'Spark gave a task no GPU'}"
            )
        if not count:
            return CPU
        context = _task()
        partition = context.partitionId() if context is not None else number or 0
        index = partition % count
        return _usable(index, f"GPU {index}")

    def most_tasks(self) -> int | None:
        """The most tasks at a time if Spark does not limit them itself; None for any number."""
        if not self.in_local_mode or self.requested == CPU:
            return None
        return self.tasks_per_gpu * _visible_count() or None

    def cores_of_task(self) -> int:
        """In a task that computes on a GPU: the cores that are left to it."""
        at_once = self.most_tasks()
        if at_once is not None:
            return max(1, available_cores() // at_once)
        context = _task()
        return max(_LEAST_CORES, context.cpus() if context is not None else 0)


def for_tasks(spark: "SparkSession", settings: EmbeddingsSettings) -> Devices:
    """On the driver: the values by which tasks choose their devices."""
    return Devices(settings.device, settings.device_fallback, settings.tasks_per_gpu, is_local_mode(spark))


def check(spark: "SparkSession", settings: EmbeddingsSettings) -> None:
    """On the driver, before any work: raises ``JobFailed`` or ``WrongInput`` if ``cuda`` is set and no task can have a
    GPU.
    """
    if settings.device != "cuda" or settings.device_fallback == CPU:
        return
    if is_local_mode(spark):
        if not _visible_count():
            raise JobFailed(f"embeddings.device is cuda, and {_why_none()}; {_ADVICE}")
    elif not float(spark.sparkContext.getConf().get("spark.task.resource.gpu.amount") or 0):
        raise WrongInput(
            "embeddings.device is cuda, and this application asks the cluster for no GPUs: submit it with "
            "--properties-file "
            "conf/spark/cluster-gpu.conf, or set embeddings.device to auto"
        )


def check_process() -> None:
    """Raises ``WrongInput`` if ``neighbours.device`` is cuda and this process sees no GPU."""
    if not _visible_count():
        raise WrongInput(f"neighbours.device = cuda, but {_why_none()}: choose auto or cpu")


def of_process(requested: str) -> str:
    """The device that this process computes on, as torch names it: the first visible GPU, or the CPU if there is none.

    ``requested``: ``neighbours.device``. Raises ``JobFailed`` if the GPU is unusable.
    """
    if requested == CPU or not _visible_count():
        return CPU
    try:
        return _usable(0, "GPU 0")
    except _Unusable as fault:
        raise JobFailed(
            f"{socket.gethostname()}: {fault}; repair that, or compare without it by --set neighbours.device=cpu"
        ) from None


def name_of(device: str) -> str:
    """The device's name for people: ``cpu``, or the GPU's model."""
    if device == CPU:
        return CPU
    import torch

    return str(torch.cuda.get_device_name(device))


def release() -> None:
    """Frees the GPU memory of unreferenced networks on all GPUs, because other processes need it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def _task() -> "TaskContext | None":
    """The task of Spark's that this process works on. Who is in one has imported Spark; others need not wait for it."""
    if "pyspark" not in sys.modules:
        return None
    from pyspark import TaskContext

    return TaskContext.get()


def _assigned_address() -> str | None:
    """The address of the GPU that Spark assigned to this task; None if there is none."""
    context = _task()
    gpu = context.resources().get("gpu") if context is not None else None
    return str(gpu.addresses[0]) if gpu is not None else None


def _index(address: str) -> int:
    """torch's index of the GPU with this address."""
    if address.isdecimal():
        return int(address)
    visible = [entry.strip() for entry in os.environ.get(_VISIBLE, "").split(",")]
    if address not in visible:
        state = f"{_VISIBLE} is {os.environ[_VISIBLE]!r}" if _VISIBLE in os.environ else f"{_VISIBLE} is not set"
        raise _Unusable(f"GPU {address}, which Spark gave a task, is neither a number nor listed ({state})")
    return visible.index(address)


def _visible_count() -> int:
    """The number of GPUs that torch sees. Creates no context on them."""
    import torch  # only in a worker, or on the driver: CUDA must not be initialised before Spark's daemon forks

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _why_none() -> str:
    import torch

    if not torch.backends.cuda.is_built():
        return f"torch {torch.__version__} is built without CUDA"
    hidden = f", or {_VISIBLE}={os.environ[_VISIBLE]} hides it" if _VISIBLE in os.environ else ""
    return f"torch finds no GPU (there is none, or its driver does not answer{hidden})"


def _usable(index: int, gpu: str) -> str:
    """The device with this index, after testing it. Raises `_Unusable`; ``which``: the GPU's name in its message."""
    import torch

    count = _visible_count()
    if not count:
        raise _Unusable(f"{gpu} cannot be used: {_why_none()}")
    if index >= count:
        listed = (
            f" ({_VISIBLE}={os.environ[_VISIBLE]}: addresses count its entries from 0)"
            if _VISIBLE in os.environ
            else ""
        )
        raise _Unusable(f"{gpu} is not there: torch sees {count}, from 0 on{listed}")
    device = f"cuda:{index}"
    try:
        # Calls that name no device, such as those for pinned memory, must not use another GPU.
        torch.cuda.set_device(device)
        torch.zeros(1, device=device)
    except RuntimeError as error:  # in exclusive use by somebody else, out of memory, or broken
        raise _Unusable(f"{gpu} cannot be used: {str(error).splitlines()[0]}") from None
    return device
