"""What differs between the fingerprint that published vectors were made by and the one of today, in the words of the
settings. Both are records, see `prepare.record`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from image_similarity.settings import FingerprintSettings, NetworkSettings, renamed
from image_similarity.settings.fingerprints import UNTRAINED, VECTOR, class_of, until_vector
from image_similarity.stages.embeddings import prepare

Record = Mapping[str, Any]

WEIGHTS, BASE_KEY = "weights", "base_key"
"""Keys of changes that are no settings: the content of the weights, and the vectors that were projected."""
NETWORK = "network"
_OF_WEIGHTS = (WEIGHTS, "weights_sha256")
"""Settings that say where weights are. Their content is compared instead."""
_DIGESTS = ("weights_sha256", "program_sha256")
"""Fields of specs."""
_DIGITS = 12
_DECIDE = {
    NETWORK: ("kind", "network", "layer", "pooling", "preprocessing", "precision", "decoding"),
    "exported": ("kind", "input_size", "resize", "interpolation", "preprocessing", "mean", "std", "pooling")
    + ("precision", "decoding", "outputs"),
    "colour-histogram": ("kind", "space", "bins", "decoding"),
    "hog": ("kind", "size", "orientations", "cell", "block", "decoding"),
    "pca": ("kind", "dimensions"),
}
"""kind -> the settings of which another value always means other vectors, whatever the weights are. What is unused, as
mean and std by Caffe's preprocessing, `_of_settings` passes over."""
_OF_CLASSES = "classes"
"""It changes no vector. ``outputs`` change them if another one is the vector."""
_OF_PROGRAM = ("input_size",)
"""Settings that a program tells where they are left open."""


@dataclass(frozen=True)
class Change:
    """A setting that had another value when the published vectors were made."""

    key: str
    before: Any
    now: Any

    @property
    def is_setting(self) -> bool:
        return self.key not in (WEIGHTS, BASE_KEY)

    def __str__(self) -> str:
        are = self.key == WEIGHTS
        before, now = _text(self.before), _text(self.now)
        return f"{self.key} {'were' if are else 'was'} {before}, {'are' if are else 'is'} {now} now"


def certain(name: str, published: Record, declared: FingerprintSettings) -> list[Change]:
    """The settings of ``declared`` by which its vectors are others than those of ``published``, whatever the weights.

    Needs no weights, so it can be asked early. Empty if no setting is certain to matter; else every setting that
    differs, so that all can be put right at once. Raises ``FingerprintError`` for a network or layer that is not there.
    """
    before, now = declared_in(name, published), _completed(declared)
    random = published.get("trained") is False and now.get("weights") == (UNTRAINED,)
    if before.get("kind") == now["kind"]:  # what the program says of its pictures is not known yet
        now |= {key: before[key] for key in _OF_PROGRAM if key in before and key not in now}
    changes = _of_settings(before, now, random, published, _node(declared))
    decisive = {*_DECIDE.get(now["kind"], ()), *(["seed"] if random else [])}
    return changes if decisive & _keys(changes) else []


def all_of(name: str, published: Record, prepared: Record) -> list[Change]:
    """Every setting of ``prepared`` that differs from ``published``, whose key is another; and the weights, if they do.

    Empty if neither does: then the program computes vectors in another way.
    """
    before, now = declared_in(name, published), declared_in(name, prepared)
    random = published.get("trained") is False and prepared.get("trained") is False
    changes = _of_settings(before, now, random, published, prepared.get("description", {}).get("layer"))
    digests = [_digest(record) for record in (published, prepared)]
    sources = [str(record.get("weights", "not recorded")) for record in (published, prepared)]
    # Parameters are those up to the layer, and untrained ones follow from the seed.
    explained = {"kind", "network"} | (
        {"layer", "seed"} if "layer" in _keys(changes) or "seed" in sources[0] else set()
    )
    if "" not in digests and digests[0] != digests[1] and not explained & _keys(changes):
        texts = [f"{source} (sha256 {digest[:_DIGITS]}...)" for source, digest in zip(sources, digests)]
        changes.append(Change(WEIGHTS, *texts))
    return [*changes, *_changes(published, prepared, [BASE_KEY])]


def _of_settings(before: Record, now: Record, random: bool, published: Record, node: str | None) -> list[Change]:
    """The settings that differ. ``random``: both have untrained weights, which follow from the seed."""
    unused = {_OF_CLASSES, *_OF_WEIGHTS, *(["seed"] if now.get("kind") == NETWORK and not random else [])}
    if before.get("preprocessing") == now.get("preprocessing") == "caffe":
        unused |= {"mean", "std"}
    before = {"outputs": [VECTOR], **before}
    if now.get("outputs") and until_vector(before["outputs"]) == until_vector(now["outputs"]):
        unused.add("outputs")
    if before.get("resize") or now.get("resize"):
        before, now = _with_short_side(before), _with_short_side(now)
    changes = _changes(before, now, [key for key in now if key not in unused])
    return _without_consequences(list(changes), published, node)


def _keys(changes: Iterable[Change]) -> set[str]:
    return {change.key for change in changes}


def _without_consequences(changes: list[Change], published: Record, node: str | None) -> list[Change]:
    """Another kind or network alone, since it has other keys and defaults; and no other name of the same ``node``."""
    if node is not None and published.get("description", {}).get("layer") == node:
        changes = [change for change in changes if change.key != "layer"]
    return next(([change] for key in ("kind", "network") for change in changes if change.key == key), changes)


def _node(declared: FingerprintSettings) -> str | None:
    """The node of a network that gives the vectors; None for other kinds."""
    if not isinstance(declared, NetworkSettings):
        return None
    from image_similarity.fingerprints import networks  # importing torch takes seconds

    return networks.resolve_layer(declared.network, prepare.layer_and_pooling(declared)[0])


def declared_in(name: str, record: Record) -> Record:
    """The settings of a fingerprint in ``record``, under the names of today; empty if they are not recorded."""
    declared = record.get("fingerprint", {}).get(name)
    return {"kind": NETWORK, **renamed.section("fingerprints", {name: declared})[name]} if declared else {}


def not_by_default(declared: Record) -> dict[str, Any]:
    """The settings of a recorded fingerprint (see `declared_in`) that have other values than if nothing was said."""
    fields = class_of(declared).model_fields
    kept = {key: value for key, value in declared.items() if key in fields and value != _plain(fields[key].default)}
    kept = {key: value for key, value in kept.items() if value is not None and key not in _DIGESTS}
    if declared["kind"] == NETWORK:
        kept.setdefault("weights", list(NetworkSettings.model_fields["weights"].default))
        own = prepare.layer_and_pooling(NetworkSettings(network=declared["network"]))
        if own == (declared.get("layer"), declared.get("pooling")):
            kept = {key: value for key, value in kept.items() if key not in ("layer", "pooling")}
    return kept


def _completed(declared: FingerprintSettings) -> dict[str, Any]:
    """The settings, without those that are left open and whose defaults only the weights tell."""
    values = declared.model_dump()
    if isinstance(declared, NetworkSettings):
        values["layer"], values["pooling"] = prepare.layer_and_pooling(declared)
    return {key: value for key, value in values.items() if value is not None}


def _changes(before: Record, now: Record, keys: Iterable[str]) -> Iterator[Change]:
    for key in keys:
        if key in before and key in now and _plain(before[key]) != _plain(now[key]):
            yield Change(key, before[key], now[key])


def _with_short_side(values: Record) -> Record:
    """``values`` of a program, with the short side to which pictures are resized where it is left open."""
    if not values.get("input_size"):
        return values
    return {**values, "resize": values.get("resize") or values["input_size"]}


def _digest(record: Record) -> str:
    """The hash of the weights that are used; empty if there are none."""
    description = record.get("description", {})
    return next((str(description[field]) for field in _DIGESTS if field in description), "")


def _plain(value: Any) -> Any:
    """As JSON has it, in which records are stored."""
    return list(value) if isinstance(value, tuple) else value


def _text(value: Any) -> str:
    return "not set" if value is None else str(_plain(value))
