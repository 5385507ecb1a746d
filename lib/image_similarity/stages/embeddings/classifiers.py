"""The classifier of a declared fingerprint: its last layers or outputs, and the names of its classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from image_similarity.fingerprints.spec import FingerprintError
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
from image_similarity.settings.fingerprints import LOGITS
from image_similarity.stages.embeddings import class_names

if TYPE_CHECKING:
    from image_similarity.fingerprints.classifier import Classifier
    from image_similarity.fingerprints.exported import Program
    from image_similarity.fingerprints.networks import Network
    from image_similarity.stages.embeddings.weights import Weights

UNTRAINED_WEIGHTS = "untrained weights tell no classes apart"
_WITHOUT_LOGITS = (
    "its images were embedded when no logits were named (embed_images --set embeddings.recheck=always keeps them)"
)


@dataclass(frozen=True)
class Outcome:
    """A classifier, or the reason why there is none."""

    classifier: "Classifier | None" = None
    reason: str = ""
    in_the_pass: Mapping[str, Any] | None = None
    """The parameters that workers need to compute logits; None if they follow from vectors, or are in their file."""


NOT_ASKED_FOR = Outcome(reason="no classifier was asked for")


def none_by_settings(declared: FingerprintSettings) -> str:
    """Why a fingerprint has no classifier, as far as its settings alone say so; else empty. Loads nothing."""
    if isinstance(declared, PcaSettings):
        return f"principal components have no classifier (their base {declared.base} may have one)"
    if isinstance(declared, ColourHistogramSettings):
        return "colour histograms have no classifier"
    if isinstance(declared, HogSettings):
        return "gradients have no classifier"
    if isinstance(declared, ExportedSettings) and LOGITS not in declared.outputs:
        return 'its settings name no logits (outputs = "vector, logits", if the program returns both)'
    if isinstance(declared, ExportedSettings) and declared.classes is None:
        return 'its settings name no classes (classes = "imagenet", or a file)'
    if isinstance(declared, NetworkSettings) and declared.weights == (UNTRAINED,):
        return UNTRAINED_WEIGHTS
    return ""


def of_network(
    declared: NetworkSettings, network: "Network", weights: "Weights", cache: Path, http: HttpSettings
) -> Outcome:
    """What follows the layer of ``network``, with the parameters of ``weights``.

    Raises ``WrongInput`` for a list of classes that does not fit.
    """
    from image_similarity.fingerprints import classifier  # importing torch takes seconds

    if not weights.trained:
        return Outcome(reason=UNTRAINED_WEIGHTS)
    try:
        after = classifier.of_network(network, weights.state, weights.source)
    except FingerprintError as error:
        return Outcome(reason=str(error))
    if declared.classes is None and after.classes != class_names.IMAGENET_CLASSES:
        return Outcome(
            reason=f"the {after.classes:,} classes of {weights.source} have no names (classes = FILE gives them)"
        )
    names = class_names.of_weights(declared.classes, after.classes, cache, http)
    known = classifier.Classifier(names, classifier.key_of(after.sha256), after.head)
    return Outcome(known, in_the_pass=None if known.from_vectors else after.parameters)


def of_program(declared: ExportedSettings, program: "Program", cache: Path, http: HttpSettings) -> Outcome:
    """The classes of the logits that ``program`` returns. Raises ``WrongInput`` for a list of classes that does not
    fit.
    """
    from image_similarity.fingerprints import classifier

    if reason := none_by_settings(declared):
        return Outcome(reason=reason)
    if program.classes is None:
        return Outcome(reason=_WITHOUT_LOGITS)
    names = class_names.of_weights(declared.classes, program.classes, cache, http)
    place = program.outputs.index(LOGITS)
    return Outcome(classifier.Classifier(names, classifier.key_of(program.program_sha256, place)))
