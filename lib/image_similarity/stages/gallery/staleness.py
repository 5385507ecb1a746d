"""What of a gallery was made of other tables than are published now: how many images, and the job to run again.

Each function ``of_...`` returns one line, or none where nothing has changed.
"""

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from image_similarity.errors import counted
from image_similarity.stages.gallery.sources import Sources
from image_similarity.warehouse import provenance, retention
from image_similarity.warehouse.schemas import ALIKE, NEAR_DUPLICATES
from image_similarity.warehouse.snapshot import Snapshot


def of_embeddings(sources: Sources, name: str) -> list[str]:
    """Whether images of the manifest are others than those that were embedded as ``name``."""
    snapshot, warehouse = sources.snapshot, sources.warehouse
    published, manifest = snapshot.run_ids("embeddings", name), snapshot.run_ids("manifest", "")
    if not published or _are_of(snapshot, published, "manifest", manifest):
        return []
    seen = warehouse.read("failures", snapshot.run_ids("failures", name)).select("image_id", "source_version")
    seen = seen.unionByName(warehouse.read("embeddings", published).select("image_id", "source_version"))
    changed = changed_images(seen, warehouse.read("manifest", manifest), ("source_version",))
    one = f"image is new, gone or changed since it was embedded as {name}"
    many = f"images are new, gone or changed since they were embedded as {name}"
    return _line(changed, one, many, f"embed_images --fingerprint {name}")


def of_neighbours(sources: Sources, slot: str) -> list[str]:
    """Whether the vectors that are published are others than those of the neighbours of ``slot``."""
    name, _, metric = slot.partition("/")
    changed = _other_vectors(sources, sources.snapshot.run_ids("neighbours", slot), name)
    if changed is None:
        return [
            f"{name} was embedded again since these neighbours were found: run find_neighbours --fingerprint {name}"
        ]
    one = f"image has another vector, or is new or gone, since the neighbours by {slot} were found"
    many = f"images have other vectors, or are new or gone, since the neighbours by {slot} were found"
    return _line(changed, one, many, f"find_neighbours --fingerprint {name} --metric {metric}")


def of_groups(sources: Sources, slot: str, run: str, kinds: Sequence[str]) -> list[str]:
    """Whether the groups of ``run`` were made of other neighbours than those that are published."""
    if _are_of(sources.snapshot, [run], "neighbours", sources.snapshot.run_ids("neighbours", slot)):
        return []
    fingerprint, _, metric = slot.partition("/")
    commands = [f"--kind {kind}" for kind in (NEAR_DUPLICATES, ALIKE) if kind in kinds]
    again = f"run group_images --fingerprint {fingerprint} --metric {metric} {' and '.join(commands)}".rstrip()
    return [f"neighbours by {slot} were found again since these groups were made: {again}"]


def of_tags(sources: Sources, name: str) -> list[str]:
    """Whether images have other vectors by ``name`` than those that the tags were given to."""
    changed = _other_vectors(sources, sources.snapshot.run_ids("tags", name), name)
    if changed is None:
        return [f"images were embedded as {name} since these tags were given: run tag_images --fingerprint {name}"]
    one = f"image is another, new or gone since it was tagged by {name}"
    many = f"images are others, new or gone since they were tagged by {name}"
    return _line(changed, one, many, f"tag_images --fingerprint {name}")


def _other_vectors(sources: Sources, runs: list[str], name: str) -> int | None:
    """The images that have other vectors by ``name`` than those that ``runs`` were made of, or that are new or gone.
    None where those vectors' tables are not there any more, and nobody can count.
    """
    snapshot, warehouse = sources.snapshot, sources.warehouse
    embeddings = snapshot.run_ids("embeddings", name)
    if _are_of(snapshot, runs, "embeddings", embeddings):
        return 0
    read = provenance.runs_read(snapshot, runs, "embeddings")
    if not all(retention.is_whole(warehouse, "embeddings", run) for run in read):
        return None
    before, now = warehouse.read("embeddings", read), warehouse.read("embeddings", embeddings)
    return changed_images(before, now, ("fingerprint_key", "content_sha256"))


def _are_of(snapshot: Snapshot, runs: list[str], table: str, now: list[str]) -> bool:
    """Whether all of ``runs`` read just those runs of ``table`` that are published ``now``, or none are."""
    records = [snapshot.runs[run] for run in runs if run in snapshot.runs] if now else []
    return all(record.inputs.get(table) == now for record in records)


def _line(images: int, one: str, many: str, command: str) -> list[str]:
    return [f"{counted(images, one, many)}: run {command}"] if images else []


def changed_images(before: DataFrame, now: DataFrame, columns: tuple[str, ...]) -> int:
    """The images that are in one frame only, or differ in ``columns``. Both frames have ``image_id``, once each."""

    def of(rows: DataFrame, name: str) -> DataFrame:
        return rows.select("image_id", F.struct(*columns).alias(name))

    both = of(before, "before").join(of(now, "now"), "image_id", "full_outer")
    return both.where(~F.col("before").eqNullSafe(F.col("now"))).count()


def gone_neighbours(neighbours: DataFrame, images: DataFrame) -> dict[int, int]:
    """tab -> how many rows of ``neighbours`` name an image that is not among ``images``; only tabs that have some."""

    def by_tab(rows: DataFrame) -> dict[int, int]:
        return {row["tab"]: row["count"] for row in rows.groupBy("tab").count().collect()}

    ids = images.select("image_id")
    shown = neighbours.join(ids, "image_id", "left_semi")
    shown = shown.join(ids.withColumnRenamed("image_id", "neighbour_id"), "neighbour_id", "left_semi")
    known = by_tab(shown)
    return {tab: rows - known.get(tab, 0) for tab, rows in by_tab(neighbours).items() if rows > known.get(tab, 0)}
