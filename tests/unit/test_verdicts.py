"""Whether a picture from outside is in a collection already."""

import numpy as np
import pytest

from image_similarity.grouping import verdicts
from image_similarity.grouping.local_scale import Limits

LIMITS = Limits(0.5, 0.05, 2.0)


def values(*rows: list[float]) -> "np.ndarray":
    return np.array(rows, dtype=np.float32)


def test_the_scale_of_a_query_is_that_of_its_eighth_image_and_identical_files_do_not_count() -> None:
    listed = [0.0, 0.0, *np.arange(0.1, 1.0, 0.1)]
    assert verdicts.scales(values(listed))[0] == np.float32(0.8)
    assert verdicts.scales(values([0.1, 0.2, 0.3, 0.4, np.inf]))[0] == np.float32(0.4)
    assert verdicts.scales(values([0.0, 0.0, 0.0, 0.1, 0.2, 0.3]))[0] == 0  # three are no list
    assert verdicts.scales(np.empty((2, 0), np.float32)).tolist() == [0, 0]


def test_images_of_one_content_count_once_in_the_scale_of_a_query() -> None:
    distance = values(np.repeat(np.arange(0.1, 1.0, 0.1), 2).tolist())
    assert verdicts.scales(distance)[0] == np.float32(0.4)
    assert verdicts.scales(distance, np.repeat(np.arange(9), 2)[None])[0] == np.float32(0.8)
    assert verdicts.scales(distance, np.full((1, 18), -1))[0] == np.float32(0.4), "nobody knows whose bytes they are"


def test_what_content_was_there_before() -> None:
    content = np.array([[3, -1, 1, 3, -1, 1], [1, 2, 3, 4, 5, 6]])
    assert verdicts.repeated(content).tolist() == [[False, False, False, True, False, True], [False] * 6]
    assert verdicts.repeated(np.empty((2, 0), np.int64)).shape == (2, 0)


@pytest.mark.parametrize(
    ("distance", "disagreement", "verdict"),
    [
        (0.4, 0.001, "yes"),  # within half of the scale, and the pictures agree
        (0.4, 0.2, "near"),  # ... and they do not
        (0.4, np.nan, "near"),  # ... and nobody knows
        (0.0, np.nan, "yes"),  # equal vectors
        (0.0, 0.2, "near"),  # ... of pictures that differ
        (0.6, 0.001, "yes"),  # a copy beyond doubt, however far
        (0.6, 0.02, "no"),
        (0.6, np.nan, "no"),
    ],
)
def test_what_is_said_of_a_pair(distance: float, disagreement: float, verdict: str) -> None:
    one = values([1.0])
    found = verdicts.verdicts(values([distance]), one[0], one, LIMITS, values([disagreement]))
    assert found.tolist() == [[verdict]]


def test_only_the_strict_limit_holds_without_a_scale() -> None:
    found = verdicts.verdicts(values([0.05, 0.06]), values([0.0])[0], values([1.0, 1.0]), LIMITS)
    assert found.tolist() == [["near", "no"]]


def test_the_same_bytes_are_the_same_picture_and_padding_is_nothing() -> None:
    same = np.array([[True, False]])
    found = verdicts.verdicts(values([0.9, np.inf]), values([1.0])[0], values([1.0, 1.0]), LIMITS, same=same)
    assert found.tolist() == [["yes", None]]


def test_where_pictures_decide_no_scale_is_smaller_than_the_common_one() -> None:
    distance, scale = values([0.2]), values([0.1])
    agreeing = values([0.01])
    told = verdicts.verdicts(distance, scale[0], scale, LIMITS, agreeing)
    by_common = verdicts.verdicts(distance, scale[0], scale, LIMITS, agreeing, common=1.0)
    assert (told.tolist(), by_common.tolist()) == ([["no"]], [["yes"]])
    unknown = verdicts.verdicts(distance, scale[0], scale, LIMITS, common=1.0)
    assert unknown.tolist() == [["no"]]  # no picture decides here


def test_pictures_are_compared_where_both_are_known() -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (2, 1024)).astype(np.uint8)
    share, places = values([0.5, 0.5, 0.5, 2.0], [0.5, 0.5, 0.5, 2.0]), np.array([[0, 1, -1, 0], [0, 1, -1, 0]])
    found = verdicts.disagreements(share, pictures, np.array([0, -1]), pictures, places)
    assert found[0, 0] == found[0, 3] == 0 and found[0, 1] > 0.5 and np.isnan(found[0, 2])
    assert np.isnan(found[1]).all()


def test_of_the_collections_pictures_only_those_that_are_compared_are_in_memory() -> None:
    """All of them may be a file that is larger than the memory. So large is none that these were copied from."""
    picture = np.random.default_rng(0).integers(0, 256, (1, 1024)).astype(np.uint8)
    images = np.broadcast_to(picture, (2**40, 1024))
    found = verdicts.disagreements(values([0.5, 0.5]), picture, np.array([0]), images, np.array([[2**39, 7]]))
    assert found.tolist() == [[0, 0]]
