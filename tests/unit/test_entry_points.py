"""Every job can be started in two ways, by its script and by its module, and both say the same."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from image_similarity.jobs import command_line

ROOT = Path(__file__).resolve().parents[2]
SHARED = (
    "__init__",
    "calibration_copies",
    "command_line",
    "declaration",
    "early",
    "embedding_runners",
    "group_sources",
    "job",
    "neighbour_runners",
    "published_classifiers",
    "published_searches",
    "query_embedding",
    "same_way",
    "search_report",
    "search_request",
    "search_runners",
    "searched_collection",
)
JOBS = sorted(
    file.stem for file in (ROOT / "lib" / "image_similarity" / "jobs").glob("*.py") if file.stem not in SHARED
)


def test_every_job_has_a_script_of_few_lines() -> None:
    assert JOBS == sorted(file.stem for file in (ROOT / "jobs").glob("*.py"))
    for job in JOBS:
        lines = (ROOT / "jobs" / f"{job}.py").read_text().splitlines()
        assert len(lines) <= 6 and lines[-1] == f'    start("{job}")'


@pytest.mark.parametrize("job", ["build_manifest", "run_pipeline"])
def test_script_and_module_give_the_same_help(job: str, tmp_path: Path) -> None:
    ways = [[str(ROOT / "jobs" / f"{job}.py")], ["-m", f"image_similarity.jobs.{job}"]]
    told = [
        subprocess.run([sys.executable, *way, "--help"], capture_output=True, text=True, cwd=tmp_path) for way in ways
    ]
    assert [done.returncode for done in told] == [0, 0] and told[0].stdout == told[1].stdout
    assert f"usage: {job}.py" in told[0].stdout and "--warehouse URI" in told[0].stdout


def test_importing_a_job_starts_nothing(tmp_path: Path) -> None:
    program = "import sys, threading\n"
    program += "".join(f"import image_similarity.jobs.{job}\n" for job in JOBS)
    program += "from pyspark import SparkContext\nassert SparkContext._active_spark_context is None\n"
    program += "assert threading.active_count() == 1 and 'torch' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir()) and done.stdout == ""


@pytest.mark.parametrize("job", JOBS)
def test_settings_may_be_left_alone(job: str) -> None:
    """Flags that abbreviate --set share its default, whichever of them is given."""
    module = importlib.import_module(f"image_similarity.jobs.{job}")
    needed = {
        "build_manifest": ["--images", "i"],
        "run_pipeline": ["--images", "i"],
        "render_gallery": ["--gallery", "g"],
        "render_map": ["--gallery", "g"],
    }
    needed |= {"compare_fingerprints": ["--report", "r"], "download_images": ["--catalogue", "c", "--images", "i"]}
    parsed = command_line._parser(module, job).parse_args(["--warehouse", "w", *needed.get(job, [])])
    assert parsed.overrides == []
