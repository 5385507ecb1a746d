"""What render_map says of where images are."""

import pytest

from image_similarity.jobs.render_map import described


@pytest.mark.parametrize(
    ("images", "cells", "new_layout", "placed", "text"),
    [
        (1460, (44, 38), True, 0, "1,460 images on 44 x 38 cells, all at new places"),
        (1460, (44, 38), False, 3, "1,460 images on 44 x 38 cells, 3 of them new"),
        (1460, (44, 38), False, 0, "1,460 images on 44 x 38 cells, all where they were"),
        (1, (1, 1), True, 0, "1 image on 1 cell, at a new place"),
        (1, (1, 1), False, 0, "1 image on 1 cell, where it was"),
    ],
)
def test_each_ending(images: int, cells: tuple[int, int], new_layout: bool, placed: int, text: str) -> None:
    counts = {"images": images, "columns": cells[0], "rows": cells[1], "new_layout": new_layout, "placed": placed}
    assert described(counts) == text
