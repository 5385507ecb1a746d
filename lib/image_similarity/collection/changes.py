"""What changed between two runs of the same job and slot."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from image_similarity.collection import defaults, runs
from image_similarity.collection.runs import Run
from image_similarity.collection.vectors import large
from image_similarity.errors import WrongInput, did_you_mean, listed
from image_similarity.warehouse.parquet import streaming
from image_similarity.warehouse.schemas import NEAR_DUPLICATES, SIMILAR
from image_similarity.warehouse.snapshot import Snapshot

APPEARED, GONE, CHANGED = "appeared", "gone", "changed"
"""The values of ``change``."""

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("change", pa.string()),
        ("what", pa.string()),
        ("before", pa.string()),
        ("after", pa.string()),
        ("entered", pa.int32()),
        ("dropped", pa.int32()),
    ]
)
"""What changed for images; only images for which something did, in the order of image_id."""

GROUPS = pa.schema(
    [
        ("kind", pa.string()),
        ("level", pa.int32()),
        ("group_id", pa.string()),
        ("change", pa.string()),
        ("before", pa.string()),
        ("size_before", pa.int32()),
        ("size_after", pa.int32()),
        ("entered", pa.int32()),
        ("dropped", pa.int32()),
    ]
)
"""What changed for groups: only groups with other members, in the order of kind, level, group_id."""

_TABLES = {
    "build_manifest": "manifest",
    "embed_images": "embeddings",
    "find_neighbours": "neighbours",
    "group_images": "groups",
}
"""Jobs whose runs can be compared, and the tables that are."""

_NEIGHBOURS = "find_neighbours"
_FIRST = "there is nothing to compare it with yet; run the job again when images have changed"


def between(snapshot: Snapshot, run_a: str | None, run_b: str | None, job: str | None, slot: str | None) -> pa.Table:
    """See `Collection.changes`."""
    before, after = _pair(snapshot, run_a, run_b, job, slot)
    table = _compare(snapshot, before, after)
    about = {"job": before.job, "slot": before.slot, "run_a": before.run_id, "run_b": after.run_id}
    return table.replace_schema_metadata(about)


def _compare(snapshot: Snapshot, before: Run, after: Run) -> pa.Table:
    match before.job:
        case "build_manifest":
            return _manifests(*_both(snapshot, before, after, "manifest", ["image_id", "uri", "source_version"]))
        case "embed_images":
            columns = ["image_id", "content_sha256", "fingerprint_key"]
            tables = _both(snapshot, before, after, "embeddings", columns)
            return _embeddings(*tables, _rows(snapshot, after, "failures", ["image_id", "reason"]))
        case "find_neighbours":
            return _neighbours(snapshot, before, after)
        case _:
            return _groups(*_both(snapshot, before, after, "groups", ["kind", "level", "group_id", "image_id"]))


# -- which runs --------------------------------------------------------------------------------------------------------


def _pair(
    snapshot: Snapshot, run_a: str | None, run_b: str | None, job: str | None, slot: str | None
) -> tuple[Run, Run]:
    if job is not None:
        defaults.one_of("job", job, _TABLES)
    if run_a is None and run_b is None:
        return _last_two(snapshot, job or _NEIGHBOURS, slot)
    named = [_named(snapshot, name, job, slot) for name in (run_a, run_b) if name is not None]
    if len(named) == 2:
        shared = {place: (named[0][place], named[1][place]) for place in named[0] if place in named[1]}
        if not shared:
            raise WrongInput(
                f"{_shown(named[0].values())} and {_shown(named[1].values())} are of different jobs or slots: name two "
                "runs of the same"
            )
        return shared[_one_place(snapshot, list(shared), job, slot)]
    place = _one_place(snapshot, list(named[0]), job, slot)
    one, newest = named[0][place], _history(snapshot, *place)[-1]
    if run_b is not None:
        earlier = [run for run in _history(snapshot, *place) if run.run_id < one.run_id]
        if not earlier:
            raise WrongInput(f"{_shown([one])} is the first of its job and slot: {_FIRST}")
        return earlier[-1], one
    return one, newest


def _last_two(snapshot: Snapshot, job: str, slot: str | None) -> tuple[Run, Run]:
    """The current run of a slot, and the one before it."""
    known = sorted({run.slot for run in _comparable(snapshot) if run.job == job})
    wanted = slot if slot is not None else _default_slot(snapshot, job, known)
    history = _history(snapshot, job, wanted)
    if not history:
        raise WrongInput(
            f"{snapshot.uri}: no run of {job} {wanted!r} is published (published: {listed(known)})"
            f"{did_you_mean(wanted, known)}"
        )
    current = snapshot.run_ids(_TABLES[job], wanted)
    until = next((place for place, run in enumerate(history) if [run.run_id] == current), len(history) - 1)
    if not until:
        raise WrongInput(f"{snapshot.uri}: {_shown([history[until]])} is the first of its job and slot: {_FIRST}")
    return history[until - 1], history[until]


def _default_slot(snapshot: Snapshot, job: str, known: Sequence[str]) -> str:
    """That of the default fingerprint and metric. The only one, where there is one."""
    if job == "build_manifest":
        return ""
    if len(known) == 1:
        return known[0]
    fingerprint = defaults.fingerprint_of(snapshot, None)
    if job == "embed_images":
        return fingerprint
    slot = f"{fingerprint}/{defaults.metric_of(snapshot, fingerprint, None)}"
    return slot if job == _NEIGHBOURS else f"{slot}/{NEAR_DUPLICATES}"


Place = tuple[str, str]
"""Job and slot."""


def _named(snapshot: Snapshot, name: str, job: str | None, slot: str | None) -> dict[Place, Run]:
    """The runs with that id or label by their job and slot; of several the newest."""
    candidates = runs.run_named(snapshot, name)
    wanted = {
        (run.job, run.slot): run
        for run in candidates
        if run.job in _TABLES and job in (None, run.job) and slot in (None, run.slot)
    }
    if not wanted:
        what = " ".join(part for part in (job, slot) if part)
        advice = f"none is of {what}" if what else f"changes() compares runs of {listed(_TABLES)}"
        raise WrongInput(f"{_shown(candidates)}: {advice}")
    return wanted


def _one_place(snapshot: Snapshot, places: list[Place], job: str | None, slot: str | None) -> Place:
    """The job and slot that are meant. A label is often that of a whole pipeline: then neighbours are."""
    if len(places) == 1:
        return places[0]
    of_job = [place for place in places if place[0] == (job or _NEIGHBOURS)]
    if len(of_job) == 1:
        return of_job[0]
    if of_job and slot is None:
        default = of_job[0][0], _default_slot(snapshot, of_job[0][0], [slot for _, slot in of_job])
        if default in of_job:
            return default
    names = listed(" ".join(place).strip() for place in places)
    raise WrongInput(f"{snapshot.uri}: runs of several jobs have these labels ({names}): name one by job= and slot=")


def _comparable(snapshot: Snapshot) -> list[Run]:
    return [run for run in runs.runs_of(snapshot) if run.job in _TABLES and _TABLES[run.job] in run.replaced]


def _history(snapshot: Snapshot, job: str, slot: str) -> list[Run]:
    return [run for run in _comparable(snapshot) if (run.job, run.slot) == (job, slot)]


def _shown(named: Iterable[Run]) -> str:
    return listed(f"{run.run_id} ({f'{run.job} {run.slot}'.rstrip()})" for run in named)


# -- rows of runs ------------------------------------------------------------------------------------------------------


def _both(snapshot: Snapshot, before: Run, after: Run, table: str, columns: list[str]) -> tuple[pa.Table, pa.Table]:
    return _rows(snapshot, before, table, columns), _rows(snapshot, after, table, columns)


def _rows(snapshot: Snapshot, run: Run, table: str, columns: list[str]) -> pa.Table:
    try:
        return snapshot.of_runs(table, [run.run_id], columns)
    except FileNotFoundError:
        raise _removed(snapshot, run) from None


def _removed(snapshot: Snapshot, run: Run) -> WrongInput:
    return WrongInput(
        f"{snapshot.uri}: the files of {_shown([run])} were removed by retention: compare runs that are still there"
    )


# -- images ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Matched:
    """The images of two tables, each once, in the order of their ids."""

    ids: pa.LargeStringArray
    before: pa.Array
    """The row of each in the first table; null where it has none."""
    after: pa.Array

    @classmethod
    def of(cls, before: pa.Table, after: pa.Table) -> "_Matched":
        names = [large(table["image_id"]) for table in (before, after)]
        every = pc.unique(pa.concat_arrays(names))
        ids = every.take(pc.sort_indices(every))
        return cls(ids, *(pc.index_in(ids, value_set=known) for known in names))

    def column(self, table: pa.Table, which: str, name: str) -> Any:
        return table[name].take(getattr(self, which))

    def changes(self, changed: Any) -> pa.Array:
        """``change`` of each image; null where there is none. ``changed``: which of those in both tables did."""
        in_both = pc.if_else(changed, pa.scalar(CHANGED), pa.scalar(None, pa.string()))
        if_there = pc.if_else(pc.is_null(self.after), pa.scalar(GONE), in_both)
        return pc.if_else(pc.is_null(self.before), pa.scalar(APPEARED), if_there)


def _differ(before: Any, after: Any) -> Any:
    """Whether values differ. Null equals null alone."""
    equal = pc.fill_null(pc.equal(before, after), False)
    return pc.invert(pc.or_(equal, pc.and_(pc.is_null(before), pc.is_null(after))))


def _table(ids: Any, change: Any, **columns: Any) -> pa.Table:
    """`IMAGES` of the images that have a ``change``."""
    given = {"image_id": ids.cast(pa.string()), "change": change, **columns}
    whole = [given.get(field.name, pa.nulls(len(ids), field.type)) for field in IMAGES]
    table = pa.table([_plain(column).cast(field.type) for column, field in zip(whole, IMAGES)], schema=IMAGES)
    return table.filter(pc.is_valid(table["change"]))


def _plain(column: Any) -> Any:
    return column if isinstance(column, pa.Array | pa.ChunkedArray) else pa.array(column)


def _manifests(before: pa.Table, after: pa.Table) -> pa.Table:
    images = _Matched.of(before, after)
    versions = [images.column(before, "before", "source_version"), images.column(after, "after", "source_version")]
    places = [images.column(before, "before", "uri"), images.column(after, "after", "uri")]
    moved, other = _differ(*places), _differ(*versions)
    change = images.changes(pc.or_(moved, other))
    in_both = pc.equal(change, CHANGED)
    what = pc.if_else(in_both, pc.if_else(other, pa.scalar("file"), pa.scalar("place")), pa.scalar(None, pa.string()))
    shown = [pc.if_else(pc.or_(other, pc.invert(moved)), version, place) for version, place in zip(versions, places)]
    return _table(images.ids, change, what=what, before=shown[0], after=shown[1])


def _embeddings(before: pa.Table, after: pa.Table, failures: pa.Table) -> pa.Table:
    images = _Matched.of(before, after)
    contents = [images.column(before, "before", "content_sha256"), images.column(after, "after", "content_sha256")]
    keys = [images.column(before, "before", "fingerprint_key"), images.column(after, "after", "fingerprint_key")]
    other_file, other_key = _differ(*contents), _differ(*keys)
    change = images.changes(pc.or_(other_file, other_key))
    what = pc.if_else(other_file, pa.scalar("content"), pa.scalar("fingerprint"))
    failed = failures["reason"].take(pc.index_in(images.ids.cast(pa.string()), value_set=_one(failures["image_id"])))
    of_gone = pc.if_else(pc.equal(change, GONE), failed, pa.scalar(None, pa.string()))
    shown = [pc.if_else(pc.or_(other_file, pc.invert(other_key)), *pair) for pair in zip(contents, keys)]
    what = pc.if_else(pc.equal(change, CHANGED), what, of_gone)
    return _table(images.ids, change, what=what, before=shown[0], after=shown[1])


def _one(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays([pa.array([], column.type), *column.chunks])


# -- neighbours --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Lists:
    """The similar lists of a run, as hashes: 16 bytes a row."""

    ids: pa.LargeStringArray
    """The images that have a list, each once."""
    image: NDArray[np.uint64]
    """(rows,)"""
    pair: NDArray[np.uint64]
    """(rows,): of image and neighbour, ascending."""

    def not_in(self, other: "_Lists") -> NDArray[np.uint64]:
        """The images of the entries that ``other`` lacks."""
        return self.image[~_are_among(self.pair, other.pair)]


def _lists(snapshot: Snapshot, run: Run) -> _Lists:
    from image_similarity.knn.hashing import mixed
    from image_similarity.neighbour_graph import hashes

    ids, image, pair = [], [np.empty(0, np.uint64)], [np.empty(0, np.uint64)]
    columns = ["image_id", "neighbour_id"]
    try:
        rows = snapshot.dataset_of("neighbours", [run.run_id])
        for batch in rows.to_batches(columns=columns, filter=pc.field("relation") == SIMILAR, **streaming()):
            names, others = (batch.column(name).cast(pa.large_string()) for name in columns)
            ids.append(pc.unique(names))
            image.append(hashes(names))
            pair.append(mixed(image[-1], 0) ^ mixed(hashes(others), 1))
    except FileNotFoundError:
        raise _removed(snapshot, run) from None
    distinct = pc.unique(pa.concat_arrays([pa.array([], pa.large_string()), *ids]))
    pairs = np.concatenate(pair)
    order = np.argsort(pairs)
    return _Lists(distinct, np.concatenate(image)[order], pairs[order])


def _neighbours(snapshot: Snapshot, before: Run, after: Run) -> pa.Table:
    from image_similarity.neighbour_graph import hashes

    then, now = _lists(snapshot, before), _lists(snapshot, after)
    images = _Matched.of(pa.table({"image_id": then.ids}), pa.table({"image_id": now.ids}))
    names = hashes(images.ids)
    entered, dropped = _counts(names, now.not_in(then)), _counts(names, then.not_in(now))
    change = images.changes(pa.array((entered > 0) | (dropped > 0)))
    what = pc.if_else(pc.equal(change, CHANGED), pa.scalar("neighbours"), pa.scalar(None, pa.string()))
    return _table(images.ids, change, what=what, entered=entered, dropped=dropped)


def _are_among(values: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each of ``values`` is among ``known``; both ascend, which makes it ten times as fast as ``np.isin``."""
    if not len(known):
        return np.zeros(len(values), np.bool_)
    is_known: NDArray[np.bool_] = known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
    return is_known


def _counts(names: NDArray[np.uint64], images: NDArray[np.uint64]) -> NDArray[np.int32]:
    """How often each of ``names`` is among ``images``."""
    known, count = np.unique(images, return_counts=True)
    if not len(known):
        return np.zeros(len(names), np.int32)
    place = np.minimum(np.searchsorted(known, names), len(known) - 1)
    return np.where(known[place] == names, count[place], 0).astype(np.int32)


# -- groups ------------------------------------------------------------------------------------------------------------


def _groups(before: pa.Table, after: pa.Table) -> pa.Table:
    gone, new = _members(_not_in(before, after)), _members(_not_in(after, before))
    successor = _successors(gone, new)
    predecessor = {now: then for then, now in successor.items()}
    rows = []
    for group, members in new.items():
        old = predecessor.get(group)
        rows.append(_row(group, APPEARED if old is None else CHANGED, old, gone[old] if old else None, members))
    for group in gone.keys() - successor.keys():
        rows.append(_row(group, GONE, None, gone[group], None))
    in_order = [(column, "ascending") for column in ("kind", "level", "group_id")]
    return pa.Table.from_pylist(rows, schema=GROUPS).sort_by(in_order)


def _not_in(rows: pa.Table, others: pa.Table) -> pa.Table:
    """The members of groups that ``others`` lacks. A group is named after its members: what is in both is the same."""

    def names(table: pa.Table) -> pa.Array:
        parts = (table[column].cast(pa.string()) for column in ("kind", "level", "group_id"))
        return _one(pc.binary_join_element_wise(*parts, "/"))

    return rows.filter(pc.invert(pc.is_in(names(rows), value_set=pc.unique(names(others)))))


Group = tuple[str, int, str]
"""Kind, level and group_id."""
Members = Mapping[Group, frozenset[str]]


def _members(rows: pa.Table) -> Members:
    grouped = rows.group_by(["kind", "level", "group_id"]).aggregate([("image_id", "list")]).to_pydict()
    names = zip(grouped["kind"], grouped["level"], grouped["group_id"])
    return {group: frozenset(members) for group, members in zip(names, grouped["image_id_list"])}


def _successors(gone: Members, new: Members) -> dict[Group, Group]:
    """Which new group a gone one has become: of those with common members the one with most, each once."""
    group_of = {(*group[:2], member): group for group, members in new.items() for member in members}
    shared: Counter[tuple[Group, Group]] = Counter()
    for group, members in gone.items():
        others = (group_of.get((*group[:2], member)) for member in members)
        shared.update((group, other) for other in others if other is not None)
    successor: dict[Group, Group] = {}
    taken: set[Group] = set()
    for (group, other), _ in sorted(shared.items(), key=lambda pair: (-pair[1], pair[0])):
        if group not in successor and other not in taken:
            successor[group] = other
            taken.add(other)
    return successor


def _row(
    group: Group, change: str, old: Group | None, before: frozenset[str] | None, after: frozenset[str] | None
) -> dict[str, Any]:
    was, now = before or frozenset(), after or frozenset()
    kind, level, group_id = group
    return {
        **{"kind": kind, "level": level, "group_id": group_id, "change": change, "before": old[2] if old else None},
        **{"size_before": len(was) or None, "size_after": len(now) or None},
        **{"entered": len(now - was), "dropped": len(was - now)},
    }
