"""Edited copies of some images, embedded by worker processes: what the limit finds of them is measured."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from image_similarity.errors import Unreadable
from image_similarity.fingerprints.spec import FingerprintSpec
from image_similarity.grouping import agreement
from image_similarity.grouping.calibration import KindRecall, recall_by_kind
from image_similarity.grouping.local_scale import SCALE_RANK
from image_similarity.imaging import decoding, thumbprint
from image_similarity.imaging.edits import EDITS, edited
from image_similarity.knn import distances
from image_similarity.knn.distances import METRICS, Values
from image_similarity.runtime import processes
from image_similarity.runtime.processes import Task
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.storage import fetch

ORIGINALS = 200
"""Images that are edited, each in all ways; fewer of small collections."""
SHARE = 1 / 24
"""Copies for each image of the collection, at most: embedding them takes as large a part of what embedding takes."""


@dataclass(frozen=True)
class Original:
    """An image that is edited. ``place``: its place among the originals; ``kinds``: of `EDITS`."""

    place: int
    uri: str
    kinds: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Work:
    """A task: some originals, and how they are embedded."""

    originals: Sequence[Original]
    spec: FingerprintSpec
    file: str | None
    settings: EmbeddingsSettings
    http: HttpSettings


@dataclass(frozen=True)
class Copies:
    """Of m copies: the places of their originals (m,), kinds, vectors (m, d), and thumbprints (m, 1024)."""

    original: NDArray[np.int64]
    kinds: tuple[str, ...]
    vectors: Values
    thumbprints: NDArray[np.uint8]


def planned(images: int) -> tuple[int, int]:
    """How many originals, and how many copies of all of them: one of each kind at least."""
    copies = min(ORIGINALS * len(EDITS), max(len(EDITS), int(images * SHARE)))
    originals = min(ORIGINALS, images, copies)
    return originals, min(copies, originals * len(EDITS))


def originals_of(uris: Sequence[str | None], copies: int, seed: int) -> list[Original]:
    """The originals at ``uris``, and their kinds: all kinds take turns until there are so many ``copies``."""
    names = list(EDITS)
    kinds: list[list[str]] = [[] for _ in uris]
    for number in range(copies):
        place, turn = number % len(uris), number // len(uris)
        kinds[place].append(names[(place + turn) % len(names)])
    return [
        Original(place, uri, tuple(kinds[place]), seed + place)
        for place, uri in enumerate(uris)
        if uri is not None and kinds[place]
    ]


def made(
    server: processes.Server,
    originals: Sequence[Original],
    spec: FingerprintSpec,
    file: str | None,
    settings: EmbeddingsSettings,
    http: HttpSettings,
    cores: int,
) -> Copies | None:
    """The copies, without those of originals that cannot be read any more; None if none are left."""
    shares = [originals[start::cores] for start in range(min(cores, len(originals)))]
    tasks = [Work(share, spec, file, settings, http) for share in shares]
    answers: dict[int, list[dict[str, Any]]] = {}
    for number, answer in processes.run(server, embed, tasks, cores):
        if answer == processes.BEGUN:
            answers[number] = []
        elif answer != processes.DONE:
            answers[number].append(answer)
    rows = sorted((row for of_task in answers.values() for row in of_task), key=lambda row: (row["place"], row["kind"]))
    if not rows:
        return None
    return Copies(
        np.array([row["place"] for row in rows], dtype=np.int64),
        tuple(str(row["kind"]) for row in rows),
        np.stack([_array(row["vector"], np.float32) for row in rows]),
        np.stack([_array(row["thumbprint"], np.uint8) for row in rows]),
    )


def embed(task: Task) -> Iterator[dict[str, Any]]:
    """In a worker: the copies of a `Work`, one by one. After two workers have died, nothing: a file may kill them."""
    work: Work = task.work
    if task.attempt == processes.ATTEMPTS - 1:
        return
    decoding.prepare_process(work.settings.max_pixels)
    with decoding.quiet_decoders():
        fingerprint = work.spec.load(work.file, "cpu")
        copies = _copies(work, fingerprint.framing)
        while batch := list(islice(copies, max(1, fingerprint.batch))):
            vectors = fingerprint(np.stack([square for *_, square in batch]))
            for (place, kind, print_, _), vector in zip(batch, vectors):
                if np.isfinite(vector).all():
                    yield {"place": place, "kind": kind, "vector": _text(vector), "thumbprint": _text(print_.ravel())}


def _copies(work: Work, framing: Any) -> Iterator[tuple[int, str, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Place, kind, thumbprint, and square of each copy."""
    for original in work.originals:
        try:
            content = fetch.fetch(original.uri, work.settings.max_bytes, work.http, work.settings.read_seconds)
            picture = decoding.decode(content, work.settings.max_pixels).image
        except Unreadable:
            continue
        for kind in original.kinds:
            try:
                copy = edited(picture, kind, original.seed)
                print_, square = thumbprint.of(copy), framing.fit(copy)
            except (OSError, ValueError, MemoryError):  # no JPEG is wider than 65,500 pixels, say
                continue
            yield original.place, kind, print_, square


def _text(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _array(text: str, kind: Any) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), kind)


def recall(
    copies: Copies,
    vectors: Values,
    thumbprints: NDArray[np.uint8],
    scale: Values,
    common_scale: float,
    reach: Values,
    ranks: int,
    all_vectors: Iterator[Values],
    metric_name: str,
    limit: float,
) -> list[KindRecall]:
    """What ``limit`` finds of ``copies`` by kind.

    Of the originals, by their places: ``vectors``, ``thumbprints``, local ``scale``, and ``reach``, the distance of the
    last neighbour in their lists of ``ranks``. Of the collection: ``common_scale``, and ``all_vectors``, part by part,
    from which the copies' own lists come. A pair that neither list would hold is not found.
    """
    metric = METRICS[metric_name]
    usable = ~metric.unusable(copies.vectors)
    place, kinds = copies.original[usable], [kind for kind, is_usable in zip(copies.kinds, usable) if is_usable]
    if not kinds:
        return []
    of_copies, of_originals = (distances.measured(values, metric) for values in (copies.vectors[usable], vectors))
    distance = distances.pairs(metric, of_originals, of_copies, place, np.arange(len(kinds))).view(np.float32)
    kept = max(SCALE_RANK, ranks)
    nearest = np.full((len(kinds), kept), np.inf, dtype=np.float32)
    for part in all_vectors:
        lengths = distances.block(metric, of_copies, distances.measured(part[~metric.unusable(part)], metric))
        both = np.concatenate([nearest, lengths.view(np.float32)], axis=1)
        nearest = np.partition(both, kept - 1, axis=1)[:, :kept]
    nearest.sort(axis=1)
    own_scale = np.where(np.isfinite(nearest[:, :SCALE_RANK]), nearest[:, :SCALE_RANK], 0).max(axis=1)
    is_listed = distance <= np.maximum(nearest[:, ranks - 1], reach[place])
    both_prints = np.concatenate([thumbprints[place], copies.thumbprints[usable]])
    pairs = np.arange(len(kinds))
    disagreement = agreement.disagreement(both_prints, pairs, pairs + len(kinds))
    disagreement[~is_listed] = np.inf
    return recall_by_kind(kinds, distance, scale[place], own_scale, common_scale, disagreement, limit)
