"""All settings except those of fingerprints, a class for each section: name, type, default and purpose."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from image_similarity import __version__
from image_similarity.errors import WrongInput, did_you_mean, listed
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
    """``[manifest]``: which files are images."""

    extensions: Strings = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff") + (
        "jp2",
        "avif",
        "mpo",
    )
    """File name endings in a folder or glob, in any case, without the dot. ``["*"]`` takes every file."""

    uri_column: Strings = ("uri", "file")
    """The column of a CSV, JSON or Parquet list with the place of each image: the first of these that the list has. All
    other columns except ``image_id`` are attributes."""

    schemes: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    """What the rows of a list may name: ``https``, ``s3``, ``file`` and other schemes, and ``relative`` for paths below
    the folder of the list. Other rows are skipped. If empty, rows may name everything that the workers can read: set
    it if others write your lists, or pictures that are nobody's business may be shown."""

    runner: Literal["auto", "spark", "process"] = "auto"
    """What lists the images. ``process``: the job's own process, without starting Spark or Java. Only images and a
    warehouse on this machine can be listed there. ``auto``: that process for up to 100,000 of them, and Spark for
    more, for samples, and on a cluster. The table is the same."""

    @field_validator("extensions")
    @classmethod
    def _without_dots(cls, extensions: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(extension.lower().lstrip(".") for extension in extensions)


class EmbeddingsSettings(Section):
    """``[embeddings]``: reading images and computing their vectors."""

    runner: Literal["auto", "spark", "process"] = "auto"
    """What embeds the images. ``process``: the job's own process, with worker processes for the images, and without
    starting Spark or Java; the warehouse must be on this machine. ``auto``: that process for up to 100,000 images, and
    Spark for more, and on a cluster. The tables are the same."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` uses the GPU that Spark assigned to the task (in local mode: a visible one), else the CPU. ``cuda`` is
    an error if there is no GPU. Only fingerprints that are networks use a GPU."""

    device_fallback: Literal["fail", "cpu"] = "fail"
    """What happens if a GPU cannot be used that Spark assigned to the task or that ``cuda`` asks for. ``fail`` ends the
    job. ``cpu`` goes on with the CPU, which may take a hundred times as long."""

    tasks_per_gpu: Annotated[int, Field(ge=1, le=64)] = 1
    """In local mode: tasks that use one GPU at the same time, each with the network in its memory. No other tasks run
    meanwhile. On a cluster ``spark.task.resource.gpu.amount`` decides."""

    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """If a larger share of the images fails, nothing is published and the exit code is 3."""

    recheck: Literal["changed", "always"] = "changed"
    """``changed`` reads only files whose place, size or modification time changed. ``always`` reads every file again,
    and computes what an earlier run did not: quality, and classes for tags. No content has two vectors in either case:
    the vector store is keyed by the content of files."""

    images_per_task: Annotated[int, Field(ge=1)] = 256
    """Most images in one Spark task. There are fewer if that keeps all cores busy."""

    fetch_threads: Annotated[int, Field(ge=1, le=256)] = 8
    """Images that a task fetches at the same time, while the network works on others. There should be enough to hide
    the latency of the store."""

    decode_threads: Annotated[int, Field(ge=1, le=256)] | None = None
    """Images that a task decodes at the same time. Without a value two, by threads; where a GPU computes, one for each
    core of the task, by child processes. Together they decode at most ``max_pixels``: a larger picture waits for its
    turn. Each then holds one decoded picture, of four bytes a pixel (others than RGB: seven), until it is framed."""

    save_seconds: Annotated[float, Field(ge=0)] = 2.0
    """Seconds between the checkpoints of a task, or a twentieth of the time that the job has run if that is more. The
    next run resumes from the checkpoints of a job that was killed."""

    read_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Longest time to read a file from a drive, an object store or HDFS, in seconds, in all jobs. Then it is given up
    (`timeout`). Drives that are gone may never answer. While 32 reads of a worker have no answer, it tries no others.
    ``[http]`` has its own limits."""

    decode_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Longest time to decode an image, in seconds, without its wait for other images. Then its worker is ended, and
    the task is tried again with each image decoded in a child process. There the image is given up after as long, and
    so it is where a GPU computes."""

    decode_bytes: Annotated[int, Field(ge=2**28)] = 4 * 2**30
    """Address space in bytes of a child process that decodes images: after a worker died while decoding, and where a
    GPU computes. Pictures of 89 million pixels took 2.5 GiB at most, whatever their format. Raise it with
    ``max_pixels``."""

    max_pixels: Annotated[int, Field(ge=1)] = 89_478_485
    """Images that claim more pixels (width x height) are refused before they are decoded. Decoding takes 4 to 12 bytes
    a pixel, 17 of a WebP and 25 of a JPEG 2000. The threads of a worker together decode no more pixels than this. The
    default is Pillow's own limit."""

    max_bytes: Annotated[int, Field(ge=1)] = 256 * 2**20
    """Larger files are refused, and no more than this of them is read."""

    fetch_bytes: Annotated[int, Field(ge=1)] = 256 * 2**20
    """Most bytes of files that a task holds at once, until they are decoded; in ``download_images``, until they are
    stored. Threads wait with files that do not fit. A file that is larger goes alone. There is a task for each core."""

    @property
    def decode_threads_on_cpu(self) -> int:
        """``decode_threads``, or two: one picture is decoded while the network takes another."""
        return self.decode_threads or 2


class NeighboursSettings(Section):
    """``[neighbours]``: the vectors that are compared, and the lists of neighbours."""

    fingerprint: str = DEFAULT_FINGERPRINT
    """The fingerprint whose vectors are compared."""

    method: Literal["exact", "approximate", "auto"] = "exact"
    """The search for similar neighbours. ``exact`` compares all pairs. ``approximate`` compares likely pairs, and
    measures the recall. ``auto`` takes the method that is estimated to be faster, and changes to exact search where
    a sample shows that these vectors need too much. Dissimilar neighbours are always exact."""

    metric: Literal["cosine", "correlation", "euclidean"] = "cosine"
    """The distance between two vectors."""

    similar: Annotated[int, Field(ge=0, le=10_000)] = 12
    """Nearest neighbours kept for each image. 0 means none."""

    dissimilar: Annotated[int, Field(ge=0, le=10_000)] = 12
    """Farthest images kept for each image. 0 means none."""

    drop_duplicates: bool = False
    """Whether files with the same bytes (with ``--embeddings``: equal vectors) are one entry in lists. The first by
    image_id stands for all of them, and none is a neighbour of another."""

    incremental: bool = True
    """Whether only new vectors are compared, if the published run kept lists that are long enough. The table is the
    same in either case."""

    runner: Literal["auto", "spark", "process"] = "auto"
    """Where vectors are compared. ``process``: by the job's own process, with threads, and without starting Spark or
    Java. Only vectors and a warehouse on this machine can be compared there. ``auto``: there if memory
    suffices (``process_bytes``), and by Spark otherwise. A job on a cluster compares only what takes seconds itself."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What compares vectors in the job's own process. ``auto``: a visible GPU for work that would take the processor
    more than some seconds, else the processor. ``cuda``: the GPU; it is an error if there is none. Spark's tasks
    compare on the processor. The result is the same."""

    process_bytes: Annotated[int, Field(ge=0)] = 8 * 2**30
    """Most memory in bytes that ``runner = "auto"`` takes for vectors and lists in the job's own process. It is never
    more than half of what is available. A vector of 4,096 values takes 36 KB, one of 512 values 7 KB."""

    task_bytes: Annotated[int, Field(ge=2**29)] = 2**30
    """Memory of a task's Python process in bytes, whatever the size of the collection. Tasks are as large as it allows.
    More memory means fewer partial lists to merge. The result is the same."""

    block_rows: Annotated[int, Field(ge=1, le=8192)] = 2048
    """Most vectors in a block. Two blocks are compared by one matrix product. The result is the same."""

    screen: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the quick comparison that proposes candidates. Their exact distances are computed afterwards, so the
    result is the same. ``auto``: the one with which the whole is expected to take least time, by a sample of the
    vectors."""

    @field_validator("fingerprint")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        return check_name(name)

    @model_validator(mode="after")
    def _asks_for_something(self) -> "NeighboursSettings":
        if self.similar == self.dissimilar == 0:
            raise ValueError("similar and dissimilar are both 0: ask for at least one of them")
        return self


class SearchSettings(Section):
    """``[search]``: pictures from outside, and the images of the collection that look like each. How vectors are
    compared (memory, precision) is set in ``[neighbours]``.
    """

    similar: Annotated[int, Field(ge=1, le=10_000)] = 12
    """Nearest images listed for each query."""

    dissimilar: Annotated[int, Field(ge=0, le=10_000)] = 0
    """Farthest images listed for each query. 0 means none."""

    runner: Literal["auto", "spark", "process"] = "auto"
    """Where queries are compared with the collection. ``process``: by the job's own process, with threads, and without
    starting Spark or Java; the warehouse and all vectors must be on this machine. ``auto``: there if memory suffices
    (``neighbours.process_bytes``), and by Spark otherwise. A job on a cluster compares only what takes seconds itself.
    Both compare on the processor (``neighbours.device`` is for ``find_neighbours``). The answers are the same."""


class GroupsSettings(Section):
    """``[groups]``: images that are the same picture again, and images that belong together."""

    enabled: bool = True
    """Whether ``run_pipeline`` groups images after it has found their neighbours."""

    limit: float | Literal["auto"] = "auto"
    """How near two images must be to be near-duplicates: a share of the distances around them, more than 0 and at most
    1 (distance / sqrt(s_i s_j), where s is the distance of an image's 8th neighbour). ``auto`` chooses it on the
    collection itself."""

    wide: Annotated[float, Field(ge=1, le=10)] = 2.0
    """Every two images of a group of near-duplicates are within this many times the limit."""

    keep: Literal["largest", "first"] = "largest"
    """The image that stands for a group of near-duplicates or identical files. ``largest`` has most pixels, then most
    bytes, then the first name. ``first`` has the first name."""

    recalibrate_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    """A limit that was chosen stays while no larger share of the images has changed."""

    runner: Literal["auto", "spark", "process"] = "auto"
    """What compares the images of groups. ``process``: the job's own process, without starting Spark or Java; the
    warehouse and vectors must be on this machine. ``auto``: that process where it can, and Spark otherwise. The tables
    are the same."""

    process_bytes: Annotated[int, Field(ge=1)] = 2 * 2**30
    """Memory in bytes for the vectors that the job's own process compares at once. More of them are read in several
    passes. What near-duplicates connect is compared at once, however large it is. The result is the same."""

    task_bytes: Annotated[int, Field(ge=1)] = 2**28
    """The same for a task of Spark's."""

    @field_validator("limit", mode="before")
    @classmethod
    def _is_a_share(cls, limit: Any) -> Any:
        is_share = isinstance(limit, (int, float)) and not isinstance(limit, bool) and 0 < limit <= 1
        if limit != "auto" and not is_share:
            raise ValueError(f"should be a number above 0 and at most 1, or auto, not {limit!r}")
        return limit

    @field_validator("keep", mode="before")
    @classmethod
    def _is_measured(cls, keep: Any) -> Any:
        if keep == "best":
            raise ValueError("best needs the sharpness of images, which groups do not use yet: choose largest or first")
        return keep


class QualitySettings(Section):
    """``[quality]``: what is measured of each picture while it is decoded, and from which number on it gets a flag."""

    enabled: bool = True
    """Whether embed_images measures pictures and publishes the table ``quality``. If not, the published table stays as
    it is. It changes no vector."""

    dark: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Flagged ``dark``: ``brightness_p95`` is below this. ``0``: none is."""

    bright: Annotated[float, Field(ge=0, le=1)] = 0.8
    """Flagged ``bright``: ``brightness_p5`` is above this. ``1``: none is."""

    blurred: Annotated[float, Field(ge=0)] = 60.0
    """Flagged ``blurred``: ``sharpness`` is below this, also after the contrast is raised to that of an ordinary
    photograph, and the picture is not flat. ``0``: none is."""

    flat: Annotated[float, Field(ge=0, le=1)] = 0.95
    """Flagged ``flat``: ``one_colour_share`` is above this. ``1``: none is."""

    tiny: Annotated[int, Field(ge=0)] = 64
    """Flagged ``tiny``: the shorter side has fewer pixels. ``0``: none is."""

    odd_aspect: Annotated[float, Field(ge=1)] = 3.0
    """Flagged ``odd-aspect``: the longer side is more than so many times the shorter one. ``1e9``: none is."""


class TagsSettings(Section):
    """``[tags]``: what is in a picture, in the words of the network's classifier."""

    enabled: bool = True
    """Whether run_pipeline tags images, where the fingerprint has a classifier; and whether embed_images keeps classes
    for that, where they do not follow from vectors. It changes no vector."""

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A class, or a parent of classes, is a tag of an image if its probability is at least this. Below it, nothing is
    said."""

    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Logits are divided by it before softmax. Above 1 the network is less sure of itself."""

    keep: Annotated[int, Field(ge=1, le=64)] = 3
    """Most probable classes kept for each image, accepted or not. Accepted parents are kept besides them."""

    runner: Literal["auto", "spark", "process"] = "auto"
    """What tags. ``process``: the job's own process, without starting Spark or Java; the warehouse must be on this
    machine. ``auto``: that process, where it can and there are at most 1,000,000 images, and Spark otherwise. The rows
    are the same."""


class GallerySettings(Section):
    """``[gallery]``: the pages that show results."""

    title: str = ""
    """Title of all pages. If empty, the name of the images' folder or list."""

    title_attributes: Strings = ("title", "name")
    """The title of an image is the first of these attributes that it has, else its file name."""

    subtitle_attributes: Strings = ("creator", "artist", "author", "photographer", "label", "category")
    """The subtitle of an image is the first of these attributes that it has."""

    group_by: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    """Attributes that become facets, which group images. If empty, the attributes that divide the images into few
    groups, else the folders of the images."""

    images_per_page: Annotated[int, Field(ge=1, le=1000)] = 100
    """Images on a page that lists images."""

    selection: Annotated[int, Field(ge=1, le=500)] = 42
    """Images on the front page. 42 pictures of one shape fill rows of 2, 3, 6 and 7."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the selection on the front page."""

    show_locations: bool = True
    """Whether pages show where the originals are (paths, addresses), for copying. Without it, only http(s) addresses
    are shown, as links."""


class MapSettings(Section):
    """``[map]``: the map, on which every image has a place beside those that look like it."""

    enabled: bool = True
    """Whether ``run_pipeline --gallery`` ends with the map."""

    layout_rows: Annotated[int, Field(ge=1000)] = 200_000
    """Most images whose places UMAP finds. Of a larger collection it gets a sample, and the others are placed beside
    their neighbours."""

    relayout: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of images that are new since the last layout, from which on all get new places. Below it, known images
    keep theirs but for a few that make room, and new ones are placed beside their neighbours. 0: a new layout in every
    run."""

    free: Annotated[float, Field(ge=0, le=0.5)] = 0.12
    """Share of the cells that stay empty. They part what differs, and new images find a place there."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 2)] = 0
    """Seed of the layout. The same seed gives the same map."""


class HttpSettings(Section):
    """``[http]``: fetching files at http(s) addresses, in all jobs that read images."""

    user_agent: Annotated[str, Field(pattern=r"^[\x20-\x7e]+$")] = f"image-similarity/{__version__}"
    """The User-Agent header of requests. Add an address where you can be reached if you fetch much."""

    connections_per_host: Annotated[int, Field(ge=1, le=64)] = 4
    """Files that a worker fetches from one host at a time. ``build_manifest`` and ``download_images`` ask a host from
    one worker only."""

    connect_seconds: Annotated[float, Field(gt=0)] = 10
    """Longest wait for a connection: for the resolution of the name, for each address of the host, and for the TLS
    handshake."""

    read_seconds: Annotated[float, Field(gt=0)] = 20
    """Longest wait for an answer, and for the next bytes of an answer."""

    total_seconds: Annotated[float, Field(gt=0)] = 300
    """Longest time for one file, with its redirects, further attempts, pauses, and the wait for one of
    ``connections_per_host``. It ends every wait, however slowly a server sends."""

    retries: Annotated[int, Field(ge=0, le=20)] = 3
    """Further attempts after a transient failure: no connection or a broken one, status 429, 408 or 5xx."""

    backoff_seconds: Annotated[float, Field(ge=0)] = 0.5
    """Pause before the second attempt, give or take a half. It doubles with each attempt."""

    retry_after_seconds: Annotated[float, Field(ge=0)] = 60
    """The longest pause that a server may ask for (Retry-After). A file whose server asks for more is not requested
    again in this run."""

    redirects: Annotated[int, Field(ge=0, le=20)] = 5
    """Most redirects that are followed. They may lead to http and https only."""

    private_addresses: bool = False
    """Whether to connect to addresses that are not on the public internet: this machine, a local network, a cloud's
    metadata. Leave it false if others write the lists of addresses."""


class DownloadsSettings(Section):
    """``[downloads]``: fetching a catalogue of addresses into storage. Files larger than ``embeddings.max_bytes`` are
    refused.
    """

    address_columns: Strings = ("image_url", "url", "uri", "address")
    """The column of a catalogue with the address of each image: the first of these that the catalogue has. All other
    columns except ``image_id`` are attributes."""

    max_failed_fraction: Annotated[float, Field(ge=0, le=1)] = 0.05
    """If a larger share of the addresses fails, nothing is published and the exit code is 3. Fetched files stay."""


class ApproximateSettings(Section):
    """``[approximate]``: search for similar neighbours without comparing all pairs, and the recall it must reach."""

    recall_target: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Least share of the true neighbours in the lists, estimated from a sample. Below it ``fallback`` decides."""

    recall_slack: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """The confidence interval of the estimate may begin this much below the target."""

    fallback: Literal["exact", "fail"] = "exact"
    """What happens if the target is not reached: exact search, or failure."""

    audit_queries: Annotated[int, Field(ge=1)] = 1000
    """Vectors whose true neighbours are computed to measure recall."""

    nlist: Annotated[int, Field(ge=0)] = 0
    """Partitions that the collection is cut into. 0: as many as ``partition_rows`` gives."""

    partition_rows: Annotated[int, Field(ge=1)] = 250
    """About the number of vectors in a partition. Partitions are larger if the lists are long, and in collections of
    millions."""

    nprobe: Annotated[int, Field(ge=1)] = 16
    """Partitions that each vector is compared with at first, its home partition included. If partitions are larger than
    ``partition_rows``, there are fewer, but at least five. In the job's own process a sample tells how many are needed,
    which may be fewer."""

    probe_doublings: Annotated[int, Field(ge=0, le=10)] = 2
    """Most times that ``nprobe`` is doubled while recall is too low. Where a sample shows that this will not do,
    nothing is compared, and ``fallback`` decides."""

    rounds: Annotated[int, Field(ge=0, le=20)] = 4
    """Most rounds of comparing neighbours of neighbours. They end when recall is reached. By Spark only: in the job's
    own process probing more partitions takes less time."""

    delta: Annotated[float, Field(ge=0, le=1)] = 0.005
    """A round that changes a smaller share of all entries is the last (NN-descent's delta)."""

    nndescent_rows: Annotated[int, Field(ge=1)] = 60_000
    """Partitions with this many vectors or more are searched by pynndescent. In smaller ones comparing all pairs is
    faster. By Spark only."""

    threads: Annotated[int, Field(ge=1)] = 1
    """Threads of pynndescent, whose lists depend on their number."""

    seed: Annotated[int, Field(ge=0, le=2**31 - 2)] = 0
    """Seed of all samples."""


class FaultOfFingerprint(ValueError):
    """A fault that concerns the fingerprint ``name``."""

    def __init__(self, message: str, name: str):
        super().__init__(message)
        self.name = name


class Settings(Section):
    """All settings of all jobs."""

    manifest: ManifestSettings = ManifestSettings()
    embeddings: EmbeddingsSettings = EmbeddingsSettings()
    fingerprints: dict[str, AnyFingerprint]
    neighbours: NeighboursSettings = NeighboursSettings()
    approximate: ApproximateSettings = ApproximateSettings()
    search: SearchSettings = SearchSettings()
    groups: GroupsSettings = GroupsSettings()
    quality: QualitySettings = QualitySettings()
    tags: TagsSettings = TagsSettings()
    gallery: GallerySettings = GallerySettings()
    map: MapSettings = MapSettings()
    http: HttpSettings = HttpSettings()
    downloads: DownloadsSettings = DownloadsSettings()

    @field_validator("fingerprints")
    @classmethod
    def _have_names(cls, fingerprints: dict[str, FingerprintSettings]) -> dict[str, FingerprintSettings]:
        for name, declared in fingerprints.items():
            try:
                check_name(name)
                if isinstance(declared, PcaSettings):
                    check_base(name, fingerprints)
            except ValueError as error:
                raise FaultOfFingerprint(str(error), name) from None
        return fingerprints

    def fingerprint(self, name: str) -> FingerprintSettings:
        """The settings of fingerprint ``name``. ``WrongInput``, with near and declared names, if there are none."""
        if name not in self.fingerprints:
            declared = sorted(self.fingerprints)
            suggestion = did_you_mean(name, declared)
            remedy = "declare it by --network or --weights, or in a file for --config"
            raise WrongInput(
                f"fingerprint {name!r} is not declared{suggestion or ':'} declared are {listed(declared)}"
                + ("" if suggestion else f"; {remedy}")
            )
        return self.fingerprints[name]
