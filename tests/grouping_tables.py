"""Groups in a warehouse, as a job publishes them: what tests of pages need, made without any care which are right."""

import hashlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.warehouse.records import PUBLISHED, Record, new_run_id
from image_similarity.warehouse.schemas import ALIKE, IDENTICAL, NEAR_DUPLICATES, RUNS, SCHEMAS
from image_similarity.warehouse.snapshot import open_snapshot
from image_similarity.warehouse.warehouse import Warehouse


@dataclass(frozen=True)
class Made:
    """A group: its members with their distances to the representative, which is the first."""

    kind: str
    members: Sequence[tuple[str, float]]
    level: int = 0
    label: str | None = None
    weakest_link: float | None = 0.01

    @property
    def group_id(self) -> str:
        names = "\n".join([self.kind, str(self.level), *sorted(name for name, _ in self.members)])
        return hashlib.sha256(names.encode()).hexdigest()[:16]


def publish(warehouse: Path, slot: str, groups: Iterable[Made], neighbours: list[str] | None = None) -> str:
    """Publishes ``groups`` of the slot of neighbours ``slot``: one run for all kinds. Returns the run.

    ``neighbours``: the runs that they were made of (None: those that are current).
    """
    (fingerprint, _, metric), made = slot.partition("/"), list(groups)
    place: Any = Warehouse(None, str(warehouse))  # type: ignore[arg-type]
    before, run, kinds = place.snapshot(), new_run_id(), sorted({group.kind for group in made})
    common = {"fingerprint": fingerprint, "metric": metric}
    rows: list[dict[str, Any]] = [
        {**common, "group_id": group.group_id, "kind": group.kind, "level": group.level, "image_id": image_id}
        | {"representative": number == 0, "distance_to_representative": distance, "position": number}
        for group in made
        for number, (image_id, distance) in enumerate(group.members)
    ]
    summary: list[dict[str, Any]] = [
        {**common, "group_id": group.group_id, "kind": group.kind, "level": group.level, "label": group.label}
        | {"size": len(group.members), "representative_id": group.members[0][0], "weakest_link": group.weakest_link}
        for group in made
    ]
    for table, content in (("groups", rows), ("group_summary", summary)):
        place.write_here(table, run, [pa.Table.from_pylist(content, schema=SCHEMAS[table])])
    replaced = {table: {f"{slot}/{kind}": run for kind in kinds} for table in ("groups", "group_summary")}
    inputs = {"neighbours": before.run_ids("neighbours", slot) if neighbours is None else neighbours}
    now = datetime.now(timezone.utc)
    counts = {"groups": {kind: sum(group.kind == kind for group in made) for kind in kinds}}
    record = Record(
        run, None, "group_images", slot, PUBLISHED, inputs, {"replaced": {}}, {}, counts, {}, 0.1, {}, None, now, now
    )
    place.write_record(record)
    place.publish(before.pointer, replaced, {RUNS: {"": run}})
    return run


def likely(warehouse: Path, slot: str, limits: Sequence[float]) -> list[Made]:
    """Groups by the neighbours of ``slot``: what is nearly the same within the first of ``limits``, what belongs
    together within the others, one level each; and identical files. Chains are not cut.
    """
    snapshot = open_snapshot(str(warehouse))
    table = snapshot.table("neighbours", slot)
    table = table.filter(pc.equal(table["relation"], "similar"))
    edges = list(zip(*(table[name].to_pylist() for name in ("image_id", "neighbour_id", "distance"))))
    distances = {(one, other): distance for one, other, distance in edges}
    ids = sorted({one for one, _, _ in edges}, key=str.encode)
    made = []
    for number, limit in enumerate(limits):
        for members in _components(ids, [(one, other) for one, other, distance in edges if distance <= limit]):
            kind, level = (NEAR_DUPLICATES, 0) if number == 0 else (ALIKE, number - 1)
            far = {
                name: distances.get((members[0], name), distances.get((name, members[0]), limit)) for name in members
            }
            ordered = sorted(members[1:], key=lambda name: (far[name], name))
            made.append(Made(kind, [(members[0], 0.0), *((name, far[name]) for name in ordered)], level))
    return [*made, *copies(snapshot.table("embeddings", slot.partition("/")[0]).to_pylist())]


def copies(embeddings: Iterable[Mapping[str, Any]]) -> list[Made]:
    by_content: dict[str, list[str]] = {}
    for row in embeddings:
        by_content.setdefault(row["content_sha256"], []).append(row["image_id"])
    sets = [sorted(names, key=str.encode) for names in by_content.values() if len(names) > 1]
    return [Made(IDENTICAL, [(name, 0.0) for name in names], weakest_link=0.0) for names in sets]


def _components(ids: list[str], edges: list[tuple[str, str]]) -> list[list[str]]:
    part = {name: [name] for name in ids}
    for one, other in edges:
        if part[one] is not part[other]:
            part[one] += part[other]
            part.update(dict.fromkeys(part[other], part[one]))
    whole = {id(members): sorted(members, key=str.encode) for members in part.values()}
    return [members for members in whole.values() if len(members) > 1]


def hostile(ids: Sequence[str], copied: Iterable[str], failing: Iterable[str]) -> list[Made]:
    """Groups of a collection that tries to break pages, whose images are ``ids``: one larger than a page and a list
    have room for, with files that are ``copied`` and one that is ``failing``; one of two; one of which a single image
    is left; one whose kept image is gone; and two levels of what belongs together.
    """
    shown, copies = [name for name in ids if name not in {*failing}], sorted(copied)
    gone = next(iter(failing))

    def near(members: Iterable[str], weakest_link: float) -> Made:
        ordered = [(name, 0.001 * number) for number, name in enumerate(members)]
        return Made(NEAR_DUPLICATES, ordered, weakest_link=weakest_link)

    others = [name for name in shown if name not in copies]
    levels = [[others[:7], others[7:9], others[9:]], [others[:9]]]
    labels = {0: "</h1><script>window.hacked=1</script>", 1: None}
    return [
        near([*copies, gone, *others[:10]], 0.2),
        near(others[10:12], 0.0125),
        near([others[12], "no such image"], 0.1),
        near([gone, *others[13:15]], 0.1),
        *(
            Made(ALIKE, [(name, 0.01 * number) for number, name in enumerate(members)], level, labels[level])
            for level, groups in enumerate(levels)
            for members in groups
        ),
        Made(IDENTICAL, [(name, 0.0) for name in copies], weakest_link=0.0),
    ]


if __name__ == "__main__":  # grouping_tables.py WAREHOUSE SLOT LIMIT...: for looking at pages of groups
    publish(
        Path(sys.argv[1]), sys.argv[2], likely(Path(sys.argv[1]), sys.argv[2], [float(limit) for limit in sys.argv[3:]])
    )
