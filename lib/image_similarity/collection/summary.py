"""What is in a collection, at a glance: its ``repr``, as text and as HTML. No table is read for it but ``runs``."""

from collections.abc import Iterator, Mapping
from html import escape

from image_similarity.collection import defaults
from image_similarity.errors import JobFailed, counted, listed
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.snapshot import Snapshot

_BY_SLOT = ("neighbours", "groups", "layout", "matches")
_OTHERS = ("downloads", "comparisons")


def text(snapshot: Snapshot) -> str:
    """A few lines, the first of which names the warehouse."""
    rows = list(_rows(snapshot))
    wide = max((len(name) for name, _ in rows), default=0)
    lines = [f"<Collection {snapshot.uri}, version {snapshot.pointer.version}>"]
    return "\n".join([*lines, *(f"  {name:{wide}}  {value}" for name, value in rows)])


def html(snapshot: Snapshot) -> str:
    """A small table."""
    rows = "".join(
        f'<tr><th style="text-align: left">{escape(name)}</th><td style="text-align: left">{escape(value)}</td></tr>'
        for name, value in _rows(snapshot)
    )
    caption = f"Collection {snapshot.uri}, version {snapshot.pointer.version}"
    return f'<table><caption style="text-align: left">{escape(caption)}</caption>{rows}</table>'


def _rows(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    records = _records(snapshot)
    if runs := snapshot.run_ids("manifest", ""):
        images = _images(records.get(runs[-1]))
        yield "images", "?" if images is None else f"{images:,}"
    if names := defaults.fingerprints_of(snapshot):
        yield "fingerprints", listed(_fingerprint(snapshot, records, name) for name in names)
    for table in _BY_SLOT:
        if slots := snapshot.slots(table):
            yield table, listed(sorted(slots))
    if others := [table for table in _OTHERS if snapshot.slots(table)]:
        yield "also", listed(others)
    if records:
        last = list(records.values())[-1]
        yield "last run", f"{last.run_id}: {last.job} {last.slot}".rstrip()


def _records(snapshot: Snapshot) -> Mapping[str, Record]:
    try:
        return snapshot.runs
    except (OSError, JobFailed):  # a look must not fail
        return {}


def _fingerprint(snapshot: Snapshot, records: Mapping[str, Record], name: str) -> str:
    runs = snapshot.run_ids("embeddings", name)
    if not runs:
        return f"{name} (vectors of your own)"
    record = records.get(runs[-1])
    images = _images(record)
    of_images = "" if images is None else counted(images, "image")
    is_untrained = record is not None and record.settings.get("trained") is False
    about = [part for part in (of_images, "untrained weights" if is_untrained else "") if part]
    return f"{name} ({', '.join(about)})" if about else name


def _images(record: Record | None) -> int | None:
    """Those that a run of the manifest listed, or one of embeddings embedded; None if not recorded."""
    counts = {} if record is None else record.counts
    if "images" not in counts:
        return None
    failures = counts.get("failures") or {}
    images: int = counts["images"] - sum(failures.values())
    return images
