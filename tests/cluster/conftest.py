"""A real standalone cluster on loopback: a master and two workers of one core each, started and stopped here."""

import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyspark
import pytest

ROOT = Path(__file__).resolve().parents[2]
SPARK = Path(pyspark.__file__).parent
START_SECONDS = 60


@dataclass(frozen=True)
class Cluster:
    master: str
    library: Path
    """The zip for --py-files."""

    def submit(self, job: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run ``jobs/<job>.py`` on the cluster by spark-submit."""
        command = [str(SPARK / "bin" / "spark-submit"), "--master", self.master, "--py-files", str(self.library)]
        command += ["--properties-file", str(ROOT / "conf" / "spark" / "cluster-cpu.conf")]
        # Of this cluster and of its tiny tables, not of the product.
        own = [
            "spark.executor.memory=1g",
            "spark.driver.host=127.0.0.1",
            "spark.ui.enabled=false",
            "spark.sql.shuffle.partitions=4",
        ]
        command += [argument for setting in own for argument in ("--conf", setting)]
        command += [str(ROOT / "jobs" / f"{job}.py"), *arguments]
        return subprocess.run(command, env=environment(), capture_output=True, text=True)


def environment() -> dict[str, str]:
    return {**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_CONF_DIR": str(ROOT / "conf"), "SPARK_LOCAL_IP": "127.0.0.1"}


def started(arguments: list[str], log: Path, pattern: str) -> "tuple[subprocess.Popen[bytes], str]":
    """Start a daemon of Spark and wait until its log shows ``pattern``; what its first group matched."""
    # Daemons log at info, which conf/log4j2.properties silences: theirs is Spark's own default.
    process_environment = {**environment(), "SPARK_CONF_DIR": str(log.parent)}
    with open(log, "wb") as out:
        command = [str(SPARK / "bin" / "spark-class"), *arguments]
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=process_environment)
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        match = re.search(pattern, log.read_text(errors="replace"))
        if match:
            return process, match.group(1)
        time.sleep(0.2)
    process.kill()
    raise RuntimeError(f"{arguments[0]} did not start: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lib/ as a zip."""
    file = tmp_path_factory.mktemp("library") / "image_similarity.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for source in sorted(path for path in (ROOT / "lib" / "image_similarity").rglob("*") if path.suffix != ".pyc"):
            archive.write(source, str(source.relative_to(ROOT / "lib")))
    return file


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, library: Path) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    package = "org.apache.spark.deploy"
    processes = []
    try:
        options = ["--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]
        master, address = started(
            [f"{package}.master.Master", *options], folder / "master.log", r"Starting Spark master at (spark://\S+)"
        )
        processes.append(master)
        for number in range(2):
            options = [
                "-c",
                "1",
                "-m",
                "2g",
                "--host",
                "127.0.0.1",
                "--port",
                "0",
                "--webui-port",
                "0",
                "-d",
                str(folder / f"work{number}"),
            ]
            log = folder / f"worker{number}.log"
            worker, _ = started([f"{package}.worker.Worker", *options, address], log, r"Successfully registered with master (\S+)")
            processes.append(worker)
        yield Cluster(address, library)
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=30)
