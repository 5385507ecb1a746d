"""What embed_images says in the end: parts that add up to all images."""

import re

import pytest

from image_similarity.jobs.embed_images import parts

RUNS = {
    "first": ((70, 0, 66, 0), (3, 0), "66 embedded, 0 unchanged, 1 with the same bytes as others, 3 failed"),
    "second": ((70, 70, 0, 0), (3, 3), "0 embedded, 67 unchanged, 3 failed"),
    "one tried again, one new": ((71, 69, 1, 0), (3, 2), "1 embedded, 67 unchanged, 3 failed"),
    "resumed": ((70, 40, 30, 40), (0, 0), "30 embedded, 40 unchanged (40 of them resumed from a run that was not"),
}


@pytest.mark.parametrize("run", RUNS)
def test_the_parts_add_up(run: str) -> None:
    (images, not_read, embedded, resumed), (failed, before), told = RUNS[run]
    counts = {"images": images, "not_read_again": not_read, "embedded": embedded, "resumed": resumed}
    found = parts(counts, failed, before)
    assert ", ".join(found).startswith(told)
    numbers = [int(re.sub(r"\D.*", "", part)) for part in found]
    assert sum(numbers) == images
