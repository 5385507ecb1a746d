"""What embed_images says in the end: parts that add up to all images."""

import re

import pytest

from image_similarity.jobs.embed_images import parts, quality_described

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


@pytest.mark.parametrize(
    ("measured", "lacking", "flags", "told"),
    [
        (1608, 0, {"blurred": 3, "dark": 1}, "1,608 images measured: 3 blurred, 1 dark"),
        (5, 0, {}, "5 images measured: none flagged"),
        (5, 3, {}, "5 of 8 images measured: none flagged"),
        (0, 8, {}, "none of 8 images has numbers: they were embedded before quality was measured"),
    ],
)
def test_what_is_not_measured_is_not_said_to_be_good(
    measured: int, lacking: int, flags: dict[str, int], told: str
) -> None:
    assert quality_described({"measured": measured, "not_measured": lacking, "flags": flags}) == told
