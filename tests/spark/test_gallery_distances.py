"""What the gallery says of distances: where they lie among those of all nearest neighbours."""

from pyspark.sql import SparkSession

from image_similarity.stages.gallery import distances
from image_similarity.stages.gallery.pages import Tab

TABS = (Tab("a", "a", "cosine"), Tab("b", "b", "cosine"))


def test_deciles_are_those_of_nearest_neighbours_and_need_enough_of_them(spark: SparkSession) -> None:
    rows = [(0, "similar", 1, n / 100) for n in range(1, 101)]  # 0.01 to 1
    rows += [(0, "similar", 2, 5.0)] * 100 + [(0, "dissimilar", 1, 7.0)] * 100
    rows += [(1, "similar", 1, 0.5)] * (distances.LEAST_IMAGES - 1)
    first, second = distances.with_deciles(
        TABS, spark.createDataFrame(rows, "tab int, relation string, rank int, distance float")
    )
    assert [round(decile, 6) for decile in first.deciles] == [tenth / 10 for tenth in range(1, 10)]
    assert second == TABS[1]
