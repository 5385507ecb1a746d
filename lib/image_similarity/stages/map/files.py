"""Where the map's files are: paths below the gallery. Those of one run of render_map are in a folder of its own."""

from image_similarity.pages.maps import FOLDER

TILES = f"{FOLDER}/tiles"
"""The folder of all maps' tiles. Their names tell their content."""


def tile_path(tile: str) -> str:
    """The path of the tile with this hash."""
    return f"{TILES}/{tile[:2]}/{tile}.webp"


def folder(run: str) -> str:
    """The folder of the map that ``run`` drew."""
    return f"{FOLDER}/{run}"


def inventory(run: str) -> str:
    """The folder of Parquet files that record the tiles of ``run``, see `tiles.COLUMNS`."""
    return f"{folder(run)}/_tiles"


def block_path(run: str, block: str) -> str:
    """The path of the data of a block, see `blocks`."""
    return f"{folder(run)}/blocks/{block}.js"


def places_path(run: str, prefix: str) -> str:
    """The path of the cells of all images whose page's name begins with ``prefix``."""
    return f"{folder(run)}/places/{prefix or 'all'}.js"


def wall_path(run: str) -> str:
    """The path of the picture of the whole wall."""
    return f"{folder(run)}/wall.webp"
