"""What the gallery says of distances: where they lie among those of all nearest neighbours, and pairs as examples."""

import itertools
import math
from dataclasses import replace

import pytest
from pyspark.sql import SparkSession

from image_similarity.stages.gallery import distances
from image_similarity.stages.gallery.pages import Tab

TABS = (Tab("a", "a", "cosine"), Tab("b", "b", "cosine"))


def test_deciles_are_those_of_nearest_neighbours_and_need_enough_of_them(spark: SparkSession) -> None:
    rows = [(0, "similar", 1, n / 100) for n in range(1, 101)]  # 0.01 to 1
    rows += [(0, "similar", 2, 5.0)] * 100 + [(0, "dissimilar", 1, 7.0)] * 100
    rows += [(1, "similar", 1, 0.5)] * (distances.LEAST_IMAGES - 1)
    first, second = distances.measured(
        TABS, spark.createDataFrame(rows, "tab int, relation string, rank int, distance float")
    )
    assert [round(decile, 6) for decile in first.deciles] == [tenth / 10 for tenth in range(1, 10)]
    assert second == replace(TABS[1], others=distances.LEAST_IMAGES - 2)
    assert first.others == 99


def test_random_pairs_are_those_of_the_compared_vectors(spark: SparkSession) -> None:
    tabs = (Tab("a", "a", "cosine"), Tab("a, euclidean", "a", "euclidean"), Tab("own", "own", "cosine"))
    angles = [n * math.pi / 200 for n in range(101)]
    rows = [(f"c{n}", [math.cos(angle), math.sin(angle)]) for n, angle in enumerate(angles)]
    rows += [("zero", [0.0, 0.0]), ("bad", [math.nan, 1.0]), ("gone", [-1.0, 0.0])]
    stored = spark.createDataFrame(rows, "content_sha256 string, embedding array<float>")
    contents = stored.where("content_sha256 <> 'gone'").select("content_sha256")
    compared = distances.Compared(contents.unionByName(contents), stored)
    cosine, euclidean, own = distances.with_random_pairs(tabs, {"a": compared})
    between = sorted(abs(one - other) for one, other in itertools.combinations(angles, 2))
    middle = [between[round(share * (len(between) - 1))] for share in distances.RANDOM_SHARES]
    assert cosine.random == pytest.approx([1 - math.cos(angle) for angle in middle], abs=0.001)
    assert euclidean.random[1:3] == pytest.approx([2 * math.sin(angle / 2) for angle in middle[1:3]], abs=0.01)
    assert own.random == ()
    few = distances.Compared(contents.limit(distances.LEAST_IMAGES - 1), stored)
    assert distances.with_random_pairs(tabs, {"a": few})[0].random == ()


def test_examples_are_the_pairs_nearest_to_the_deciles(spark: SparkSession) -> None:
    def pair(
        one: str, other: str, relation: str, distance: float, tab: int = 0
    ) -> tuple[int, str, str, int, str, float]:
        return tab, one, relation, 1, other, distance

    rows = [pair("same", "copy", "similar", 0.0), pair("copy", "same", "similar", 0.0)]
    rows += [pair("almost", "same", "similar", 0.00004)]
    rows += [pair(f"i{n:02}", f"o{n:02}", "similar", n / 100) for n in range(1, 100)]
    rows += [pair("far", "away", "dissimilar", 0.9), pair("away", "far", "dissimilar", 0.9)]
    rows += [pair("absent", "i01", "similar", 0.001), pair("i02", "absent", "dissimilar", 1.9)]
    rows += [pair("i02", "i01", "similar", 0.4, tab=1), pair("i01", "i02", "similar", 0.4, tab=1)]
    rows += [(1, "i01", "similar", 2, "i03", 0.1)]  # of another rank
    frame = spark.createDataFrame(
        rows, "tab int, image_id string, relation string, rank int, neighbour_id string, distance double"
    )
    names = {name for row in rows for name in (row[1], row[4])}
    widths = [(name, None if name == "absent" else 480) for name in sorted(names)]
    cards = spark.createDataFrame(widths, "image_id string, width int")
    deciles = tuple(tenth / 10 for tenth in range(1, 10))
    first, second = distances.examples((replace(TABS[0], deciles=deciles), TABS[1]), frame, cards)
    assert first == {
        "closest": ("i01", "o01", 0.01),
        "near": ("i10", "o10", 0.1),
        "usual": ("i50", "o50", 0.5),
        "far": ("i90", "o90", 0.9),
        "farthest": ("away", "far", 0.9),
    }
    assert second == {"closest": ("i01", "i02", 0.4)}, "the same pair is no example of anything else"
