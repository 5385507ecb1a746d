"""What tests share: one Spark session for the whole run, jobs as functions, the data beside the project, tiny weights.

Tests in `tests/unit` start nothing of this but the data's folder: Spark is imported where it is asked for.
"""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import hostile  # noqa: E402

# The cluster's and the children's workers must find the library where pytest found it.
os.environ.setdefault("PYSPARK_PYTHON", sys.executable)

if "PYTEST_XDIST_WORKER" not in os.environ:  # its workers inherit the folder
    # Weights that tests fetch, and copies of vectors, are not left in the cache of whoever runs them.
    _CACHE = tempfile.mkdtemp(prefix="image-similarity-tests-")
    os.environ |= {"XDG_CACHE_HOME": _CACHE, "TORCH_HOME": f"{_CACHE}/torch"}
    atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)

TINY_TABLES = {
    "spark.master": "local[2]",  # two tasks at once, whatever the machine
    "spark.sql.shuffle.partitions": "4",
    # Interpreting an expression is sooner done than compiling it. Jobs in processes of their own compile, as users' do.
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
"""What suits the tables of tests in the shared session; no setting of the product."""


ONE_GALLERY = (
    "jobs/test_gallery.py",
    "jobs/test_gallery_groups.py",
    "jobs/test_gallery_tags.py",
    "jobs/test_compare_fingerprints.py",
    "jobs/test_serve.py",
    "browser/test_gallery_in_chromium.py",
    "browser/test_serve_in_chromium.py",
)
"""Files whose tests use `gallery`, which takes long to make."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """As ``--dist loadfile``, which gives each worker one file after the other, with `ONE_GALLERY` as one file."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = nodeid.partition("::")[0]
            return ONE_GALLERY[0] if file.endswith(ONE_GALLERY) else file

    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def spark() -> "Iterator[SparkSession]":
    from pyspark.sql import SparkSession

    from image_similarity.runtime import java
    from image_similarity.runtime.session import local_settings

    builder = SparkSession.builder.appName("tests")
    if shutil.which("java") is None:  # the validator of pages looks for one there
        os.environ["PATH"] = f"{java.use().home / 'bin'}{os.pathsep}{os.environ['PATH']}"
    for key, value in local_settings().items():
        builder = builder.config(key, value)
    # Of Java's collectors this one takes the least time in a session that lasts for minutes.
    builder = builder.config("spark.driver.extraJavaOptions", "-XX:+UseParallelGC")
    for key, value in TINY_TABLES.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    yield session
    session.stop()


@pytest.fixture(autouse=True)
def pillows_limit() -> Iterator[None]:
    """Pillow's limit of pixels is one for the whole process: what a test sets does not outlive it."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    yield
    Image.MAX_IMAGE_PIXELS = before


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
    declared = f'{{network="squeezenet1_1",weights="{weights}",layer="features",pooling="average",'
    declared += 'preprocessing="caffe"}'
    return ["--set", f"fingerprints.squeezenet={declared}", "--set", "neighbours.fingerprint=squeezenet"]


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Arguments that declare ``tiny``: an untrained network that costs next to nothing."""
    declared = '{network="squeezenet1_1",weights="untrained",layer="features.3",pooling="average"}'
    return ["--set", f"fingerprints.tiny={declared}", "--set", "neighbours.fingerprint=tiny"]


Run = Callable[..., int]


@pytest.fixture
def run(spark: "SparkSession") -> Run:
    """``run(job, *arguments)``: a job in the shared session; its exit code."""
    from image_similarity.jobs.command_line import main

    def run_job(job: Any, *arguments: Any) -> int:
        return main(job, [str(argument) for argument in arguments], session=spark)

    return run_job


@dataclass(frozen=True)
class Rendered:
    """A gallery of the collection that tries to break it, by two fingerprints."""

    collection: hostile.Collection
    folder: Path
    warehouse: Path
    arguments: list[str]
    absent: str
    """The id of an image whose file was removed before the gallery was made."""
    others: dict[str, bytes]
    """What lay beside the gallery's folder before it was made."""


@pytest.fixture(scope="session")
def gallery(spark: "SparkSession", tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    import grouping_tables
    import quality_tables
    import tagging_tables
    from image_similarity.jobs import embed_images, find_neighbours, render_gallery, run_pipeline
    from image_similarity.jobs.command_line import main

    folder = tmp_path_factory.mktemp("hostile <b>&'")
    collection = hostile.make(folder)
    second = 'fingerprints.second={network="squeezenet1_1",weights="untrained",layer="features.1",pooling="max",seed=1}'
    settings = [*tiny, "--set", second, "--set", "embeddings.max_failed_fraction=0.5"]
    settings += ["--set", "gallery.images_per_page=5", "--set", "neighbours.similar=5"]
    settings += ["--set", "neighbours.dissimilar=3", "--warehouse", str(folder / "warehouse")]
    assert main(run_pipeline, [*settings, "--images", str(collection.works)], session=spark) == 0
    assert main(embed_images, [*settings, "--fingerprint", "second"], session=spark) == 0
    assert main(find_neighbours, [*settings, "--fingerprint", "second"], session=spark) == 0
    (collection.images / "tall.png").unlink()
    before = {
        str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file() and "warehouse" not in file.parts
    }
    groups = grouping_tables.hostile(collection.ids, collection.copies[0], collection.failing)
    grouping_tables.publish(folder / "warehouse", "tiny/cosine", groups)
    measured = quality_tables.rows(quality_tables.of_contents(folder / "warehouse", "tiny"))
    quality_tables.publish(folder / "warehouse", measured[1:])
    shown = [image_id for image_id in collection.ids if image_id not in collection.failing]
    tagging_tables.publish(folder / "warehouse", "tiny", tagging_tables.hostile(shown))
    assert main(render_gallery, [*settings, "--gallery", str(folder / "gallery")], session=spark) == 0
    return Rendered(collection, folder / "gallery", folder / "warehouse", settings, "tall.png", before)


@pytest.fixture
def one_thread_of_torch() -> Iterator[None]:
    """These are small: threads would wait for one another, and for those of other tests."""
    import torch  # takes seconds

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
