"""The published tables that a gallery shows: by which slots of neighbours, and the runs that go with them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from image_similarity.errors import WrongInput, did_you_mean, listed
from image_similarity.settings import NeighboursSettings
from image_similarity.warehouse import provenance, retention
from image_similarity.warehouse.defaults import DEFAULT_FINGERPRINT, DEFAULT_METRIC
from image_similarity.warehouse.schemas import ALIKE, IDENTICAL, NEAR_DUPLICATES
from image_similarity.warehouse.snapshot import Snapshot
from image_similarity.warehouse.warehouse import Warehouse


def by_fingerprint(snapshot: Snapshot, fingerprints: Sequence[str]) -> dict[str, list[str]]:
    """The published slots of ``neighbours`` by fingerprint. ``WrongInput`` if ``fingerprints`` are not among them."""
    published = snapshot.slots("neighbours")
    if not published:
        raise WrongInput(f"no neighbours are published in {snapshot.uri}: run find_neighbours first")
    slots: dict[str, list[str]] = {}
    for slot in sorted(published):
        slots.setdefault(slot.partition("/")[0], []).append(slot)
    unknown = [name for name in fingerprints if name not in slots]
    if unknown:
        known = sorted(slots)
        raise WrongInput(
            f"no neighbours by {', '.join(map(repr, unknown))} in {snapshot.uri} (published: {listed(known)})"
            + did_you_mean(unknown[0], known, "name one by --fingerprint, or run find_neighbours first")
        )
    return slots


def labelled_slots(snapshot: Snapshot, fingerprints: Sequence[str], settings: NeighboursSettings) -> dict[str, str]:
    """The slots of ``neighbours`` to show, each with its label. Raises as `by_fingerprint` does.

    ``fingerprints`` come in their order; without them, first those of the settings, then the default. So do metrics.
    """
    published = by_fingerprint(snapshot, fingerprints)
    names = dict.fromkeys(fingerprints) or _first(published, settings.fingerprint, DEFAULT_FINGERPRINT)
    shown = {}
    for name in names:
        metrics = [slot.partition("/")[2] for slot in published[name]]
        for slot in (f"{name}/{metric}" for metric in _first(metrics, settings.metric, DEFAULT_METRIC)):
            is_plain = published[name] == [f"{name}/{DEFAULT_METRIC}"]
            shown[slot] = name if is_plain else slot.replace("/", ", ")
    return shown


def _first(names: Iterable[str], *preferred: str) -> list[str]:
    """``names`` in their order, with those that are ``preferred`` in front."""
    known = sorted(names)
    return list(dict.fromkeys([*(name for name in preferred if name in known), *known]))


@dataclass(frozen=True)
class Sources:
    """One published state of a warehouse, and what is shown of it."""

    warehouse: Warehouse
    snapshot: Snapshot
    labels: Mapping[str, str]
    """The slots of ``neighbours``, each with its label: the tabs, in their order."""

    @property
    def slots(self) -> list[str]:
        return list(self.labels)

    @property
    def fingerprints(self) -> list[str]:
        return list(dict.fromkeys(slot.partition("/")[0] for slot in self.labels))

    @property
    def failures_slots(self) -> list[str]:
        return [*self.fingerprints, *(f"neighbours/{slot}" for slot in self.labels)]

    def runs(self) -> dict[str, list[str]]:
        """table -> runs read. ``WrongInput`` if there is no manifest."""
        manifest = self.snapshot.run_ids("manifest", "")
        if not manifest:
            raise WrongInput(f"no manifest in {self.warehouse.uri}, to tell where the pictures are: run build_manifest")
        tagger = self.tagger
        return {
            "manifest": manifest,
            "neighbours": self._runs_of("neighbours", self.slots),
            "embeddings": self._runs_of("embeddings", self.fingerprints),
            "failures": self._runs_of("failures", self.failures_slots),
            "quality": self.snapshot.run_ids("quality", ""),
            "groups": list(self.groups[1]),
            "tags": self.snapshot.run_ids("tags", tagger) if tagger else [],
        }

    def _runs_of(self, table: str, slots: Iterable[str]) -> list[str]:
        return [run for slot in slots for run in self.snapshot.run_ids(table, slot)]

    @property
    def groups(self) -> tuple[int, dict[str, list[str]]]:
        """The number of the first slot by which there are groups; run -> its kinds that are current.

        Groups by other slots are not shown: an image would be in several groups of a kind.
        """
        for number, slot in enumerate(self.labels):
            kinds: dict[str, list[str]] = {}
            for kind in (IDENTICAL, NEAR_DUPLICATES, ALIKE):
                for run in self.snapshot.run_ids("groups", f"{slot}/{kind}"):
                    kinds.setdefault(run, []).append(kind)
            if kinds:
                return number, kinds
        return 0, {}

    @property
    def tagger(self) -> str | None:
        """The first fingerprint by which images are tagged; None if there is none. Tags by others are not shown."""
        return next((name for name in self.fingerprints if self.snapshot.run_ids("tags", name)), None)

    def compared(self) -> dict[str, tuple[list[str], str]]:
        """fingerprint -> the runs of ``embeddings`` that its neighbours were found among, and the key of their vectors.
        Those whose tables are gone, or which the user brought, are left out.
        """
        compared = {}
        for slot in self.labels:
            runs = self._compared_runs(slot)
            keys = provenance.fingerprint_keys(self.snapshot, runs) if runs else []
            if len(keys) == 1 and self.snapshot.run_ids("vectors", keys[0]):
                compared[slot.partition("/")[0]] = runs, keys[0]
        return compared

    def _compared_runs(self, slot: str) -> list[str]:
        """The runs of ``embeddings`` that the neighbours of ``slot`` were found among; none if not all are there."""
        records = [self.snapshot.runs.get(run) for run in self.snapshot.run_ids("neighbours", slot)]
        inputs = [record.inputs for record in records if record is not None and "vectors" in record.inputs]
        runs = [run for of in inputs for run in of["embeddings"]]
        return runs if all(retention.is_whole(self.warehouse, "embeddings", run) for run in runs) else []
