"""The odd ones out of published neighbours: what is like no other, and which labels are likely wrong."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.collection import tables
from image_similarity.collection.vectors import large
from image_similarity.errors import WrongInput, did_you_mean
from image_similarity.grouping import isolation as grouping
from image_similarity.knn.distances import Indices
from image_similarity.pages.facets import first_folders
from image_similarity.stages.groups.attributes import names_of
from image_similarity.warehouse.defaults import FOLDER
from image_similarity.warehouse.schemas import SIMILAR
from image_similarity.warehouse.snapshot import Snapshot

ISOLATION = pa.schema(
    [
        ("image_id", pa.string()),
        ("mean_distance", pa.float32()),
        ("percentile", pa.float32()),
        ("neighbours", pa.int32()),
        ("fingerprint", pa.string()),
        ("metric", pa.string()),
    ]
)
MISLABELLED = pa.schema(
    [
        ("image_id", pa.string()),
        ("label", pa.string()),
        ("suggested_label", pa.string()),
        ("score", pa.float32()),
        ("own_share", pa.float32()),
        ("fingerprint", pa.string()),
        ("metric", pa.string()),
    ]
)


def isolation(snapshot: Snapshot, fingerprint: str | None, metric: str | None) -> pa.Table:
    """See `Collection.isolation`."""
    lists = tables.neighbours(snapshot, fingerprint, metric, SIMILAR, None)
    ids = pc.unique(lists["image_id"]).cast(pa.large_string())
    owner = _places(lists["image_id"], ids)
    found = grouping.isolation(owner, lists["distance"].to_numpy(), len(ids))
    columns = {
        "image_id": ids.cast(pa.string()),
        "mean_distance": found.mean_distance,
        "percentile": found.percentile,
        "neighbours": np.bincount(owner, minlength=len(ids)),
    }
    return _table(columns, ISOLATION, lists, "mean_distance")


def mislabelled(snapshot: Snapshot, attribute: str, fingerprint: str | None, metric: str | None) -> pa.Table:
    """See `Collection.mislabelled`."""
    if not isinstance(attribute, str):
        raise WrongInput(f"the attribute {attribute!r} is no text: name one, as in mislabelled('folder')")
    lists = tables.neighbours(snapshot, fingerprint, metric, SIMILAR, None)
    manifest = tables.published(snapshot, "manifest", "", "build_manifest", ["image_id", "attributes"])
    labels = _labels(snapshot, manifest, attribute)
    names = pc.unique(labels).drop_null().sort()
    # One place more, without a label, for images that are not in the manifest.
    label = np.append(pc.fill_null(pc.index_in(labels, value_set=names), -1).to_numpy(), -1)
    ids = large(manifest["image_id"])
    owner, neighbour = (_places(lists[column], ids) for column in ("image_id", "neighbour_id"))
    try:
        judgement = grouping.mislabelled(owner, neighbour, lists["distance"].to_numpy(), label)
    except ValueError:
        raise WrongInput(
            f"{snapshot.uri}: the attribute {attribute!r} is another one for every image: name one whose values repeat"
        ) from None
    judged = pa.array(np.nonzero(np.isfinite(judgement.score))[0])
    suggested = pa.array(judgement.suggested, mask=judgement.suggested < 0)
    columns = {
        "image_id": ids.take(judged).cast(pa.string()),
        "label": names.take(pa.array(label).take(judged)),
        "suggested_label": names.take(suggested.take(judged)),
        "score": pa.array(judgement.score).take(judged),
        "own_share": pa.array(judgement.own_share).take(judged),
    }
    return _table(columns, MISLABELLED, lists, "score")


def _labels(snapshot: Snapshot, manifest: pa.Table, attribute: str) -> pa.Array:
    """The value of ``attribute`` for each image; null where it is empty or missing. Raises ``WrongInput``."""
    attributes = manifest["attributes"]
    values = pa.chunked_array([pc.map_lookup(chunk, attribute, "first") for chunk in attributes.chunks], pa.string())
    labels = pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values).combine_chunks()
    if attribute == FOLDER:
        labels = pc.coalesce(labels, first_folders(manifest["image_id"]).combine_chunks())
    if labels.null_count == len(labels):
        names = sorted({name for chunk in attributes.chunks for name in names_of(chunk)})
        raise WrongInput(f"{snapshot.uri}: no image has the attribute {attribute!r}{did_you_mean(attribute, names)}")
    return labels


def _places(names: pa.ChunkedArray, ids: pa.LargeStringArray) -> Indices:
    """The places (m,) int64 of ``names`` in ``ids``; the next one after the last for those that are not there."""
    places = pc.index_in(large(names), value_set=ids)
    known: Indices = pc.fill_null(places, len(ids)).to_numpy().astype(np.int64)
    return known


def _table(columns: dict[str, object], schema: pa.Schema, lists: pa.Table, by: str) -> pa.Table:
    """``columns`` and what the metadata of ``lists`` say, the highest ``by`` first, ties by image_id."""
    about = {key.decode(): value.decode() for key, value in lists.schema.metadata.items()}
    rows = len(columns["image_id"])  # type: ignore[arg-type]
    constant = {name: pa.repeat(about[name], rows) for name in ("fingerprint", "metric")}
    table = pa.table({**columns, **constant}).select(schema.names).cast(schema)
    return tables.described(table.sort_by([(by, "descending"), ("image_id", "ascending")]), **about)
