"""One pipeline for several fingerprints; what is stale afterwards and what is not; and the query that is printed."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from image_similarity.jobs import run_pipeline
from image_similarity.stages.embeddings import prepare
from image_similarity.warehouse.snapshot import open_snapshot
from processes import ask, draw

IMAGES = 6
CLASSICAL = ["--set", 'fingerprints.colours={kind="colour-histogram"}', "--set", 'fingerprints.edges={kind="hog"}']


@pytest.fixture
def common(tmp_path: Path) -> list[Any]:
    draw(tmp_path / "images", range(IMAGES))
    return ["--images", tmp_path / "images", "--warehouse", tmp_path / "w", *CLASSICAL]


def test_each_has_its_tables_and_the_pictures_are_read_once(run: Any, tmp_path: Path, common: Any, capsys: Any) -> None:
    both = ["--fingerprint", "colours", "--fingerprint", "edges", "--gallery", tmp_path / "g", "-k", 2]
    assert run(run_pipeline, *common, *both) == 0
    out, err = capsys.readouterr()
    assert f"embed colours, edges: {IMAGES} images" in err
    assert all(f"nearest others ({name}/cosine distances)" in out for name in ("colours", "edges"))
    counted = "SELECT fingerprint, relation, count(*) FROM neighbours GROUP BY ALL ORDER BY ALL"
    each = [("dissimilar", IMAGES * (IMAGES - 1)), ("similar", IMAGES * 2)]
    assert ask(tmp_path / "w", counted) == [(name, *row) for name in ("colours", "edges") for row in each]
    assert len(open_snapshot(str(tmp_path / "w")).run_ids("manifest")) == 1
    assert [path.name for path in (tmp_path / "g").iterdir() if path.name == "index.html"] == ["index.html"]


def test_stale_means_that_images_differ(run: Any, tmp_path: Path, common: Any, capsys: Any) -> None:
    assert run(run_pipeline, *common, "--fingerprint", "colours") == 0
    common += ["--gallery", tmp_path / "g"]
    assert run(run_pipeline, *common, "--fingerprint", "edges") == 0
    assert "run embed_images" not in (told := capsys.readouterr().out) and "run find_neighbours" not in told
    draw(tmp_path / "images", range(IMAGES, IMAGES + 1))
    (tmp_path / "images" / "0.jpg").unlink()
    assert run(run_pipeline, *common, "--fingerprint", "edges") == 0
    told = capsys.readouterr().out
    stale = "2 images are new, gone or changed since they were embedded as colours: run embed_images"
    gone = f"{(IMAGES - 1) * 4} neighbours by colours/cosine are not shown"
    assert f"{stale} --fingerprint colours" in told and gone in told
    assert "embedded as edges" not in told and "edges/cosine are not shown" not in told
    newest = tmp_path / "g" / "run.html"
    assert stale in newest.read_text()


def shown(out: str) -> list[str]:
    """The rows that the printed query shows."""
    line = next(line for line in out.splitlines() if line.startswith("query: "))
    done = subprocess.run(["bash", "-c", line.removeprefix("query: ")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [row for row in done.stdout.splitlines() if ".jpg" in row]


def test_the_query_shows_each_pair_once(run: Any, tmp_path: Path, common: Any, capsys: Any) -> None:
    (tmp_path / "images" / "copy.jpg").write_bytes((tmp_path / "images" / "0.jpg").read_bytes())
    assert run(run_pipeline, *common, "--fingerprint", "edges") == 0
    assert run(run_pipeline, *common, "--fingerprint", "colours", "-k", "1000") == 0
    out = capsys.readouterr().out
    assert f"keep 1000 similar and 12 dissimilar neighbours of each image (there are {IMAGES} others)" in out
    assert "DuckDB is not installed" not in out
    rows = shown(out[out.rindex("run_pipeline: done") :])
    pairs = [tuple(cell.strip() for cell in row.split("│")[1:3]) for row in rows]
    right = (
        "SELECT DISTINCT least(image_id, neighbour_id), greatest(image_id, neighbour_id), distance FROM neighbours "
        "WHERE relation = 'similar' AND fingerprint = 'colours' ORDER BY distance, 1 LIMIT 10"
    )
    assert sorted(pairs) == sorted(row[:2] for row in ask(tmp_path / "w", right)), "though two are published"
    assert sum("copy.jpg" in row and "0.jpg" in row for row in rows) == 1 and len(rows) == len(set(rows)) >= 3


def test_the_summary_names_titles_and_tells_copies(run: Any, tmp_path: Path, common: Any, capsys: Any) -> None:
    (tmp_path / "images" / "copy.jpg").write_bytes((tmp_path / "images" / "0.jpg").read_bytes())
    rows = [f"{name}.jpg,{f'Work {name} of 5' if name != 3 else ''},x" for name in [*range(IMAGES), "copy"]]
    listed = tmp_path / "images" / "list.csv"
    listed.write_text("\n".join(["uri,Title,label", *rows]))
    common[1] = listed
    gallery = tmp_path / "a gallery"
    assert run(run_pipeline, *common, "--fingerprint", "edges", "--gallery", gallery) == 0
    told = capsys.readouterr().out
    assert "copies           1 with the same bytes as another image" in told
    shown_names = told[told.index("nearest others") : told.index("query: ")]
    assert "Work 0 of 5 (0.jpg)" in shown_names and "3.jpg (x)" in shown_names
    assert f"open it: {gallery.as_uri()}/index.html" in told and "%20" in told
    assert f"map: {gallery}/map.html" in told.splitlines()


def test_without_similar_ones_it_shows_the_farthest(
    run: Any, tmp_path: Path, common: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name != "duckdb" and find(name, *more))
    assert run(run_pipeline, *common, "--fingerprint", "edges", "-k", "0") == 0
    out = capsys.readouterr().out
    assert f"DuckDB is not installed yet: {sys.executable} -m pip install 'duckdb" in out
    assert "nearest others" not in out and shown(out)
    farthest = ask(tmp_path / "w", "SELECT max(distance) FROM neighbours")[0][0]
    assert f"{farthest:.5f}"[:6] in shown(out)[0]


def test_nothing_asked_for_is_refused_before_anything_is_written(
    run: Any, tmp_path: Path, common: Any, capsys: Any
) -> None:
    assert run(run_pipeline, *common, "--fingerprint", "edges", "-k", 0, "--dissimilar", 0) == 2
    assert "similar and dissimilar are both 0" in capsys.readouterr().err and not (tmp_path / "w").exists()


BAD = 'fingerprints.bad={network="resnet18",layer="avgpool",weights="w.pth"}'


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--fingerprint", "bad", "--set", BAD], 2, "no such file: "),
        (["--fingerprint", "edges", "--set", 'manifest.extensions=[".none"]'], 2, "no image"),
    ],
)
def test_what_fails_before_any_image_was_listed_has_written_nothing(
    run: Any, tmp_path: Path, common: Any, capsys: Any, arguments: list[str], code: int, message: str
) -> None:
    assert run(run_pipeline, *common, *arguments) == code
    assert message in capsys.readouterr().err and not (tmp_path / "w").exists()


def test_a_folder_that_was_there_stays(run: Any, tmp_path: Path, common: Any) -> None:
    (tmp_path / "w").mkdir()
    assert run(run_pipeline, *common, "--fingerprint", "edges", "--set", 'manifest.extensions=[".none"]') == 2
    assert list((tmp_path / "w").iterdir()) == []


def test_a_folder_that_does_not_exist_is_told_before_weights_are_loaded(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(prepare, "prepare", lambda *_: pytest.fail("loaded"))
    assert run(run_pipeline, "--images", tmp_path / "typo", "--warehouse", tmp_path / "w") == 2
    assert "typo: no such folder or file" in capsys.readouterr().err and not (tmp_path / "w").exists()
