"""A real standalone Spark cluster on loopback: a master and workers, started and stopped here, and jobs submitted to
it.
"""

import os
import re
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyspark

from image_similarity.runtime import class_archive, java

SPARK = Path(pyspark.__file__).parent
START_SECONDS = 60
_DEPLOY = "org.apache.spark.deploy"
_LOOPBACK = ["--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]

SMALL = {
    "spark.executor.memory": "1g",
    "spark.executor.memoryOverhead": "0",
    "spark.driver.host": "127.0.0.1",
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "4",
}
"""What suits this cluster and the tiny tables of tests; no setting of the product."""


def fast_start(*folders: Path) -> str:
    """Options for the JVMs of tests, which are many and end soon. ``folders``: on the class path, beside Spark's
    jars.
    """
    return class_archive.quoted(class_archive.options(java.use(), *folders))


def started_fast(dist: Path) -> dict[str, str]:
    """The same as settings, for the driver and the executors of what is submitted from ``dist``."""
    return {
        "spark.driver.defaultJavaOptions": fast_start(dist / "conf"),
        "spark.executor.defaultJavaOptions": fast_start(),
    }


@dataclass(frozen=True)
class Cluster:
    master: str
    workers: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def submit(self, dist: Path, job: str, *arguments: str, **how: object) -> "subprocess.CompletedProcess[str]":
        """Run ``dist/jobs/<job>.py`` by spark-submit, to its end; ``how`` as in `start`."""
        process = self.start(dist, job, *arguments, **how)  # type: ignore[arg-type]
        out, _ = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out)

    def start(
        self,
        dist: Path,
        job: str,
        *arguments: str,
        python: Path | str,
        properties: str = "cluster-cpu",
        conf: Mapping[str, str] = {},
        environment: Mapping[str, str] = {},
        flags: Sequence[str] = (),
        folder: Path | None = None,
    ) -> "subprocess.Popen[str]":
        """Start ``dist/jobs/<job>.py`` by spark-submit with the zip and the settings of ``dist``; output and errors are
        one stream.

        ``python``: that of driver and workers; ``conf``: wins over ``conf/spark/<properties>.conf``; ``flags``: for
        spark-submit; ``folder``: where it is called.
        """
        command = [str(SPARK / "bin" / "spark-submit"), "--master", self.master]
        command += ["--py-files", str(dist / "image_similarity.zip")]
        command += ["--properties-file", str(dist / "conf" / "spark" / f"{properties}.conf")]
        command += [
            part
            for key, value in {**started_fast(dist), **SMALL, **conf}.items()
            for part in ("--conf", f"{key}={value}")
        ]
        command += [*flags, str(dist / "jobs" / f"{job}.py"), *arguments]
        own = {"PYSPARK_PYTHON": str(python), "SPARK_CONF_DIR": str(dist / "conf"), **environment}
        return subprocess.Popen(
            command,
            env={**_environment(), **own},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def executors(self) -> list[int]:
        """Process ids of the executors that run now, the oldest first."""
        ours = {worker.pid for worker in self.workers}
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(status.read_text().rpartition(")")[2].split()[1])
                is_executor = b"CoarseGrainedExecutorBackend" in status.with_name("cmdline").read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            if parent in ours and is_executor:
                found.append(int(status.parent.name))
        return sorted(found)


@contextmanager
def cluster(
    folder: Path, workers: int = 3, cores: int = 1, memory: str = "2g", worker_options: Sequence[str] = ()
) -> Iterator[Cluster]:
    """A master and ``workers`` of ``cores`` each; ``worker_options``: settings of the workers, as
    ``-Dspark.worker...``.
    """
    processes: "list[subprocess.Popen[bytes]]" = []
    try:
        master, address = _started(
            [f"{_DEPLOY}.master.Master", *_LOOPBACK], folder / "master.log", r"Starting Spark master at (spark://\S+)"
        )
        processes.append(master)
        for number in range(workers):
            options = [*_LOOPBACK, "-c", str(cores), "-m", memory, "-d", str(folder / f"work{number}")]
            started, _ = _started(
                [f"{_DEPLOY}.worker.Worker", *options, address],
                folder / f"worker{number}.log",
                r"Successfully registered with master (\S+)",
                SPARK_WORKER_OPTS=" ".join(worker_options),
            )
            processes.append(started)
        yield Cluster(address, processes[1:])
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=30)


def _started(
    arguments: list[str], log: Path, pattern: str, **environment: str
) -> "tuple[subprocess.Popen[bytes], str]":
    """Start a daemon of Spark and wait until its log shows ``pattern``; what its first group matched."""
    # Daemons log at info, which conf/log4j2.properties silences: theirs is Spark's own default.
    process_environment = {**_environment(), "SPARK_CONF_DIR": str(log.parent), **environment}
    process_environment["SPARK_DAEMON_JAVA_OPTS"] = fast_start()
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


def _environment() -> dict[str, str]:
    """Without a way for Python to find the library that is tested: it has to come with the job."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYSPARK_PYTHON")}
    return {**inherited, "SPARK_LOCAL_IP": "127.0.0.1"}


def python_without_library(folder: Path) -> Path:
    """A Python that has all dependencies of this one, but not the library itself: what a machine of a cluster has.

    A virtual environment that looks into this one's packages. Links of editable installations there are not followed.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    here = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    target = folder / "lib" / here.parent.name / "site-packages"
    (target / "dependencies.pth").write_text(f"{here}\n")
    return folder / "bin" / "python"
