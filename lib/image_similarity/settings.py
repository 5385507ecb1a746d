"""Every setting: its name, type, default, and what it is for.

Settings come from a TOML file and from ``--set section.key=value``, which wins. They are validated into frozen objects before
any work begins, and all faults are reported at once, each with the key's path and what would be right.
"""

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from image_similarity import __version__
from image_similarity.errors import WrongInput

DEFAULT_FINGERPRINT = "vgg16-fc2"
FINGERPRINT_NAME = re.compile(r"[a-z0-9-]+")
UNTRAINED = "untrained"


def _as_tuple(value: Any) -> Any:
    """A single string stands for a list of one; TOML arrays become tuples, which cannot change afterwards."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Strings = Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
Channels = Annotated[tuple[float, float, float], BeforeValidator(_as_tuple)]
Bins = Annotated[int, Field(ge=1, le=256)]
Pooling = Literal["none", "average", "max"]
Precision = Literal["float32", "bfloat16", "float16"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ManifestSettings(Section):
    """``[manifest]``: what is taken for images."""

    extensions: Strings = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff") + ("jp2", "avif", "mpo")
    """File name endings in a folder or glob, in any case, without the dot; ``["*"]`` takes every file."""

    uri_column: Strings = ("uri", "file")
    """The column of a CSV, JSON or Parquet list that says where each image is: the first of these that it has. All others but
    ``image_id`` are attributes."""

    @field_validator("extensions")
    @classmethod
    def _without_dots(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(extension.lower().lstrip(".") for extension in extensions)


class EmbeddingsSettings(Section):
    """``[embeddings]``: how images are read and put through networks."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` uses the GPU that Spark gave the task (in local mode: one that is visible), else the CPU; ``cuda`` is an error
    where there is none. Only fingerprints that are networks use one."""

    device_fallback: Literal["fail", "cpu"] = "fail"
    """What is done about a GPU that Spark gave to a task, or that ``cuda`` asks for, and that cannot be used: ``fail`` ends the
    job; ``cpu`` goes on with the CPU, which may take a hundred times as long."""

    tasks_per_gpu: Annotated[int, Field(ge=1, le=64)] = 1
    """In local mode: tasks that use one GPU at the same time, each with the network in its memory. There are no other tasks then,
    so ``decode_threads`` should be raised to keep the GPU busy. On a cluster ``spark.task.resource.gpu.amount`` decides."""

    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """If a larger share of the images fails, nothing is published and the exit code is 3."""

    recheck: Literal["changed", "always"] = "changed"
    """``changed`` reads only files whose place, size or modification time changed; ``always`` reads every file again.
    Either way nothing is embedded twice: vectors are known by their file's content."""

    images_per_task: Annotated[int, Field(ge=1)] = 256
    """Images in one Spark task, at most; fewer where that keeps all cores busy."""

    fetch_threads: Annotated[int, Field(ge=1, le=256)] = 8
    """Images that a task fetches at the same time while the network works on others: enough to hide a store's delay."""

    decode_threads: Annotated[int, Field(ge=1, le=64)] = 2
    """Of these, how many may be decoding: each holds a whole picture in memory."""

    save_seconds: Annotated[float, Field(ge=0)] = 2.0
    """A task saves its vectors after so many seconds, or a twentieth of the time that the job has run if that is more: what a job
    that is killed had finished is taken over by the next run."""

    decode_seconds: Annotated[float, Field(gt=0)] = 120.0
    """An image that is not there and decoded after so long is given up."""

    decode_bytes: Annotated[int, Field(ge=2**28)] = 4 * 2**30
    """Memory of the process that decodes images apart, after a worker died over one of them."""

    max_pixels: Annotated[int, Field(ge=1)] = 89_478_485
    """Images that claim more pixels (width x height) are refused before they are decoded. Decoding takes about eight
    bytes a pixel for every decoding thread. The default is Pillow's own."""

    max_bytes: Annotated[int, Field(ge=1)] = 256 * 2**20
    """Files larger than this are refused; of them, no more than this is read."""


class FingerprintSettings(Section):
    """``[fingerprints.NAME]``: how an image becomes a vector. Any change here makes other vectors.

    ``network`` decides which of the classes below it is, and so which keys there are.
    """

    network: str
    """A torchvision classification network by its name (``vgg16``, ``resnet18``, ``squeezenet1_1``, ...), or ``exported``,
    ``colour-histogram``, ``hog``, ``pca``."""


class ImageFingerprintSettings(FingerprintSettings):
    """What all fingerprints have that are made from images."""

    decoding: Literal["scaled", "full"] = "scaled"
    """``scaled``: a JPEG is decoded at a half, a quarter or an eighth of its size as long as its short side keeps 512 pixels, and
    twice what the network wants. ``full``: always decoded whole, which takes up to five times as long."""


class NetworkSettings(ImageFingerprintSettings):
    """A layer of one of torchvision's networks."""

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

    network: Literal["exported"]

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

    network: Literal["colour-histogram"]

    space: Literal["hsv", "lab"] = "hsv"
    """The colour space whose three channels are divided into bins."""

    bins: Annotated[tuple[Bins, Bins, Bins], BeforeValidator(_as_tuple)] = (16, 4, 4)
    """Of each channel; the vector has as many values as their product."""


class HogSettings(ImageFingerprintSettings):
    """Histograms of oriented gradients: which way edges run, and where."""

    network: Literal["hog"]

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
            raise ValueError(f"a block of {self.block} x {self.block} cells of {self.cell} pixels must fit into size = {self.size}")
        return self


class PcaSettings(FingerprintSettings):
    """Another fingerprint's vectors, projected onto their principal components."""

    network: Literal["pca"]

    base: str
    """The fingerprint whose vectors are projected. It is embedded first where it is not yet."""

    dimensions: Annotated[int, Field(ge=1, le=4096)]
    """Components that are kept."""

    sample: Annotated[int, Field(ge=2, le=1_000_000)] = 10_000
    """Vectors that the components are fitted on, at most. They are fitted once and kept in the warehouse; later images are
    projected onto the same."""

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
    network = declared.get("network") if isinstance(declared, Mapping) else getattr(declared, "network", None)
    return network if isinstance(network, str) and network in _KINDS else _NETWORK


AnyFingerprint = Annotated[
    Annotated[NetworkSettings, Tag(_NETWORK)]
    | Annotated[ExportedSettings, Tag("exported")]
    | Annotated[ColourHistogramSettings, Tag("colour-histogram")]
    | Annotated[HogSettings, Tag("hog")]
    | Annotated[PcaSettings, Tag("pca")],
    Discriminator(_kind_of),
]


class NeighboursSettings(Section):
    """``[neighbours]``: whose neighbours are sought, and how many."""

    fingerprint: str = DEFAULT_FINGERPRINT
    """The fingerprint whose vectors are compared."""

    method: Literal["exact", "approximate", "auto"] = "exact"
    """How similar neighbours are found. ``exact`` compares all pairs; ``approximate`` those that are likely, and measures how many
    neighbours that finds; ``auto`` takes what is estimated to be faster. Dissimilar ones are always exact."""

    metric: Literal["cosine", "correlation", "euclidean"] = "cosine"
    """The distance between two vectors."""

    similar: Annotated[int, Field(ge=0, le=10_000)] = 12
    """Nearest neighbours kept for each image; 0 means none."""

    dissimilar: Annotated[int, Field(ge=0, le=10_000)] = 12
    """Farthest images kept for each image; 0 means none."""

    copies: Literal["all", "one"] = "all"
    """Files with the same bytes (of ``--embeddings``: equal vectors). ``all``: each has a place in lists; ``one``: the first by
    image_id stands for all, and none is a neighbour of another."""

    incremental: bool = True
    """Compare only what is new since the published run, if that kept lists that are long enough; the table is the same."""

    task_bytes: Annotated[int, Field(ge=2**29)] = 2**30
    """Memory of a task's Python process, in bytes, whatever the size of the collection. Tasks are as large as it allows: more of it
    means fewer partial lists to merge."""

    block_rows: Annotated[int, Field(ge=1, le=8192)] = 2048
    """Most vectors in a block; two blocks are one matrix product."""

    screen: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the product that proposes candidates; the distances are the same in each. ``auto``: the fastest here."""

    @field_validator("fingerprint")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        return check_fingerprint_name(name)

    @model_validator(mode="after")
    def _asks_for_something(self) -> "NeighboursSettings":
        if self.similar == self.dissimilar == 0:
            raise ValueError("similar and dissimilar are both 0: ask for at least one of them")
        return self


class GallerySettings(Section):
    """``[gallery]``: how results are shown."""

    title: str = ""
    """Above all pages; empty: the name of the images' folder or list."""

    title_attributes: Strings = ("title", "name")
    """The first of these attributes that an image has is its title; else its file name."""

    subtitle_attributes: Strings = ("creator", "artist", "author", "photographer", "label", "category")
    """The first of these attributes that an image has stands below its title."""

    group_by: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    """Attributes that images are grouped by; empty: those that divide them into few groups, else their folders."""

    images_per_page: Annotated[int, Field(ge=1, le=1000)] = 100
    """On pages that list images."""

    selection: Annotated[int, Field(ge=1, le=500)] = 40
    """Images on the front page."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Of the selection on the front page."""


class HttpSettings(Section):
    """``[http]``: how files at http(s) addresses are fetched, wherever images are read."""

    user_agent: Annotated[str, Field(pattern=r"^[\x20-\x7e]+$")] = f"image-similarity/{__version__}"
    """What servers are told about who asks. Add an address where you can be reached if you fetch much."""

    connections_per_host: Annotated[int, Field(ge=1, le=64)] = 4
    """Files that a worker fetches from one host at a time. ``build_manifest`` and ``download_images`` ask a host from one worker
    only."""

    connect_seconds: Annotated[float, Field(gt=0)] = 10
    """To wait for a connection."""

    read_seconds: Annotated[float, Field(gt=0)] = 20
    """To wait for an answer, and for more of it once it has begun."""

    total_seconds: Annotated[float, Field(gt=0)] = 300
    """For one file, with its redirects, further attempts and pauses."""

    retries: Annotated[int, Field(ge=0, le=20)] = 3
    """Further attempts after a failure that may pass: no connection or a broken one, status 429, 408 or 5xx."""

    backoff_seconds: Annotated[float, Field(ge=0)] = 0.5
    """Pause before the second attempt, give or take a half; it doubles with each."""

    retry_after_seconds: Annotated[float, Field(ge=0)] = 60
    """The longest pause that a server may ask for (Retry-After). One that asks for more is not asked again in this run."""

    redirects: Annotated[int, Field(ge=0, le=20)] = 5
    """Redirects followed, at most; only to http and https."""

    private_addresses: bool = False
    """Whether to connect to addresses that are not on the public internet: this machine, a local network, a cloud's metadata. Leave
    it false where others write the lists of addresses."""


class DownloadsSettings(Section):
    """``[downloads]``: how a catalogue of addresses is fetched into storage. Larger files than ``embeddings.max_bytes`` are
    refused."""

    address_columns: Strings = ("image_url", "url", "uri", "address")
    """The column of a catalogue that says where each image is: the first of these that it has. All others but ``image_id`` are
    attributes."""

    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """If a larger share of the addresses fails, nothing is published and the exit code is 3; what was fetched stays."""


class ApproximateSettings(Section):
    """``[approximate]``: how similar neighbours are found where not all pairs are compared, and how good they must be."""

    recall_target: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Share of the true neighbours that must be found, estimated from a sample; below it ``fallback`` decides."""

    recall_slack: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """How far below the target the estimate's interval may begin."""

    fallback: Literal["exact", "fail"] = "exact"
    """What to do where the target is not reached."""

    audit_queries: Annotated[int, Field(ge=1)] = 1000
    """Vectors whose true neighbours are found, to measure recall."""

    partitions: Annotated[int, Field(ge=0)] = 0
    """Parts that the collection is cut into; 0: as many as ``partition_rows`` makes."""

    partition_rows: Annotated[int, Field(ge=1)] = 250
    """Vectors in a part, about; more where many neighbours are wanted, and in collections of millions."""

    visits: Annotated[int, Field(ge=1)] = 16
    """Parts that each vector is compared with at first, its own among them; where parts are larger than ``partition_rows`` fewer,
    but at least five."""

    widenings: Annotated[int, Field(ge=0, le=10)] = 2
    """How often that number is doubled where recall is too low."""

    rounds: Annotated[int, Field(ge=0, le=20)] = 4
    """At most, of looking at neighbours of neighbours, which ends when recall is reached."""

    settled: Annotated[float, Field(ge=0, le=1)] = 0.005
    """Share of all entries; when a round changes fewer, it is the last."""

    descent_rows: Annotated[int, Field(ge=1)] = 60_000
    """Parts with this many vectors or more go through pynndescent; in smaller ones comparing all pairs is faster."""

    threads: Annotated[int, Field(ge=1)] = 1
    """Of pynndescent, whose lists depend on it."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 2)] = 0
    """Of all samples."""


class Settings(Section):
    """All settings of all jobs."""

    manifest: ManifestSettings = ManifestSettings()
    embeddings: EmbeddingsSettings = EmbeddingsSettings()
    fingerprints: dict[str, AnyFingerprint]
    neighbours: NeighboursSettings = NeighboursSettings()
    approximate: ApproximateSettings = ApproximateSettings()
    gallery: GallerySettings = GallerySettings()
    http: HttpSettings = HttpSettings()
    downloads: DownloadsSettings = DownloadsSettings()

    @field_validator("fingerprints")
    @classmethod
    def _have_names(cls, fingerprints: dict[str, FingerprintSettings]) -> dict[str, FingerprintSettings]:
        for name, declared in fingerprints.items():
            check_fingerprint_name(name)
            if isinstance(declared, PcaSettings):
                _check_base(name, fingerprints)
        return fingerprints

    def fingerprint(self, name: str) -> FingerprintSettings:
        """The declaration of fingerprint ``name``; ``WrongInput`` names the declared ones if there is none."""
        if name not in self.fingerprints:
            declared = ", ".join(sorted(self.fingerprints))
            raise WrongInput(f"fingerprint {name!r} is not declared; declared are: {declared}. Declare it as [fingerprints.{name}]")
        return self.fingerprints[name]


def check_fingerprint_name(name: str) -> str:
    """``name`` itself, if it can be a slot and a folder everywhere; else ``ValueError``."""
    if not FINGERPRINT_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a fingerprint: use small letters, digits and '-'")
    return name


def _check_base(name: str, fingerprints: Mapping[str, FingerprintSettings]) -> None:
    """``ValueError`` unless the bases of ``name`` end in a fingerprint that is made from images."""
    seen, at = [name], fingerprints[name]
    while isinstance(at, PcaSettings):
        if at.base not in fingerprints:
            raise ValueError(f"{seen[-1]}: base {at.base!r} is not declared; declared are: {', '.join(sorted(fingerprints))}")
        if at.base in seen:
            raise ValueError(f"{name}: its base is itself in the end: {' -> '.join([*seen, at.base])}")
        seen.append(at.base)
        at = fingerprints[at.base]


def load(file: Path | None, overrides: Iterable[str] = ()) -> Settings:
    """The settings of ``file`` (TOML; None for defaults) with ``overrides`` (``section.key=value``) applied in order.

    Raises ``WrongInput`` that lists every fault found.
    """
    values: dict[str, Any] = {"fingerprints": {DEFAULT_FINGERPRINT: {"network": "vgg16", "layer": "fc2"}}}
    if file is not None:
        _merge(values, _read_toml(file))
    for override in overrides:
        _merge(values, _parse_override(override))
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        faults = [_describe(fault) for fault in error.errors()]
        source = f" in {file}" if file is not None else ""
        raise WrongInput("\n  ".join([f"wrong settings{source}:", *faults])) from None


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WrongInput(f"settings file not found: {file}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise WrongInput(f"settings file {file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise WrongInput(f"settings file {file} is not valid TOML: {error}") from None


def _parse_override(override: str) -> dict[str, Any]:
    """``a.b=value`` as nested tables; the value is read as TOML where it is TOML, else as a string."""
    path, equals, text = override.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not equals or not all(keys):
        raise WrongInput(f"--set {override}: write it as section.key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _describe(fault: Any) -> str:
    """One fault as a line: the key's path, what is wrong, and what would be right."""
    loc = tuple(part for place, part in enumerate(fault["loc"]) if not _is_a_tag(fault["loc"], place))
    path = ".".join(str(part) for part in loc)
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), _known_keys(fault["loc"][:-1]), n=1)
        return f"{path}: no such setting" + (f"; did you mean {near[0]!r}?" if near else "")
    if fault["type"] == "missing":
        return f"{path}: is missing"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{path}: {message}"
    return f"{path}: {message[0].lower()}{message[1:]}, not {fault['input']!r}"


def _is_a_tag(path: tuple[Any, ...], place: int) -> bool:
    """Whether this part of a fault's path is the kind of a fingerprint, which pydantic puts behind its name."""
    return place == 2 and path[0] == "fingerprints"


def _known_keys(path: tuple[Any, ...]) -> list[str]:
    """The keys that exist below ``path``, for suggestions."""
    if len(path) == 3 and path[0] == "fingerprints":
        return list(_KINDS.get(path[2], NetworkSettings).model_fields)
    model: type[BaseModel] = Settings
    for part in path:
        field = model.model_fields.get(str(part))
        if field is None:
            return []
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            model = field.annotation
    return list(model.model_fields)
