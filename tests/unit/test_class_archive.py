"""The archive of Spark's classes: which one fits, and that a JVM prints nothing where none does. Without a session."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from image_similarity.runtime import class_archive, java

JAR = next(Path(class_archive.class_path()).parent.glob("spark-launcher_*.jar"))
"""Of few classes, and one that can be called: the start of a JVM is enough to try an archive."""


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> java.Java:
    """A Python environment and a Spark of its own, and a made-up Java."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SPARK_HOME", str(tmp_path / "spark"))
    monkeypatch.delenv("SPARK_CONF_DIR", raising=False)
    for name in class_archive._ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "spark" / "jars").mkdir(parents=True)
    (tmp_path / "spark" / "jars" / "spark-core.jar").write_text("classes")
    return java.Java(Path("/somewhere/bin/java"), "17.0.15", "17.0.15 of somebody")


Recorded = list[Path]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    """What was recorded, without Spark."""
    targets: Recorded = []

    def record(used: java.Java, target: Path) -> None:
        targets.append(target)
        target.write_text("classes")

    monkeypatch.setattr(class_archive, "_record", record)
    return targets


def test_without_an_archive_there_is_the_compiler_alone(environment: java.Java) -> None:
    assert class_archive.options(environment) == class_archive.COMPILER
    assert class_archive.archive_options(environment) == []


def test_it_is_made_once(environment: java.Java, recorded: Recorded, tmp_path: Path) -> None:
    archive = class_archive.make(environment)
    assert archive is not None and archive.parent == tmp_path / "venv" / "share" / "image-similarity"
    assert archive.name.startswith("spark-4.") and "-java-17.0.15-" in archive.name
    assert class_archive.make(environment) == class_archive.find(environment) == archive
    assert f"-XX:SharedArchiveFile={archive}" in class_archive.options(environment)
    assert len(recorded) == 1 and not recorded[0].parent.exists()
    class_archive.make(environment, again=True)
    assert len(recorded) == 2


def test_one_that_was_cut_off_is_left_out(environment: java.Java, recorded: Recorded) -> None:
    archive = class_archive.make(environment)
    assert archive is not None
    archive.write_text("class")  # a JVM would crash
    assert class_archive.options(environment) == class_archive.COMPILER
    assert class_archive.make(environment) == archive
    assert archive.read_text() == "classes"


def test_a_name_with_spaces_is_quoted(environment: java.Java) -> None:
    assert class_archive.quoted(["-Xmx1g", "-XX:File=/my files/a.jsa"]) == '-Xmx1g "-XX:File=/my files/a.jsa"'


def test_users_own_options_come_last(
    environment: java.Java, recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = class_archive.make(environment)
    monkeypatch.setenv("SPARK_CONF_DIR", "/my conf")
    value = class_archive.driver_options(environment, {class_archive.DEFAULT_OPTIONS: "-Dmine=1"})
    assert value == (
        f'-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=256m -cp "{tmp_path}/spark/jars/*:/my conf" '
        f"-XX:SharedArchiveFile={archive} -Xshare:auto -Xlog:cds=off -Xlog:cds+dynamic=off -Dmine=1"
    )


@pytest.mark.parametrize("addition", [*class_archive._ENVIRONMENT, "spark.driver.extraClassPath", "spark-env.sh"])
def test_no_archive_where_the_class_path_is_not_known(
    addition: str, environment: java.Java, recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_archive.make(environment)
    assert "-cp" in class_archive.driver_options(environment, {})
    settings = {}
    if addition == "spark-env.sh":
        (tmp_path / "spark" / "conf").mkdir()
        (tmp_path / "spark" / "conf" / "spark-env.sh").touch()
    elif addition.startswith("spark."):
        settings = {addition: "/my.jar"}
    else:
        monkeypatch.setenv(addition, "/mine")
    assert class_archive.driver_options(environment, settings) == " ".join(class_archive.COMPILER)


def _another_build(used: java.Java, tmp_path: Path) -> java.Java:
    return java.Java(used.command, used.version, "17.0.15 of somebody else")


def _another_place(used: java.Java, tmp_path: Path) -> java.Java:
    return java.Java(Path("/elsewhere/bin/java"), used.version, used.build)


def _a_jar_more(used: java.Java, tmp_path: Path) -> java.Java:
    (tmp_path / "spark" / "jars" / "more.jar").touch()
    return used


def _a_jar_that_changed(used: java.Java, tmp_path: Path) -> java.Java:
    os.utime(tmp_path / "spark" / "jars" / "spark-core.jar", (1, 1))
    return used


def _spark_that_moved(used: java.Java, tmp_path: Path) -> java.Java:
    (tmp_path / "spark").rename(tmp_path / "moved")
    os.environ["SPARK_HOME"] = str(tmp_path / "moved")  # monkeypatch restores it
    return used


@pytest.mark.parametrize(
    "change", [_another_build, _another_place, _a_jar_more, _a_jar_that_changed, _spark_that_moved]
)
def test_one_that_does_not_fit_is_left_out_and_made_anew(
    change: Callable[[java.Java, Path], java.Java], environment: java.Java, recorded: Recorded, tmp_path: Path
) -> None:
    before = class_archive.make(environment)
    used = change(environment, tmp_path)
    assert class_archive.options(used) == class_archive.COMPILER
    after = class_archive.make(used)
    assert after is not None and after != before and len(recorded) == 2


def test_few_are_kept(environment: java.Java, recorded: Recorded) -> None:
    made: list[Path] = []
    for version in ("17.0.1", "21.0.1", "25"):
        archive = class_archive.make(java.Java(environment.command, version, version))
        assert archive is not None
        os.utime(archive, (len(made), len(made)))
        made.append(archive)
    assert [archive.exists() for archive in made] == [False, True, True]


def test_what_cannot_be_made_is_tried_once(
    environment: java.Java, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    monkeypatch.setattr(class_archive, "_record", lambda used, target: tried.append(target))
    assert class_archive.make(environment) is None
    assert class_archive.make(environment) is None
    assert len(tried) == 1
    assert class_archive.options(environment) == class_archive.COMPILER
    assert class_archive.make(environment, again=True) is None
    assert len(tried) == 2


def test_what_was_cut_off_is_not_kept(environment: java.Java, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(command: list[str], **how: object) -> "subprocess.CompletedProcess[bytes]":
        if command[-1].endswith(".jsa"):
            Path(command[-1]).write_text("half of it")
            raise subprocess.TimeoutExpired(command, 1)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", end)
    assert class_archive.make(environment) is None


def test_without_a_place_to_write_there_is_none(environment: java.Java, recorded: Recorded, tmp_path: Path) -> None:
    (tmp_path / "venv").write_text("no folder can be made in a file")
    (tmp_path / "cache").write_text("nor here")
    assert class_archive.make(environment) is None
    assert not recorded


def _launch(used: java.Java, jar: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Spark's launcher, which prints a command; with all that its JVM has to say."""
    command = [
        str(used.command),
        *options,
        "-cp",
        str(jar),
        "org.apache.spark.launcher.Main",
        "org.apache.spark.deploy.master.Master",
    ]
    environment = {"PATH": os.environ["PATH"], "SPARK_HOME": str(JAR.parent.parent), "SPARK_SCALA_VERSION": "2.13"}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _as_it_is(archive: Path, jar: Path) -> None:
    pass


def _touched(archive: Path, jar: Path) -> None:
    os.utime(jar, (1, 1))


def _grown(archive: Path, jar: Path) -> None:
    with open(jar, "ab") as file:
        file.write(b"more")


def _moved(archive: Path, jar: Path) -> None:
    jar.rename(jar.with_name("moved.jar"))


def _nonsense(archive: Path, jar: Path) -> None:
    archive.write_text("no archive")


def _gone(archive: Path, jar: Path) -> None:
    archive.unlink()


def _unreadable(archive: Path, jar: Path) -> None:
    archive.chmod(0)


@pytest.fixture
def small(tmp_path: Path) -> tuple[java.Java, Path, Path]:
    """Java, an archive of the few classes of Spark's launcher, and the jar they come from."""
    used, jar, archive = java.find(), tmp_path / "launcher.jar", tmp_path / "recorded.jsa"
    jar.write_bytes(JAR.read_bytes())
    _launch(used, jar, f"-XX:ArchiveClassesAtExit={archive}")
    if not archive.exists():
        pytest.skip("this Java has no archive of its own classes")
    return used, archive, jar


@pytest.mark.parametrize("change", [_touched, _grown, _moved, _nonsense, _gone, _unreadable])
def test_a_jvm_says_nothing_of_an_archive_that_does_not_fit(
    change: Callable[[Path, Path], None], small: tuple[java.Java, Path, Path]
) -> None:
    used, archive, jar = small
    change(archive, jar)
    jar = jar if jar.exists() else jar.with_name("moved.jar")
    shared = _launch(used, jar, f"-XX:SharedArchiveFile={archive}", *class_archive._SILENCE)
    assert (shared.returncode, shared.stdout) == (0, _launch(used, jar).stdout)


@pytest.mark.parametrize(
    "other", ["-XX:+UseSerialGC", "-XX:+UseParallelGC", "-XX:-UseCompressedOops", "-Xmx40g", "-XX:+UseZGC"]
)
def test_a_jvm_says_nothing_of_an_archive_that_was_recorded_otherwise(
    other: str, small: tuple[java.Java, Path, Path]
) -> None:
    used, archive, jar = small
    shared = _launch(used, jar, f"-XX:SharedArchiveFile={archive}", *class_archive._SILENCE, other)
    assert (shared.returncode, shared.stdout) == (0, _launch(used, jar, other).stdout)


def test_a_jvm_takes_classes_from_an_archive_that_fits(small: tuple[java.Java, Path, Path]) -> None:
    used, archive, jar = small
    options = [f"-XX:SharedArchiveFile={archive}", *class_archive._SILENCE]
    assert _launch(used, jar, *options).stdout == _launch(used, jar).stdout
    told = _launch(used, jar, *options, "-Xlog:class+load").stdout
    assert "org.apache.spark.launcher.Main source: shared objects file (top)" in told
