"""Variables that point elsewhere are named in one line, before Java starts; a locale does not change names."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pyspark
import pytest

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.runtime import environment, session


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SPARK_HOME", "PYSPARK_PYTHON", "PYTHONSAFEPATH", "LC_ALL"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def test_nothing_is_said_where_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_HOME", str(Path(pyspark.__file__).parent))
    environment.prepare()
    assert os.environ["PYSPARK_PYTHON"] == sys.executable and "LC_ALL" not in os.environ


def test_another_spark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars" / "spark-core_2.12-3.5.1.jar").touch()
    monkeypatch.setenv("SPARK_HOME", str(tmp_path))
    with pytest.raises(JobFailed, match=f"SPARK_HOME is {tmp_path}, where no Spark {pyspark.__version__} is"):
        environment.prepare()


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (None, "which is no program"),
        ("echo \"ModuleNotFoundError: No module named 'pyarrow'\" >&2; exit 1", "No module named 'pyarrow'"),
        ("echo 3.9 3.5.1", "Python 3.9 with pyspark 3.5.1, and not Python"),
    ],
)
def test_another_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None, fault: str) -> None:
    python = tmp_path / "python"
    if script is not None:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PYSPARK_PYTHON", str(python))
    with pytest.raises(JobFailed, match=f"PYSPARK_PYTHON is {python}") as raised:
        environment.prepare()
    assert fault in str(raised.value) and f"set it to {sys.executable}" in str(raised.value)


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_a_locale_of_ascii(monkeypatch: pytest.MonkeyPatch, locale: str) -> None:
    monkeypatch.setenv("LC_ALL", locale)
    environment.prepare()
    assert os.environ["LC_ALL"] == "C.UTF-8"


def test_a_module_in_the_working_directory_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('mine')")
    environment.prepare()
    done = subprocess.run([sys.executable, "-m", "tempfile"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("umask", [0o077, 0o002])
def test_tables_are_as_private_as_all_that_a_process_writes(umask: int) -> None:
    before = os.umask(umask)
    try:
        settings = session.local_settings()
    finally:
        assert os.umask(before) == umask
    assert settings["spark.hadoop.fs.permissions.umask-mode"] == f"{umask:03o}"


class _Session:
    """A session whose Java says that names are ASCII."""

    @property
    def _jvm(self) -> "_Session":
        return self

    java = lang = System = property(lambda self: self)

    def getProperty(self, _: str) -> str:
        return "ANSI_X3.4-1968"


def test_names_that_java_cannot_write() -> None:
    environment.check_names(_Session(), ["/warehouse"])
    with pytest.raises(WrongInput, match="wärehouse: Java cannot write this name .* set LC_ALL=C.UTF-8"):
        environment.check_names(_Session(), ["/wärehouse"])
