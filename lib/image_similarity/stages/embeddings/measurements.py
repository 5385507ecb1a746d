"""The rows of the table ``quality``, whoever makes them: what was measured of contents, and flags by the settings of
today.
"""

from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa

from image_similarity.imaging import quality
from image_similarity.imaging.quality import MEASURES, Limits
from image_similarity.settings import QualitySettings
from image_similarity.warehouse.schemas import QUALITY, SCHEMAS

STATE = "quality"
"""The last part of the state slot that holds checkpoints of measurements, where those of vectors have their key."""


def limits_in(settings: QualitySettings) -> Limits:
    values: dict[str, Any] = {field.name: getattr(settings, field.name) for field in fields(Limits)}
    return Limits(**values)


def with_flags(rows: pa.Table, limits: Limits) -> pa.Table:
    """``rows`` with image_id and the columns of `checkpoints.MEASUREMENTS`, as rows of ``quality``."""
    schema = SCHEMAS[QUALITY]
    measures = np.stack([rows[name].to_numpy() for name in MEASURES], axis=1)
    flags = quality.flags(rows["width"].to_numpy(), rows["height"].to_numpy(), measures, limits) if len(rows) else []
    columns = {name: rows[name] for name in schema.names if name != "flags"}
    return pa.table({**columns, "flags": pa.array(flags, schema.field("flags").type)}, schema=schema)


def flag_counts(flags: pa.ChunkedArray) -> dict[str, int]:
    """flag -> the number of images that have it, in the order of `quality.FLAGS`. Flags that no image has are left
    out.
    """
    counts = {name: 0 for name in quality.FLAGS}
    for entry in flags.combine_chunks().flatten().value_counts().to_pylist():
        counts[entry["values"]] = entry["counts"]
    return {name: count for name, count in counts.items() if count}
