"""A session that starts when it is first used: naming work does not start it, and its names are there when it does."""

import sys
from pathlib import Path
from typing import Any

import pytest

from image_similarity import conf
from image_similarity.runtime import progress, session
from image_similarity.runtime.session import lazy_session, local_cores, started


class Context:
    """What a session's context keeps for the jobs of a thread."""

    master, defaultParallelism = "local[3]", 3

    def __init__(self) -> None:
        self.properties: dict[str, str | None] = {}

    def setLocalProperty(self, name: str, value: str | None) -> None:
        self.properties[name] = value

    def getLocalProperty(self, name: str) -> str | None:
        return self.properties.get(name)


class Session:
    def __init__(self, starts: list[str]):
        starts.append("started")
        self.sparkContext, self.version = Context(), "4"


@pytest.fixture
def starts() -> list[str]:
    return []


@pytest.fixture
def spark(starts: list[str]) -> Any:
    return lazy_session(lambda: Session(starts))  # type: ignore[arg-type,return-value]


def described(spark: Any) -> str | None:
    named: str | None = spark.sparkContext.properties.get("spark.job.description")
    return named


def test_naming_work_starts_nothing(spark: Any, starts: list[str]) -> None:
    with progress.named(spark, "job"), progress.step(spark, "read"):
        with progress.progress(spark, "compare", 10, "pairs", 1, lambda: 0.5):
            session.interrupt(spark)
    assert not starts and started(spark) is None


def test_it_starts_once_with_the_names_of_its_work(spark: Any, starts: list[str]) -> None:
    with progress.named(spark, "job"):
        with progress.described(spark, "read"):
            assert spark.version == "4" and starts == ["started"] and started(spark) is not None
            assert str(described(spark)).endswith("read")
        assert described(spark) == "job"
    assert described(spark) is None and spark.version == "4" and starts == ["started"]


def test_a_start_that_fails_is_told_and_tried_again() -> None:
    tries: list[int] = []

    def start() -> Any:
        tries.append(1)
        raise OSError("no Java")

    spark = lazy_session(start)
    for _ in range(2):
        with pytest.raises(OSError, match="no Java"):
            spark.version  # noqa: B018
    assert len(tries) == 2 and started(spark) is None


@pytest.mark.parametrize(("master", "cores"), [("local[5]", 5), ("local[7,3]", 7), ("local[*,3]", 2), ("yarn", 2)])
def test_cores_of_this_machine(
    spark: Any, starts: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, master: str, cores: int
) -> None:
    (tmp_path / "spark").mkdir()
    (tmp_path / "spark" / "local.conf").write_text(f"spark.master {master}\n")
    monkeypatch.setattr(conf, "folder", lambda: tmp_path)
    monkeypatch.setattr(session, "available_cores", lambda: 2)
    assert local_cores(spark) == cores and session.is_local_mode(spark) == (master != "yarn") and not starts
    assert spark.version and local_cores(spark) == 3


def test_what_comes_from_spark_is_known_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from py4j.protocol import Py4JError, Py4JJavaError
    from pyspark.errors import AnalysisException

    assert session.is_of_spark(Py4JError("gone")) and session.is_of_spark(AnalysisException("no such column"))
    assert not session.is_of_spark(ValueError("x"))
    assert session.spark_errors(OSError)[0] is OSError and Py4JJavaError in session.spark_errors()
    monkeypatch.delitem(sys.modules, "pyspark")
    assert session.spark_errors(OSError) == (OSError,)
