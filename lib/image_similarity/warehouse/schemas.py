"""The schemas of all tables, as Arrow schemas.

A table is Parquet below ``<warehouse>/<table>/run_id=<run>/``. ``_current.json`` says which runs are current (see
`image_similarity.warehouse.snapshot`). A *slot* is a part of a table that is published separately: a fingerprint,
``<fingerprint>/<metric>``, a metric alone, a catalogue, ``<queries>/<fingerprint>/<metric>``, a ``fingerprint_key``
(vectors), `scores_slot` (class_scores), or the empty string for the whole table.
"""

from collections.abc import Mapping

import pyarrow as pa


def _schema(*columns: tuple[str, pa.DataType]) -> pa.Schema:
    return pa.schema(columns)


_STRING, _LONG, _INT, _FLOAT, _DOUBLE = pa.string(), pa.int64(), pa.int32(), pa.float32(), pa.float64()
_TIME, _BOOLEAN, _BINARY = pa.timestamp("us", tz="UTC"), pa.bool_(), pa.binary()

SCHEMAS: Mapping[str, pa.Schema] = {
    "manifest": _schema(
        ("image_id", _STRING),
        ("uri", _STRING),
        ("size_bytes", _LONG),
        ("modified_at", _TIME),
        ("source_version", _STRING),
        ("attributes", pa.map_(_STRING, _STRING)),
    ),
    "downloads": _schema(
        ("image_id", _STRING),
        ("address", _STRING),
        ("uri", _STRING),
        ("outcome", _STRING),
        ("size_bytes", _LONG),
        ("content_sha256", _STRING),
        ("etag", _STRING),
        ("last_modified", _STRING),
        ("attributes", pa.map_(_STRING, _STRING)),
    ),
    "vectors": _schema(
        ("content_sha256", _STRING),
        ("fingerprint_key", _STRING),
        ("width", _INT),
        ("height", _INT),
        ("embedding", pa.list_(_FLOAT)),
        ("thumbprint", _BINARY),
    ),
    "embeddings": _schema(
        ("image_id", _STRING),
        ("fingerprint", _STRING),
        ("fingerprint_key", _STRING),
        ("content_sha256", _STRING),
        ("source_version", _STRING),
    ),
    "failures": _schema(
        ("image_id", _STRING),
        ("uri", _STRING),
        ("fingerprint", _STRING),
        ("reason", _STRING),
        ("detail", _STRING),
        ("source_version", _STRING),
    ),
    "class_scores": _schema(
        ("content_sha256", _STRING),
        ("fingerprint_key", _STRING),
        ("classifier_key", _STRING),
        ("classes", pa.list_(_INT)),
        ("logits", pa.list_(_FLOAT)),
        ("rest", _FLOAT),
    ),
    "quality": _schema(
        ("image_id", _STRING),
        ("content_sha256", _STRING),
        ("width", _INT),
        ("height", _INT),
        ("size_bytes", _LONG),
        ("format", _STRING),
        ("brightness_p5", _FLOAT),
        ("brightness_p95", _FLOAT),
        ("contrast", _FLOAT),
        ("sharpness", _FLOAT),
        ("entropy", _FLOAT),
        ("one_colour_share", _FLOAT),
        ("flags", pa.list_(_STRING)),
    ),
    "tags": _schema(
        ("image_id", _STRING),
        ("fingerprint", _STRING),
        ("rank", _INT),
        ("class", _STRING),
        ("wnid", _STRING),
        ("probability", _FLOAT),
        ("accepted", _BOOLEAN),
        ("content_sha256", _STRING),
    ),
    "projections": _schema(
        ("fingerprint", _STRING),
        ("fingerprint_key", _STRING),
        ("base_key", _STRING),
        ("sample", _INT),
        ("seed", _LONG),
        ("component", _INT),
        ("explained_variance", _DOUBLE),
        ("weights", pa.list_(_FLOAT)),
    ),
    "neighbours": _schema(
        ("image_id", _STRING),
        ("fingerprint", _STRING),
        ("relation", _STRING),
        ("rank", _INT),
        ("neighbour_id", _STRING),
        ("distance", _FLOAT),
        ("metric", _STRING),
        ("method", _STRING),
    ),
    "groups": _schema(
        ("group_id", _STRING),
        ("image_id", _STRING),
        ("fingerprint", _STRING),
        ("metric", _STRING),
        ("kind", _STRING),
        ("level", _INT),
        ("representative", _BOOLEAN),
        ("distance_to_representative", _FLOAT),
        ("position", _INT),
    ),
    "group_summary": _schema(
        ("group_id", _STRING),
        ("fingerprint", _STRING),
        ("metric", _STRING),
        ("kind", _STRING),
        ("level", _INT),
        ("size", _INT),
        ("representative_id", _STRING),
        ("weakest_link", _FLOAT),
        ("widest_pair", _FLOAT),
        ("nearest_outside", _FLOAT),
        ("nearest_outside_id", _STRING),
        ("label", _STRING),
    ),
    "matches": _schema(
        ("queries", _STRING),
        ("query_id", _STRING),
        ("query_uri", _STRING),
        ("image_id", _STRING),
        ("fingerprint", _STRING),
        ("metric", _STRING),
        ("relation", _STRING),
        ("rank", _INT),
        ("distance", _FLOAT),
        ("verdict", _STRING),
    ),
    "layout": _schema(
        ("image_id", _STRING),
        ("fingerprint", _STRING),
        ("metric", _STRING),
        ("x", _DOUBLE),
        ("y", _DOUBLE),
        ("grid_column", _INT),
        ("grid_row", _INT),
        ("content_sha256", _STRING),
        ("since_layout", _BOOLEAN),
    ),
    "comparisons": _schema(
        ("fingerprint", _STRING),
        ("other", _STRING),
        ("metric", _STRING),
        ("measure", _STRING),
        ("k", _INT),
        ("value", _DOUBLE),
        ("standard_error", _DOUBLE),
        ("chance", _DOUBLE),
        ("images", _LONG),
    ),
    "runs": _schema(
        ("run_id", _STRING),
        ("label", _STRING),
        ("job", _STRING),
        ("slot", _STRING),
        ("status", _STRING),
        ("inputs", _STRING),
        ("outputs", _STRING),
        ("settings", _STRING),
        ("counts", _STRING),
        ("versions", _STRING),
        ("seconds", _DOUBLE),
        ("stages", _STRING),
        ("recall", _DOUBLE),
        ("started_at", _TIME),
        ("finished_at", _TIME),
    ),
}


VECTORS, CLASS_SCORES, PROJECTIONS, RUNS = "vectors", "class_scores", "projections", "runs"
"""Tables to which runs are appended. Retention never removes their published runs."""


def scores_slot(fingerprint_key: str, classifier_key: str) -> str:
    """The slot of ``class_scores`` with what one classifier says of the contents that one fingerprint embedded."""
    return f"{fingerprint_key}/{classifier_key}"


QUALITY = "quality"
"""The table of all images that any run of embed_images replaces, whichever fingerprint is its slot."""

SIMILAR, DISSIMILAR = "similar", "dissimilar"
"""The values of ``neighbours.relation``."""

IDENTICAL, NEAR_DUPLICATES, ALIKE = "identical", "near-duplicates", "similar"
"""The values of ``groups.kind``, and the last part of the slots of groups: ``<fingerprint>/<metric>/<kind>``."""
