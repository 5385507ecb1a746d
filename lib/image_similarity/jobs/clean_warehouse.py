"""Removes what a warehouse need not keep: leftovers of dead runs and, on request, runs that were replaced."""

import argparse

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
            f"clean_warehouse: would remove {len(paths):,} folders and files from {warehouse.uri}",
            *_shown(warehouse, paths),
        )
        return
    removed = retention.remove(warehouse, paths)
    if warehouse.current().version:
        warehouse.write_views()  # which name the old place in a warehouse that was moved or copied
    active = leases.active(warehouse)
    unknown = recovery.unknown_runs(warehouse, active)
    total = f"{len(removed):,} folders and files, {sum(removed.values()) / 2**20:,.1f} MiB"
    say(f"clean_warehouse: removed {total}, from {warehouse.uri}", *_shown(warehouse, list(removed)))
    if unknown:
        note(
            f"{len(unknown):,} runs are recorded that {POINTER} does not know, as if an older one had been put back: "
            f"what they wrote stays; {HOW_TO_REBUILD}"
        )
    if active:
        minutes = leases.DEAD_SECONDS / 60
        note(
            f"{len(active):,} runs are at work, or were less than {minutes:.0f} minutes ago: what they have "
            "written stays"
        )


def _shown(warehouse: Warehouse, paths: list[str]) -> list[str]:
    names = [path.removeprefix(f"{warehouse.uri}/") for path in paths[:PATHS_SHOWN]]
    return [*names, f"... and {len(paths) - PATHS_SHOWN:,} more"] if len(paths) > PATHS_SHOWN else names


if __name__ == "__main__":
    command_line.start("clean_warehouse")
