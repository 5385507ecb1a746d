"""Catalogues: the addresses to fetch, the names of their files, and the attributes of the images.

A catalogue is a CSV, JSON, JSON-lines or Parquet file with a column of addresses. The open-access data of the Cleveland
Museum of Art (https://github.com/ClevelandMuseumArt/openaccess) is read as it is; only works in the public domain (CC0)
are taken from it. The driver reads a catalogue record by record.
"""

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from image_similarity.errors import WrongInput, near_files
from image_similarity.storage import blobs, uris

Size = Literal["web", "print", "full"]
Record = dict[str, Any]

SIZES: tuple[Size, ...] = ("web", "print", "full")
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("address", pa.string()),
        ("name", pa.string()),
        ("attributes", pa.map_(pa.string(), pa.string())),
    ]
)

_LONGEST_CELL = 1 << 27
_PLAIN_NAME = re.compile(r"(?!.*-[0-9a-f]{32}$)[a-z0-9][a-z0-9._-]{0,79}")
"""A name that ends like one with a hash could be that of another id."""
_WORK_FACTS = ("title", "department", "type", "culture", "technique", "creation_date", "url")


@dataclass(frozen=True)
class Entry:
    image_id: str
    address: str
    name: str
    """The name of its file, without extension. Unique within the catalogue."""
    attributes: dict[str, str]


@dataclass(frozen=True)
class Catalogue:
    entries: list[Entry]
    left_out: dict[str, int]
    """reason -> records that were left out."""

    def table(self) -> pa.Table:
        """The entries as a table in `SCHEMA`."""
        columns = zip(
            *((entry.image_id, entry.address, entry.name, list(entry.attributes.items())) for entry in self.entries)
        )
        return pa.table([pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types)], schema=SCHEMA)


def read(
    location: str, address_columns: tuple[str, ...], size: Size | None = None, sample: int | None = None, seed: int = 0
) -> Catalogue:
    """The catalogue at ``location``; with ``sample`` only that many entries, by a hash of image_id and ``seed``.

    ``size``: one of the museum's three sizes (None: ``web``). Raises ``WrongInput`` if the catalogue cannot be read,
    has no addresses, or has an image_id twice.
    """
    left_out: Counter[str] = Counter()
    try:
        records = _records(location)
        first = next(records, None)
        if first is None:
            raise WrongInput(f"--catalogue {location}: it has no records")
        records = chain([first], records)
        if _is_museum(first):
            entries = list(_taken(records, lambda record: _work(record, size or "web"), left_out))
        elif size is not None:
            raise WrongInput(f"--catalogue {location}: --size is of the museum's catalogue, and this is none")
        else:
            entries = list(_taken_of_list(list(records), address_columns, location, left_out))
    except FileNotFoundError:
        near = near_files(location) if uris.is_local(location) else ""
        raise WrongInput(f"--catalogue {location}: no such file{near}") from None
    except (OSError, ValueError, csv.Error, pa.ArrowException) as error:
        raise WrongInput(f"--catalogue {location}: cannot be read: {' '.join(str(error).split())}") from None
    _check(entries, left_out, location)
    if sample is not None:
        entries = sorted(entries, key=lambda entry: hashlib.sha256(f"{seed}\n{entry.image_id}".encode()).digest())[
            :sample
        ]
    return Catalogue(entries, dict(sorted(left_out.items())))


def slot_of(location: str) -> str:
    """The catalogue's name in the warehouse: its file's name, in lower case, with only letters, digits and ``-``."""
    stem = os.path.splitext(location.rstrip("/").rpartition("/")[2])[0]
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "catalogue"


def file_name(image_id: str) -> str:
    """A name for the file of ``image_id``: unique, and the same in every run.

    An id of lower-case letters, digits and ``. _ -`` is its own name. Any other name is made of the safe characters of
    the id's last path segment and a hash. The hash makes it unique, also on file systems that ignore case.
    """
    if _PLAIN_NAME.fullmatch(image_id):
        return image_id
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", image_id.rstrip("/").rpartition("/")[2])[:60].strip("._-")
    return f"{readable or 'image'}-{hashlib.sha256(image_id.encode()).hexdigest()[:32]}"


def _taken(
    records: Iterable[Record], entry_of: Callable[[Record], Entry | str], left_out: Counter[str]
) -> Iterator[Entry]:
    """The entries that ``entry_of`` makes of ``records``. Where it returns a reason instead, that is counted."""
    for record in records:
        entry = entry_of(record)
        if isinstance(entry, str):
            left_out[entry] += 1
        else:
            yield entry


def _check(entries: list[Entry], left_out: Counter[str], location: str) -> None:
    if not entries:
        raise WrongInput(f"--catalogue {location}: no record was taken; left out: {dict(left_out)}")
    counts = Counter(entry.image_id for entry in entries)
    twice = [repr(image_id) for image_id, count in counts.items() if count > 1][:5]
    if twice:
        raise WrongInput(
            f"--catalogue {location}: image_id must be unique, but these stand more than once: {', '.join(twice)}"
        )


# -- any list ----------------------------------------------------------------------------------------------------------


def _taken_of_list(
    records: list[Record], address_columns: tuple[str, ...], location: str, left_out: Counter[str]
) -> Iterator[Entry]:
    columns = list(dict.fromkeys(name for record in records for name in record))
    address_column = next((name for name in address_columns if name in columns), None)
    if address_column is None:
        names = " or ".join(map(repr, address_columns))
        raise WrongInput(
            f"--catalogue {location}: no column {names}; its columns are: {', '.join(columns)} "
            "(downloads.address_columns names it)"
        )
    id_column = "image_id" if "image_id" in columns else address_column
    return _taken(records, lambda record: _listed(record, address_column, id_column), left_out)


def _listed(record: Record, address_column: str, id_column: str) -> Entry | str:
    address, image_id = _text(record.get(address_column)), _text(record.get(id_column))
    if address is None:
        return "without an address"
    if image_id is None:
        return "without an image_id"
    pairs = ((name, _text(value)) for name, value in record.items() if name not in (address_column, "image_id"))
    attributes = {name: value for name, value in pairs if name and value is not None}
    return Entry(image_id, address, file_name(image_id), attributes)


# -- the museum's ------------------------------------------------------------------------------------------------------


def _is_museum(record: Record) -> bool:
    return "share_license_status" in record and not record.keys().isdisjoint(
        ("images", "image_web", "accession_number")
    )


def _work(record: Record, size: Size) -> Entry | str:
    """A work of the museum's ``data.csv`` or ``data.json``.

    The name of its file contains the size, because each size has its own address.
    """
    images = record.get("images")
    image = images.get(size) if isinstance(images, dict) else None
    address = _text(image.get("url") if isinstance(image, dict) else record.get(f"image_{size}"))
    if address is None:
        return f"without an image ({size})"
    if _text(record.get("share_license_status")) != "CC0":
        return "not CC0"
    file = os.path.splitext(address.rpartition("/")[2])[0]
    image_id = _text(record.get("accession_number")) or file.removesuffix(f"_{size}")
    facts = {name: _text(record.get(name)) for name in _WORK_FACTS}
    facts["creator"] = _creators(record.get("creators"))
    return Entry(
        image_id, address, file_name(f"{image_id}_{size}"), {name: text for name, text in facts.items() if text}
    )


def _creators(creators: Any) -> str | None:
    if not isinstance(creators, list):
        return _text(creators)
    descriptions = [_text(creator.get("description")) for creator in creators if isinstance(creator, dict)]
    return "; ".join(text for text in descriptions if text) or None


# -- files -------------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str | None:
    """A cell as text; None for an empty one. Lists of words are joined, other lists and records become JSON."""
    if value is None or value == "" or value == [] or value == {}:
        return None
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ", ".join(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode().strip() or None  # JSON may contain unpaired surrogates


def _records(location: str) -> Iterator[Record]:
    suffix = os.path.splitext(location)[1].lower()
    if suffix == ".csv":
        csv.field_size_limit(_LONGEST_CELL)
        return iter(csv.DictReader(io.StringIO(_content(location), newline="")))
    if suffix in (".json", ".jsonl", ".ndjson"):
        return _json_records(_content(location))
    if suffix == ".parquet":
        batches = pq.ParquetFile(blobs.open_input_file(location)).iter_batches()
        return (record for batch in batches for record in batch.to_pylist())
    raise WrongInput(f"--catalogue {location}: a file of unknown type; give a .csv, .json, .jsonl or .parquet")


def _content(location: str) -> str:
    return blobs.read(location).decode("utf-8-sig")


def _json_records(text: str) -> Iterator[Record]:
    """The records of a JSON list, of JSON lines, or of the list ``data`` of one object, decoded one by one.

    Raises ``ValueError`` for anything else.
    """
    values = _json_values(text)
    first = next(values, None)
    if isinstance(first, dict) and isinstance(first.get("data"), list):
        values, first = iter(first["data"]), None
    for value in values if first is None else chain([first], values):
        if not isinstance(value, dict):
            raise ValueError(f"{str(value)[:50]!r} is no record")
        yield value


def _json_values(text: str) -> Iterator[Any]:
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,]*")
    position = between.match(text).end()  # type: ignore[union-attr]  # the pattern also matches the empty string
    is_list = text.startswith("[", position)
    position += is_list
    while True:
        position = between.match(text, position).end()  # type: ignore[union-attr]
        if position == len(text) and is_list:
            raise ValueError("the list has no end")
        if position == len(text) or (is_list and text[position] == "]"):
            return
        value, position = decoder.raw_decode(text, position)
        yield value
