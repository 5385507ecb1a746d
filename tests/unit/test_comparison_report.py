"""The page of a comparison of fingerprints, filled with made-up results."""

import pytest

from image_similarity.stages.comparison import report
from image_similarity.stages.comparison.cards import Card
from image_similarity.stages.comparison.measures import Comparison, Labelled, Measured
from image_similarity.stages.comparison.report import Pair, Report


@pytest.mark.parametrize(("images", "is_marked"), [(5, True), (4, False)])
def test_being_in_both_lists_is_marked_where_it_says_something(images: int, is_marked: bool) -> None:
    """Two lists of two of three others have one in common at least."""
    cards = {name: Card(name, name, name, "", None, None, None, "not_found", 0, 0) for name in "abcd"}
    disagreement = report.disagreement("a", {"one": "bc", "two": "cd"}, cards)
    measured = Measured("one", "two", "cosine", "overlap", 2, 0.5, None, 0.5, images)
    comparison = Comparison(("one", "two"), "cosine", 2, None)
    contents = Report(comparison, images, 0, [measured], Labelled(), [Pair(measured, (disagreement,))], ())
    page = report._template().render(report=contents, folder="r1", names={}, shown=6)
    assert page.count('<li class="tile both">') == page.count(">in both<") == (2 if is_marked else 0)
    assert ("A frame marks" in page) == is_marked
