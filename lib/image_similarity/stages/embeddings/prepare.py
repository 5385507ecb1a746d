"""Prepares declared fingerprints on the driver: resolves and checks their weights, and saves files for the workers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_similarity.errors import WrongInput, counted
from image_similarity.fingerprints.spec import Fingerprint, FingerprintError, FingerprintSpec, Parameters
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
from image_similarity.stages.embeddings import class_names, classifiers, local_weights

if TYPE_CHECKING:
    from image_similarity.fingerprints.classifier import Classifier
    from image_similarity.fingerprints.hog import OrientedGradients


@dataclass(frozen=True)
class PreparedFingerprint:
    """A fingerprint that is ready to embed images."""

    spec: FingerprintSpec
    file: Path | None = None
    """The file that workers load it from; None if they need none."""
    used: Mapping[str, Any] = field(default_factory=dict)
    """Recorded in ``runs.settings``: the source of the weights, and whether they are trained."""
    notes: tuple[str, ...] = ()
    """Notes for people, one line each."""
    completed: Mapping[str, Any] = field(default_factory=dict)
    """Keys that the declaration may leave open, with the values that were used."""
    parameters: Parameters | None = None
    """What would be in ``file``, where only this process needs it."""
    classifier: "Classifier | None" = None
    """What names the classes in a picture."""
    no_classifier: str = ""
    """Why there is none: one line, which goes after the name of the fingerprint and a colon."""

    @property
    def keeps_classes(self) -> bool:
        """Whether the pass that embeds images must keep their classes, since they do not follow from vectors.

        Then ``file`` holds the whole network, and ``load(..., logits=True)`` works.
        """
        return self.classifier is not None and not self.classifier.from_vectors

    def load(self, device: str, batch: int | None = None, logits: bool = False) -> Fingerprint:
        """The fingerprint itself, in this process. See `FingerprintSpec.load`."""
        file = str(self.file) if self.file is not None else None
        return self.spec.load(file if self.parameters is None else self.parameters, device, batch, logits)


def with_bases(settings: Settings, names: list[str]) -> list[str]:
    """``names`` without repetition, each after its base fingerprint. Raises ``WrongInput`` if one is not declared."""
    ordered: list[str] = []
    for name in names:
        declared = settings.fingerprint(name)
        if isinstance(declared, PcaSettings):
            ordered += with_bases(settings, [declared.base])
        ordered.append(name)
    return list(dict.fromkeys(ordered))


def check(name: str, declared: FingerprintSettings) -> None:
    """Raises ``WrongInput`` if the network, the layer, or every file of weights does not exist.

    Loads no weights, so it fails early.
    """
    if isinstance(declared, (NetworkSettings, ExportedSettings)):
        class_names.check(declared.classes)
    if isinstance(declared, ExportedSettings):
        local_weights.check(declared.weights)
    if isinstance(declared, NetworkSettings):
        local_weights.check(declared.weights)
        from image_similarity.fingerprints import networks  # importing torch takes seconds
        from image_similarity.stages.embeddings import weights

        with _faults_as_wrong_input(f"fingerprint {name}"):
            networks.check_network(declared.network)
            if declared.layer is not None:
                networks.resolve_layer(declared.network, declared.layer)
        for weights_name in declared.weights:
            weights.check_name(declared.network, weights_name)


def check_together(settings: Settings, names: Sequence[str]) -> None:
    """Raises ``WrongInput`` for two of ``names`` (each after its base) that are declared alike, and for a projection to
    more values than its base has. Loads no weights.
    """
    by_settings: list[tuple[FingerprintSettings, str]] = []
    for name in names:
        declared = settings.fingerprint(name)
        for other, first in by_settings:
            if other.of_vectors() == declared.of_vectors():
                raise WrongInput(alike(first, name))
        by_settings.append((declared, name))
        length = vector_length(settings.fingerprint(declared.base)) if isinstance(declared, PcaSettings) else None
        if isinstance(declared, PcaSettings) and length is not None and length < declared.dimensions:
            raise WrongInput(
                f"fingerprints.{name}.dimensions is {declared.dimensions}, but {declared.base} has vectors of "
                f"{counted(length, 'value')}: a projection has at most as many dimensions"
            )


def alike(first: str, second: str) -> str:
    """The message for two fingerprints that give the same vectors."""
    return f"fingerprints {first} and {second} are declared alike: one of them is enough"


def described(declared: FingerprintSettings) -> str:
    """A short description for plans."""
    if isinstance(declared, PcaSettings):
        return f"{counted(declared.dimensions, 'principal component')} of {declared.base}"
    if isinstance(declared, NetworkSettings):
        layer, _ = layer_and_pooling(declared)
        return f"{declared.network} {layer}, weights {' or '.join(declared.weights)}"
    if isinstance(declared, ExportedSettings):
        return f"the program {' or '.join(declared.weights)}"
    return declared.kind


def vector_length(declared: FingerprintSettings) -> int | None:
    """Values of a vector; None for a program, which would have to be run. Raises ``FingerprintError`` for a layer that
    is not there.
    """
    if isinstance(declared, PcaSettings):
        return declared.dimensions
    if isinstance(declared, ColourHistogramSettings):
        return math.prod(declared.bins)
    if isinstance(declared, HogSettings):
        return _hog(declared).dimensions
    if isinstance(declared, NetworkSettings):
        from image_similarity.fingerprints import networks

        return networks.vector_length(declared.network, *layer_and_pooling(declared))
    return None


def prepare(
    name: str, declared: FingerprintSettings, folder: Path, http: HttpSettings, classifier: bool = True
) -> PreparedFingerprint:
    """Prepares the fingerprint ``name``. Files for workers go into ``folder``.

    ``classifier``: whether one is looked for, which takes up to a few seconds and holds the parameters of the last
    layer (16 MB of VGG16). Raises ``WrongInput`` for weights or a list of classes that do not fit, and ``JobFailed``
    for weights that are not available.
    """
    if isinstance(declared, NetworkSettings):
        with _faults_as_wrong_input(f"fingerprint {name}"):
            return _network(declared, folder / f"{name}.pt", http, classifier)
    if isinstance(declared, ExportedSettings):
        with _faults_as_wrong_input(f"fingerprint {name}"):
            return _program(name, declared, http, classifier)
    if isinstance(declared, ColourHistogramSettings):
        from image_similarity.fingerprints import colour_histogram

        return PreparedFingerprint(
            colour_histogram.described(declared.space, declared.bins, declared.decoding == "scaled"),
            no_classifier=classifiers.none_by_settings(declared),
        )
    if isinstance(declared, HogSettings):
        return PreparedFingerprint(_hog(declared), no_classifier=classifiers.none_by_settings(declared))
    raise WrongInput(f"fingerprint {name} is made of vectors, not of images")


def _hog(declared: HogSettings) -> "OrientedGradients":
    from image_similarity.fingerprints import hog  # importing scikit-image takes a second

    return hog.described(
        declared.size, declared.orientations, declared.cell, declared.block, declared.decoding == "scaled"
    )


@contextmanager
def _faults_as_wrong_input(what: str) -> Iterator[None]:
    try:
        yield
    except FingerprintError as error:
        raise WrongInput(f"{what}: {error}") from None


def cache() -> Path:
    """torchvision's own cache, so that weights it has already downloaded are used."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def _network(declared: NetworkSettings, file: Path, http: HttpSettings, classifier: bool) -> PreparedFingerprint:
    from image_similarity.fingerprints import networks
    from image_similarity.stages.embeddings import weights

    resolved = weights.resolve(
        declared.network, declared.weights, declared.weights_sha256, declared.seed, cache(), http
    )
    layer, pooling = layer_and_pooling(declared)
    prepared = networks.prepare(
        declared.network,
        layer,
        resolved.state,
        pooling=pooling,
        preprocessing=declared.preprocessing,
        precision=declared.precision,
        source=resolved.source,
        scaled=declared.decoding == "scaled",
    )
    after = (
        classifiers.of_network(declared, prepared.network, resolved, cache(), http)
        if classifier
        else classifiers.NOT_ASKED_FOR
    )
    prepared.save(file, after.in_the_pass)
    return PreparedFingerprint(
        prepared.network,
        file,
        {"weights": resolved.source, "trained": resolved.trained},
        (*_notes(declared, resolved), *_about_preprocessing(declared, resolved.source)),
        {"layer": layer, "pooling": pooling},
        classifier=after.classifier,
        no_classifier=after.reason,
    )


def layer_and_pooling(declared: NetworkSettings) -> tuple[str, str]:
    """Those of ``declared``, or the network's own in the place of what is left open."""
    if declared.layer is not None:
        return declared.layer, declared.pooling or "none"
    from image_similarity.fingerprints import networks

    layer, pooling = networks.default_layer(declared.network)
    return layer, declared.pooling or pooling


def _program(name: str, declared: ExportedSettings, http: HttpSettings, classifier: bool) -> PreparedFingerprint:
    from image_similarity.fingerprints import exported
    from image_similarity.fingerprints.inference import CAFFE, Normalisation
    from image_similarity.imaging.framing import Framing
    from image_similarity.stages.embeddings import weights

    resolved = weights.resolve_program(declared.weights, declared.weights_sha256, cache(), http)
    size = declared.input_size or exported.input_side(resolved.path, resolved.source)
    framing = Framing(declared.resize or size, size, declared.interpolation, scaled=declared.decoding == "scaled")
    normalisation = CAFFE if declared.preprocessing == "caffe" else Normalisation(declared.mean, declared.std)
    program = exported.prepare(
        resolved.path,
        framing,
        normalisation,
        declared.pooling or "none",
        declared.precision,
        resolved.source,
        declared.outputs,
    )
    after = classifiers.of_program(declared, program, cache(), http) if classifier else classifiers.NOT_ASKED_FOR
    return PreparedFingerprint(
        program,
        resolved.path,
        {"weights": resolved.source, "trained": True},
        (
            *_notes(declared, resolved),
            *_about_preprocessing(declared, resolved.source),
            *_about_defaults(name, declared),
        ),
        {"input_size": size},
        classifier=after.classifier,
        no_classifier=after.reason,
    )


def _about_preprocessing(declared: NetworkSettings | ExportedSettings, source: str) -> tuple[str, ...]:
    """A note where the name of the weights speaks for another preprocessing than the declared one.

    The values of weights do not tell: converted ones may be as large as torchvision's.
    """
    name = source.partition("?")[0].rpartition("/")[2]
    says_otherwise = isinstance(declared, ExportedSettings) and {"mean", "std"} & declared.model_fields_set
    if declared.preprocessing != "caffe" and "caffe" in name.lower() and not says_otherwise:
        return (f"note: {name} has caffe in its name, but preprocessing is torchvision (--preprocessing caffe?)",)
    if declared.preprocessing == "caffe" and isinstance(declared, NetworkSettings) and _is_torchvisions(declared, name):
        return (f"note: {name} is what torchvision calls its own weights, but preprocessing is caffe (leave it out?)",)
    return ()


def _about_defaults(name: str, declared: ExportedSettings) -> tuple[str, ...]:
    """A note where nobody said how pictures are prepared for the program, which does not say it either."""
    if declared.preprocessing == "caffe" or {"mean", "std"} & declared.model_fields_set:
        return ()
    flags = " ".join(f"--set 'fingerprints.{name}.{key}=[R, G, B]'" for key in ("mean", "std"))
    return (f"note: pictures are prepared with ImageNet's mean and std: if the program wants others, give {flags}",)


def _is_torchvisions(declared: NetworkSettings, name: str) -> bool:
    """Whether ``name`` is one of torchvision's weights of the network, or the name of its file."""
    from torchvision.models import get_model_weights

    known = get_model_weights(declared.network).__members__
    return name in known or name in [weights.url.rpartition("/")[2] for weights in known.values()]


def _notes(declared: NetworkSettings | ExportedSettings, resolved: Any) -> tuple[str, ...]:
    """Which weights are used, told once: the plan names them where only one was declared."""
    remedy = "a file that you have can be named as its weights"
    passed_over = tuple(f"note: {line}; going on with {resolved.source}; {remedy}" for line in resolved.passed_over)
    chosen = (f"weights: {resolved.source}",) if len(declared.weights) > 1 and not passed_over else ()
    return (*passed_over, *(f"note: {line}" for line in resolved.notes), *chosen)


def record(name: str, declared: FingerprintSettings, prepared: PreparedFingerprint) -> dict[str, Any]:
    """The record of a fingerprint for ``runs.settings``."""
    return {
        "fingerprint": {name: {**declared.model_dump(), **prepared.completed}},
        "description": asdict(prepared.spec),
        "fingerprint_key": prepared.spec.key,
        **({"classifier_key": prepared.classifier.key} if prepared.classifier else {}),
        **prepared.used,
    }
