"""``[fingerprints.NAME]``: the computation of a vector from an image, one class for each kind."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from image_similarity.errors import counted, did_you_mean, listed
from image_similarity.settings.base import Section, Strings, as_three, as_tuple

DEFAULT_FINGERPRINT = "vgg16-fc2"
UNTRAINED = "untrained"
_NAME = re.compile(r"[a-z0-9-]+")
Channels = Annotated[tuple[float, float, float], BeforeValidator(as_three)]
Bins = Annotated[int, Field(ge=1, le=256)]
Pooling = Literal["none", "average", "max"]
Precision = Literal["float32", "tf32", "bfloat16", "float16"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Output = Literal["vector", "logits", "other"]
VECTOR: Output = "vector"
LOGITS: Output = "logits"
OTHER: Output = "other"
IMAGENET = "imagenet"


def _as_list(value: Any) -> Any:
    """``"vector, logits"`` as a tuple of its words."""
    return tuple(word.strip() for word in value.split(",")) if isinstance(value, str) else as_tuple(value)


Outputs = Annotated[tuple[Output, ...], BeforeValidator(_as_list), Field(min_length=1)]


class FingerprintSettings(Section):
    """``[fingerprints.NAME]``: the computation of a vector from an image. Any change here changes the vectors.

    ``kind`` selects one of the classes below, and so the keys that exist.
    """

    kind: str
    """``network`` (the default), ``exported``, ``colour-histogram``, ``hog`` or ``pca``."""

    def of_vectors(self) -> "FingerprintSettings":
        """These settings, without the ones that change no vector."""
        return self


class ImageFingerprintSettings(FingerprintSettings):
    """The settings of all fingerprints that are computed from images."""

    decoding: Literal["scaled", "full"] = "scaled"
    """``scaled``: a JPEG is decoded at a half, a quarter or an eighth of its size, as long as its short side keeps 512
    pixels and twice the side that the network resizes to. ``full``: a JPEG is always decoded whole, which takes up to
    five times as long."""


class NetworkSettings(ImageFingerprintSettings):
    """A layer of one of torchvision's networks."""

    kind: Literal["network"] = "network"

    network: str
    """Name of a torchvision classification network (``vgg16``, ``resnet18``, ``squeezenet1_1``, ...)."""

    layer: str | None = None
    """Any node of the network, or a module, which stands for its last node. VGG has the aliases ``fc1`` and ``fc2``.
    Default: the last layer before the classifier, which is ``fc2`` of VGG."""

    weights: Strings = ("IMAGENET1K_V1",)
    """A torchvision name, a path or URI of a state dict, or ``untrained``. A list is tried in order."""

    weights_sha256: Sha256 | None = None
    """If set, the file of the weights must have this checksum."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the ``untrained`` weights."""

    pooling: Pooling | None = None
    """Pooling over the spatial axes (or tokens) of the layer's output. ``none`` flattens the output. Default: ``none``;
    if ``layer`` is left out, too, ``average`` where the output has spatial axes, as in SqueezeNet."""

    preprocessing: Literal["torchvision", "caffe"] = "torchvision"
    """``torchvision``: the normalisation that torchvision declares for the weights. ``caffe``: BGR, 0 to 255, mean
    subtracted, for weights converted from Caffe or Keras. Resizing and cropping are torchvision's in both."""

    precision: Precision = "float32"
    """Precision of the network's arithmetic. Vectors are stored as float32. ``tf32``: on a GPU, float32
    rounded to 10 bits before it is multiplied, several times as fast; float32 elsewhere."""

    classes: str | None = None
    """Names of the classes that the network tells apart, for tags: ``imagenet``, or a file with one class a line or a
    column ``class`` (CSV), in the order of the logits. Default: those of torchvision's weights; ImageNet's for other
    weights of 1,000 classes. It changes no vector."""

    def of_vectors(self) -> "NetworkSettings":
        return self.model_copy(update={"classes": None})


class ExportedSettings(ImageFingerprintSettings):
    """Your own encoder, as a ``torch.export`` program. It is code: use programs that you trust."""

    kind: Literal["exported"]

    weights: Strings
    """A path or URI of the program (``.pt2``). A list is tried in order."""

    weights_sha256: Sha256 | None = None
    """If set, the file of the program must have this checksum."""

    input_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Side of the square picture that the program takes, in pixels: (n, 3, input_size, input_size) float32. Default:
    that of the program, or of its example input if it takes several sizes."""

    resize: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Short side of the picture in pixels, before the square is cut from its middle. Default: ``input_size``."""

    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    """Interpolation of resizing."""

    preprocessing: Literal["torchvision", "caffe"] = "torchvision"
    """``torchvision``: RGB, 0 to 1, then ``mean`` and ``std``. ``caffe``: BGR, 0 to 255, Caffe's mean subtracted."""

    mean: Channels = (0.485, 0.456, 0.406)
    """Subtracted from red, green and blue. The default is ImageNet's mean."""

    std: Channels = (0.229, 0.224, 0.225)
    """Red, green and blue are divided by it. The default is ImageNet's standard deviation."""

    pooling: Pooling = "none"
    """Pooling over the spatial axes (or tokens) of the program's output. ``none`` flattens the output."""

    precision: Precision = "float32"
    """Precision of the program's arithmetic, as of a network's. Vectors are stored as float32."""

    outputs: Outputs = (VECTOR,)
    """What the program returns, in its order: ``vector``, ``logits`` (for tags) and ``other``; "vector, logits" if the
    second output has a number for each class. What is not named is not used."""

    classes: str | None = None
    """Names of the classes of the logits, for tags: ``imagenet`` (in the order of torchvision), or a file with one
    class a line or a column ``class`` (CSV). It changes no vector."""

    def of_vectors(self) -> "ExportedSettings":
        return self.model_copy(update={"classes": None, "outputs": until_vector(self.outputs)})

    @model_validator(mode="after")
    def _has_one_vector(self) -> "ExportedSettings":
        if self.outputs.count(VECTOR) != 1 or self.outputs.count(LOGITS) > 1:
            raise ValueError(f"outputs must name one vector, and logits at most once, not {', '.join(self.outputs)}")
        if self.classes is not None and LOGITS not in self.outputs:
            raise ValueError('classes are those of the logits: set outputs = "vector, logits" if the program has them')
        return self

    @field_validator("std")
    @classmethod
    def _is_positive(cls, std: tuple[float, ...]) -> tuple[float, ...]:
        if min(std) <= 0:
            raise ValueError(f"must be greater than 0, not {list(std)}")
        return std

    @model_validator(mode="after")
    def _crops_what_is_there(self) -> "ExportedSettings":
        if self.resize is not None and self.input_size is not None and self.resize < self.input_size:
            raise ValueError(f"resize ({self.resize}) must not be less than input_size ({self.input_size})")
        return self


def until_vector(outputs: Sequence[str]) -> tuple[str, ...]:
    """``outputs`` up to the vector. What the others are called changes no vector."""
    return (OTHER,) * list(outputs).index(VECTOR) + (VECTOR,)


class ColourHistogramSettings(ImageFingerprintSettings):
    """The share of each colour in a picture."""

    kind: Literal["colour-histogram"]

    space: Literal["hsv", "lab"] = "hsv"
    """The colour space whose three channels are divided into bins."""

    bins: Annotated[tuple[Bins, Bins, Bins], BeforeValidator(as_three)] = (16, 4, 4)
    """Bins of each channel. The vector has as many values as their product."""


class HogSettings(ImageFingerprintSettings):
    """Histograms of oriented gradients: the directions of edges, and their place."""

    kind: Literal["hog"]

    size: Annotated[int, Field(ge=8, le=1024)] = 128
    """Side of the square that the whole picture is resized to, in pixels."""

    orientations: Annotated[int, Field(ge=1, le=64)] = 9
    """Bins of a histogram."""

    cell: Annotated[int, Field(ge=2, le=512)] = 16
    """Side of a cell in pixels. Each cell has one histogram."""

    block: Annotated[int, Field(ge=1, le=16)] = 2
    """Side of a block in cells. The histograms of a block are normalised together."""

    @model_validator(mode="after")
    def _fits(self) -> "HogSettings":
        if self.size < self.cell * self.block:
            raise ValueError(
                f"a block of {self.block} x {self.block} cells of {counted(self.cell, 'pixel')} must fit into size = "
                f"{self.size}"
            )
        return self


class PcaSettings(FingerprintSettings):
    """Another fingerprint's vectors, projected onto their principal components."""

    kind: Literal["pca"]

    base: str
    """The fingerprint whose vectors are projected. If it is not embedded yet, it is embedded first."""

    dimensions: Annotated[int, Field(ge=1, le=4096)]
    """Components that are kept."""

    sample: Annotated[int, Field(ge=2, le=1_000_000)] = 10_000
    """Most vectors that the components are fitted on. The components are fitted once and kept in the warehouse. Later
    images are projected onto the same components."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of the sample."""


_KINDS: dict[str, type[FingerprintSettings]] = {
    "exported": ExportedSettings,
    "colour-histogram": ColourHistogramSettings,
    "hog": HogSettings,
    "pca": PcaSettings,
}
_NETWORK = "network"


def _kind_of(declared: Any) -> str:
    kind = declared.get("kind", _NETWORK) if isinstance(declared, Mapping) else getattr(declared, "kind", _NETWORK)
    return str(kind)


AnyFingerprint = Annotated[
    Annotated[NetworkSettings, Tag(_NETWORK)]
    | Annotated[ExportedSettings, Tag("exported")]
    | Annotated[ColourHistogramSettings, Tag("colour-histogram")]
    | Annotated[HogSettings, Tag("hog")]
    | Annotated[PcaSettings, Tag("pca")],
    Discriminator(_kind_of),
]


def kinds() -> list[str]:
    """All values of ``kind``."""
    return [_NETWORK, *_KINDS]


def class_of(declared: Mapping[str, Any]) -> type[FingerprintSettings]:
    """The class of settings that a declaration belongs to, by its ``kind``."""
    return _KINDS.get(_kind_of(declared), NetworkSettings)


def keys_of(kind: str) -> list[str]:
    """The keys of a fingerprint of this kind."""
    return list(class_of({"kind": kind}).model_fields)


def check_name(name: str) -> str:
    """``name`` itself. ``ValueError`` unless every store and table can use it as the name of a slot and a folder."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a fingerprint: use small letters, digits and '-'")
    return name


def check_base(name: str, fingerprints: Mapping[str, FingerprintSettings]) -> None:
    """``ValueError`` unless the chain of bases of ``name`` ends in a fingerprint that is computed from images."""
    chain, declared = [name], fingerprints[name]
    while isinstance(declared, PcaSettings):
        if declared.base not in fingerprints:
            suggestion = did_you_mean(declared.base, sorted(fingerprints)) or ":"
            raise ValueError(
                f"{chain[-1]}: base {declared.base!r} is not declared{suggestion} declared are "
                f"{listed(sorted(fingerprints))}"
            )
        if declared.base in chain:
            raise ValueError(f"{name}: its base is itself in the end: {' -> '.join([*chain, declared.base])}")
        chain.append(declared.base)
        declared = fingerprints[declared.base]
