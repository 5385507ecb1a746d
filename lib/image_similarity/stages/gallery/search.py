"""Data for search and shuffling in the browser: shards of cards, and shards of words with the images they belong to.

They are classic scripts, because pages opened from the file system may load nothing else. Shards are small, and a query
loads only those that it needs, whatever the size of the collection.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set

import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from image_similarity.pages import captions
from image_similarity.stages.gallery.cards import LONGEST_TERM
from image_similarity.stages.gallery.pages import WRITTEN, WRITTEN_SCHEMA, Book, put
from image_similarity.warehouse.workspace import Workspace

CARDS_PER_SHARD = 200
POSTINGS_KEPT = 5000
"""The most images that are listed for one word. A word of more images is too common to narrow a search down."""
SHARD_BYTES = 100_000
WHOLE_BYTES, WHOLE_SHARDS = 4_000_000, 1000
"""Up to this size the browser may load all words, to look for parts inside of them and for words that are alike."""
_BYTES_PER_POSTING = 3


def write_cards(cards: DataFrame, book: Book) -> DataFrame:
    """Writes ``data/<n>.js``: cards in the order of their ordinals, ``book.per_shard`` in each."""
    entry = F.struct("ordinal", "page", "picture", "width", "height", "title", "subtitle", "alt")
    shards = cards.groupBy(F.expr(f"ordinal div {book.per_shard}").alias("shard"))
    rows = shards.agg(F.sort_array(F.collect_list(entry)).alias("items"))

    def written(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            files = []
            for row in batch.to_pylist():
                files.append(put_cards(book, row["shard"], row["items"]))
            yield pa.RecordBatch.from_pylist(files, schema=WRITTEN_SCHEMA)

    return rows.mapInArrow(written, WRITTEN)


def put_cards(book: Book, shard: int, cards: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Writes one shard of cards. Returns a row of `pages.WRITTEN`."""
    entries = [_entry(card) for card in cards]
    return put(book, f"data/{shard}.js", f"gallery.cards({shard},{_compact(entries)})", len(entries))


def put_terms(book: Book, prefix: str, terms: Mapping[str, tuple[int, Sequence[int]]]) -> dict[str, object]:
    """Writes one shard of words: word -> images, and ordinals of the first. Returns a row of `pages.WRITTEN`."""
    words = {term: [images, *_gaps(ordinals)] for term, (images, ordinals) in terms.items()}
    script = f"gallery.terms({json.dumps(prefix)},{_compact(words)})"
    return put(book, f"search/{prefix.encode().hex()}.js", script, len(words))


def _entry(card: Mapping[str, object]) -> list[object]:
    has_picture = card["width"] is not None
    return [
        card["page"],
        card["picture"] if has_picture else 0,
        card["width"],
        card["height"],
        captions.short(str(card["title"])),
        card["subtitle"],
        card["alt"],
    ]


def write_terms(cards: DataFrame, book: Book, scratch: Workspace) -> tuple[DataFrame, list[str]]:
    """Writes ``search/<prefix in hexadecimal>.js``: words with a common prefix, each with its images.

    Returns the written files and the prefixes.
    """
    postings = cards.select(F.explode("terms").alias("term"), F.col("ordinal").cast("int"))
    # A frequent word may belong to millions of images: only the first ones are listed.
    first = F.row_number().over(Window.partitionBy("term").orderBy("ordinal")) <= POSTINGS_KEPT
    listed = postings.withColumn("is_first", first).where("is_first").groupBy("term")
    lists = listed.agg(F.sort_array(F.collect_list("ordinal")).alias("ordinals"))
    counts = postings.groupBy("term").agg(F.count("*").alias("images"))
    terms = scratch.write("terms", counts.join(lists, "term").select("term", "images", "ordinals"))
    prefixes = _prefixes(terms)
    prefixed = terms.mapInArrow(_with_prefix(prefixes), "term string, images long, ordinals array<int>, prefix string")
    rows = prefixed.groupBy("prefix").agg(
        F.sort_array(F.collect_list(F.struct("term", "images", "ordinals"))).alias("items")
    )

    def written(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            files = []
            for row in batch.to_pylist():
                terms = {item["term"]: (item["images"], item["ordinals"]) for item in row["items"]}
                files.append(put_terms(book, row["prefix"], terms))
            yield pa.RecordBatch.from_pylist(files, schema=WRITTEN_SCHEMA)

    return rows.mapInArrow(written, WRITTEN), prefixes


def _prefixes(terms: DataFrame) -> list[str]:
    """The prefixes that divide ``terms`` into shards of about `SHARD_BYTES`. Common beginnings get longer prefixes."""
    done: set[str] = set()
    remaining = terms.select(
        "term", (F.octet_length("term") + F.size("ordinals") * _BYTES_PER_POSTING + 6).alias("bytes")
    )
    for length in range(1, LONGEST_TERM + 1):
        beginning = F.substring("term", 1, length)
        sizes = (
            remaining.groupBy(beginning.alias("prefix"))
            .agg(F.sum("bytes").alias("bytes"), F.count("*").alias("terms"))
            .collect()
        )
        large = [row.prefix for row in sizes if row.bytes > SHARD_BYTES and row.terms > 1]
        done.update(row.prefix for row in sizes)
        if not large:
            break
        # A large prefix keeps the word that equals it, if there is one. Its other words are divided by one letter more.
        done.difference_update(large)
        done.update(row.term for row in remaining.where(F.col("term").isin(large)).select("term").collect())
        remaining = remaining.where(beginning.isin(large) & ~F.col("term").isin(large))
    return sorted(done)


def _with_prefix(prefixes: list[str]) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """A function that adds to each word the longest of ``prefixes`` that it begins with."""
    all_prefixes = frozenset(prefixes)

    def add(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield batch.append_column(
                "prefix",
                pa.array([prefix_of(term, all_prefixes) for term in batch.column("term").to_pylist()], pa.string()),
            )

    return add


def prefix_of(term: str, prefixes: Set[str]) -> str:
    """The longest of ``prefixes`` that ``term`` begins with."""
    return next(term[:length] for length in range(len(term), 0, -1) if term[:length] in prefixes)


def prefixes_of(sizes: Mapping[str, int]) -> list[str]:
    """As `_prefixes`, of words that this process knows: word -> bytes of its posting."""
    done: set[str] = set()
    remaining = dict(sizes)
    for length in range(1, LONGEST_TERM + 1):
        by_prefix: dict[str, list[int]] = {}
        for term, size in remaining.items():
            by_prefix.setdefault(term[:length], []).append(size)
        large = {prefix for prefix, of in by_prefix.items() if sum(of) > SHARD_BYTES and len(of) > 1}
        done.update(by_prefix.keys() - large, large & remaining.keys())
        remaining = {term: size for term, size in remaining.items() if term[:length] in large and term not in large}
        if not large:
            break
    return sorted(done)


def posting_bytes(term: str, ordinals: int) -> int:
    """About the bytes of a word with so many ordinals in its shard."""
    return len(term.encode()) + ordinals * _BYTES_PER_POSTING + 6


def _gaps(ordinals: Sequence[int]) -> list[int]:
    """The first ordinal, and then the differences between neighbours, which have fewer digits."""
    return [ordinal - previous for previous, ordinal in zip([0, *ordinals], ordinals)]


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
