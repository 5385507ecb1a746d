"""What tests share: one Spark session for the whole run, jobs as functions, the data beside the project, tiny weights."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
sys.path[:0] = [str(ROOT / "jobs"), str(ROOT / "tests")]

# The cluster's and the children's workers must find the library where pytest found it.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
# Tests start many short-lived JVMs, which end before the second compiler would pay.
os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    from image_similarity import spark as sessions

    os.environ["SPARK_CONF_DIR"] = str(CONF)
    builder = SparkSession.builder.appName("tests")
    for key, value in sessions.read_properties(CONF / "spark" / "local.conf").items():
        builder = builder.config(key, value)
    # Two tasks at once, whatever the machine; few partitions, for the tables of tests are tiny.
    session = builder.config("spark.master", "local[2]").config("spark.sql.shuffle.partitions", "4").getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real images beside the project; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("IMAGE_SIMILARITY_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder} (set IMAGE_SIMILARITY_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def squeezenet(data: Path) -> list[str]:
    """Arguments that declare the fingerprint ``squeezenet`` with real weights and make it the one compared."""
    weights = data / "weights" / "squeezenet1_1-features-caffe.pth"
    declared = f'{{network="squeezenet1_1",weights="{weights}",layer="features",pooling="average",preprocessing="caffe"}}'
    return ["--set", f"fingerprints.squeezenet={declared}", "--set", "neighbours.fingerprint=squeezenet"]


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Arguments that declare ``tiny``: an untrained network that costs next to nothing."""
    declared = '{network="squeezenet1_1",weights="untrained",layer="features.3",pooling="average"}'
    return ["--set", f"fingerprints.tiny={declared}", "--set", "neighbours.fingerprint=tiny"]


Run = Callable[..., int]


@pytest.fixture
def run(spark: SparkSession) -> Run:
    """``run(job, *arguments)``: a job's ``main`` in the shared session; its exit code."""

    def run_job(job: Any, *arguments: Any) -> int:
        code: int = job.main([str(argument) for argument in arguments], session=spark)
        return code

    return run_job
