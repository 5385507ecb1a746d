"""``[fingerprints.NAME]``: how an image becomes a vector, one class for each kind."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from image_similarity.settings.base import Section, Strings, as_tuple

DEFAULT_FINGERPRINT = "vgg16-fc2"
UNTRAINED = "untrained"
_NAME = re.compile(r"[a-z0-9-]+")
Channels = Annotated[tuple[float, float, float], BeforeValidator(as_tuple)]
Bins = Annotated[int, Field(ge=1, le=256)]
Pooling = Literal["none", "average", "max"]
Precision = Literal["float32", "bfloat16", "float16"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FingerprintSettings(Section):
    """``[fingerprints.NAME]``: how an image becomes a vector. Any change here makes other vectors.

    ``kind`` decides which of the classes below it is, and so which keys there are.
    """

    kind: str
    """``network`` (the default), ``exported``, ``colour-histogram``, ``hog`` or ``pca``."""


class ImageFingerprintSettings(FingerprintSettings):
    """What all fingerprints have that are made from images."""

    decoding: Literal["scaled", "full"] = "scaled"
    """``scaled``: a JPEG is decoded at a half, a quarter or an eighth of its size as long as its short side keeps 512
    pixels, and twice what the network wants. ``full``: always decoded whole, which takes up to five times as long."""


class NetworkSettings(ImageFingerprintSettings):
    """A layer of one of torchvision's networks."""

    kind: Literal["network"] = "network"

    network: str
    """A torchvision classification network by its name (``vgg16``, ``resnet18``, ``squeezenet1_1``, ...)."""

    layer: str
    """Any node of the network, or a module, which stands for its last node; ``fc1`` and ``fc2`` are aliases on VGG."""

    weights: Strings = ("IMAGENET1K_V1",)
    """A torchvision name, a path or URI of a state dict, or ``untrained``; a list is tried in order."""

    weights_sha256: Sha256 | None = None
    """If given, the weights' file must have this checksum."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Of the ``untrained`` weights."""

    pooling: Pooling = "none"
    """Over the spatial axes (or tokens) of the layer's output; ``none`` flattens it."""

    preprocessing: Literal["torchvision", "caffe"] = "torchvision"
    """``torchvision``: as the network's weights there declare; ``caffe``: BGR, 0 to 255, mean subtracted, for weights
    converted from Caffe or Keras. Resizing and cropping are torchvision's in both."""

    precision: Precision = "float32"
    """Of the network's arithmetic; vectors are stored as float32."""


class ExportedSettings(ImageFingerprintSettings):
    """An encoder of your own, as a ``torch.export`` program. It is code: use programs that you trust."""

    kind: Literal["exported"]

    weights: Strings
    """A path or URI of the program (``.pt2``); a list is tried in order."""

    weights_sha256: Sha256 | None = None
    """If given, the program's file must have this checksum."""

    input_size: Annotated[int, Field(ge=1, le=4096)]
    """Side of the square picture that the program takes, in pixels: (n, 3, input_size, input_size) float32."""

    resize: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Short side of the picture before the square is cut from its middle; default: ``input_size``."""

    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    """Of resizing."""

    preprocessing: Literal["torchvision", "caffe"] = "torchvision"
    """``torchvision``: RGB, 0 to 1, then ``mean`` and ``std``; ``caffe``: BGR, 0 to 255, Caffe's mean subtracted."""

    mean: Channels = (0.485, 0.456, 0.406)
    """Of red, green and blue, subtracted. The default is ImageNet's."""

    std: Channels = (0.229, 0.224, 0.225)
    """Of red, green and blue, divided by."""

    pooling: Pooling = "none"
    """Over the spatial axes (or tokens) of the program's output; ``none`` flattens it."""

    precision: Precision = "float32"
    """Of the program's arithmetic; vectors are stored as float32."""

    @field_validator("std")
    @classmethod
    def _is_positive(cls, std: tuple[float, ...]) -> tuple[float, ...]:
        if min(std) <= 0:
            raise ValueError(f"must be greater than 0, not {list(std)}")
        return std

    @model_validator(mode="after")
    def _crops_what_is_there(self) -> "ExportedSettings":
        if self.resize is not None and self.resize < self.input_size:
            raise ValueError(f"resize ({self.resize}) must not be less than input_size ({self.input_size})")
        return self


class ColourHistogramSettings(ImageFingerprintSettings):
    """How much there is of each colour."""

    kind: Literal["colour-histogram"]

    space: Literal["hsv", "lab"] = "hsv"
    """The colour space whose three channels are divided into bins."""

    bins: Annotated[tuple[Bins, Bins, Bins], BeforeValidator(as_tuple)] = (16, 4, 4)
    """Of each channel; the vector has as many values as their product."""


class HogSettings(ImageFingerprintSettings):
    """Histograms of oriented gradients: which way edges run, and where."""

    kind: Literal["hog"]

    size: Annotated[int, Field(ge=8, le=1024)] = 128
    """Side of the square that the whole picture becomes, in pixels."""

    orientations: Annotated[int, Field(ge=1, le=64)] = 9
    """Bins of a histogram."""

    cell: Annotated[int, Field(ge=2, le=512)] = 16
    """Side of a cell in pixels; each has one histogram."""

    block: Annotated[int, Field(ge=1, le=16)] = 2
    """Side of a block in cells, within which histograms are normalised."""

    @model_validator(mode="after")
    def _fits(self) -> "HogSettings":
        if self.size < self.cell * self.block:
            raise ValueError(
                f"a block of {self.block} x {self.block} cells of {self.cell} pixels must fit into size = {self.size}"
            )
        return self


class PcaSettings(FingerprintSettings):
    """Another fingerprint's vectors, projected onto their principal components."""

    kind: Literal["pca"]

    base: str
    """The fingerprint whose vectors are projected. It is embedded first where it is not yet."""

    dimensions: Annotated[int, Field(ge=1, le=4096)]
    """Components that are kept."""

    sample: Annotated[int, Field(ge=2, le=1_000_000)] = 10_000
    """Vectors that the components are fitted on, at most. They are fitted once and kept in the warehouse; later images
    are projected onto the same."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Of the sample."""


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


def keys_of(kind: str) -> list[str]:
    """The keys of a fingerprint of this kind."""
    return list(_KINDS.get(kind, NetworkSettings).model_fields)


def check_name(name: str) -> str:
    """``name`` itself, if it can be a slot and a folder everywhere; else ``ValueError``."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a fingerprint: use small letters, digits and '-'")
    return name


def check_base(name: str, fingerprints: Mapping[str, FingerprintSettings]) -> None:
    """``ValueError`` unless the bases of ``name`` end in a fingerprint that is made from images."""
    seen, at = [name], fingerprints[name]
    while isinstance(at, PcaSettings):
        if at.base not in fingerprints:
            raise ValueError(
                f"{seen[-1]}: base {at.base!r} is not declared; declared are: {', '.join(sorted(fingerprints))}"
            )
        if at.base in seen:
            raise ValueError(f"{name}: its base is itself in the end: {' -> '.join([*seen, at.base])}")
        seen.append(at.base)
        at = fingerprints[at.base]
