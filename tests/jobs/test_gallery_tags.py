"""Tags in the gallery: where they are shown, by which fingerprint, and what is said where they are old."""

import json
import re
import shutil
from pathlib import Path

import pyarrow.dataset as ds
import pytest

import tagging_tables
from conftest import Rendered, Run
from crawler import crawl, pages_in
from image_similarity.jobs import embed_images, render_gallery
from image_similarity.pages.paths import page_name
from image_similarity.stages.gallery import in_process, tags
from image_similarity.warehouse.snapshot import open_snapshot


def ids(gallery: Rendered) -> list[str]:
    return [image_id for image_id in gallery.collection.ids if image_id not in gallery.collection.failing]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8").replace("<wbr>", "").replace("\u00a0", " ")


def images_on(page: Path) -> list[str]:
    """The names of the images' pages that the main part of a page leads to, in order."""
    return re.findall(r'href="[./]*images/../(\w{32})\.html"', text_of(page).partition("<main")[2])


def with_tag(gallery: Rendered, name: str, wnid: str | None) -> list[str]:
    """The names of the pages of the images that have a tag, the most probable first."""
    given = tagging_tables.hostile(ids(gallery))
    sure = {
        image_id: probability
        for image_id, of_image in given.items()
        for other, other_wnid, probability in of_image
        if (other, other_wnid) == (name, wnid) and image_id in ids(gallery)
    }
    order = sorted(ids(gallery), key=str.encode)
    return [page_name(image_id) for image_id in sorted(sure, key=lambda name: (-sure[name], order.index(name)))]


def pages_of(folder: Path, name: str) -> list[Path]:
    """The pages of a tag, in order."""
    return sorted((folder / tags.FOLDER).glob(f"{name}-*.html"), key=lambda path: int(path.stem.partition("-")[2]))


def test_every_tag_has_a_page_with_its_images(gallery: Rendered) -> None:
    classes = [*((name, None) for name in tagging_tables.CLASSES), *tagging_tables.CRANES, ("thing", "n00002452")]
    for name, wnid in classes:
        shown = [page for path in pages_of(gallery.folder, tags.page_name(name, wnid)) for page in images_on(path)]
        assert shown == with_tag(gallery, name, wnid) != [], name
    assert not pages_of(gallery.folder, tags.page_name("a doubt", None)), "what is not accepted is nowhere"
    none = [page for path in pages_of(gallery.folder, tags.UNTAGGED) for page in images_on(path)]
    assert sorted(none) == sorted(map(page_name, ids(gallery)[-3:]))


def test_the_list_has_all_tags_and_how_many_images_have_none(gallery: Rendered) -> None:
    page = text_of(gallery.folder / tags.list_path())
    assert f"14 tags of {len(ids(gallery)) - 3} images" in page and ">3 images without a tag</a>" in page
    titles = re.findall(r'<span class="title" dir="auto">([^<]*)</span>', page)
    assert len(titles) == 14 and titles[:2] == ["thing", "creature"]
    assert {"(empty)", "Cardigan", "cardigan", "crane (n02012849)", "crane (n03126707)"} <= {*titles}
    assert "Guesses of tiny, each with a probability of at least 0.5" in page and "squeezenet1_1" in page


def test_an_image_leads_to_its_tags_with_their_probability(gallery: Rendered) -> None:
    image_id = ids(gallery)[5]
    name = page_name(image_id)
    page = text_of(gallery.folder / "images" / name[:2] / f"{name}.html")
    shown = re.findall(r'tags/(\w{32})-1\.html" title="probability ([^"]+)"', page)
    given = tagging_tables.hostile(ids(gallery))[image_id]
    wanted = [(tags.page_name(of, wnid), tags.percent(sure).replace("\u00a0", " ")) for of, wnid, sure in given[:-1]]
    assert shown == wanted and len(wanted) == 3 and "guessed by tiny" in page
    without = page_name(ids(gallery)[-1])
    assert "guessed by" not in text_of(gallery.folder / "images" / without[:2] / f"{without}.html")


def test_search_has_the_words_of_tags(gallery: Rendered) -> None:
    [rendering] = [path for path in gallery.folder.glob("r*") if (path / "search").is_dir()]
    scripts = "".join(path.read_text("ascii") for path in (rendering / "search").glob("*.js"))
    assert json.loads(re.findall(r'"creature":(\[[\d,]+\])', scripts)[0])[0] == len(ids(gallery)[1:-3:2])
    assert '"doubt"' not in scripts


def without_tags(warehouse: Path) -> None:
    pointer = json.loads((warehouse / "_current.json").read_text())
    del pointer["tables"]["tags"]
    (warehouse / "_current.json").write_text(json.dumps(pointer))


@pytest.mark.parametrize("layout", ["here", "by_spark"])
def test_without_tags_there_is_no_trace_of_them(
    run: Run, gallery: Rendered, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layout == "by_spark":
        monkeypatch.setattr(in_process, "MOST_IMAGES", 0)
    warehouse, target, fresh = tmp_path / "w", tmp_path / "g", tmp_path / "fresh"
    shutil.copytree(gallery.warehouse, warehouse)
    shutil.copytree(gallery.folder, target)
    without_tags(warehouse)
    arguments = [*gallery.arguments[:-2], "--warehouse", warehouse]
    assert run(render_gallery, *arguments, "--gallery", fresh) == 0
    assert not (fresh / tags.FOLDER).exists()
    assert [path for path in fresh.rglob("*.html") if re.search("tags/|>Tags|[Gg]uess|, probably", text_of(path))] == []
    assert run(render_gallery, *arguments, "--gallery", target) == 0
    left = list((target / tags.FOLDER).glob("*.html"))
    assert len(left) > 14 and all("This page has left the gallery" in text_of(path) for path in left)
    assert crawl(target, pages_in(target)).dead == []


def test_old_tags_are_said_to_be_old(
    run: Run, gallery: Rendered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = tmp_path / "w"
    shutil.copytree(gallery.warehouse, warehouse)
    arguments = [*gallery.arguments[:-2], "--warehouse", warehouse]
    render = [*arguments, "--gallery", tmp_path / "g"]
    told = "images are others, new or gone since they were tagged by tiny: run tag_images --fingerprint tiny"
    assert run(render_gallery, *render) == 0
    printed = capsys.readouterr().out
    assert told not in printed
    assert "1 tag is not shown, because its image is gone, or its file was replaced: run tag_images" in printed
    assert run(embed_images, *arguments, "--fingerprint", "tiny") == 0
    capsys.readouterr()
    assert run(render_gallery, *render) == 0
    assert told not in capsys.readouterr().out, "nothing has changed"
    anew = [*arguments, "--set", "fingerprints.tiny.layer=features.4"]
    assert run(embed_images, *anew, "--fingerprint", "tiny", "--replace-fingerprint") == 0
    capsys.readouterr()
    assert run(render_gallery, *render) == 0
    assert told in capsys.readouterr().out and told in text_of(tmp_path / "g" / "run.html")
    snapshot = open_snapshot(str(warehouse))
    record = [of for of in snapshot.runs.values() if of.job == "render_gallery"][-1]
    assert record.inputs["tags"] == snapshot.run_ids("tags", "tiny"), "so that they are kept as long as it is"
    columns = ["image_id", "content_sha256"]
    embedded = {tuple(row.values()) for row in snapshot.dataset("embeddings", "tiny").to_table(columns).to_pylist()}
    tagged = snapshot.dataset("tags", "tiny").to_table(columns, filter=ds.field("accepted")).to_pylist()
    gone = [row["image_id"] for row in tagged if tuple(row.values()) not in embedded]
    assert record.counts["tags_gone"] == len(gone) > 1 and gallery.absent in gone, "its file is not there any more"


@pytest.mark.parametrize("layout", ["here", "by_spark"])
def test_an_image_whose_file_was_replaced_has_no_tags(
    run: Run, gallery: Rendered, tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layout == "by_spark":
        monkeypatch.setattr(in_process, "MOST_IMAGES", 0)
    warehouse, target = tmp_path / "w", tmp_path / "g"
    shutil.copytree(gallery.warehouse, warehouse)
    kept, replaced, unsure, *others = ids(gallery)
    given: dict[str, list[tagging_tables.Tag]] = {kept: [("kept", None, 0.9)], unsure: [("a doubt", None, 0.1)]}
    given[replaced] = [("what it was", None, 0.9), ("old", None, 0.8), ("a doubt", None, 0.1)]
    tagging_tables.publish(warehouse, "tiny", given, replaced=[replaced])
    assert run(render_gallery, *gallery.arguments[:-2], "--warehouse", warehouse, "--gallery", target) == 0
    page = text_of(target / tags.list_path())
    assert "1 tag of 1 image," in page and ">kept<" in page
    assert f"{len(others) + 2} images without a tag</a>, {len(others) + 1} of which the network has not" in page
    assert not [file for file in target.rglob("*.html") if "what it was" in text_of(file)]
    assert [*open_snapshot(str(warehouse)).runs.values()][-1].counts["tags_gone"] == 2


def test_tags_are_those_of_the_first_fingerprint_that_has_some(run: Run, gallery: Rendered, tmp_path: Path) -> None:
    warehouse, target = tmp_path / "w", tmp_path / "g"
    shutil.copytree(gallery.warehouse, warehouse)
    first = ids(gallery)[0]
    tagging_tables.publish(warehouse, "second", {first: [("a second opinion", None, 0.9)]})
    arguments = [*gallery.arguments[:-2], "--warehouse", warehouse, "--gallery", target]
    assert run(render_gallery, *arguments, "--fingerprint", "second", "--fingerprint", "tiny") == 0
    page = text_of(target / tags.list_path())
    assert "a second opinion" in page and "1 tag of 1 image," in page and "creature" not in page
    assert run(render_gallery, *arguments) == 0
    assert "creature" in text_of(target / tags.list_path())
    without_tags(warehouse)
    tagging_tables.publish(warehouse, "second", {first: [("a doubt", None, 0.1)]})
    assert run(render_gallery, *arguments) == 0
    page = text_of(target / tags.list_path())
    assert "No image has a tag" in page and "Guesses of second" in page
