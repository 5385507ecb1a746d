"""The published tables of a gallery, as Spark reads them: what `by_spark` lays out."""

from dataclasses import dataclass
from functools import reduce
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from image_similarity.stages.gallery import tags
from image_similarity.stages.gallery.distances import Compared
from image_similarity.stages.gallery.groups_by_spark import GroupTables
from image_similarity.stages.gallery.sources import Sources
from image_similarity.warehouse import current_tags


@dataclass(frozen=True)
class Inputs:
    manifest: DataFrame
    contents: DataFrame
    """image_id, content_sha256 (null where it is unknown): the compared images of the collection, each once."""
    neighbours: DataFrame
    """Rows of ``neighbours`` with the number of their tab."""
    failures: DataFrame
    quality: DataFrame | None
    """Rows of that table. None: it is not published."""
    compared: dict[str, Compared]
    """fingerprint -> its vectors, where the warehouse has them."""
    groups: GroupTables | None = None
    tags: DataFrame | None = None
    """image_id and `tags.GIVEN` of the `tags.wanted` rows that are true of the images as they are now. None: none are
    published.
    """
    outdated_tags: int = 0
    """Accepted rows of what images were before."""


def read(sources: Sources) -> Inputs:
    warehouse, runs = sources.warehouse, sources.runs()
    neighbours = _neighbours(sources)
    compared = neighbours.where("rank = 1").select("image_id", F.lit(None).cast("string").alias("content_sha256"))
    embedded = warehouse.read("embeddings", runs["embeddings"]).select("image_id", "content_sha256")
    contents = compared.unionByName(embedded).groupBy("image_id").agg(F.max("content_sha256").alias("content_sha256"))
    return Inputs(
        manifest=warehouse.read("manifest", runs["manifest"]),
        contents=contents,
        neighbours=neighbours.select("tab", "image_id", "relation", "rank", "neighbour_id", "distance"),
        failures=warehouse.read("failures", runs["failures"]),
        quality=warehouse.read("quality", runs["quality"]) if runs["quality"] else None,
        compared={name: _compared(sources, runs, key) for name, (runs, key) in sources.compared().items()},
        groups=_groups(sources),
        **_tags(sources),
    )


def _neighbours(sources: Sources) -> DataFrame:
    numbered = [
        sources.warehouse.read("neighbours", sources.snapshot.run_ids("neighbours", slot)).withColumn(
            "tab", F.lit(number)
        )
        for number, slot in enumerate(sources.slots)
    ]
    return reduce(DataFrame.unionByName, numbered)


def _compared(sources: Sources, runs: list[str], key: str) -> Compared:
    stored = sources.warehouse.read("vectors", sources.snapshot.run_ids("vectors", key))
    return Compared(sources.warehouse.read("embeddings", runs), stored)


def _groups(sources: Sources) -> GroupTables | None:
    tab, grouped = sources.groups
    if not grouped:
        return None

    def of_kinds(name: str) -> DataFrame:
        tables = [sources.warehouse.read(name, [run]).where(F.col("kind").isin(of)) for run, of in grouped.items()]
        return reduce(DataFrame.unionByName, tables)

    return GroupTables(tab, of_kinds("groups"), of_kinds("group_summary"))


def _tags(sources: Sources) -> dict[str, Any]:
    """``tags`` and ``outdated_tags``. The rule is that of `current_tags.split`."""
    name = sources.tagger
    if name is None:
        return {}
    read, snapshot, of_what = sources.warehouse.read, sources.snapshot, current_tags.OF_WHAT
    rows = read("tags", snapshot.run_ids("tags", name)).where((F.col("fingerprint") == name) & tags.wanted(F.col))
    now = read("embeddings", snapshot.run_ids("embeddings", name)).select(*of_what)
    outdated = rows.where("accepted").join(now, of_what, "left_anti").count()
    current = rows.join(now, of_what, "left_semi").select("image_id", *tags.GIVEN)
    return {"tags": current, "outdated_tags": outdated}
