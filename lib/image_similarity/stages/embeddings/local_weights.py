"""Weights that are named by a path on this machine: whether they are there, seen before torch is loaded."""

import os
from collections.abc import Sequence

from image_similarity.errors import WrongInput, listed, no_such_file
from image_similarity.storage import timeouts, uris

SECONDS_TO_ANSWER = 120.0
"""For a drive to say whether a file is there. Drives that are gone may never answer."""


def is_path(name: str) -> bool:
    """Whether ``name`` is a local path, and neither an address nor a name as ``IMAGENET1K_V1`` or ``untrained``."""
    return uris.is_local(name) and ("/" in name or "." in name or os.path.exists(name))


def check(names: Sequence[str]) -> None:
    """Raises ``WrongInput``, with names that are near, if all of ``names`` are paths and none is there; or for a
    folder. A drive that does not answer says nothing here: who reads the weights tells it.
    """
    try:
        timeouts.within(SECONDS_TO_ANSWER, _check, names)
    except TimeoutError:
        pass


def _check(names: Sequence[str]) -> None:
    paths = [uris.absolute(name) for name in names if is_path(name)]
    for path in paths:
        if os.path.isdir(path):
            inside = listed(sorted(os.listdir(path)))
            raise WrongInput(f"weights {path}: this is a folder, name a file in it; there are: {inside}")
    if len(paths) == len(names) and not any(map(os.path.exists, paths)):
        raise WrongInput("; ".join(f"weights: {no_such_file(path)}" for path in paths))
