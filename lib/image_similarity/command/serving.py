"""``image-similarity serve``: the page of `image_similarity.serve` as a subcommand."""

import importlib
from collections.abc import Sequence

from image_similarity.command import running
from image_similarity.command.catalogue import NAME, SERVE


def main(words: Sequence[str]) -> int:
    """Serves until it is ended, and returns the exit code."""
    return running.run(f"{NAME} {SERVE}", importlib.import_module("image_similarity.serve.main"), words)
