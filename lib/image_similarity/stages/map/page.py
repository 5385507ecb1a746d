"""The page of the map: what it adds to a page of the gallery, and the files that it loads.

render_gallery leaves a shell, a page like all others without content. `fill` puts the map into it. The page opens from
the file system under the gallery's Content-Security-Policy: classic scripts, style sheets and pictures of its own
folder, nothing inline. Its data are the scripts of blocks and places, and the tiles.
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import jinja2

from image_similarity.imaging import thumbnails
from image_similarity.pages import cards, maps
from image_similarity.pages.maps import HEAD, MAIN

STATIC = "static"
"""The folder of files that all pages share. They have the hash of their content in their names, and stay for good."""
_STATIC_FILES = ("leaflet.css", "leaflet.js", "map.css", "map_data.js", "map.js")


@dataclass(frozen=True)
class MapFacts:
    """What the page says of a map, and where its files are."""

    run: str
    """Its folder is ``map/<run>/``."""
    title: str
    columns: int
    """The wall, in cells."""
    rows: int
    levels: int
    """The deepest level of tiles; 0 is the first."""
    images: int
    digits: int
    """So many digits of the page's name say which of the places' scripts has an image."""
    fingerprint: str
    metric: str
    nearest: int
    """10, or as many neighbours as images have."""
    kept_on_grid: float | None
    """Share of these nearest that are within the 24 cells around an image. None: not measured."""
    by_chance: float | None
    """The same, if images were placed at random."""
    wall: str
    """The path of the picture of the whole wall, below the gallery."""
    wall_width: int
    wall_height: int


def fill(shell: str, facts: MapFacts) -> str:
    """``map.html``: the map in ``shell``. Raises ``ValueError`` if the shell has no places for it."""
    if not maps.has_places(shell):
        raise ValueError(f"the page must have the lines {HEAD} and {MAIN}, each once")
    addresses = {name: _address(name) for name in _STATIC_FILES}
    before, after = shell.replace(HEAD, _macros().head(addresses)).split(MAIN)
    return f"{before}{_macros().main(facts, thumbnails.SMALL)}{after}"


def static_files() -> dict[str, str]:
    """Path below the gallery -> content, of all that the page loads besides data. They must be there before it."""
    return {_address(name): _content(name) for name in _STATIC_FILES}


def _address(name: str) -> str:
    stem, _, ending = name.partition(".")
    return f"{STATIC}/{stem}-{hashlib.sha256(_content(name).encode()).hexdigest()[:16]}.{ending}"


@lru_cache(maxsize=len(_STATIC_FILES))
def _content(name: str) -> str:
    package = files(__package__)
    if not name.startswith("leaflet"):
        return package.joinpath("templates", name).read_text("utf-8")
    folder = package.joinpath("leaflet")
    # Its licence asks to go with every copy.
    return f"/* {folder.joinpath('LICENSE').read_text('utf-8').strip()} */\n{folder.joinpath(name).read_text('utf-8')}"


@lru_cache(maxsize=1)
def _macros() -> Any:
    """The macros of ``map.html``: head, main."""
    environment: jinja2.Environment = cards.environment(__package__)
    environment.filters["tenths"] = _tenths
    return environment.get_template("map.html").module


def _tenths(value: float) -> str:
    text = f"{value:.1f}"
    return text if text != "0.0" else "less than 0.1"
