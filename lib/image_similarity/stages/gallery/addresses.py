"""The addresses of pages, which stay the same from rendering to rendering.

Pages that are filled lie in the workspace of the run until all of them are. Then Spark tasks put each at its address,
whole, in an order that keeps every link good at every moment:

1. `place` adds the pages whose addresses are new. They link to one another, but no page of before links to them.
2. `place` replaces the others. All that old and new pages link to is there now.
3. The driver replaces the front page.
4. `retire` replaces what has left: pages of images and lists that no page links to any more. They say so.

Each step may be repeated. A job that dies in between leaves pages of two renderings, all whole. The links of those that
a visitor can reach are good.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from image_similarity.pages.site import Site
from image_similarity.runtime.progress import progress
from image_similarity.stages.gallery import compare, groups, measures, pages, ranked, tags
from image_similarity.stages.gallery.layout import Totals
from image_similarity.stages.gallery.pages import Book
from image_similarity.storage import blobs

IMAGES = "images"
LISTINGS = (
    *("browse", "groups", "duplicates", "failures", *groups.FOLDERS.values()),
    *(tags.FOLDER, measures.FOLDER, ranked.FOLDER),
)
_SHELVED = (IMAGES, compare.FOLDER)
"""The folders whose pages lie on shelves: 256 folders in each."""
_SHELVES = tuple(f"{folder}/{number:02x}" for folder in _SHELVED for number in range(256))
_FOLDERS = (*_SHELVES, *LISTINGS)
"""The folders whose pages may leave. Each of them is one unit of work."""

_ADDRESS = re.compile(
    r"(images|compare)/[0-9a-f]{2}/[0-9a-f]{32}\.html|(browse|duplicates)/\d+\.html|failures/[\w-]+\.html"
    r"|groups/[0-9a-f]{32}(/[0-9a-f]{32}-\d+)?\.html"
    r"|quality/(index|[a-z-]+-\d+)\.html|odd/[a-z0-9-]+-\d+\.html"
    r"|tags/(([0-9a-f]{32}|none)-)?\d+\.html"
    r"|near-duplicates/(surest-)?\d+\.html|together/level\d+-\d+\.html|(near-duplicates|together)/[0-9a-f]{16,64}-\d+\.html"
)
"""What pages in these folders are called. Files with other names are not ours."""

_WRITERS = 8
"""Pages that a task reads and writes at a time: an object store takes a while to answer."""

Batches = Iterator[pa.RecordBatch]
Place = Callable[[Batches], Batches]


def place(spark: SparkSession, filled: DataFrame, book: Book, totals: Totals) -> None:
    """Puts the pages of ``filled`` (`pages.FILLED`) at their addresses: first those with new addresses.

    A page that is there already, with the same content, is left alone. ``totals``: of ``filled``.
    """
    for what, state, count in (
        ("add new pages", pages.NEW, totals.new),
        ("replace changed pages", pages.CHANGED, totals.changed),
    ):
        if count:
            content = filled.where(F.col("state") == state).select("path", "content")
            with progress(spark, what, count, "pages", filled.rdd.getNumPartitions()):
                content.mapInArrow(_placer(book.gallery), "written long").collect()


def earlier_renderings(site: Site) -> list[str]:
    """The renderings of earlier versions, which have their pages in their own folders. `retire` takes them over."""
    names = set(site.files.entries(site.uri)).intersection(site.renderings).difference(site.forwards)
    return [name for name in sorted(names) if IMAGES in site.files.entries(site.folder(name))]


def retire(spark: SparkSession, paths: DataFrame, book: Book, earlier: Sequence[str]) -> int:
    """Replaces the pages at addresses that are not among ``paths`` (column ``path``). Returns their number.

    ``earlier``: renderings that have their pages in their own folders. These pages are replaced, too, by pages that
    lead on: to the page of the same image, or to the front page.
    """
    current = paths.groupBy(_folder(F.col("path")).alias("folder")).agg(F.collect_list("path").alias("paths"))
    folders = spark.createDataFrame([(name,) for name in _FOLDERS], "folder string")
    rows = folders.join(current, "folder", "left").select("folder", "paths")
    rows = rows.repartition(spark.sparkContext.defaultParallelism)  # else Spark may give all of them to one task
    retired: int = rows.mapInArrow(_retirer(book, earlier), "retired long").agg(F.sum("retired")).collect()[0][0]
    _lead_on_from_single_pages(book, earlier)
    return retired


def _folder(path: Column) -> Column:
    slashes = F.when(F.substring_index(path, "/", 1).isin(*_SHELVED), 2).otherwise(1)
    return F.array_join(F.slice(F.split(path, "/"), F.lit(1), slashes), "/")


def retire_here(paths: Iterable[str], book: Book, earlier: Sequence[str]) -> int:
    """As `retire`, by this process."""
    current: dict[str, set[str]] = {}
    for path in paths:
        parts = path.split("/")
        current.setdefault("/".join(parts[: 2 if parts[0] in _SHELVED else 1]), set()).add(path)

    def retire_from(folder: str) -> int:
        return _retire(book, folder, current.get(folder, set()), earlier, pool)

    # Two pools, as whoever waits for pages holds a thread.
    with ThreadPoolExecutor(_WRITERS, "folders") as folders, ThreadPoolExecutor(_WRITERS, "addresses") as pool:
        retired = sum(folders.map(retire_from, _FOLDERS))
    _lead_on_from_single_pages(book, earlier)
    return retired


def _lead_on_from_single_pages(book: Book, earlier: Sequence[str]) -> None:
    for rendering in earlier:
        for path in ("run.html", "search.html"):
            _write_moved(book, rendering, path, "index.html")


# -- in the workers ----------------------------------------------------------------------------------------------------


def _placer(gallery: str) -> Place:
    def placed(batches: Batches) -> Batches:
        def place_one(row: dict[str, Any]) -> bool:
            return _write_if_changed(f"{gallery}/{row['path']}", row["content"])

        with ThreadPoolExecutor(_WRITERS, "addresses") as pool:
            for batch in batches:
                yield pa.RecordBatch.from_pydict({"written": [sum(pool.map(place_one, batch.to_pylist()))]})

    return placed


def _write_if_changed(uri: str, content: bytes) -> bool:
    """Whether the page at ``uri`` was another one."""
    try:
        if blobs.read(uri, len(content)) == content:
            return False
    except FileNotFoundError:
        pass
    blobs.write(uri, content, pages.content_type(uri))
    return True


def _retirer(book: Book, earlier: Sequence[str]) -> Callable[[Batches], Batches]:
    def retired(batches: Batches) -> Batches:
        count = 0
        with ThreadPoolExecutor(_WRITERS, "addresses") as pool:
            for batch in batches:
                for row in batch.to_pylist():
                    count += _retire(book, row["folder"], set(row["paths"] or ()), earlier, pool)
        yield pa.RecordBatch.from_pydict({"retired": [count]})

    return retired


def _retire(book: Book, folder: str, current: set[str], earlier: Sequence[str], pool: ThreadPoolExecutor) -> int:
    """Replaces the pages below ``folder`` that are not ``current``, and those of ``earlier`` renderings."""
    published = {path for path in _pages(book.gallery, folder) if _ADDRESS.fullmatch(path)}
    moved = [(rendering, path) for rendering in earlier for path in _pages(f"{book.gallery}/{rendering}", folder)]
    if folder in _SHELVES:
        published.update(path for _, path in moved if _ADDRESS.fullmatch(path))

    def replace(path: str) -> bool:
        left = pages.render("left.html", book, path, {"is_image": folder.startswith(f"{IMAGES}/")})
        return _write_if_changed(f"{book.gallery}/{path}", left.encode())

    def lead_on(page: tuple[str, str]) -> None:
        rendering, path = page
        _write_moved(book, rendering, path, path if path in published else "index.html")

    retired = sum(pool.map(replace, published - current))
    list(pool.map(lead_on, moved))
    return retired


def _pages(root: str, folder: str) -> Iterator[str]:
    """The paths of the pages below a ``folder`` of ``root``. Half-written ones, of jobs that died, are removed."""
    if not blobs.exists(f"{root}/{folder}"):
        return
    for file in blobs.list_files(f"{root}/{folder}"):
        path = f"{folder}/{file.path}"
        if path.endswith(".html"):
            yield path
        elif path.endswith(".tmp") and _ADDRESS.match(path):
            blobs.delete(file.uri)


def _write_moved(book: Book, rendering: str, path: str, target: str) -> None:
    page = pages.render("moved.html", book, f"{rendering}/{path}", {"target": target})
    pages.write(f"{book.gallery}/{rendering}", path, page)
