"""Groups in the gallery: where they are shown, by which fingerprint, and what is said where they are old."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import grouping_tables
from conftest import Rendered, Run
from crawler import crawl, pages_in
from grouping_tables import Made
from image_similarity.jobs import find_neighbours, render_gallery
from image_similarity.pages.paths import page_name
from image_similarity.stages.gallery import pictures
from image_similarity.warehouse.schemas import ALIKE, NEAR_DUPLICATES
from image_similarity.warehouse.snapshot import open_snapshot

NEAR = "near-duplicates/[0-9a-f]{16}-1.html"


def made_for(gallery: Rendered) -> dict[str, Made]:
    """group_id -> what the fixture published."""
    collection = gallery.collection
    groups = grouping_tables.hostile(collection.ids, collection.copies[0], collection.failing)
    return {group.group_id: group for group in groups}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8").replace("<wbr>", "")


def images_on(page: Path) -> list[str]:
    """The names of the images' pages that the main part of a page leads to, in order."""
    return re.findall(r'href="[./]*images/../(\w{32})\.html"', text_of(page).partition("<main")[2])


def of_kind(gallery: Rendered, kind: str, level: int = 0) -> list[Made]:
    """The groups that are shown, the largest first."""
    gone = {*gallery.collection.failing, "no such image"}
    shown = []
    for group in made_for(gallery).values():
        left = [name for name, _ in group.members if name not in gone]
        if (group.kind, group.level) == (kind, level) and left[:1] == [group.members[0][0]] and len(left) > 1:
            shown.append(group)
    return sorted(shown, key=lambda group: -len(group.members))


def test_both_lists_show_the_same_groups_in_their_orders(gallery: Rendered) -> None:
    near = of_kind(gallery, NEAR_DUPLICATES)
    assert len(near) == 2 and near[0].weakest_link > near[1].weakest_link  # type: ignore[operator]
    for name, order in (("1", near), ("surest-1", near[::-1])):
        page = text_of(gallery.folder / "near-duplicates" / f"{name}.html")
        assert re.findall(r'<section class="near" id="g(\w+)"', page) == [group.group_id for group in order]
        assert "2 groups of images" in page and "weakest link 0.2000" in page and "weakest link 0.0125" in page
    members = [name for name, _ in near[0].members if name not in gallery.collection.failing]
    shown = images_on(gallery.folder / "near-duplicates" / "1.html")
    assert shown[:9] == [page_name(name) for name in members[:9]], "the kept one, and the first eight"
    assert f"All {len(members)} images of this group" in page


def test_the_page_of_a_group_has_all_of_it_each_with_the_kept_one(gallery: Rendered) -> None:
    group = of_kind(gallery, NEAR_DUPLICATES)[0]
    kept, *others = (page_name(name) for name, _ in group.members if name not in gallery.collection.failing)
    pages = [images_on(gallery.folder / "near-duplicates" / f"{group.group_id}-{n}.html") for n in (1, 2, 3)]
    assert pages == [[kept, *others[start : start + 5]] for start in (0, 5, 10)], "five to a page"


def test_an_image_leads_to_its_groups(gallery: Rendered) -> None:
    copied, near = sorted(gallery.collection.copies[0]), of_kind(gallery, NEAR_DUPLICATES)[0]
    name = page_name(copied[1])
    page = text_of(gallery.folder / "images" / name[:2] / f"{name}.html").partition('class="own-groups"')[2]
    page = page.partition('<section class="relation')[0]
    assert f'near-duplicates/{near.group_id}-1.html">12 others' in page and "Exact copies of its file" in page
    assert all(copy in page for copy in (copied[0], copied[2]))
    assert page_name(copied[1]) not in page and "Another one</a> of its group is kept" in page
    [alike] = [group for group in of_kind(gallery, ALIKE) if "twin.png" in dict(group.members)]
    name = page_name("twin.png")
    page = text_of(gallery.folder / "images" / name[:2] / f"{name}.html")
    assert f"together/{alike.group_id}-1.html" in page.partition('id="together"')[2]


def test_what_belongs_together_is_shown_by_levels(gallery: Rendered) -> None:
    finest, coarsest = of_kind(gallery, ALIKE), of_kind(gallery, ALIKE, 1)
    assert len(finest) == 3 and len(coarsest) == 1
    for level, groups in enumerate((finest, coarsest)):
        page = text_of(gallery.folder / "together" / f"level{level}-1.html")
        assert re.findall(r'<li><a href="../together/([0-9a-f]{16})-1\.html', page) == [
            group.group_id for group in groups
        ]
        assert f"level{1 - level}-1.html" in page
    page = text_of(gallery.folder / "together" / f"{finest[-1].group_id}-1.html")
    inside = {name for name, _ in coarsest[0].members}
    parents = {group.group_id: coarsest[0].group_id in text_of(gallery.folder / group_page(group)) for group in finest}
    assert parents == {group.group_id: group.members[0][0] in inside for group in finest}
    assert "window.hacked" in page and "<script>window" not in page, "labels are escaped"


def group_page(group: Made) -> str:
    return f"{'together' if group.kind == ALIKE else 'near-duplicates'}/{group.group_id}-1.html"


def test_the_front_page_counts_groups(gallery: Rendered) -> None:
    front = text_of(gallery.folder / "index.html")
    tiles = re.findall(r'<span class="title">([^<]+)</span> <span class="note">([^<]+)</span>', front)
    assert tiles == [("Nearly the same", "2 groups, 15 images"), ("Belongs together", "3 groups, 17 images")]


def test_formats_and_sizes_are_those_of_the_files(gallery: Rendered) -> None:
    page = text_of(gallery.folder / group_page(of_kind(gallery, NEAR_DUPLICATES)[0]))
    kept = page.partition('<li class="member kept')[2].partition("</li>")[0]
    size = (gallery.collection.images / "copy one.png").stat().st_size
    assert re.search(rf">160 × 120, {round(size / 1000)}\u00a0kB, PNG</p>", kept)
    assert page.count("the same file, byte for byte") == 2


@pytest.mark.parametrize("layout", ["here", "by_spark"])
def test_pages_of_groups_that_are_gone_have_left(
    run: Run, gallery: Rendered, tmp_path: Path, layout: str, request: pytest.FixtureRequest
) -> None:
    """Groups by one fingerprint are not shown where another one is."""
    if layout == "by_spark":
        request.getfixturevalue("laid_out_by_spark")
    target = tmp_path / "g"
    shutil.copytree(gallery.folder, target)
    assert run(render_gallery, *gallery.arguments, "--gallery", target, "--fingerprint", "second") == 0
    crawled = crawl(target, pages_in(target))
    assert crawled.dead == []
    left = [path for folder in ("near-duplicates", "together", "compare") for path in (target / folder).rglob("*.html")]
    assert len(left) > 12 and all("This page has left the gallery" in text_of(path) for path in left)
    shown = crawl(target).pages
    assert not {path.resolve() for path in left} & set(shown)
    assert [path for path, page in shown.items() if "Nearly the same" in page.text] == []


@pytest.fixture
def laid_out_by_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    from image_similarity.stages.gallery import in_process

    monkeypatch.setattr(in_process, "MOST_IMAGES", 0)


def test_groups_of_other_neighbours_are_said_to_be_old(
    run: Run, gallery: Rendered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = tmp_path / "w"
    shutil.copytree(gallery.warehouse, warehouse)
    arguments = [*gallery.arguments[:-2], "--warehouse", warehouse]
    render = [*arguments, "--fingerprint", "tiny", "--gallery", tmp_path / "g"]
    assert run(render_gallery, *render) == 0
    assert "found again since" not in capsys.readouterr().out
    assert run(find_neighbours, *arguments) == 0
    capsys.readouterr()
    assert run(render_gallery, *render) == 0
    told = (
        "neighbours by tiny/cosine were found again since these groups were made: run group_images --fingerprint tiny"
    )
    told += " --metric cosine --kind near-duplicates and --kind similar"
    assert told in capsys.readouterr().out
    assert told in text_of(tmp_path / "g" / "run.html")
    [record] = [of for of in open_snapshot(str(warehouse)).runs.values() if of.job == "render_gallery"][-1:]
    groups = open_snapshot(str(warehouse)).run_ids("groups", "tiny/cosine/similar")
    assert record.inputs["groups"] == groups, "so that its groups are kept as long as it is"


def test_a_kind_is_taken_from_the_run_that_is_current_for_it(
    run: Run, gallery: Rendered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run writes rows of several kinds into one file; another run may have replaced one of them since."""
    warehouse = tmp_path / "w"
    shutil.copytree(gallery.warehouse, warehouse)
    names = [name for name in gallery.collection.ids if name not in gallery.collection.failing]
    newer = Made(NEAR_DUPLICATES, [(names[0], 0.0), (names[1], 0.5)])
    grouping_tables.publish(warehouse, "tiny/cosine", [newer])
    target = tmp_path / "g"
    arguments = [*gallery.arguments[:-2], "--warehouse", warehouse, "--gallery", target]
    assert run(render_gallery, *arguments) == 0
    assert [
        str(path.relative_to(target)) for path in target.glob("near-duplicates/*-1.html") if len(path.stem) > 12
    ] == [group_page(newer)]
    assert {path.name for path in target.glob("together/*.html")} == {
        path.name for path in gallery.folder.glob("together/*.html")
    }
    sections = re.findall(r"<h2 id=\"run\d\">(Groups[^<]+)", text_of(target / "run.html"))
    assert sections == ["Groups by tiny: the same file and belongs together", "Groups by tiny: nearly the same"]


def test_pictures_of_an_earlier_version_are_kept_and_their_originals_read_once(
    run: Run, gallery: Rendered, tmp_path: Path
) -> None:
    target = tmp_path / "g"
    arguments = [*gallery.arguments, "--gallery", target]
    assert run(render_gallery, *arguments) == 0

    def inventory() -> Path:
        shown: str = json.loads((target / "gallery.json").read_text())["renderings"][0]
        [file] = (target / shown / pictures.INVENTORY).glob("*.parquet")
        return file

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in target.rglob("*.webp")}

    table, before = pq.read_table(inventory()), files()
    assert table["format"].drop_null().unique().to_pylist() == ["PNG"]
    pq.write_table(table.drop_columns(pictures.ORIGINAL), inventory())
    pages = {path: hashlib.sha256(path.read_bytes()).digest() for path in target.glob("near-duplicates/*.html")}
    assert run(render_gallery, *arguments) == 0
    again = pq.read_table(inventory())
    assert again.select(pictures.ORIGINAL).equals(table.select(pictures.ORIGINAL)) and files() == before
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in pages} == pages
