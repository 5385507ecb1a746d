"""What is seen before Spark is started, which takes seconds: places on this machine, and what is published there."""

import os
from collections.abc import Mapping

from image_similarity.errors import WrongInput, did_you_mean, listed
from image_similarity.reporting import note, printable
from image_similarity.storage import filesystems, uris
from image_similarity.warehouse.snapshot import Snapshot, open_snapshot


def check_folder(flag: str, uri: str, dry_run: bool) -> None:
    """Raises ``WrongInput`` if ``uri``, which ``flag`` gives, cannot be a folder to write to.

    Only folders on this machine are looked at. They need not be there yet. Nothing is written under ``--dry-run``.
    """
    if not uris.is_local(uri):
        return
    folder = uris.absolute(uri)
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise WrongInput(f"{flag} {uri}: {folder} is a file; name a folder")
    if not dry_run and not os.access(folder, os.W_OK | os.X_OK):
        raise WrongInput(f"{flag} {uri}: {folder} cannot be written")


def note_lone_publishers(folders: Mapping[str, str]) -> None:
    """Says, in one line, which of ``folders`` (flag -> URI) are in stores where only one job at a time may publish."""
    lone = [f"{flag} {printable(uri)}" for flag, uri in folders.items() if not filesystems.has_compare_and_swap(uri)]
    if lone:
        note(
            f"{' and '.join(lone)}: run one job at a time there. Such stores replace a file in several steps, so that "
            'of two jobs which publish at once one may undo the other ("Several jobs at once" in docs/operations.md)'
        )


def has_label(published: Snapshot, label: str) -> bool:
    """Whether a run with this ``--run-id`` was published, by whatever job."""
    return any(run.label == label for run in published.runs.values())


def snapshot(warehouse: str) -> Snapshot | None:
    """The warehouse as it is now; None if it is not on this machine, and may need Spark to be read.

    Raises as `open_snapshot` does.
    """
    return open_snapshot(warehouse) if uris.is_local(warehouse) else None


def runs_of(published: Snapshot, table: str, slot: str, job: str) -> list[str]:
    """The current runs of ``slot`` of ``table``. ``WrongInput``, with near slots, if ``job`` has published none."""
    runs = published.run_ids(table, slot)
    if not runs:
        slots = sorted(published.slots(table))
        advice = did_you_mean(slot, slots) or f": {'name one by --fingerprint, or ' if slots else ''}run {job} first"
        raise WrongInput(f"no {table} {slot!r} in {published.uri} (published: {listed(slots)}){advice}")
    return runs
