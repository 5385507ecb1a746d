"""What settings declare as fingerprints, made ready on the driver: weights found, checked, and saved for workers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from image_similarity.errors import WrongInput
from image_similarity.fingerprints.spec import FingerprintError, FingerprintSpec
from image_similarity.settings import (
    ColourHistogramSettings,
    ExportedSettings,
    FingerprintSettings,
    HogSettings,
    HttpSettings,
    NetworkSettings,
    PcaSettings,
    Settings,
)


@dataclass(frozen=True)
class PreparedFingerprint:
    """A fingerprint that images can be put through."""

    description: FingerprintSpec
    file: Path | None = None
    """What its workers need, in the folder that was given."""
    used: Mapping[str, Any] = field(default_factory=dict)
    """For the record: where weights came from, and whether they are trained."""
    notes: tuple[str, ...] = ()
    """What a person should know, one line each."""


def with_bases(settings: Settings, names: list[str]) -> list[str]:
    """``names`` without repetition, each behind the fingerprint that it is made of. ``WrongInput`` if one is not
    declared."""
    ordered: list[str] = []
    for name in names:
        declared = settings.fingerprint(name)
        if isinstance(declared, PcaSettings):
            ordered += with_bases(settings, [declared.base])
        ordered.append(name)
    return list(dict.fromkeys(ordered))


def check(name: str, declared: FingerprintSettings) -> None:
    """``WrongInput`` if the network or the layer does not exist: what can be told without weights, at once."""
    if isinstance(declared, NetworkSettings):
        from image_similarity.fingerprints import networks  # torch takes seconds

        with _faults_as_wrong_input():
            networks.check_network(declared.network)
            networks.resolve_layer(declared.network, declared.layer)


def described(declared: FingerprintSettings) -> str:
    """In a few words, for plans."""
    if isinstance(declared, PcaSettings):
        return f"{declared.dimensions} principal components of {declared.base}"
    if isinstance(declared, NetworkSettings):
        return f"{declared.network} {declared.layer}, weights {' or '.join(declared.weights)}"
    if isinstance(declared, ExportedSettings):
        return f"the program {' or '.join(declared.weights)}"
    return declared.kind


def prepare(name: str, declared: FingerprintSettings, folder: Path, http: HttpSettings) -> PreparedFingerprint:
    """Make fingerprint ``name`` ready; files for workers go into ``folder``.

    Raises ``WrongInput`` for weights that do not fit and ``JobFailed`` for those that cannot be had.
    """
    if isinstance(declared, NetworkSettings):
        with _faults_as_wrong_input():
            return _network(declared, folder / f"{name}.pt", http)
    if isinstance(declared, ExportedSettings):
        with _faults_as_wrong_input():
            return _program(declared, http)
    if isinstance(declared, ColourHistogramSettings):
        from image_similarity.fingerprints import colour_histogram

        return PreparedFingerprint(
            colour_histogram.described(declared.space, declared.bins, declared.decoding == "scaled")
        )
    if isinstance(declared, HogSettings):
        from image_similarity.fingerprints import hog

        described = hog.described(
            declared.size, declared.orientations, declared.cell, declared.block, declared.decoding == "scaled"
        )
        return PreparedFingerprint(described)
    raise WrongInput(f"fingerprint {name} is made of vectors, not of images")


@contextmanager
def _faults_as_wrong_input() -> Iterator[None]:
    try:
        yield
    except FingerprintError as error:
        raise WrongInput(str(error)) from None


def cache() -> Path:
    """torchvision's own: what it has downloaded is found."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def _network(declared: NetworkSettings, file: Path, http: HttpSettings) -> PreparedFingerprint:
    from image_similarity.fingerprints import networks
    from image_similarity.stages.embeddings import weights

    found = weights.resolve(declared.network, declared.weights, declared.weights_sha256, declared.seed, cache(), http)
    prepared = networks.prepare(
        declared.network,
        declared.layer,
        found.state,
        pooling=declared.pooling,
        preprocessing=declared.preprocessing,
        precision=declared.precision,
        source=found.source,
        scaled=declared.decoding == "scaled",
    )
    prepared.save(file)
    return PreparedFingerprint(
        prepared.network, file, {"weights": found.source, "trained": found.trained}, _notes(found)
    )


def _program(declared: ExportedSettings, http: HttpSettings) -> PreparedFingerprint:
    from image_similarity.fingerprints import exported
    from image_similarity.fingerprints.inference import CAFFE, Normalisation
    from image_similarity.imaging.framing import Framing
    from image_similarity.stages.embeddings import weights

    found = weights.resolve_program(declared.weights, declared.weights_sha256, cache(), http)
    size = declared.input_size
    framing = Framing(declared.resize or size, size, declared.interpolation, scaled=declared.decoding == "scaled")
    normalisation = CAFFE if declared.preprocessing == "caffe" else Normalisation(declared.mean, declared.std)
    program = exported.prepare(found.path, framing, normalisation, declared.pooling, declared.precision, found.source)
    return PreparedFingerprint(program, found.path, {"weights": found.source, "trained": True}, _notes(found))


def _notes(found: Any) -> tuple[str, ...]:
    passed_over = tuple(f"note: {line}; going on with {found.source}" for line in found.passed_over)
    return (*passed_over, f"weights: {found.source}")


def record(name: str, declared: FingerprintSettings, ready: PreparedFingerprint) -> dict[str, Any]:
    """For ``runs.settings``."""
    return {
        "fingerprint": {name: declared.model_dump()},
        "description": asdict(ready.description),
        "fingerprint_key": ready.description.key,
        **ready.used,
    }
