"""A published fingerprint, prepared again exactly as it was when the collection was embedded: from the records of runs.

Pictures from outside are embedded by it, and then compared with the collection. Needs no Spark. The record of the run
holds the whole spec, so nothing is taken from the settings of today. Of the weights it holds a hash, by which they are
checked.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from image_similarity.errors import JobFailed, WrongInput, did_you_mean, listed, sentences
from image_similarity.fingerprints.pca import Projected, Projection
from image_similarity.fingerprints.spec import FingerprintError, FingerprintSpec
from image_similarity.imaging.framing import Framing
from image_similarity.settings import (
    UNTRAINED,
    ColourHistogramSettings,
    ExportedSettings,
    FingerprintSettings,
    HogSettings,
    HttpSettings,
    NetworkSettings,
    PcaSettings,
)
from image_similarity.settings.fingerprints import VECTOR, class_of
from image_similarity.stages.embeddings import changes, classifiers, projections
from image_similarity.stages.embeddings.classifiers import Outcome
from image_similarity.stages.embeddings.prepare import PreparedFingerprint, cache
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from image_similarity.fingerprints.networks import Network
    from image_similarity.stages.embeddings import weights as sources

Weights = Mapping[str, str]
"""Fingerprint -> file or address of its weights, where those that are recorded are gone or have no whole address."""

_DIGITS = 12
_LEFT_OUT = re.compile(r"://\.\.\.@|://[^/]*:\.\.\.|\?\.\.\.$")
"""What `redaction.redacted` has left out of an address: user and password, or the query."""


def record_of(snapshot: Snapshot, fingerprint: str) -> Record:
    """The run that published the embeddings of ``fingerprint``.

    Raises ``WrongInput``, with what is published, if there are none: also for vectors of the user's own (``external``),
    which no picture can be turned into. ``JobFailed`` if the run is not recorded.
    """
    runs = snapshot.run_ids("embeddings", fingerprint)
    if not runs:
        raise WrongInput(_not_published(snapshot, fingerprint))
    record = snapshot.runs.get(runs[0])
    if record is None:
        raise JobFailed(f"fingerprint {fingerprint}: the record of its run {runs[0]} is gone from {snapshot.uri}")
    return record


def _not_published(snapshot: Snapshot, fingerprint: str) -> str:
    published = sorted(snapshot.slots("embeddings"))
    if any(slot.partition("/")[0] == fingerprint for slot in snapshot.slots("neighbours")):
        return (
            f"{fingerprint} are vectors of your own: nothing here turns a picture into such a vector; search by a "
            "vector, or by an image of the collection"
        )
    suggestion = did_you_mean(fingerprint, published) or f"; published are: {listed(published)}"
    return f"no fingerprint {fingerprint!r} is published in {snapshot.uri}{suggestion}"


def declared_of(snapshot: Snapshot, fingerprint: str) -> FingerprintSettings:
    """The settings that ``fingerprint`` was published with.

    Addresses in it are without passwords and queries: records have none. Raises as `record_of` does, and ``JobFailed``
    for settings that this version cannot read.
    """
    return _declared(record_of(snapshot, fingerprint), fingerprint)


def _declared(record: Record, name: str) -> FingerprintSettings:
    recorded = changes.declared_in(name, record.settings)
    known = class_of(recorded)
    try:
        return known.model_validate({key: value for key, value in recorded.items() if key in known.model_fields})
    except ValidationError:
        raise JobFailed(
            f"fingerprint {name}: the settings in the record of run {record.run_id} cannot be read"
        ) from None


@dataclass(frozen=True)
class FromImages:
    """What turned images into vectors: the fingerprint itself, or what a projection is based on.

    It is known before anything is loaded that takes seconds.
    """

    record: Record
    declared: FingerprintSettings
    framing: Framing


def from_images(snapshot: Snapshot, fingerprint: str) -> FromImages:
    """What turned images into the vectors of ``fingerprint``. Raises as `prepare_published` does for records."""
    record = record_of(snapshot, fingerprint)
    while isinstance(declared := _declared(record, record.slot), PcaSettings):
        record = _record_of_base(snapshot, record, record.slot)
    return FromImages(record, declared, _framing(record, record.slot))


def prepare_published(
    snapshot: Snapshot, fingerprint: str, folder: Path | None, http: HttpSettings, weights: Weights | None = None
) -> PreparedFingerprint:
    """``fingerprint`` as it was when the published vectors were computed. Its key is theirs.

    ``folder``: where the file for workers goes; None if only this process embeds, which `PreparedFingerprint.load`
    serves. Of the weights only those are taken that were used then, or ``weights[fingerprint]`` (of a projection: of it
    or its base). A projection becomes one fingerprint that embeds by its base and projects (`pca.Projected`).

    Raises ``WrongInput`` if nothing of that name is published, for vectors of the user's own, for weights that are
    gone, or are others (both keys are told); ``JobFailed`` for weights that cannot be reached, and for damaged records.
    """
    return _prepared(snapshot, record_of(snapshot, fingerprint), fingerprint, folder, http, weights or {})


def classifier_of(
    snapshot: Snapshot,
    fingerprint: str,
    declared: FingerprintSettings,
    http: HttpSettings,
    weights: Weights | None = None,
) -> Outcome:
    """The classifier of the published ``fingerprint``, or why there is none. Of its network only the last layers are
    kept in memory, and of a program nothing is loaded.

    ``declared``: the settings that it was published with (`declared_of`), perhaps with other names of ``classes``.
    Raises as `prepare_published` does, and ``WrongInput`` for classes that do not fit.
    """
    record = record_of(snapshot, fingerprint)
    if reason := classifiers.none_by_settings(declared):
        return Outcome(reason=reason)
    if record.settings.get("trained") is False:
        return Outcome(reason=classifiers.UNTRAINED_WEIGHTS)
    spec = _checked(record, fingerprint, _spec(_declared(record, fingerprint), record, fingerprint))
    if isinstance(declared, ExportedSettings):
        return classifiers.of_program(declared, spec, cache(), http)  # type: ignore[arg-type]
    assert isinstance(declared, NetworkSettings)
    with _about_weights(fingerprint):
        resolved, fitted = _resolved(declared, spec, record, fingerprint, http, weights or {}, mapped=True)
    if fitted.spec.key != spec.key:
        raise WrongInput(_other_weights(spec, fitted, record, fingerprint))
    outcome = classifiers.of_network(declared, spec, resolved, cache(), http)  # type: ignore[arg-type]
    _check_classifier(outcome, resolved.source, record, fingerprint)
    return outcome


def _check_classifier(outcome: Outcome, source: str, record: Record, name: str) -> None:
    """Raises ``WrongInput`` for another classifier than images were embedded with, which makes the same vectors.

    Records of earlier versions name none.
    """
    now, then = outcome.classifier.key if outcome.classifier else None, record.settings.get("classifier_key")
    if None not in (now, then) and now != then:
        raise WrongInput(
            f"fingerprint {name}: the weights {source} make the vectors of the collection, but end in another "
            f"classifier (key {now}; when images were embedded: {then}). {_remedy(name)}"
        )


def _prepared(
    snapshot: Snapshot, record: Record, name: str, folder: Path | None, http: HttpSettings, weights: Weights
) -> PreparedFingerprint:
    declared = _declared(record, name)
    if isinstance(declared, PcaSettings):
        weights = {declared.base: weights[name], **weights} if name in weights else weights
        base = _prepared(snapshot, _record_of_base(snapshot, record, name), declared.base, folder, http, weights)
        projected = Projected(base.spec.framing, base.spec, _projection(snapshot, name, record))
        return replace(base, spec=_checked(record, name, projected))
    spec = _checked(record, name, _spec(declared, record, name))
    if not isinstance(declared, (NetworkSettings, ExportedSettings)):
        return PreparedFingerprint(spec)
    with _about_weights(name):
        prepared = _with_weights(declared, spec, record, name, http, weights)
    if prepared.spec.key != spec.key:
        raise WrongInput(_other_weights(spec, prepared, record, name))
    return prepared if folder is None else _saved(prepared, folder / f"{name}.pt")


def _saved(prepared: PreparedFingerprint, file: Path) -> PreparedFingerprint:
    """``prepared``, with its parameters in ``file``. A program is in a file already."""
    if prepared.parameters is None:
        return prepared
    from image_similarity.fingerprints import networks

    networks.save(prepared.parameters, file)
    return replace(prepared, file=file, parameters=None)


# -- projections -------------------------------------------------------------------------------------------------------


def _record_of_base(snapshot: Snapshot, record: Record, name: str) -> Record:
    """The run whose vectors were projected. The base's published vectors may be others by now."""
    for run in record.inputs.get("embeddings", ()):
        if run in snapshot.runs:
            return snapshot.runs[run]
    raise JobFailed(f"fingerprint {name}: the run whose vectors it was projected from is not recorded")


def _projection(snapshot: Snapshot, name: str, record: Record) -> Projection:
    import pyarrow.dataset as ds  # it imports pandas, which takes part of a second

    key = record.settings.get("fingerprint_key")
    rows = snapshot.dataset("projections", name).to_table(filter=ds.field("fingerprint_key") == key).to_pylist()
    if not rows:
        raise JobFailed(f"fingerprint {name}: its projection (key {key}) is gone from {snapshot.uri}")
    return projections.stored(rows)


# -- the spec, as it is recorded ---------------------------------------------------------------------------------------


def _spec(declared: FingerprintSettings, record: Record, name: str) -> FingerprintSpec:
    """The spec in ``record``. ``WrongInput`` if the version that wrote it described fingerprints in another way."""
    values = {**record.settings.get("description", {}), "framing": _framing(record, name)}
    try:
        if isinstance(declared, ColourHistogramSettings):
            return _colour_histogram(values)
        if isinstance(declared, HogSettings):
            return _gradients(values)
        return _of_torch(declared, values)
    except (KeyError, TypeError, ValueError):
        raise _of_another_version(record, name) from None


def _framing(record: Record, name: str) -> Framing:
    try:
        return Framing(**record.settings["description"]["framing"])
    except (KeyError, TypeError):
        raise _of_another_version(record, name) from None


def _of_another_version(record: Record, name: str) -> WrongInput:
    return WrongInput(
        f"fingerprint {name} was published by another version of this program (run {record.run_id}), which described "
        "it in another way: embed the collection again by this version"
    )


def _colour_histogram(values: dict[str, Any]) -> FingerprintSpec:
    from image_similarity.fingerprints.colour_histogram import ColourHistogram  # importing scikit-image takes a second

    return ColourHistogram(**{**values, "bins": tuple(values["bins"])})


def _gradients(values: dict[str, Any]) -> FingerprintSpec:
    from image_similarity.fingerprints.hog import OrientedGradients

    return OrientedGradients(**values)


def _of_torch(declared: FingerprintSettings, values: dict[str, Any]) -> FingerprintSpec:
    from image_similarity.fingerprints.inference import Normalisation, Pooling  # importing torch takes seconds

    normalisation, pooling = values["normalisation"], values["pooling"]
    values["normalisation"] = Normalisation(
        **{**normalisation, "mean": tuple(normalisation["mean"]), "std": tuple(normalisation["std"])}
    )
    values["pooling"] = Pooling(pooling["how"], tuple(pooling["axes"]))
    if isinstance(declared, ExportedSettings):
        from image_similarity.fingerprints.exported import Program

        return Program(**{**values, "outputs": tuple(values.get("outputs", (VECTOR,)))})
    from image_similarity.fingerprints.networks import Network

    return Network(**values)


def _checked(record: Record, name: str, spec: FingerprintSpec) -> FingerprintSpec:
    """``spec``, if it has the key of the published vectors. Raises ``WrongInput`` if not."""
    published = record.settings.get("fingerprint_key")
    if spec.key == published:
        return spec
    raise WrongInput(
        f"fingerprint {name}: this version of the program computes other vectors (key {spec.key}) than those that are "
        f"published (key {published}): embed the collection again by this version"
    )


# -- weights -----------------------------------------------------------------------------------------------------------


def _with_weights(
    declared: NetworkSettings | ExportedSettings,
    spec: FingerprintSpec,
    record: Record,
    name: str,
    http: HttpSettings,
    weights: Weights,
) -> PreparedFingerprint:
    """``spec`` with the weights that were used, or with ``weights[name]``. They may be others: the key tells."""
    if isinstance(declared, ExportedSettings):
        from image_similarity.fingerprints import exported
        from image_similarity.stages.embeddings import weights as sources

        source, pinned = _pinned_source(declared, record, name, weights)
        program = sources.resolve_program([source], pinned, cache(), http, _remedy(name))
        now: FingerprintSpec = replace(spec, program_sha256=exported.sha256_of(program.path))  # type: ignore[call-arg]
        return PreparedFingerprint(now, program.path, {"weights": source, "trained": True}, _notes(program.notes))
    return _resolved(declared, spec, record, name, http, weights)[1]


def _resolved(
    declared: NetworkSettings,
    spec: FingerprintSpec,
    record: Record,
    name: str,
    http: HttpSettings,
    weights: Weights,
    mapped: bool = False,
) -> "tuple[sources.Weights, PreparedFingerprint]":
    """The weights of a network, and ``spec`` with them. ``mapped``: see `weights.resolve`."""
    from image_similarity.stages.embeddings import weights as sources

    network: Network = spec  # type: ignore[assignment]
    source, pinned = _pinned_source(declared, record, name, weights)
    resolved = sources.resolve(
        declared.network, [source], pinned, declared.seed, cache(), http, _remedy(name), mapped=mapped
    )
    fitted = network.with_parameters(resolved.state, source)
    used = {"weights": resolved.source, "trained": resolved.trained}
    return resolved, PreparedFingerprint(fitted.network, None, used, _notes(resolved.notes), parameters=fitted.state)


def _pinned_source(
    declared: NetworkSettings | ExportedSettings, record: Record, name: str, weights: Weights
) -> tuple[str, str | None]:
    """The weights that were used, or ``weights[name]``; and their checksum, if it is declared."""
    return (weights[name], None) if name in weights else (_source(record, name), declared.weights_sha256)


def _source(record: Record, name: str) -> str:
    """The weights that were used, as settings name them."""
    if record.settings.get("trained") is False:
        return UNTRAINED
    source = record.settings.get("weights")
    if source is None:
        raise WrongInput(f"its weights are not recorded (run {record.run_id}). {_remedy(name)}")
    if _LEFT_OUT.search(source):
        raise WrongInput(f"its weights are at {source}, an address that records keep only in part. {_remedy(name)}")
    return str(source)


def _remedy(name: str) -> str:
    """Holds for every command, and in answers of a server."""
    return f"Name a file or address with the same weights: --weights {name}=FILE (in Python weights={{{name!r}: FILE}})"


def _notes(notes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"note: {line}" for line in notes)


def _other_weights(published: FingerprintSpec, now: PreparedFingerprint, record: Record, name: str) -> str:
    digests = [_digest(spec)[:_DIGITS] for spec in (now.spec, published)]
    keys = f"key {now.spec.key}, sha256 {digests[0]}...; published: key {published.key}, sha256 {digests[1]}..."
    if not now.used["trained"]:
        import torch

        then = record.versions.get("torch", "an unknown version")
        return (
            f"fingerprint {name}: random weights of torch {torch.__version__} are not those of torch {then}, by which "
            f"the collection was embedded ({keys}): search with that version, or embed the collection again"
        )
    source = now.used["weights"]
    return f"fingerprint {name}: the weights {source} are not those of the collection ({keys}). {_remedy(name)}"


def _digest(spec: FingerprintSpec) -> str:
    return str(getattr(spec, "weights_sha256", None) or getattr(spec, "program_sha256", ""))


@contextmanager
def _about_weights(name: str) -> Iterator[None]:
    """Errors name the fingerprint, and what can be done about weights that are gone."""
    try:
        yield
    except FingerprintError as error:
        raise WrongInput(sentences(f"fingerprint {name}: {error}", _remedy(name))) from None
    except JobFailed as error:
        advice = "" if str(error).endswith(_remedy(name)) else _remedy(name)
        raise type(error)(sentences(f"fingerprint {name}: {error}", advice)) from None
