"""The map of a gallery: the files that a rendering leaves for it, and those by which pages know that it is there.

map.html                    the page: the shell of a rendering, filled
map/map.json                which map is shown, and of which rendering
map/link.js                 what all other pages show of it; empty while there is no map
<rendering>/_cards/         the images, as Parquet (`CARDS_SCHEMA`)
<rendering>/_shell.html     a page without content, to be put at ``map.html``
"""

import pyarrow as pa

PAGE = "map.html"
FOLDER = "map"
POINTER = f"{FOLDER}/map.json"
LINK = f"{FOLDER}/link.js"

CARDS = "_cards"
CARDS_SCHEMA = pa.schema(
    [
        ("ordinal", pa.int64()),
        *((name, pa.string()) for name in ("image_id", "page", "picture", "title", "subtitle", "alt")),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)
"""One row for each image, in the order of the ordinals, which are those of the data for search. ``width`` and
``height`` (pixels of the larger picture) are null where there is no picture.
"""

SHELL = "_shell.html"
HEAD, MAIN = "<!-- map: head -->", "<!-- map: main -->"
"""Lines of the shell: the place of what the page adds to its head, and of its content."""
