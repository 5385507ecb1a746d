"""Catalogues: the addresses to fetch, the names of their files, and the attributes of the images.

A catalogue is a CSV, JSON, JSON-lines or Parquet file with a column of addresses. The open-access data of the Cleveland
Museum of Art (https://github.com/ClevelandMuseumArt/openaccess) is read as it is; only works in the public domain (CC0)
are taken from it. The driver reads a catalogue record by record.
"""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from image_similarity.errors import WrongInput, near_files
from image_similarity.reporting import note
from image_similarity.settings import EmbeddingsSettings
from image_similarity.storage import blobs, tables, timeouts, uris
from image_similarity.storage.tables import Table

Size = Literal["web", "print", "full"]
Record = dict[str, str | None]

SIZES: tuple[Size, ...] = ("web", "print", "full")
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("address", pa.string()),
        ("name", pa.string()),
        ("attributes", pa.map_(pa.string(), pa.string())),
    ]
)

_PLAIN_NAME = re.compile(r"(?!.*-[0-9a-f]{32}$)[a-z0-9][a-z0-9._-]{0,79}")
"""A name that ends like one with a hash could be that of another id."""
_WORK_FACTS = ("title", "department", "type", "culture", "technique", "creation_date", "url")
_WORK_COLUMNS = (
    *("accession_number", "share_license_status", "images", "creators", *_WORK_FACTS),
    *(f"image_{size}" for size in SIZES),
)


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
    location: str,
    address_columns: tuple[str, ...],
    size: Size | None = None,
    sample: int | None = None,
    seed: int = 0,
    read_seconds: float = EmbeddingsSettings().read_seconds,
) -> Catalogue:
    """The catalogue at ``location``; with ``sample`` only that many entries, by a hash of image_id and ``seed``.

    ``size``: one of the museum's three sizes (None: ``web``). Raises ``WrongInput`` if the catalogue cannot be read
    (also if no answer comes for ``read_seconds``), has no addresses, or has an image_id twice.
    """
    left_out: Counter[str] = Counter()
    table, entry_of = check(location, address_columns, size, read_seconds)
    columns = [name for name in table.names if not _is_museum(table) or name in _WORK_COLUMNS]
    try:
        entries = list(_taken(_records(table, columns), entry_of, left_out))
    except ValueError as error:
        raise WrongInput(f"--catalogue {location}: cannot be read: {error}") from None
    for line in table.notes:
        note(f"{location}: {line}")
    _check(entries, left_out, location)
    if sample is not None:
        entries = sorted(entries, key=lambda entry: hashlib.sha256(f"{seed}\n{entry.image_id}".encode()).digest())[
            :sample
        ]
    return Catalogue(entries, dict(sorted(left_out.items())))


def check(
    location: str, address_columns: tuple[str, ...], size: Size | None, read_seconds: float
) -> tuple[Table, Callable[[Record], Entry | str]]:
    """The catalogue's table, and what makes an entry of a record. No row is read. Raises ``WrongInput``, as `read`."""
    try:
        if uris.is_local(location) and not timeouts.within(read_seconds, blobs.exists, location):
            raise WrongInput(f"--catalogue {location}: no such file{near_files(location)}")
        table = tables.open_table(location, read_seconds)
    except (ValueError, TimeoutError) as error:
        raise WrongInput(f"--catalogue {location}: cannot be read: {error}") from None
    return table, _entry_of(table, address_columns, location, size)


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


def _records(table: Table, columns: list[str]) -> Iterator[Record]:
    return (record for batch in table.batches(columns) for record in batch.to_pylist())


def _entry_of(
    table: Table, address_columns: tuple[str, ...], location: str, size: Size | None
) -> Callable[[Record], Entry | str]:
    """What makes an entry of a record, or tells the reason why it is left out. ``WrongInput`` if nothing can."""
    if _is_museum(table):
        return lambda record: _work(record, size or "web")
    if size is not None:
        raise WrongInput(f"--catalogue {location}: --size is of the museum's catalogue, and this is none")
    try:
        address_column, id_column = table.column(*address_columns), table.column("image_id")
    except ValueError as error:
        raise WrongInput(f"--catalogue {location}: {error}") from None
    if address_column is None:
        names, columns = " or ".join(map(repr, address_columns)), ", ".join([*table.names, *table.binary])
        raise WrongInput(
            f"--catalogue {location}: no column {names}; its columns are: {columns} "
            "(downloads.address_columns names it)"
        )
    return lambda record: _listed(record, address_column, id_column or address_column)


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
    if not entries and not left_out:
        raise WrongInput(f"--catalogue {location}: it has no records")
    if not entries:
        raise WrongInput(f"--catalogue {location}: no record was taken; left out: {dict(left_out)}")
    counts = Counter(entry.image_id for entry in entries)
    twice = [repr(image_id) for image_id, count in counts.items() if count > 1][:5]
    if twice:
        raise WrongInput(
            f"--catalogue {location}: image_id must be unique, but these stand more than once: {', '.join(twice)}"
        )


# -- any list ----------------------------------------------------------------------------------------------------------


def _listed(record: Record, address_column: str, id_column: str) -> Entry | str:
    address, image_id = (record[address_column] or "").strip(), record[id_column]
    if not address:
        return "without an address"
    if image_id is None:
        return "without an image_id"
    attributes = {
        name: value for name, value in record.items() if name not in (address_column, "image_id") and value is not None
    }
    return Entry(image_id, address, file_name(image_id), attributes)


# -- the museum's ------------------------------------------------------------------------------------------------------


def _is_museum(table: Table) -> bool:
    names = set(table.names)
    return "share_license_status" in names and not names.isdisjoint(("images", "image_web", "accession_number"))


def _work(record: Record, size: Size) -> Entry | str:
    """A work of the museum's ``data.csv`` or ``data.json``.

    The name of its file contains the size, because each size has its own address.
    """
    images = _values(record.get("images"))
    image = images.get(size) if isinstance(images, dict) else None
    address = image.get("url") if isinstance(image, dict) else record.get(f"image_{size}")
    if not address:
        return f"without an image ({size})"
    if record.get("share_license_status") != "CC0":
        return "not CC0"
    file = os.path.splitext(address.rpartition("/")[2])[0]
    image_id = record.get("accession_number") or file.removesuffix(f"_{size}")
    facts = {name: _joined(_values(record.get(name))) for name in _WORK_FACTS}
    facts["creator"] = _creators(_values(record.get("creators")))
    return Entry(
        image_id, address, file_name(f"{image_id}_{size}"), {name: text for name, text in facts.items() if text}
    )


def _creators(creators: Any) -> str | None:
    if not isinstance(creators, list):
        return _joined(creators)
    descriptions = [creator.get("description") for creator in creators if isinstance(creator, dict)]
    return "; ".join(text.strip() for text in descriptions if text) or None


def _joined(values: Any) -> str | None:
    """A fact of a work as text. The museum's JSON has lists of words where its CSV has words."""
    if isinstance(values, list) and all(isinstance(item, str) for item in values):
        values = ", ".join(values)
    text = values if isinstance(values, str) or values is None else json.dumps(values, ensure_ascii=False)
    return text and text.strip()


def _values(cell: str | None) -> Any:
    """A cell that holds JSON, as lists and records; any other as it is."""
    try:
        return json.loads(cell) if cell is not None and cell[:1] in ("{", "[") else cell
    except ValueError:
        return cell
