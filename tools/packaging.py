"""Everything that a cluster needs, in one folder: ``python tools/packaging.py --into dist`` (or ``make package``).

    dist/image_similarity.zip       the library, for --py-files
    dist/jobs/  dist/conf/          what is submitted, and what an operator edits
    dist/Dockerfile                 an image for Kubernetes, made from this folder
    dist/requirements.txt           the dependencies, and constraints.txt: their exact versions
    dist/environment.tar.gz         with --environment: Python with all dependencies, for --archives

The environment is a whole Python, not a virtual environment: those link to the Python that made them, which other
machines do not have. It runs on machines with the same processor architecture and a C library that is not older.
"""

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "image_similarity.zip"
ENVIRONMENT = "environment.tar.gz"
DOCKERFILE = "Dockerfile"
_NOT_SHIPPED = shutil.ignore_patterns("__pycache__", "*.pyc")
_UNNEEDED = ("site-packages", "dist-packages", "__pycache__", "test", "tests", "idlelib", "tkinter", "config-*")
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # of files in the zip, so that the same source makes the same bytes


def package(into: Path) -> None:
    """Write all but the environment to ``into``, in place of what was written there before; anything else there
    stays.
    """
    into.mkdir(parents=True, exist_ok=True)
    for name in ("jobs", "conf"):
        shutil.rmtree(into / name, ignore_errors=True)
        shutil.copytree(ROOT / name, into / name, ignore=_NOT_SHIPPED)
    os.replace(into / "conf" / DOCKERFILE, into / DOCKERFILE)  # one alone, where docker looks for it
    shutil.copy(ROOT / "constraints.txt", into)
    (into / "requirements.txt").write_text("".join(f"{wanted}\n" for wanted in _requirements()))
    _zip_library(into / LIBRARY)


def _zip_library(file: Path) -> None:
    package_files = sorted((ROOT / "lib" / "image_similarity").rglob("*"))
    shipped = [path for path in package_files if path.is_file() and "__pycache__" not in path.parts]
    members = [(path, path.relative_to(ROOT / "lib")) for path in shipped]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, name in members:
            archive.writestr(zipfile.ZipInfo(name.as_posix(), _FIXED_TIME), path.read_bytes(), zipfile.ZIP_DEFLATED)


def pack_environment(file: Path) -> None:
    """Write Python with all dependencies to ``file``, a .tar.gz. pip's own environment counts (say, an index of CPU
    builds).

    Raises ``subprocess.CalledProcessError`` where pip cannot install.
    """
    tree = file.with_name("environment.partial")
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    try:
        python = _copy_python(tree)
        packages = _output(python, "import site; print(site.getsitepackages()[0])")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", packages]
        subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), *_requirements()], check=True)
        partial = file.with_name(f"{file.name}.partial")
        with tarfile.open(partial, "w:gz", compresslevel=1) as archive:
            archive.add(tree, ".")
        os.replace(partial, file)
    finally:
        shutil.rmtree(tree, ignore_errors=True)


def _copy_python(tree: Path) -> Path:
    """Copy the Python that made this environment, its library included, to ``tree``; ``bin/python`` starts it, wherever
    it is.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = Path(sysconfig.get_path("stdlib"))
    unneeded = shutil.ignore_patterns(*_UNNEEDED)
    shutil.copytree(library, tree / "lib" / version, ignore=unneeded)
    (tree / "bin").mkdir()
    shutil.copy(os.path.realpath(sys.executable), tree / "bin" / version)
    shared = sysconfig.get_config_var("LDLIBRARY") or ""
    if ".so" in shared:
        for link in Path(sysconfig.get_config_var("LIBDIR")).glob(f"{shared}*"):
            shutil.copy(link, tree / "lib" / link.name)
    start = tree / "bin" / "python"
    start.write_text(_START.format(version=version))
    start.chmod(0o755)
    return start


_START = """#!/bin/sh
# Finds the library of this Python beside it: the place where it was built is not the place where it runs.
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
LD_LIBRARY_PATH="$here/../lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}" exec "$here/{version}" "$@"
"""


def _requirements() -> list[str]:
    """What the library needs, without its extras, and without pyspark, which comes with the cluster's Spark."""
    needed = importlib.metadata.requires("image-similarity") or []
    return [line for line in needed if "extra ==" not in line and not line.startswith("pyspark")]


def _output(python: Path, program: str) -> str:
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, default=Path("dist"), metavar="FOLDER", help="(default: dist)")
    parser.add_argument(
        "--environment", action="store_true", help="pack Python with all dependencies, too: minutes, gigabytes"
    )
    arguments = parser.parse_args(argv)
    package(arguments.into)
    if arguments.environment:
        print(f"packing {arguments.into / ENVIRONMENT}: some minutes", flush=True)
        pack_environment(arguments.into / ENVIRONMENT)
    for made in sorted(arguments.into.iterdir()):
        size = f"{made.stat().st_size / 2**20:10.1f} MiB" if made.is_file() else ""
        print(f"  {made}{'/' if made.is_dir() else ''}{size}")


if __name__ == "__main__":
    main()
