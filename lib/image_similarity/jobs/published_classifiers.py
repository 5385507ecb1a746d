"""The classifiers of published fingerprints: which fingerprints have one, and that of one of them, made ready."""

# What prepares weights is imported where it is used: what is wrong in the arguments should not wait for torch.

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from image_similarity.errors import JobFailed, WrongInput, listed
from image_similarity.jobs import same_way
from image_similarity.jobs.job import Job
from image_similarity.settings import FingerprintSettings, Settings
from image_similarity.stages.embeddings import classifiers as declared_classifiers
from image_similarity.stages.embeddings import published as published_fingerprints
from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from image_similarity.fingerprints.classifier import Classifier

_CHANGE_NO_VECTOR = ("outputs", "classes")
"""Settings that may be declared otherwise than when images were embedded."""


class NoTags(WrongInput):
    """Nothing can be said of the images by this fingerprint. A pipeline goes on without tags."""


@dataclass(frozen=True)
class Prepared:
    """The classifier of a published fingerprint."""

    classifier: "Classifier"
    key: str
    """The ``fingerprint_key`` of the published vectors."""


# -- what records tell -------------------------------------------------------------------------------------------------


def declared_of(published: Snapshot, settings: Settings, name: str, classes: str | None) -> FingerprintSettings:
    """The published fingerprint ``name`` as it was declared, with the classes that are declared now, or those in the
    file ``classes``.

    Raises as `published.declared_of` does.
    """
    recorded = published_fingerprints.declared_of(published, name)
    now = settings.fingerprints.get(name)
    changed: dict[str, Any] = {}
    if type(now) is type(recorded):
        changed = {key: getattr(now, key) for key in _CHANGE_NO_VECTOR if key in now.model_fields_set}
    if classes is not None and "classes" in type(recorded).model_fields:
        changed["classes"] = classes
    return recorded.model_copy(update=changed)


def why_none(published: Snapshot, settings: Settings, name: str, classes: str | None = None) -> str:
    """Why the published fingerprint ``name`` has no classifier, as far as records tell; empty if it may have one."""
    record = same_way.record_of(published, name)
    if record is not None and record.settings.get("trained") is False:
        return f"its weights are {record.settings.get('weights', 'untrained')}, which have seen no picture"
    try:
        return declared_classifiers.none_by_settings(declared_of(published, settings, name, classes))
    except JobFailed:  # of its run there is no record, or one that cannot be read
        return ""


def check(published: Snapshot, settings: Settings, name: str, classes: str | None) -> None:
    """Raises `NoTags`, with the published fingerprints that have one, where ``name`` has no classifier for certain."""
    if because := why_none(published, settings, name, classes):
        raise NoTags(_without(published, settings, name, because))


def _without(published: Snapshot, settings: Settings, name: str, because: str) -> str:
    others = [one for one in sorted(published.slots("embeddings")) if one != name]
    able = [one for one in others if not why_none(published, settings, one)]
    advice = f"published with one: {listed(able)} (--fingerprint NAME)" if able else "no published fingerprint has one"
    return f"fingerprint {name} has no classifier: {because}; {advice}"


# -- made ready --------------------------------------------------------------------------------------------------------


def check_embedded_by(job: Job) -> None:
    """Raises `NoTags` where this application has embedded by the fingerprint of ``job``, and it has no classifier."""
    classifier, because = _embedded_by(job, job.slot)
    if classifier is None and because is not None:
        raise NoTags(_without(job.base_snapshot, job.settings, job.slot, because))


def prepared(job: Job, classes: str | None = None, weights: str | None = None) -> Prepared:
    """The classifier of the published fingerprint that is the slot of ``job``.

    ``classes``: a file with the names of its classes, in the place of those that are declared. ``weights``: where its
    weights are now, if not where they were. Raises `NoTags` where
    there is none, and ``WrongInput`` for weights that are not those of the published vectors (both keys are told).
    """
    name = job.slot
    classifier, because = _embedded_by(job, name) if classes is None else (None, None)
    if because is None:
        published, declared = job.base_snapshot, declared_of(job.base_snapshot, job.settings, name, classes)
        given = {name: weights.removeprefix(f"{name}=")} if weights is not None else None  # NAME=FILE, as in messages
        outcome = published_fingerprints.classifier_of(published, name, declared, job.settings.http, given)
        classifier, because = outcome.classifier, outcome.reason
    if classifier is None:
        raise NoTags(_without(job.base_snapshot, job.settings, name, because))
    return Prepared(classifier, key_of(job.base_snapshot, name))


def _embedded_by(job: Job, name: str) -> "tuple[Classifier | None, str | None]":
    """The classifier of the fingerprint by which this application has embedded, or why it has none. Two None where it
    has embedded by none of this name, or by another one.
    """
    fingerprint = job.application.prepared.get(name)
    if fingerprint is None or fingerprint.spec.key != key_of(job.base_snapshot, name):
        return None, None
    return fingerprint.classifier, fingerprint.no_classifier


def key_of(published: Snapshot, name: str) -> str:
    """The ``fingerprint_key`` of the published vectors. Raises ``JobFailed`` if images were embedded in several ways,
    or none has a vector.
    """
    batches = published.batches("embeddings", name, ["fingerprint_key"])
    keys = sorted({key for batch in batches for key in batch.column(0).unique().to_pylist()})
    if len(keys) != 1:
        raise JobFailed(f"the embeddings {name} mix the keys {', '.join(keys)}: run embed_images again")
    return str(keys[0])
