"""Removes what a warehouse need not keep: leftovers of dead runs and, on request, runs that were replaced."""

import argparse
from collections.abc import Collection

from image_similarity.errors import counted
from image_similarity.jobs import command_line
from image_similarity.jobs.job import Application
from image_similarity.reporting import note, say
from image_similarity.warehouse import leases, recovery, retention
from image_similarity.warehouse.snapshot import HOW_TO_REBUILD, POINTER
from image_similarity.warehouse.warehouse import Warehouse

PATHS_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--discard-checkpoints",
        "--discard-saved",
        action="store_true",
        help="also remove checkpoints of unpublished runs, from which the next embed_images would resume",
    )


def run(application: Application) -> None:
    arguments, warehouse = application.arguments, application.warehouse
    paths = retention.removable(warehouse, arguments.keep_runs, arguments.discard_checkpoints)
    if arguments.dry_run:
        say(
            f"clean_warehouse: would remove {_counted(paths)} from {warehouse.uri}",
            *_shown(warehouse, paths),
        )
        return
    removed = retention.remove(warehouse, paths)
    if warehouse.current().version:
        warehouse.write_views()  # which name the old place in a warehouse that was moved or copied
    active = leases.active(warehouse)
    unknown = recovery.unknown_runs(warehouse, active)
    total = f"{_counted(removed)}, {sum(removed.values()) / 2**20:,.1f} MiB"
    say(f"clean_warehouse: removed {total}, from {warehouse.uri}", *_shown(warehouse, list(removed)))
    if unknown:
        note(
            f"{counted(len(unknown), 'run is', 'runs are')} recorded that {POINTER} does not know, as if an older one "
            f"had been put back: what {'it' if len(unknown) == 1 else 'they'} wrote stays; {HOW_TO_REBUILD}"
        )
    if active:
        minutes = leases.DEAD_SECONDS / 60
        note(
            f"{counted(len(active), 'run is at work, or was', 'runs are at work, or were')} less than {minutes:.0f} "
            f"minutes ago: what {'it has' if len(active) == 1 else 'they have'} written stays"
        )


def _counted(paths: Collection[str]) -> str:
    return counted(len(paths), "folder or file", "folders and files")


def _shown(warehouse: Warehouse, paths: list[str]) -> list[str]:
    names = [path.removeprefix(f"{warehouse.uri}/") for path in paths[:PATHS_SHOWN]]
    return [*names, f"... and {len(paths) - PATHS_SHOWN:,} more"] if len(paths) > PATHS_SHOWN else names


if __name__ == "__main__":
    command_line.start("clean_warehouse")
