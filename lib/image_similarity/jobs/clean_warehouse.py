"""Remove what a warehouse need not keep: what runs that died have left and, if asked, runs that newer ones have
replaced."""

import argparse

from image_similarity.errors import WrongInput
from image_similarity.jobs import command_line
from image_similarity.jobs.job import Application
from image_similarity.reporting import note, say
from image_similarity.warehouse import leases, retention
from image_similarity.warehouse.warehouse import Warehouse

PATHS_SHOWN = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--discard-checkpoints",
        "--discard-saved",
        action="store_true",
        help="also vectors of runs that died, which the next embed_images would take over",
    )


def run(application: Application) -> None:
    arguments, warehouse = application.arguments, application.warehouse
    if not warehouse.files.entries(warehouse.uri):
        raise WrongInput(f"there is no warehouse at {warehouse.uri}: check --warehouse")
    paths = retention.removable(warehouse, arguments.keep_runs, arguments.discard_checkpoints)
    if arguments.dry_run:
        say(
            f"clean_warehouse: would remove {len(paths):,} folders and files from {warehouse.uri}",
            *_shown(warehouse, paths),
        )
        return
    removed = retention.remove(warehouse, paths)
    at_work = leases.active(warehouse)
    told = f"{len(removed):,} folders and files, {sum(removed.values()) / 2**20:,.1f} MiB"
    say(f"clean_warehouse: removed {told}, from {warehouse.uri}", *_shown(warehouse, list(removed)))
    if at_work:
        minutes = leases.DEAD_SECONDS / 60
        note(
            f"{len(at_work):,} runs are at work, or were less than {minutes:.0f} minutes ago: what they have "
            "written stays"
        )


def _shown(warehouse: Warehouse, paths: list[str]) -> list[str]:
    shown = [path.removeprefix(f"{warehouse.uri}/") for path in paths[:PATHS_SHOWN]]
    return [*shown, f"... and {len(paths) - PATHS_SHOWN:,} more"] if len(paths) > PATHS_SHOWN else shown


if __name__ == "__main__":
    command_line.start("clean_warehouse")
