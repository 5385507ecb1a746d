"""How near two images must be to be near-duplicates, and for how long a limit that was chosen stays."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.grouping.near_duplicates import Limits, common_scale, least_limit, strict_limit
from image_similarity.knn.distances import Values
from image_similarity.settings import GroupsSettings
from image_similarity.storage import blobs
from image_similarity.warehouse.workspace import Workspace

SHIPPED = 0.65
"""On the local scale: where nothing could be calibrated."""
AUTO = "auto"
GIVEN, CALIBRATED, UNCALIBRATED = "given", "calibrated", "uncalibrated"
SKETCH_SIZE = 4096
"""Images by which the share of changed ones is estimated; of smaller collections it is exact."""

LIMIT, CALIBRATION = "limit", "calibration"
"""Keys in ``runs.settings``."""
COMMON = "common"
"""A key of the limit: the scale below which none is taken where pictures decide. Searches read it."""

Sketch = NDArray[np.uint64]
"""The lowest hashes of a collection's contents."""
_SKETCH = "sketch"
_SCHEMA = pa.schema([("hash", pa.uint64())])


@dataclass(frozen=True)
class Calibrated:
    """A limit that was chosen on the collection. ``record``: for ``runs.settings``. ``lines``: for people."""

    scaled: float
    record: Mapping[str, Any]
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chosen:
    limits: Limits
    record: dict[str, Any]
    """For ``runs.settings``."""
    sketch: Sketch
    """Of the collection that the limit was chosen on."""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Before:
    """The limit of the run before."""

    run: str
    settings: Mapping[str, Any]
    """Its ``runs.settings``."""
    sketch: Sketch | None
    """None where it was lost."""


def chosen(
    settings: GroupsSettings,
    scale: Values,
    sketch: Sketch,
    fingerprint_key: str | None,
    before: Before | None,
    recalibrate: bool,
    calibrate: Callable[[], Calibrated | str] | None,
) -> Chosen:
    """The limits of this run: those of the run before where they still hold, or new ones.

    ``scale``: of all nodes. ``sketch``: of the collection as it is now. ``calibrate``: None where there are no pictures
    to calibrate on; it returns why where it cannot.
    """
    if before is not None and not recalibrate:
        kept = _kept(settings, scale, sketch, fingerprint_key, before, can_calibrate=calibrate is not None)
        if kept is not None:
            return kept
    if settings.limit != AUTO:
        return _new(float(settings.limit), GIVEN, settings, scale, sketch, fingerprint_key, None)
    calibrated = calibrate() if calibrate is not None else "vectors of your own have no pictures"
    if isinstance(calibrated, str):
        line = f"limit {SHIPPED:g} of the local scale, which is shipped: it is not calibrated, since {calibrated}"
        return _new(SHIPPED, UNCALIBRATED, settings, scale, sketch, fingerprint_key, None, (line,))
    return _new(calibrated.scaled, CALIBRATED, settings, scale, sketch, fingerprint_key, calibrated, calibrated.lines)


def _new(
    scaled: float,
    source: str,
    settings: GroupsSettings,
    scale: Values,
    sketch: Sketch,
    fingerprint_key: str | None,
    calibrated: Calibrated | None,
    lines: tuple[str, ...] = (),
) -> Chosen:
    limits = _limits(scaled, scale, settings)
    limit = {**asdict(limits), COMMON: common_scale(scale), "source": source}
    record: dict[str, Any] = {LIMIT: {**limit, "fingerprint_key": fingerprint_key}}
    if calibrated is not None:
        record[CALIBRATION] = dict(calibrated.record)
    return Chosen(limits, record, sketch, lines)


def _limits(scaled: float, scale: Values, settings: GroupsSettings) -> Limits:
    return Limits(scaled, strict_limit(scaled, scale), settings.wide, least_limit(scaled, scale))


def _kept(
    settings: GroupsSettings,
    scale: Values,
    sketch: Sketch,
    fingerprint_key: str | None,
    before: Before,
    can_calibrate: bool,
) -> Chosen | None:
    """The limit of the run before; None if it does not hold any more, or another is asked for. What raw limits it means
    depends on the scales of the images as they are now.
    """
    limit = before.settings.get(LIMIT, {})
    if not limit or before.sketch is None or limit.get("fingerprint_key") != fingerprint_key:
        return None
    is_given = limit["source"] == GIVEN
    if limit["wide"] != settings.wide or is_given != (settings.limit != AUTO):
        return None
    if limit["source"] == UNCALIBRATED and can_calibrate:
        return None
    if is_given and limit["scaled"] != settings.limit:
        return None
    share = changed_share(before.sketch, sketch)
    if share > settings.recalibrate_share:
        return None
    limits = _limits(limit["scaled"], scale, settings)
    record = {**before.settings, LIMIT: {**limit, **asdict(limits), COMMON: common_scale(scale)}}
    record = {key: record[key] for key in (LIMIT, CALIBRATION) if key in record}
    line = f"limit {limits.scaled:g} of the local scale as in run {before.run}: {share:.1%} of the images have changed"
    return Chosen(limits, record, before.sketch, (line,))


# -- how much of a collection has changed ------------------------------------------------------------------------------


def sketch_of(hashes: NDArray[np.uint64]) -> Sketch:
    """``hashes``: (n,) one for each image and its content."""
    return np.unique(hashes)[:SKETCH_SIZE]


def changed_share(before: Sketch, now: Sketch) -> float:
    """The share of images that are new or gone, of all then and now, as the lowest hashes tell it (Broder's sketch)."""
    lowest = np.union1d(before, now)[:SKETCH_SIZE]
    same = np.isin(lowest, before) & np.isin(lowest, now)
    return 1 - float(same.mean()) if len(lowest) else 0.0


def save(sketch: Sketch, state: Workspace) -> None:
    state.store_file(_SKETCH, _SCHEMA, [pa.record_batch([pa.array(sketch, pa.uint64())], schema=_SCHEMA)])


def read(state: Workspace) -> Sketch | None:
    """What a run left; None if it is not there, or damaged."""
    if not blobs.exists(state.location(f"{_SKETCH}/part-00000.parquet")):
        return None
    try:
        return np.concatenate([part["hash"].to_numpy() for part in state.parts(_SKETCH, _SCHEMA.names)])
    except (OSError, ValueError):
        return None
