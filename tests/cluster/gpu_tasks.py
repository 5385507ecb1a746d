"""An application for a cluster: which device does each of several tasks get that are at work at the same time?

    spark-submit ... gpu_tasks.py FOLDER TASKS GPUS

Asks what embed_images asks (`image_similarity.runtime.devices`), in workers where torch pretends to see GPUS devices. A
task goes on only when all have begun, so they are at work together. FOLDER/told.json tells what each got, and in which
executor.
"""

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from pyspark.sql import SparkSession

from image_similarity.runtime import devices
from image_similarity.settings import EmbeddingsSettings

PATIENCE_SECONDS = 90


def pretend(gpus: int) -> None:
    """Let torch see devices that are not there, and let them answer."""
    import torch

    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: gpus
    torch.cuda.set_device = lambda _: None  # type: ignore[assignment]
    torch.zeros = lambda *_, **__: None  # type: ignore[assignment]


def wait_for(folder: Path, tasks: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(list(folder.glob("*.begun"))) < tasks:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{tasks} tasks were never at work at the same time")
        time.sleep(0.05)


def main(folder: Path, tasks: int, gpus: int) -> None:
    spark = SparkSession.builder.appName("gpu_tasks").getOrCreate()
    settings = EmbeddingsSettings(device="cuda")
    devices.check(spark, settings)
    available = devices.for_tasks(spark, settings)

    def of_task(task: int, _: Iterable[int]) -> Iterable[str]:
        pretend(gpus)
        (folder / f"{task}.begun").touch()
        wait_for(folder, tasks)
        # Workers are children of a daemon, of which an executor has one.
        told = {"task": task, "device": available.of_task(), "executor": os.getppid()}
        yield json.dumps({**told, "visible": os.environ.get("CUDA_VISIBLE_DEVICES")})

    all_told = spark.sparkContext.parallelize(range(tasks), tasks).mapPartitionsWithIndex(of_task).collect()
    (folder / "told.json").write_text(f"[{','.join(all_told)}]")
    spark.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
