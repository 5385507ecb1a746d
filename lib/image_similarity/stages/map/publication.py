"""Puts a map that is drawn into its gallery: the page, and what leads to it."""

from image_similarity.errors import JobFailed
from image_similarity.pages import maps
from image_similarity.stages.map import page
from image_similarity.stages.map.page import MapFacts
from image_similarity.stages.map.source import Source
from image_similarity.storage import blobs

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "json": "application/json",
}


def put_in_place(source: Source, facts: MapFacts) -> None:
    """Replaces the page, after what it loads and before what leads to it. Call it while the gallery is locked.

    The pointer comes before the page, so that the rendering which the page needs is kept if the job dies in between.
    Raises ``JobFailed`` if a file cannot be written.
    """
    link = maps.Link(facts.wall, facts.wall_width, facts.wall_height, facts.images)
    files = {
        **{path: content.encode() for path, content in page.static_files().items()},
        maps.POINTER: maps.Pointer(facts.run, source.rendering).as_json(),
        maps.PAGE: page.fill(source.shell, facts).encode(),
        maps.LINK: link.script(),
    }
    try:
        for path, content in files.items():
            blobs.write(f"{source.site.uri}/{path}", content, _TYPES[path.rpartition(".")[2]])
    except OSError as error:
        raise JobFailed(
            f"not all files of the map of {source.site.uri} could be replaced: {error}. It may be the map before in "
            "part: run render_map again"
        ) from error
