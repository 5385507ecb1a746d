"""The published tables of a gallery, read into memory: what `in_process` lays out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.knn.distances import Values
from image_similarity.stages.gallery import distances, groups, measures, tags
from image_similarity.stages.gallery.groups import GroupTables
from image_similarity.stages.gallery.sources import Sources
from image_similarity.warehouse import current_tags
from image_similarity.warehouse.snapshot import Snapshot

_OF_QUALITY = ["image_id", "content_sha256", *measures.STORED]


@dataclass(frozen=True)
class Tables:
    """What the pages show, in memory."""

    manifest: pa.Table
    """image_id, uri, source_version, size_bytes, attributes."""
    contents: Mapping[str, str | None]
    """image_id -> content_sha256 (None where it is unknown) of the compared images."""
    neighbours: Sequence[pa.Table]
    """For each tab: image_id, relation, rank, neighbour_id, distance."""
    failures: pa.Table
    quality: pa.Table | None
    """Rows of that table. None: it is not published."""
    vectors: Mapping[str, Callable[[list[str]], Values]]
    """fingerprint -> a function that reads the vectors of contents, where the warehouse has them."""
    drawn_from: Mapping[str, Iterable[str]]
    """fingerprint -> the contents that were compared."""
    groups: GroupTables | None = None
    tags: pa.Table | None = None
    """image_id and `tags.GIVEN` of the `tags.wanted` rows that are true of the images as they are now. None: none are
    published.
    """
    outdated_tags: int = 0
    """Accepted rows of what images were before."""


def read(sources: Sources) -> Tables:
    snapshot, compared = sources.snapshot, sources.compared()
    columns = ["image_id", "relation", "rank", "neighbour_id", "distance"]
    neighbours = [snapshot.table("neighbours", slot, columns) for slot in sources.slots]
    return Tables(
        manifest=snapshot.table("manifest", "", ["image_id", "uri", "source_version", "size_bytes", "attributes"]),
        contents=_contents(sources, neighbours),
        neighbours=neighbours,
        failures=pa.concat_tables([snapshot.table("failures", slot) for slot in sources.failures_slots]),
        quality=snapshot.table("quality", "", _OF_QUALITY) if snapshot.run_ids("quality", "") else None,
        vectors={name: partial(_vectors, snapshot, key) for name, (_, key) in compared.items()},
        drawn_from={
            name: snapshot.of_runs("embeddings", runs, ["content_sha256"])["content_sha256"].to_pylist()
            for name, (runs, _) in compared.items()
        },
        groups=_groups(sources),
        **_tags(snapshot, sources.tagger),
    )


def _contents(sources: Sources, neighbours: Iterable[pa.Table]) -> dict[str, str | None]:
    contents: dict[str, str | None] = {}
    for table in neighbours:
        contents |= dict.fromkeys(table.filter(pc.equal(table["rank"], 1))["image_id"].to_pylist())
    for name in sources.fingerprints:
        embedded = sources.snapshot.table("embeddings", name, ["image_id", "content_sha256"])
        for image_id, content in zip(*(column.to_pylist() for column in embedded.columns)):
            contents[image_id] = max(contents.get(image_id) or "", content or "") or None
    return contents


def _vectors(snapshot: Snapshot, key: str, contents: list[str]) -> Values:
    is_drawn = pc.field("content_sha256").isin(contents) & pc.field("embedding").is_valid()
    table = snapshot.dataset("vectors", key).to_table(["content_sha256", "embedding"], filter=is_drawn)
    return distances.as_values(zip(table["content_sha256"].to_pylist(), table["embedding"].to_pylist()))


def _groups(sources: Sources) -> GroupTables | None:
    tab, grouped = sources.groups
    if not grouped:
        return None

    def of_kinds(name: str, columns: list[str]) -> pa.Table:
        tables = [(sources.snapshot.of_runs(name, [run], columns), kinds) for run, kinds in grouped.items()]
        return pa.concat_tables([table.filter(pc.is_in(table["kind"], pa.array(kinds))) for table, kinds in tables])

    return GroupTables(tab, of_kinds("groups", groups.COLUMNS), of_kinds("group_summary", groups.SUMMARY))


def _tags(snapshot: Snapshot, name: str | None) -> dict[str, Any]:
    """``tags`` and ``outdated_tags``, by fingerprint ``name``."""
    if name is None:
        return {}
    current, others = current_tags.split(snapshot, name, ["image_id", *tags.GIVEN], tags.wanted(pc.field))
    return {"tags": current, "outdated_tags": pc.sum(others["accepted"], min_count=0).as_py()}
