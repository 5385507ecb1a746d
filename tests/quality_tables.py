"""Numbers of quality in a warehouse, as a job publishes them: what tests of pages need, made without any measuring."""

from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from image_similarity.imaging import quality
from image_similarity.warehouse.records import PUBLISHED, Record, new_run_id
from image_similarity.warehouse.schemas import RUNS, SCHEMAS
from image_similarity.warehouse.warehouse import Warehouse

LIMITS = quality.Limits(dark=0.3, bright=0.5, blurred=200.0, flat=0.7, tiny=60, odd_aspect=2.0)
"""By these, some of the images of `rows` have each flag."""


def rows(contents: dict[str, str | None], seed: int = 0) -> list[dict[str, Any]]:
    """Numbers drawn by ``seed``, of images: image_id -> content. Some are equal."""
    random, ids = np.random.default_rng(seed), list(contents)
    low, spread = random.integers(0, 8, len(ids)) / 10, random.integers(1, 5, len(ids)) / 10
    drawn = [low, np.minimum(1, low + spread), spread / 2, random.integers(0, 9, len(ids)) * 60.5]
    measures = np.stack([*drawn, random.integers(0, 9, len(ids)) / 1.1, random.integers(0, 11, len(ids)) / 10], axis=1)
    width, height = random.integers(40, 400, (2, len(ids)))
    flags = quality.flags(width, height, measures, LIMITS)
    return [
        {"image_id": name, "content_sha256": contents[name], "width": int(wide), "height": int(high), "format": "PNG"}
        | {"size_bytes": 10 * number, "flags": of, **dict(zip(quality.MEASURES, map(float, numbers)))}
        for number, (name, wide, high, of, numbers) in enumerate(zip(ids, width, height, flags, measures))
    ]


def publish(warehouse: Path, measured: Iterable[dict[str, Any]]) -> str:
    """Publishes rows of table ``quality``. Returns the run."""
    place: Any = Warehouse(None, str(warehouse))  # type: ignore[arg-type]
    before, run, now = place.snapshot(), new_run_id(), datetime.now(timezone.utc)
    place.write_here("quality", run, [pa.Table.from_pylist([*measured], schema=SCHEMAS["quality"])])
    outputs: dict[str, Any] = {"replaced": {}}
    place.write_record(
        Record(run, None, "embed_images", "", PUBLISHED, {}, outputs, {}, {}, {}, 0.1, {}, None, now, now)
    )
    place.publish(before.pointer, {"quality": {"": run}}, {RUNS: {"": run}})
    return run


def of_contents(warehouse: Path, fingerprint: str) -> dict[str, str | None]:
    """image_id -> content of the images embedded as ``fingerprint``."""
    place: Any = Warehouse(None, str(warehouse))  # type: ignore[arg-type]
    table = place.snapshot().table("embeddings", fingerprint, ["image_id", "content_sha256"])
    return dict(zip(*(column.to_pylist() for column in table.columns)))
