"""All settings but those of fingerprints, a class for each section: name, type, default, and what it is for."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from image_similarity import __version__
from image_similarity.errors import WrongInput
from image_similarity.settings.base import Section, Strings, as_tuple
from image_similarity.settings.fingerprints import (
    DEFAULT_FINGERPRINT,
    AnyFingerprint,
    FingerprintSettings,
    PcaSettings,
    check_base,
    check_name,
)


class ManifestSettings(Section):
    """``[manifest]``: what is taken for images."""

    extensions: Strings = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff") + (
        "jp2",
        "avif",
        "mpo",
    )
    """File name endings in a folder or glob, in any case, without the dot; ``["*"]`` takes every file."""

    uri_column: Strings = ("uri", "file")
    """The column of a CSV, JSON or Parquet list that says where each image is: the first of these that it has. All
    others but ``image_id`` are attributes."""

    @field_validator("extensions")
    @classmethod
    def _without_dots(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(extension.lower().lstrip(".") for extension in extensions)


class EmbeddingsSettings(Section):
    """``[embeddings]``: how images are read and put through networks."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` uses the GPU that Spark gave the task (in local mode: one that is visible), else the CPU; ``cuda`` is an
    error where there is none. Only fingerprints that are networks use one."""

    device_fallback: Literal["fail", "cpu"] = "fail"
    """What is done about a GPU that Spark gave to a task, or that ``cuda`` asks for, and that cannot be used: ``fail``
    ends the job; ``cpu`` goes on with the CPU, which may take a hundred times as long."""

    tasks_per_gpu: Annotated[int, Field(ge=1, le=64)] = 1
    """In local mode: tasks that use one GPU at the same time, each with the network in its memory. There are no other
    tasks then, so ``decode_threads`` should be raised to keep the GPU busy. On a cluster
    ``spark.task.resource.gpu.amount`` decides."""

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
    """A task saves its vectors after so many seconds, or a twentieth of the time that the job has run if that is more:
    what a job that is killed had finished is taken over by the next run."""

    decode_seconds: Annotated[float, Field(gt=0)] = 120.0
    """An image that is not there and decoded after so long is given up."""

    decode_bytes: Annotated[int, Field(ge=2**28)] = 4 * 2**30
    """Memory of the process that decodes images apart, after a worker died over one of them."""

    max_pixels: Annotated[int, Field(ge=1)] = 89_478_485
    """Images that claim more pixels (width x height) are refused before they are decoded. Decoding takes about eight
    bytes a pixel for every decoding thread. The default is Pillow's own."""

    max_bytes: Annotated[int, Field(ge=1)] = 256 * 2**20
    """Files larger than this are refused; of them, no more than this is read."""


class NeighboursSettings(Section):
    """``[neighbours]``: whose neighbours are sought, and how many."""

    fingerprint: str = DEFAULT_FINGERPRINT
    """The fingerprint whose vectors are compared."""

    method: Literal["exact", "approximate", "auto"] = "exact"
    """How similar neighbours are found. ``exact`` compares all pairs; ``approximate`` those that are likely, and
    measures how many neighbours that finds; ``auto`` takes what is estimated to be faster. Dissimilar ones are always
    exact."""

    metric: Literal["cosine", "correlation", "euclidean"] = "cosine"
    """The distance between two vectors."""

    similar: Annotated[int, Field(ge=0, le=10_000)] = 12
    """Nearest neighbours kept for each image; 0 means none."""

    dissimilar: Annotated[int, Field(ge=0, le=10_000)] = 12
    """Farthest images kept for each image; 0 means none."""

    drop_duplicates: bool = False
    """Whether files with the same bytes (of ``--embeddings``: equal vectors) are one entry in lists: the first by
    image_id stands for all, and none is a neighbour of another."""

    incremental: bool = True
    """Compare only what is new since the published run, if that kept lists that are long enough; the table is the
    same."""

    task_bytes: Annotated[int, Field(ge=2**29)] = 2**30
    """Memory of a task's Python process, in bytes, whatever the size of the collection. Tasks are as large as it
    allows: more of it means fewer partial lists to merge."""

    block_rows: Annotated[int, Field(ge=1, le=8192)] = 2048
    """Most vectors in a block; two blocks are one matrix product."""

    screen: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the product that proposes candidates; the distances are the same in each. ``auto``: the fastest
    here."""

    @field_validator("fingerprint")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        return check_name(name)

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

    group_by: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
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
    """Files that a worker fetches from one host at a time. ``build_manifest`` and ``download_images`` ask a host from
    one worker only."""

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
    """The longest pause that a server may ask for (Retry-After). One that asks for more is not asked again in this
    run."""

    redirects: Annotated[int, Field(ge=0, le=20)] = 5
    """Redirects followed, at most; only to http and https."""

    private_addresses: bool = False
    """Whether to connect to addresses that are not on the public internet: this machine, a local network, a cloud's
    metadata. Leave it false where others write the lists of addresses."""


class DownloadsSettings(Section):
    """``[downloads]``: how a catalogue of addresses is fetched into storage. Larger files than ``embeddings.max_bytes``
    are refused."""

    address_columns: Strings = ("image_url", "url", "uri", "address")
    """The column of a catalogue that says where each image is: the first of these that it has. All others but
    ``image_id`` are attributes."""

    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """If a larger share of the addresses fails, nothing is published and the exit code is 3; what was fetched stays."""


class ApproximateSettings(Section):
    """``[approximate]``: how similar neighbours are found where not all pairs are compared, and how good they must
    be."""

    recall_target: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Share of the true neighbours that must be found, estimated from a sample; below it ``fallback`` decides."""

    recall_slack: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """How far below the target the estimate's interval may begin."""

    fallback: Literal["exact", "fail"] = "exact"
    """What to do where the target is not reached."""

    audit_queries: Annotated[int, Field(ge=1)] = 1000
    """Vectors whose true neighbours are found, to measure recall."""

    nlist: Annotated[int, Field(ge=0)] = 0
    """Partitions that the collection is cut into; 0: as many as ``partition_rows`` makes."""

    partition_rows: Annotated[int, Field(ge=1)] = 250
    """Vectors in a partition, about; more where many neighbours are wanted, and in collections of millions."""

    nprobe: Annotated[int, Field(ge=1)] = 16
    """Partitions that each vector is compared with at first, its own among them; where they are larger than
    ``partition_rows`` fewer, but at least five."""

    probe_doublings: Annotated[int, Field(ge=0, le=10)] = 2
    """How often ``nprobe`` is doubled where recall is too low."""

    rounds: Annotated[int, Field(ge=0, le=20)] = 4
    """At most, of looking at neighbours of neighbours, which ends when recall is reached."""

    delta: Annotated[float, Field(ge=0, le=1)] = 0.005
    """Share of all entries; when a round changes fewer, it is the last (NN-descent's delta)."""

    nndescent_rows: Annotated[int, Field(ge=1)] = 60_000
    """Partitions with this many vectors or more go through pynndescent; in smaller ones comparing all pairs is
    faster."""

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
            check_name(name)
            if isinstance(declared, PcaSettings):
                check_base(name, fingerprints)
        return fingerprints

    def fingerprint(self, name: str) -> FingerprintSettings:
        """The declaration of fingerprint ``name``; ``WrongInput`` names the declared ones if there is none."""
        if name not in self.fingerprints:
            declared = ", ".join(sorted(self.fingerprints))
            raise WrongInput(
                f"fingerprint {name!r} is not declared; declared are: {declared}. Declare it as [fingerprints.{name}]"
            )
        return self.fingerprints[name]
