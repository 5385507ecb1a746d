"""What the pages say besides the images: the title, the tabs, and a section about each run, from its record."""

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from image_similarity.pages.captions import clean
from image_similarity.settings import Settings
from image_similarity.stages.gallery import run_page, staleness, words
from image_similarity.stages.gallery.pages import Tab, Tagged
from image_similarity.stages.gallery.sources import Sources
from image_similarity.storage import tables, uris
from image_similarity.warehouse import provenance
from image_similarity.warehouse.snapshot import Snapshot


@dataclass(frozen=True)
class About:
    """What the pages say besides the images."""

    title: str
    tabs: tuple[Tab, ...]
    untrained: tuple[str, ...]
    from_list: bool
    reasons: Mapping[str, str]
    """reason of a failure -> its meaning."""
    runs: list[dict[str, Any]]
    """For the page of the run: title, facts (pairs), notes, and settings of each job."""
    tags: Tagged | None = None
    """What gave the tags, without their numbers; None: none are published."""

    @classmethod
    def of(cls, sources: Sources, settings: Settings, reasons: Mapping[str, str]) -> "About":
        """``reasons``: of failures, each with its meaning."""
        images, tagger = provenance.images_folder(sources.snapshot), sources.tagger
        parted = [(slot.partition("/"), label) for slot, label in sources.labels.items()]
        return cls(
            title=clean(settings.gallery.title or _collection(images)),
            tabs=tuple(Tab(label, fingerprint, metric) for (fingerprint, _, metric), label in parted),
            untrained=tuple(_untrained(sources)),
            from_list=tables.kind_of(images) is not None,
            reasons=reasons,
            runs=list(_sections(sources)),
            tags=_tagged(sources.snapshot, tagger) if tagger is not None else None,
        )


def _collection(images: str) -> str:
    """A name for the collection: the name of its folder, or of the folder that contains its list."""
    location = uris.absolute(images).rstrip("/")
    name = posixpath.basename(location)
    if posixpath.splitext(name)[1] or any(character in name for character in "*?["):
        name = posixpath.basename(posixpath.dirname(location))
    return name or "Images"


def _untrained(sources: Sources) -> Iterator[str]:
    """The fingerprints whose networks have seen no picture."""
    records = sources.snapshot.runs
    for name in sources.fingerprints:
        published = sources.snapshot.run_ids("embeddings", name)
        yield from (name for run in published if run in records and records[run].settings.get("trained") is False)


def _sections(sources: Sources) -> Iterator[dict[str, Any]]:
    """A section about each run that is recorded, see `run_page.section`."""
    snapshot = sources.snapshot

    def section(title: str, runs: list[str], notes: list[str]) -> Iterator[dict[str, Any]]:
        records = [snapshot.runs[run] for run in runs[:1] if run in snapshot.runs]
        yield from (run_page.section(title, record, tuple(notes)) for record in records)

    yield from section("The images", snapshot.run_ids("manifest", ""), [])
    for name in sources.fingerprints:
        notes = staleness.of_embeddings(sources, name)
        yield from section(f"Fingerprint {name}", snapshot.run_ids("embeddings", name), notes)
    for slot, label in sources.labels.items():
        notes = staleness.of_neighbours(sources, slot)
        yield from section(f"Neighbours by {label}", snapshot.run_ids("neighbours", slot), notes)
    tab, grouped = sources.groups
    for run, kinds in grouped.items():
        slot = sources.slots[tab]
        title = f"Groups by {sources.labels[slot]}: {' and '.join(words.KINDS[kind] for kind in kinds)}"
        yield from section(title, [run], staleness.of_groups(sources, slot, run, kinds))
    if (tagger := sources.tagger) is not None:
        notes = staleness.of_tags(sources, tagger)
        yield from section(f"Tags by {tagger}", snapshot.run_ids("tags", tagger), notes)


def _tagged(snapshot: Snapshot, name: str) -> Tagged:
    """What gave the tags by fingerprint ``name``."""
    records = snapshot.runs
    given = [records[run].settings for run in snapshot.run_ids("tags", name) if run in records]
    embedded = [dict(run_page.facts(records[run])) for run in snapshot.run_ids("embeddings", name) if run in records]
    network = [embedded[0][fact] for fact in ("network", "weights") if fact in embedded[0]] if embedded else []
    threshold = given[0].get("tags", {}).get("threshold") if given else None
    return Tagged(name, ", ".join(network), threshold)
