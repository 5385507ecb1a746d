"""Which device a task computes on: the GPU that is its own for the time, or its processor cores.

- **On a cluster** Spark counts the GPUs and tells each task the address of its own. Two tasks have the same one only
  where ``spark.task.resource.gpu.amount`` is below 1. A task that was given none computes on the CPU, whatever is
  visible there: what Spark did not hand out may be somebody else's.
- **An address** is an index into CUDA_VISIBLE_DEVICES where that is set, else the number of a device (the rule of
  pyspark's ``TorchDistributor``; ``conf/discover_gpus.sh`` prints what fits). torch numbers what is visible from 0, so
  in both cases address i is ``cuda:i``. An address that is no number (a UUID, a MIG instance) is looked for in
  CUDA_VISIBLE_DEVICES.
- **In local mode** Spark hands out none, so visible ones are taken: partition i takes GPU i % n. No GPU gets more tasks
  than ``embeddings.tasks_per_gpu``, since there are no more tasks than that (`Devices.most_tasks`). Tasks that wait for
  one another would not do: each worker process that has ever used a GPU keeps some of its memory.
- **A GPU that was given or asked for and cannot be used is an error**, unless ``embeddings.device_fallback`` is
  ``cpu``."""

import gc
import os
import socket
import sys
from dataclasses import dataclass

from pyspark import TaskContext
from pyspark.sql import SparkSession

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.runtime.session import is_local_mode
from image_similarity.settings import EmbeddingsSettings

CPU = "cpu"
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_ADVICE = "repair that, or go on without it by --set embeddings.device_fallback=cpu"


class _Unusable(Exception):
    """Which GPU cannot be used, and why."""


@dataclass(frozen=True)
class Devices:
    """What a task has to know to choose its device: plain values, made on the driver by `for_tasks`."""

    requested: str
    """``embeddings.device``"""
    fallback: str
    """``embeddings.device_fallback``"""
    tasks_per_gpu: int
    in_local_mode: bool

    def of_task(self) -> str:
        """In a task: its device, as torch names it. ``JobFailed`` if that is a GPU which cannot be used."""
        try:
            return CPU if self.requested == CPU else self._of_task()
        except _Unusable as fault:
            if self.fallback == CPU:
                return CPU
            raise JobFailed(f"{socket.gethostname()}: {fault}; {_ADVICE}") from None

    def _of_task(self) -> str:
        address = _given()
        if address is not None:
            return _usable(_index(address), f"GPU {address}, which Spark gave a task,")
        count = _visible() if self.in_local_mode else 0
        if not count and self.requested == "cuda":
            raise _Unusable(
                f"embeddings.device is cuda, and {_why_none() if self.in_local_mode else 'Spark gave a task no GPU'}"
            )
        if not count:
            return CPU
        context = TaskContext.get()
        index = (context.partitionId() if context is not None else 0) % count
        return _usable(index, f"GPU {index}")

    def most_tasks(self) -> int | None:
        """How many tasks there may be at a time where Spark does not see to that itself, None for any number."""
        if not self.in_local_mode or self.requested == CPU:
            return None
        return self.tasks_per_gpu * _visible() or None


def for_tasks(spark: SparkSession, settings: EmbeddingsSettings) -> Devices:
    """On the driver: what tasks choose by."""
    return Devices(settings.device, settings.device_fallback, settings.tasks_per_gpu, is_local_mode(spark))


def check(spark: SparkSession, settings: EmbeddingsSettings) -> None:
    """On the driver: raise if ``cuda`` is asked for and no task can have a GPU. Said once, before any work."""
    if settings.device != "cuda" or settings.device_fallback == CPU:
        return
    if is_local_mode(spark):
        if not _visible():
            raise JobFailed(f"embeddings.device is cuda, and {_why_none()}; {_ADVICE}")
    elif not float(spark.sparkContext.getConf().get("spark.task.resource.gpu.amount") or 0):
        raise WrongInput(
            "embeddings.device is cuda, and this application asks the cluster for no GPUs: submit it with "
            "--properties-file "
            "conf/spark/cluster-gpu.conf, or set embeddings.device to auto"
        )


def name_of(device: str) -> str:
    """What a person calls it: ``cpu``, or the GPU's model."""
    if device == CPU:
        return CPU
    import torch

    return str(torch.cuda.get_device_name(device))


def release() -> None:
    """Give back the GPU memory of networks that nothing refers to any more, of whichever GPU: other processes want
    it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()


def _given() -> str | None:
    """The address of the GPU that Spark gave this task."""
    context = TaskContext.get()
    gpu = context.resources().get("gpu") if context is not None else None
    return str(gpu.addresses[0]) if gpu is not None else None


def _index(address: str) -> int:
    """torch's number of the GPU with this address."""
    if address.isdecimal():
        return int(address)
    visible = [entry.strip() for entry in os.environ.get(_VISIBLE, "").split(",")]
    if address not in visible:
        told = f"{_VISIBLE} is {os.environ[_VISIBLE]!r}" if _VISIBLE in os.environ else f"{_VISIBLE} is not set"
        raise _Unusable(f"GPU {address}, which Spark gave a task, is neither a number nor listed ({told})")
    return visible.index(address)


def _visible() -> int:
    """How many GPUs torch sees. Creates no context on them."""
    import torch  # in the worker only, or the driver: CUDA must not be touched before Spark's daemon forks

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _why_none() -> str:
    import torch

    if not torch.backends.cuda.is_built():
        return f"torch {torch.__version__} is built without CUDA"
    hidden = f", or {_VISIBLE}={os.environ[_VISIBLE]} hides it" if _VISIBLE in os.environ else ""
    return f"torch finds no GPU (there is none, or its driver does not answer{hidden})"


def _usable(index: int, which: str) -> str:
    """The device with this index, once it has answered."""
    import torch

    count = _visible()
    if not count:
        raise _Unusable(f"{which} cannot be used: {_why_none()}")
    if index >= count:
        listed = (
            f" ({_VISIBLE}={os.environ[_VISIBLE]}: addresses count its entries from 0)"
            if _VISIBLE in os.environ
            else ""
        )
        raise _Unusable(f"{which} is not there: torch sees {count}, from 0 on{listed}")
    device = f"cuda:{index}"
    try:
        torch.cuda.set_device(
            device
        )  # what does not name a device, such as pinned memory, must not end up on another one
        torch.zeros(1, device=device)
    except RuntimeError as error:  # in use by somebody who shares it with nobody, full, or broken
        raise _Unusable(f"{which} cannot be used: {str(error).splitlines()[0]}") from None
    return device
