"""What the README promises is there."""

import re
from pathlib import Path

from image_similarity import cli, images
from image_similarity.stages.downloads import stage as downloads
from image_similarity.stages.embeddings import stage as embeddings
from image_similarity.stages.neighbours import vectors
from image_similarity.tables import SCHEMAS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_reason_is_explained_as_in_the_code() -> None:
    told = set(re.findall(r"^\| `(\w+)` \| (embed_images|find_neighbours) \| (.+) \|$", README, re.MULTILINE))
    written = {(reason, "embed_images", meaning) for reason, meaning in embeddings.FAILURE_REASONS.items()}
    written |= {(reason, "find_neighbours", meaning) for reason, meaning in vectors.FAILURE_REASONS.items()}
    assert told == written
    assert downloads.FAILURE_REASONS.items() < embeddings.FAILURE_REASONS.items()
    first, last = re.search(r"reading a file \(`(\w+)` to `(\w+)`\)", README).groups()  # type: ignore[union-attr]
    listed = re.findall(r"^\| `(\w+)` \| embed_images", README, re.MULTILINE)
    assert set(listed[listed.index(first) : listed.index(last) + 1]) == set(images.FETCH_REASONS)


def test_every_table_has_its_columns_there() -> None:
    for table, schema in SCHEMAS.items():
        row = next(line for line in README.splitlines() if line.startswith(f"| `{table}` |"))
        assert (
            re.findall(
                r"[a-z_0-9]+",
                row.split("|")[2]
                .split(";")[0]
                .replace("(map)", "")
                .replace("(array of float)", "")
                .replace("(`similar`, `dissimilar`)", ""),
            )
            == schema.fieldNames()
        )


def test_every_common_flag_is_told() -> None:
    flags = [flag for action in cli.parser("")._actions for flag in action.option_strings if flag.startswith("--")]
    told = README[README.index("Every job takes") : README.index("| exit code |")]
    assert [flag for flag in flags if flag not in told] == ["--help"]


def test_every_path_exists() -> None:
    texts = [README, *(file.read_text(encoding="utf-8") for file in (ROOT / "conf").rglob("*") if file.is_file())]
    paths = {path for text in texts for path in re.findall(r"(?<![\w/.-])(?:lib|conf|tests|jobs|docs)/[\w./-]*\w/?", text)}
    assert len(paths) > 30 and [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_every_job_and_target_exists() -> None:
    jobs = set(re.findall(r"jobs/(\w+\.py)", README))
    assert jobs == {file.name for file in (ROOT / "jobs").glob("*.py")}
    targets = set(re.findall(r"^    make ([a-z-]+)", README, re.MULTILINE))
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
