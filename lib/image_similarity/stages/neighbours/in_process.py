"""Exact neighbours by this process, without Spark: of a collection on this machine that fits into its memory.

Checks, numbers, lists and rows are those of the Spark stage, bit for bit, and so is the state that is left to the next
run: either runner continues what the other left.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.knn import calibration, distances, scoring, screening
from image_similarity.knn.candidates import Lists
from image_similarity.knn.distances import METRICS, Indices, Metric, Values, Vectors
from image_similarity.knn.engine import MAX_UNCERTAIN_SHARE, AllPairs, Pair, Search
from image_similarity.knn.rerank import Part
from image_similarity.knn.scoring import BFLOAT16, FLOAT32
from image_similarity.knn.screening import Choice
from image_similarity.reporting import current
from image_similarity.runtime.progress import progress, step
from image_similarity.settings import NeighboursSettings
from image_similarity.stages.neighbours import own_vectors
from image_similarity.stages.neighbours.numbers import DIGEST_BYTES, Images, Numbers, numbered
from image_similarity.stages.neighbours.plan import EXACT, Plan
from image_similarity.stages.neighbours.previous import (
    SETTLED,
    SETTLED_LISTS,
    PreviousRun,
    save_known,
    settled_rows,
)
from image_similarity.stages.neighbours.table import Naming
from image_similarity.stages.neighbours.usable import (
    by_length,
    check_keys,
    digests_of,
    mismatch,
    most_frequent,
    reasons_of,
    wrong_length,
)
from image_similarity.storage import uris
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import Snapshot
from image_similarity.warehouse.workspace import Workspace

_SAMPLE = 100
_BATCH_ROWS = 1024
_ROWS_AT_ONCE = 4096
_STATE_BYTES = 2**26
AUTO = "auto"

Batches = Callable[[], Iterator[pa.RecordBatch]]
"""Reads some of a source's vectors: batches of content (string), embedding (list<float>)."""


# -- where vectors come from -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocalSource:
    """Images, and vectors by content, in files on this machine."""

    images: pa.Table | None
    """image_id, content (strings); None where each content is an image."""
    groups: Sequence[Batches]
    """The vectors, one row group each."""
    count: int
    """How many images."""


@dataclass(frozen=True)
class LocalFiles:
    """The files of a `LocalSource`, as far as their ends tell: so little is read before a runner is chosen."""

    count: int
    """How many images."""
    dimensions: int
    """The length of most of the first vectors; 0 if there are none."""
    inputs: dict[str, list[str]]
    """What is read, for the record of the run."""
    open: Callable[[int], LocalSource]
    """Reads and checks the ids, with so many threads. Raises ``WrongInput`` for the user's own that are not unique."""


def from_parquet(uri: str, read_seconds: float) -> LocalFiles:
    """The user's own Parquet, on this machine. Raises ``WrongInput`` as `sources.from_parquet` does."""
    own_vectors.check(uri, read_seconds)
    location = uris.absolute(uri)
    with _named(uri):
        files = own_vectors.files_on_this_machine(location, read_seconds)
        groups = [(file, group) for file in files for group in range(len(file.rows))]
        vectors = [_told(uri, partial(file.batches, group)) for file, group in groups]
        rows, dimensions = sum(sum(file.rows) for file in files), _length_of_first(vectors)

    def opened(threads: int) -> LocalSource:
        with _named(uri), ThreadPoolExecutor(threads) as pool:
            batches = pool.map(lambda of: list(of[0].batches(of[1], (own_vectors.ID,))), groups)
            ids = pa.chunked_array([batch.column(0) for of_group in batches for batch in of_group], pa.string())
        own_vectors.check_ids(uri, len(ids), ids.null_count, _repeated(ids))
        return LocalSource(None, vectors, len(ids))

    return LocalFiles(rows, dimensions, {"embeddings": [location]}, opened)


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """Turns what goes wrong while the user's own Parquet is read into ``WrongInput`` with its name."""
    try:
        yield
    except (ValueError, OSError) as error:  # among them TimeoutError, and pyarrow's own
        raise WrongInput(f"--embeddings {uri}: {' '.join(str(error).split())}") from None


def _told(uri: str, batches: Batches) -> Batches:
    def read() -> Iterator[pa.RecordBatch]:
        with _named(uri):
            yield from batches()

    return read


def _repeated(ids: pa.ChunkedArray) -> list[str]:
    """The first ids that stand several times, at most five."""
    counts = pc.value_counts(ids.cast(pa.large_string()).combine_chunks())
    several = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
    names: list[str] = several.take(pc.sort_indices(several)).slice(0, 5).to_pylist()
    return names


def from_runs(published: Snapshot, fingerprint: str) -> LocalFiles:
    """The published images of ``fingerprint``, and their vectors.

    Raises ``JobFailed`` if the images have several fingerprint keys.
    """
    embeddings = published.dataset("embeddings", fingerprint)
    keys = {
        key for batch in embeddings.to_batches(columns=["fingerprint_key"]) for key in batch[0].unique().to_pylist()
    }
    check_keys(fingerprint, sorted(keys))
    inputs = {
        "embeddings": published.run_ids("embeddings", fingerprint),
        "vectors": [run for key in keys for run in published.run_ids("vectors", key)],
    }
    files = [file for key in keys for file in published.dataset("vectors", key).files]
    groups = [(file, group) for file in files for group in range(pq.read_metadata(file).num_row_groups)]
    dimensions = _length_of_first([partial(_stored, file, group) for file, group in groups])

    def opened(threads: int) -> LocalSource:
        rows = embeddings.to_table(columns=["image_id", "content_sha256"])
        images = pa.table({"image_id": rows["image_id"], "content": rows["content_sha256"]})
        # The store also keeps vectors of images that are gone.
        contents = pa.chunked_array(
            [_NO_TEXT if not rows else pa.concat_arrays(rows) for rows in map(_contents_of, groups)], pa.string()
        )
        is_wanted = pc.is_in(contents, value_set=images["content"].combine_chunks())
        starts = np.cumsum([0, *map(len, contents.chunks)]).tolist()
        wanted = [partial(_filtered, *group, is_wanted.slice(start)) for group, start in zip(groups, starts)]
        return LocalSource(images, wanted, len(images))

    return LocalFiles(embeddings.count_rows(), dimensions, inputs, opened)


_NO_TEXT = pa.nulls(0, pa.string())


def _contents_of(group: tuple[str, int]) -> list[pa.Array]:
    return [batch[0] for batch in _stored(*group, ["content_sha256"])]


def _stored(
    file: str, group: int, columns: Sequence[str] = ("content_sha256", "embedding")
) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(file) as opened:
        yield from opened.iter_batches(_BATCH_ROWS, row_groups=[group], columns=list(columns))


def _filtered(file: str, group: int, is_wanted: pa.ChunkedArray) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in _stored(file, group):
        chosen = is_wanted.slice(start, len(batch))
        start += len(batch)
        yield batch if pc.all(chosen).as_py() else batch.filter(pa.concat_arrays(chosen.chunks))


def _length_of_first(groups: Sequence[Batches]) -> int:
    lengths: list[int] = []
    for group in groups:
        for batch in group():
            lengths += [length for length in pc.list_value_length(batch.column(1)).to_pylist() if length]
            if len(lengths) >= _SAMPLE:
                break
        if len(lengths) >= _SAMPLE:
            break
    return most_frequent({length: lengths[:_SAMPLE].count(length) for length in lengths[:_SAMPLE]})


# -- vectors in memory -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """The usable vectors of a source, and what is known of them."""

    numbers: Numbers
    images: Images
    vectors: Part
    """The distinct ones. Their indices are their numbers."""
    failures: pa.Table
    """image_id, reason, detail: one row for each unusable image."""
    largest: float
    """The largest absolute value in any usable vector."""

    @property
    def dimensions(self) -> int:
        """Length of a usable vector; 0 if there is none."""
        return int(self.vectors.vectors.values.shape[1])


def load(source: LocalSource, settings: NeighboursSettings, threads: int) -> Loaded:
    """Read and check the vectors of ``source``, and number them.

    A vector is usable only if it has the most frequent length. Raises ``JobFailed`` where images and stored vectors do
    not match, and ``WrongInput`` for more vectors than can be numbered.
    """
    metric = METRICS[settings.metric]
    with ThreadPoolExecutor(threads) as pool:
        groups = list(pool.map(lambda group: _read(group, metric), source.groups))
        rows_of_length: dict[int, int] = {}
        for of_group in groups:
            for length, (_, values) in of_group.usable.items():
                rows_of_length[length] = rows_of_length.get(length, 0) + len(values)
        dimensions = most_frequent(rows_of_length)
        contents, values = _usable(groups, dimensions)
        unusable = _unusable(groups, dimensions)
        groups.clear()
        starts = range(0, len(values), _ROWS_AT_ONCE)
        measured = list(pool.map(lambda start: _measured(values[start : start + _ROWS_AT_ONCE], metric), starts))
    shift, scale = (np.concatenate([np.empty(0), *(getattr(part, name) for part in measured)]) for name in _MEASURED)
    digests = pa.chunked_array([part.digests for part in measured], pa.binary(DIGEST_BYTES))
    keys = {"digest": digests, "row": pa.array(np.arange(len(values), dtype=np.int32))}
    keys |= {"shift": pa.array(shift), "scale": pa.array(scale)}
    packed = pa.table({"content": contents, **keys})
    ids, failures = _of_images(source.images, packed), _of_images(source.images, unusable)
    if len(ids) + len(failures) != source.count:
        raise JobFailed(mismatch(source.count, len(ids), len(failures)))
    ids = ids.append_column("file", pa.repeat(_MEMORY, len(ids))).sort_by("image_id")
    by_content = settings.drop_duplicates and source.images is not None
    numbers, images = numbered([ids], [_MEMORY], by_content)
    largest = max((part.largest for part in measured), default=0.0)
    return Loaded(numbers, images, _compared(numbers, values), failures, largest)


_MEMORY = "memory"
"""The name of the only file of vectors: they are in none."""
_MEASURED = ("shift", "scale")


@dataclass(frozen=True)
class _Group:
    """The vectors of a row group."""

    usable: Mapping[int, tuple[list[pa.Array], Values]]
    """length -> contents, and values (n, length)."""
    unusable: list[tuple[pa.Array, NDArray[np.object_]]]
    """Contents, and reasons (n,)."""


def _read(batches: Batches, metric: Metric) -> _Group:
    usable: dict[int, list[tuple[pa.Array, Values]]] = {}
    unusable = []
    for batch in batches():
        contents = batch.column(0)
        for rows, values in by_length(batch.column(1)):
            reasons = reasons_of(values, metric)
            is_usable = reasons == None  # noqa: E711 (element by element)
            if not is_usable.all():
                unusable.append((contents.take(pa.array(rows[~is_usable])), reasons[~is_usable]))
                rows, values = rows[is_usable], values[is_usable]
            if len(rows):
                usable.setdefault(values.shape[1], []).append((contents.take(pa.array(rows)), values))
    joined = {
        length: ([contents for contents, _ in parts], np.concatenate([values for _, values in parts]))
        for length, parts in usable.items()
    }
    return _Group(joined, unusable)


def _usable(groups: Sequence[_Group], dimensions: int) -> tuple[pa.ChunkedArray, Values]:
    chosen = [group.usable[dimensions] for group in groups if dimensions in group.usable]
    contents = pa.chunked_array([content for contents, _ in chosen for content in contents], pa.string())
    values = [values for _, values in chosen]
    # One group alone is not copied again.
    return contents, values[0] if len(values) == 1 else np.concatenate([np.empty((0, dimensions), np.float32), *values])


def _unusable(groups: Sequence[_Group], dimensions: int) -> pa.Table:
    """content, reason, detail."""
    tables = [_UNUSABLE.empty_table()]
    for group in groups:
        for contents, reasons in group.unusable:
            columns = [contents, pa.array(reasons, pa.string()), pa.nulls(len(contents), pa.string())]
            tables.append(pa.Table.from_arrays(columns, schema=_UNUSABLE))
        for length, (parts, _) in group.usable.items():
            for contents in parts if length != dimensions else ():
                texts = [pa.repeat(text, len(contents)) for text in ("wrong_length", wrong_length(length, dimensions))]
                tables.append(pa.Table.from_arrays([contents, *texts], schema=_UNUSABLE))
    return pa.concat_tables(tables)


_UNUSABLE = pa.schema([("content", pa.string()), ("reason", pa.string()), ("detail", pa.string())])


@dataclass(frozen=True)
class _Chunk:
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    digests: pa.Array
    largest: float


def _measured(values: Values, metric: Metric) -> _Chunk:
    vectors = distances.measured(values, metric)
    largest = max(float(values.max(initial=0)), -float(values.min(initial=0)))
    return _Chunk(vectors.shift, vectors.scale, pa.array(digests_of(values), pa.binary(DIGEST_BYTES)), largest)


def _of_images(images: pa.Table | None, contents: pa.Table) -> pa.Table:
    """``contents`` (content, ...) with the image_id of each image that has such a content."""
    if images is None:
        names = ["image_id", *contents.column_names[1:]]
        return contents.rename_columns(names).append_column("content", contents["content"])
    at = pc.index_in(images["content"], value_set=contents["content"].combine_chunks())
    there = pc.is_valid(at)
    joined = contents.take(at.filter(there))
    # A content that the store has twice makes two rows, which the caller refuses.
    twice = len(contents) - len(contents["content"].unique())
    if twice:
        joined = pa.concat_tables([joined, joined.slice(0, twice)])
    ids = images["image_id"].filter(there)
    return joined.append_column("image_id", pa.chunked_array([*ids.chunks, *ids.slice(0, twice).chunks], pa.string()))


def _compared(numbers: Numbers, values: Values) -> Part:
    """Each distinct vector once, in the order of ``values``."""
    compared = numbers.compared
    compared = compared[np.argsort(numbers.row[compared])]
    rows = numbers.row[compared]
    chosen = values if len(rows) == len(values) else values[rows]
    vectors = Vectors(chosen, numbers.shift[compared], numbers.scale[compared])
    return Part(vectors, np.arange(len(compared), dtype=np.int32), compared)


# -- neighbours --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outputs:
    """Tables, in their schemas, and counts."""

    loaded: Loaded
    lists: Pair
    """Exact lists of the distinct vectors."""
    kept: int
    """The number of vectors whose lists the run before left."""
    brute_force: int
    """The number of vectors whose scores did not prove their neighbours, and which were compared by brute force."""
    screen: Choice
    """The precision of scores."""
    rows: int
    """The number of rows that ``neighbours`` has."""
    _settings: NeighboursSettings

    def neighbours(self) -> Iterator[pa.RecordBatch]:
        """The rows of the table, in the order of image_id for each relation."""
        settings, vectors = self._settings, self.loaded.vectors.index
        naming = Naming(settings.similar, settings.dissimilar, settings.drop_duplicates)
        order = np.argsort(vectors)
        keys = [lists.keys[order] for lists in self.lists]
        for batch in naming.rows(self.loaded.images, vectors[order], *keys):
            yield _labelled(batch, settings, "neighbours")

    def failures(self) -> Iterator[pa.RecordBatch]:
        for batch in self.loaded.failures.to_batches():
            yield _labelled(batch, self._settings, "failures")


def run(
    spark: Any,
    source: LocalSource,
    settings: NeighboursSettings,
    plan: Plan,
    state: Workspace,
    previous_run: PreviousRun | None,
) -> Outputs:
    """Neighbours among the images of ``source``. ``state`` receives what the next run may need.

    ``spark``: a session, for the names of steps; it is not started. ``previous_run``: see `stage.run`.
    """
    threads = plan.cores
    with step(spark, "pack vectors"):
        loaded = load(source, settings, threads)
        vectors, numbers = loaded.vectors, loaded.numbers
        is_new, known = _known(previous_run, loaded) if previous_run else (np.ones(len(vectors), np.bool_), None)
    common_scale = scoring.scale_of(loaded.largest, loaded.dimensions, METRICS[settings.metric])
    search = Search(
        settings.metric,
        FLOAT32.name if settings.screen == AUTO else settings.screen,
        loaded.dimensions,
        common_scale,
        settings.similar,
        settings.dissimilar,
        max(0, len(vectors) - 1),
    )
    comparison = AllPairs(search, vectors, threads, plan.block_rows, is_new, known)
    choice = _tried(spark, comparison, plan) if settings.screen == AUTO else Choice(settings.screen, _ASKED_FOR)
    screens = list(dict.fromkeys([choice.screen, FLOAT32.name])) if settings.screen == AUTO else [choice.screen]
    for screen in screens:
        if screen != comparison.search.screen:
            search = replace(search, screen=screen)
            comparison = AllPairs(search, vectors, threads, plan.block_rows, is_new, known)
        uncertain = _compared_by(spark, comparison)
        if uncertain <= MAX_UNCERTAIN_SHARE * is_new.sum() or screen == screens[-1]:
            break
        plain, detail = screening.once_more(screen, uncertain, len(vectors))
        current().tell("note", plain)
        current().tell("note", detail, detail=True)
    if uncertain:
        pairs = uncertain * search.others
        with progress(spark, "compare at full precision", pairs, "pairs", 1, lambda: comparison.completed_share):
            comparison.complete()
    with step(spark, "keep the lists for the next run"):
        _save(search, vectors, comparison.lists, state)
        save_known(numbers, state)
    others = max(numbers.entries(settings.drop_duplicates) - 1, 0)
    rows = len(numbers) * (min(settings.similar, others) + min(settings.dissimilar, others))
    return Outputs(
        loaded, comparison.lists, int((~is_new).sum()), uncertain, replace(choice, screen=screen), rows, settings
    )


_ASKED_FOR = "neighbours.screen asks for it"
_SHORT = "the work is too short for another one"
_WORTH_TRYING = 10.0
"""Seconds of comparing. torch, which multiplies bfloat16, takes some seconds to import."""
_IMPORT_SECONDS = 3.0


def _tried(spark: Any, comparison: AllPairs, plan: Plan) -> Choice:
    """The precision in which all takes least time. ``comparison``: in float32."""
    pairs, vectors = comparison.pairs, comparison.vectors
    seconds = pairs / max(plan.rate.pairs, 1) / plan.cores
    if seconds < _WORTH_TRYING:
        return Choice(FLOAT32.name, _SHORT)
    if not calibration.multiplies_bfloat16():
        return Choice(FLOAT32.name, "this processor multiplies nothing faster")
    with step(spark, "try precisions"):
        rows = np.linspace(0, len(vectors) - 1, min(screening.QUERIES, len(vectors))).astype(np.int64)
        shares = screening.unproven(
            comparison.search,
            vectors[rows],
            comparison.strips(),
            lambda reranker: reranker.add(vectors),
            len(vectors),
            len(vectors),
        )
        by_screen = {FLOAT32.name: seconds}
        if shares[BFLOAT16.name] <= MAX_UNCERTAIN_SHARE:
            speedup = calibration.speedup(vectors.vectors.values, comparison.search.metric, BFLOAT16)
            by_screen[BFLOAT16.name] = seconds / speedup + _IMPORT_SECONDS
        brute_force_seconds = 2 * seconds * len(vectors) ** 2 / max(1, pairs)
        return screening.chosen(shares, by_screen, brute_force_seconds)


def _compared_by(spark: Any, comparison: AllPairs) -> int:
    pairs = comparison.pairs
    with progress(
        spark,
        f"compare in {comparison.search.screen}",
        pairs,
        "pairs",
        1,
        lambda: comparison.pairs_done / max(1, pairs),
    ):
        comparison.compare()
    with step(spark, "exact distances"):
        return comparison.rerank()


def _known(previous_run: PreviousRun, loaded: Loaded) -> tuple[NDArray[np.bool_], Pair | None]:
    """For each vector whether it is new since ``previous_run``, and the lists of those that are not."""
    vectors = loaded.vectors
    is_new = np.ones(len(vectors), dtype=np.bool_)
    now, then = loaded.numbers.kept(previous_run.known)
    if not len(now):
        return is_new, None
    numbers = np.full(int(then.max()) + 1, -1, dtype=np.int64)
    numbers[then] = now
    vector, lists = previous_run.lists(numbers, len(now))
    position = np.full(len(loaded.numbers), -1, dtype=np.int64)
    position[vectors.index] = np.arange(len(vectors))
    places = position[vector]
    is_new[places] = False
    similar, dissimilar = (_placed(of_relation, places, len(vectors)) for of_relation in lists)
    return is_new, (similar, dissimilar)


def _placed(lists: Lists, places: Indices, rows: int) -> Lists:
    placed = Lists.empty(rows, lists.keys.shape[1])
    placed.keys[places], placed.lower_bound[places] = lists.keys, lists.lower_bound
    return placed


def _save(search: Search, vectors: Part, lists: Pair, state: Workspace) -> None:
    bytes_each = 8 * max(1, sum(of_relation.keys.shape[1] for of_relation in lists))
    step_rows = max(1, _STATE_BYTES // bytes_each)

    def rows() -> Iterator[pa.Table]:
        for start in range(0, len(vectors), step_rows):
            chunk = slice(start, start + step_rows)
            near, far = (Lists(of_relation.keys[chunk], of_relation.lower_bound[chunk]) for of_relation in lists)
            yield settled_rows(search, -1, vectors[chunk], (near, far))

    state.store_file(SETTLED, SETTLED_LISTS, rows())


def _labelled(batch: pa.RecordBatch, settings: NeighboursSettings, table: str) -> pa.RecordBatch:
    """``batch`` in the schema of ``table``."""
    labels = {"fingerprint": settings.fingerprint, "metric": settings.metric, "method": EXACT}
    columns = []
    for field in SCHEMAS[table]:
        if field.name in batch.schema.names:
            columns.append(batch.column(field.name))
        else:
            columns.append(pa.repeat(pa.scalar(labels.get(field.name), field.type), len(batch)))
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMAS[table])
