"""Tags in a warehouse, as a job publishes them: what tests of pages need, made without a classifier."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from hostile import SCRIPT
from image_similarity.warehouse.records import PUBLISHED, Record, new_run_id
from image_similarity.warehouse.schemas import RUNS, SCHEMAS
from image_similarity.warehouse.warehouse import Warehouse

Tag = tuple[str, str | None, float]
"""class, wnid and probability."""

LONG = "a class with a name that does not end " * 20
RTL = "\u202eright to left \u05d0\u05d1\u05d2\x01\ufffe"
CLASSES = [
    SCRIPT,
    "",
    LONG,
    RTL,
    "Cardigan",
    "cardigan",
    "../../etc/passwd",
    "x" * 500,
    "'\"><img src=x>",
    "{{ 7 * 7 }}",
]
"""Names of classes that try to break pages and addresses."""
CRANES: Sequence[tuple[str, str | None]] = (("crane", "n02012849"), ("crane", "n03126707"))
THRESHOLD = 0.5
CONTROL = f"{SCRIPT}\x01\ufffe"
COUNTS = dict.fromkeys(("images", "tagged", "untagged", "without_scores", "different_tags", "rows"), 1)


def publish(
    warehouse: Path, fingerprint: str, tags: Mapping[str, Sequence[Tag]], replaced: Iterable[str] = (), **record: Any
) -> str:
    """Publishes the ``tags`` of images, by rank: those below `THRESHOLD` are not accepted. Returns the run.

    Images have the content that is embedded, but for those whose file was ``replaced`` since they were tagged.
    """
    place: Any = Warehouse(None, str(warehouse))  # type: ignore[arg-type]
    before, run = place.snapshot(), new_run_id()
    embedded = before.table("embeddings", fingerprint, ["image_id", "content_sha256"])
    contents = dict(zip(*(column.to_pylist() for column in embedded.columns)))
    contents |= dict.fromkeys(replaced, "what it was")
    place.write_here("tags", run, [table_of(fingerprint, tags, contents)])
    values: dict[str, Any] = {
        **{"run_id": run, "label": None, "job": "tag_images", "slot": fingerprint, "status": PUBLISHED},
        **{"inputs": {"embeddings": before.run_ids("embeddings", fingerprint)}, "outputs": {"replaced": {}}},
        **{"settings": {"tags": {"threshold": THRESHOLD}, "classifier": {"key": "k", "classes": 12}, "label": None}},
        **{"counts": {**COUNTS, "most_frequent": {CONTROL: 2}}, "versions": {}, "seconds": 0.1},
        **{"stages": {}, "recall": None, "started_at": datetime.now(timezone.utc)},
        **{"finished_at": datetime.now(timezone.utc), **record},
    }
    place.write_record(Record(**values))
    place.publish(before.pointer, {"tags": {fingerprint: run}}, {RUNS: {"": run}})
    return run


def table_of(
    fingerprint: str, tags: Mapping[str, Iterable[Tag]], contents: Mapping[str, str] = MappingProxyType({})
) -> pa.Table:
    """``contents``: image_id -> its content; null for others."""
    rows = [
        {"image_id": image_id, "fingerprint": fingerprint, "rank": rank, "class": name, "wnid": wnid}
        | {"probability": probability, "accepted": probability >= THRESHOLD}
        | {"content_sha256": contents.get(image_id)}
        for image_id, of_image in tags.items()
        for rank, (name, wnid, probability) in enumerate(of_image, 1)
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["tags"])


def hostile(ids: Sequence[str]) -> dict[str, list[Tag]]:
    """Tags of a collection that tries to break pages, whose images are ``ids``.

    Each class of `CLASSES` and `CRANES` is the most specific tag of some; all of these are a "thing", every other one a
    "creature" as well. The last three images have a guess that nobody is sure of. An image that is not there has tags.
    """
    specific: list[tuple[str, str | None]] = [*((name, None) for name in CLASSES), *CRANES]
    tags: dict[str, list[Tag]] = {}
    for number, image_id in enumerate(ids[:-3]):
        own, sure = specific[number % len(specific)], 0.5 + 0.01 * (number % 40)
        tags[image_id] = [(*own, sure)]
        if number % 2:
            tags[image_id].append(("creature", "n00015388", sure + 0.05))
        tags[image_id] += [("thing", "n00002452", min(1.0, sure + 0.2)), ("a doubt", None, 0.1)]
    tags |= {image_id: [("a doubt", None, 0.49)] for image_id in ids[-3:]}
    return {**tags, "no such image": [("thing", "n00002452", 0.9)]}
