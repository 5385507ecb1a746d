"""What is seen before Spark is started, which takes seconds: places on this machine, and what is published there."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from image_similarity.errors import JobFailed, WrongInput, did_you_mean, listed
from image_similarity.pages import site
from image_similarity.reporting import note, printable
from image_similarity.settings import Settings
from image_similarity.storage import disk_space, filesystems, uris
from image_similarity.warehouse import parquet, places
from image_similarity.warehouse.snapshot import Snapshot, open_snapshot

LEAST_ROOM = 4 * 2**20
"""Bytes. The smallest run writes about 1 MiB: tables, its record, views, Spark's own files. On a disk with less room it
would begin, and fail in the middle."""


def check_folder(flag: str, uri: str, dry_run: bool, below: Sequence[str] = ()) -> None:
    """Raises ``WrongInput`` if ``uri``, which ``flag`` gives, cannot be a folder to write to.

    Of other places only the address is looked at. Folders need not be there yet. Nothing is written under
    ``--dry-run``. ``below``: paths of folders in it that are written, too.
    """
    if (fault := places.fault_of_folder(uri)) is not None:
        raise WrongInput(f"{flag} {uri}: {fault}")
    if not uris.is_local(uri):
        return
    for path in ("", *below):
        folder = disk_space.existing(os.path.join(uris.absolute(uri), path))
        if not dry_run and not os.access(folder, os.W_OK | os.X_OK):
            raise WrongInput(f"{flag} {uri}: {folder} cannot be written")


def check_site(kind: str, folder: str, arguments: argparse.Namespace, images: str = "") -> None:
    """Raises ``WrongInput`` if ``folder`` cannot be a site of this ``kind``, see `pages.site`: as `check_folder` does,
    for a folder with other content, and for one in ``images`` (empty if they are not known) or in the warehouse.

    ``arguments``: of any job.
    """
    check_folder(f"--{kind}", folder, arguments.dry_run)
    if uris.is_local(folder):
        place = uris.absolute(images) if images else ""
        site.open_site(None, kind, folder).check_place(place, uris.absolute(arguments.warehouse))


def note_lone_publishers(folders: Mapping[str, str]) -> None:
    """Says, in one line, which of ``folders`` (flag -> URI) are in stores where only one job at a time may publish."""
    lone = [f"{flag} {printable(uri)}" for flag, uri in folders.items() if not filesystems.has_compare_and_swap(uri)]
    if lone:
        note(
            f"{' and '.join(lone)}: run one job at a time there. Such stores replace a file in several steps, so that "
            'of two jobs which publish at once one may undo the other ("Several jobs at once" in docs/operations.md)'
        )


def check_there(flag: str, uri: str) -> None:
    """Raises ``WrongInput`` if no warehouse can be at ``uri``, which ``flag`` gives: on this machine, no folder is."""
    check_folder(flag, uri, dry_run=True)
    if (fault := places.fault_of_missing(uri)) is not None:
        raise WrongInput(f"{flag} {uri}: {fault}")


def check_is_no_site(warehouse: str) -> None:
    """Raises ``WrongInput`` where ``--warehouse`` names the folder of a gallery or report on this machine."""
    if not uris.is_local(warehouse) or not os.path.isdir(path := uris.absolute(warehouse)):
        return
    if (kind := site.kind_at(filesystems.files_of(path), path)) is not None:
        raise WrongInput(f"--warehouse {warehouse}: this is a {kind}: name its warehouse{places.near_warehouses(path)}")


def to_read(warehouse: str) -> Snapshot | None:
    """As `snapshot`, for a job that reads what others published. ``WrongInput`` for a place that is no warehouse."""
    check_there("--warehouse", warehouse)
    published = snapshot(warehouse)
    if published is not None and not published.pointer.version:
        if (fault := places.fault_of_content(published.uri)) is not None:
            raise WrongInput(f"--warehouse {warehouse}: {fault}")
    return published


def check_room(arguments: argparse.Namespace, **folders: str | None) -> None:
    """Raises ``JobFailed`` where the disk of one of ``folders`` (flag -> URI, or None), or of Spark's own, is full.

    Only folders on this machine are looked at. ``arguments``: of any job; nothing is written under ``--dry-run``.
    """
    if arguments.dry_run:
        return
    local = {flag: uris.absolute(uri) for flag, uri in folders.items() if uri is not None and uris.is_local(uri)}
    needs = [disk_space.Need(f"--{flag}", folder, LEAST_ROOM) for flag, folder in local.items()]
    needs += [disk_space.Need("spark.local.dir", folder, LEAST_ROOM) for folder in arguments.scratch_folders]
    for need in needs:  # one by one: what several need on one disk is no more than this
        disk_space.check("any run", [need])


def has_label(published: Snapshot, label: str) -> bool:
    """Whether a run with this ``--run-id`` was published, by whatever job."""
    return any(run.label == label for run in published.runs.values())


def snapshot(warehouse: str) -> Snapshot | None:
    """The warehouse as it is now; None if it is not on this machine, and may need Spark to be read.

    Raises as `open_snapshot` does.
    """
    return open_snapshot(warehouse) if uris.is_local(warehouse) else None


def with_only_fingerprint(warehouse: str, settings: Settings, tables: Sequence[str]) -> Settings:
    """``settings`` with the only fingerprint of which one of ``tables`` is published, and a note that says so.

    They stay as they are where several are published, or that of the settings.
    """
    try:
        published = snapshot(warehouse) if tables else None
    except (JobFailed, OSError):  # the job says what is wrong with the place
        return settings
    names = {slot.partition("/")[0] for table in tables for slot in (published.slots(table) if published else ())}
    if len(names) != 1 or settings.neighbours.fingerprint in names:
        return settings
    (only,) = names
    note(f"fingerprint {only}: no other is published in {printable(warehouse)}")
    neighbours = settings.neighbours.model_copy(update={"fingerprint": only})
    return settings.model_copy(update={"neighbours": neighbours})


def runs_of(published: Snapshot, table: str, slot: str, job: str) -> list[str]:
    """The current runs of ``slot`` of ``table``. ``WrongInput``, with what helps, if ``job`` has published none."""
    runs = published.run_ids(table, slot)
    if not runs and not slot:  # the table has no others
        raise WrongInput(f"no {table} is published in {published.uri}: run {job} first")
    if not runs:
        slots = sorted(published.slots(table))
        advice = _advice(slot, slots, f"run {job} first")
        raise WrongInput(f"no {table} {slot!r} in {published.uri} (published: {listed(slots)}){advice}")
    return runs


def _advice(slot: str, published: Sequence[str], job: str) -> str:
    """How to get to one of the ``published`` slots, or to ``slot`` by the command ``job``.

    Near fingerprints are those with the same metric: two slots are not alike because both end in ``/cosine``.
    """
    (name, _, metric), slots = slot.partition("/"), [one.partition("/") for one in published]
    others = [of for of, _, by in slots if by == metric]
    flags = {"--fingerprint": others, "--metric": [by for of, _, by in slots if of == name]}
    named = " or ".join(flag for flag, known in flags.items() if known) or "--fingerprint and --metric"
    return did_you_mean(name, others, f"name one by {named}, or {job}" if slots else job)


@dataclass(frozen=True)
class PublishedVectors:
    """What the footers of Parquet files tell of a fingerprint's published vectors."""

    images: int
    dimensions: int


def new_images(published: Snapshot, fingerprint: str) -> int:
    """Images of the manifest that have neither a vector nor a failure by ``fingerprint`` yet, at least.

    All are files: copies of one another count each. 0 if tables cannot be read: the job says why.
    """
    slots = {"manifest": "", "embeddings": fingerprint, "failures": fingerprint}
    try:
        count: dict[str, int] = {table: published.dataset(table, slot).count_rows() for table, slot in slots.items()}
    except (OSError, pa.ArrowException):
        return 0
    return max(0, count["manifest"] - count["embeddings"] - count["failures"])


def unread_images(published: Snapshot, fingerprint: str) -> int:
    """Images of the manifest in a version that has neither a vector nor a failure by ``fingerprint``.

    0 if tables cannot be read: the job says why.
    """
    columns = ["image_id", "source_version"]
    slots = {"manifest": "", "embeddings": fingerprint, "failures": fingerprint}
    try:
        rows = {table: published.table(table, slot, columns) for table, slot in slots.items()}
    except (OSError, pa.ArrowException):
        return 0
    images = {table: set(zip(*(column.to_pylist() for column in ids.columns))) for table, ids in rows.items()}
    return len(images["manifest"] - images["embeddings"] - images["failures"])


def vectors_of(published: Snapshot, fingerprint: str) -> PublishedVectors | None:
    """The published vectors of ``fingerprint``; None if there are none, or files cannot be read: the job says why."""
    try:
        embeddings = published.dataset("embeddings", fingerprint)
        first = embeddings.head(1, columns=["fingerprint_key"]).to_pylist()
        footers = _footers(published, "vectors", first[0]["fingerprint_key"]) if first else []
        lengths = [length for footer in footers if (length := parquet.list_length(footer, "embedding"))]
        if not lengths:
            return None
        return PublishedVectors(embeddings.count_rows(), lengths[0])
    except (OSError, pa.ArrowException):
        return None


def _footers(published: Snapshot, table: str, slot: str) -> list[pq.FileMetaData]:
    return [fragment.metadata for fragment in published.dataset(table, slot).get_fragments() if fragment.count_rows()]
