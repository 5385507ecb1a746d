"""The page of the run: what it says of each run, from its record."""

import posixpath
from collections.abc import Iterator, Mapping
from datetime import timezone
from typing import Any

from image_similarity.errors import counted
from image_similarity.settings.fingerprints import UNTRAINED
from image_similarity.stages.gallery import words
from image_similarity.warehouse.records import Record

_OF_NEAR_DUPLICATES = ("limit", "wide", "keep", "recalibrate_share")
"""Settings of groups that do not matter to what belongs together."""
_OF_GROUPS = {"images": "images in groups", "largest": "largest group"}
"""Counts of group_images -> their names on the page of the run."""

_MOST_PARTS = 12
"""Parts of one count that are shown; the table of runs has all of them."""


def section(title: str, record: Record, notes: tuple[str, ...]) -> dict[str, Any]:
    """The section about one run: title, facts (pairs), those that counted nothing, notes, and settings."""
    settings = [*words.recorded(_used(record)), *words.recorded({"versions": record.versions})]
    known = list(facts(record))
    nothing = [(name, value) for name, value in known if value in ("0", "none") and name != "failures"]
    occurred = [fact for fact in known if fact not in nothing]
    return {"title": title, "facts": occurred, "nothing": nothing, "notes": notes, "settings": settings}


def _used(record: Record) -> Mapping[str, Any]:
    """The settings of a run. What belongs together is grouped without those that are about near-duplicates alone."""
    groups = record.settings.get("groups")
    if "levels" not in record.counts or not isinstance(groups, Mapping):
        return record.settings
    return {**record.settings, "groups": {key: groups[key] for key in groups if key not in _OF_NEAR_DUPLICATES}}


def facts(record: Record) -> Iterator[tuple[str, str]]:
    """The facts of one run, in words: name and value."""
    settings = record.settings
    for declared in settings.get("fingerprint", {}).values():
        yield (
            "network",
            (declared.get("network") or declared["kind"])
            + "".join(f", {key} {declared[key]}" for key in ("layer", "base") if key in declared),
        )
    if "weights" in settings:
        weights = posixpath.basename(settings["weights"])
        says_so = settings.get("trained") or weights.startswith(f"{UNTRAINED} (")
        yield "weights", weights if says_so else f"{weights} ({UNTRAINED})"
    if record.job == "find_neighbours":
        metric = settings["neighbours"]["metric"]
        method = settings.get("method", {}).get("chosen") or settings["neighbours"]["method"]
        yield "method", f"{method}, {metric} distance" + (": all pairs were compared" if method == "exact" else "")
    if "limit" in settings:
        yield "limit", f"{settings['limit']['scaled']:g} of the local scale, {settings['limit']['source']}"
    if found := settings.get("calibration", {}).get("recall"):
        yield "copies found", ", ".join(f"{kind} {joined} of {made}" for kind, (joined, made) in found.items())
    if record.recall is not None:
        yield "recall", f"{record.recall:.4f}"
    yield from _of_groups(record.counts) if record.job == "group_images" else _of_counts(record.counts)
    if record.stages:
        yield "steps", ", ".join(f"{step} {seconds:,.1f} s" for step, seconds in record.stages.items())
    yield "finished", f"{record.finished_at.astimezone(timezone.utc):%Y-%m-%d %H:%M} UTC, after {record.seconds:,.1f} s"
    yield "run", record.run_id + (f", label {record.label}" if record.label else "")


def _of_counts(counts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in counts.items():
        if name == "calibration" and isinstance(value, dict):
            yield from _of_calibration(value)
        else:
            yield name.replace("_", " "), _devices(value) if name == "devices" else _text(value)


def _of_calibration(measured: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What labels tell of tags. Older records, and those of other versions, may lack any of it."""
    yield "labelled", f"{_several(measured.get('labelled'), 'image')}, by {_text(measured.get('attribute'))}"
    for fact, of in words.CALIBRATION.items():
        if isinstance(share := measured.get(of), (int, float)):
            yield fact, f"{share:.3f}"
    if unmatched := measured.get("unmatched_images"):
        labels = _several(measured.get("unmatched_labels"), "label")
        yield "not compared", f"{_several(unmatched, 'image')}, with {labels}"


def _several(count: Any, noun: str) -> str:
    """`counted`, also of what is no count, as in older records."""
    return counted(count, noun) if isinstance(count, int) else f"{_text(count)} {noun}s"


def _of_groups(counts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The counts of group_images: its ``images`` are those in groups."""
    named = {_OF_GROUPS.get(name, name): value for name, value in counts.items()}
    if "identical" in counts:
        named["identical"] = _grouped(counts["identical"])
    if "levels" in counts:
        named["levels"] = "; ".join(f"level {n}: {_grouped(level)}" for n, level in enumerate(counts["levels"]))
    return _of_counts(named)


def _grouped(counts: Mapping[str, int]) -> str:
    """The groups of one kind and level."""
    groups, images = counts["groups"], counts["images"]
    if not groups:
        return "none"
    largest = f"{counts['largest']:,} in the largest group"
    return f"{counted(groups, 'group')}, {counted(images, 'image')} in groups, {largest}"


def _text(value: Any) -> str:
    """A count, a fraction, a text, or lists and maps of these in any depth, for people."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return _counted(value)
    if isinstance(value, list):
        return _few([_part(part) for part in value], ", ")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else "none"


def _few(parts: list[str], between: str) -> str:
    more = [f"and {len(parts) - _MOST_PARTS:,} more"] if len(parts) > _MOST_PARTS else []
    return between.join([*parts[:_MOST_PARTS], *more]) or "none"


def _devices(images: dict[str, int]) -> str:
    """Device -> images, as text that takes no count of images for one of processors."""
    by_device = [f"{device} ({counted(count, 'image')})" for device, count in images.items()]
    return ", ".join(by_device) or "none"


def _counted(parts: dict[str, Any]) -> str:
    """Reason -> images as ``3 not found``; where anything else is counted, names before their values."""
    named = {name.replace("_", " "): value for name, value in parts.items()}
    if all(isinstance(value, int) and not isinstance(value, bool) for value in named.values()):
        return _few([f"{value:,} {name}" for name, value in named.items()], ", ")
    return _few([f"{name} {_part(value)}" for name, value in named.items()], "; ")


def _part(value: Any) -> str:
    """A value within another one: maps and lists stand in brackets."""
    return f"({_text(value)})" if isinstance(value, (dict, list)) else _text(value)
