"""Agreement and label measures against a plain computation of the same, on random lists, and their chance levels."""

import math
import random
import statistics
import sys
from collections import Counter
from collections.abc import Mapping
from itertools import combinations, permutations
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.stages.comparison import measures, plot, report
from image_similarity.stages.comparison.cards import Card
from image_similarity.stages.comparison.measures import Comparison, Labelled, Lists, Measured
from image_similarity.storage.local import LocalFiles
from image_similarity.warehouse.workspace import Workspace

Neighbours = dict[str, dict[str, list[str]]]
"""fingerprint -> image -> its neighbours, nearest first"""

Key = tuple[str, str | None, str]


@pytest.fixture
def scratch(spark: SparkSession, tmp_path: Path) -> Workspace:
    return Workspace(spark, LocalFiles(), f"file://{tmp_path}/scratch")


def rows_of(spark: SparkSession, lists: Neighbours) -> DataFrame:
    rows = [
        (image, name, rank, neighbour)
        for name, of in lists.items()
        for image, neighbours in of.items()
        for rank, neighbour in enumerate(neighbours, 1)
    ]
    return spark.createDataFrame(rows, "image_id string, fingerprint string, rank int, neighbour_id string")


def measured(
    spark: SparkSession, scratch: Workspace, lists: Neighbours, k: int, labels: Mapping[str, str] | None = None
) -> tuple[dict[Key, Measured], Labelled, Lists]:
    """What the module says of ``lists``."""
    comparison = Comparison(tuple(lists), "cosine", k, "label" if labels is not None else None)
    neighbours = rows_of(spark, lists)
    collected = Lists.collect(neighbours, comparison.fingerprints, scratch)
    told = list(measures.agreement(collected, comparison))
    labelled = Labelled()
    if labels is not None:
        table = spark.createDataFrame(list(labels.items()) or [("", "")], "image_id string, label string")
        labelled = measures.by_label(neighbours, collected, table, comparison, scratch)
    return {(row.fingerprint, row.other, row.measure): row for row in (*told, *labelled.measured)}, labelled, collected


def drawn(seed: int, images: int, k: int, missing: float) -> Neighbours:
    """Random lists by three fingerprints, each of which lacks some of the images."""
    rng = random.Random(seed)
    lists: Neighbours = {}
    for name in ("a", "b", "c"):
        there = [f"{number}" for number in range(images) if rng.random() >= missing]
        lists[name] = {
            image: rng.sample([other for other in there if other != image], min(k, len(there) - 1)) for image in there
        }
    return lists


def plainly(lists: Neighbours, k: int, labels: Mapping[str, str]) -> dict[Key, list[float]]:
    """The same measures image by image, as their definitions say."""
    compared = set.intersection(*(set(of) for of in lists.values()))
    sharing = Counter(labels[image] for image in compared if image in labels)
    values: dict[Key, list[float]] = {}
    for one, other in combinations(lists, 2):
        for image in compared:
            first, second = lists[one][image], lists[other][image]
            shared = sum(neighbour in second for neighbour in first)
            values.setdefault((one, other, "overlap"), []).append(shared / max(len(first), len(second)))
    for name, of in lists.items():
        for image in compared:
            if sharing[labels.get(image, "")] < 2:
                continue
            hits = [labels.get(neighbour) == labels[image] for neighbour in of[image]]
            relevant = sum(labels.get(other) == labels[image] for other in of if other != image)
            total = sum(sum(hits[:rank]) / rank for rank in range(1, len(hits) + 1) if hits[rank - 1])
            values.setdefault((name, None, "precision"), []).append(sum(hits) / len(hits))
            values.setdefault((name, None, "mean_average_precision"), []).append(total / min(k, relevant))
    return values


CASES = [(30, 5, 0.0, 0), (40, 6, 0.2, 1), (5, 7, 0.0, 2), (8, 7, 0.1, 3)]


@pytest.mark.parametrize("images, k, missing, seed", CASES, ids=lambda value: f"{value}")
def test_measures_are_what_their_definitions_say(
    spark: SparkSession, scratch: Workspace, images: int, k: int, missing: float, seed: int
) -> None:
    lists = drawn(seed, images, k, missing)
    rng = random.Random(seed)
    labels = {f"{number}": rng.choice("pqrst") for number in range(images) if rng.random() < 0.8} | {"0": "alone"}
    told, labelled, collected = measured(spark, scratch, lists, k, labels)
    expected = plainly(lists, k, labels)
    assert set(told) == set(expected)
    for key, values in expected.items():
        assert told[key].images == len(values)
        assert told[key].value == pytest.approx(statistics.mean(values))
        error = told[key].standard_error
        assert (
            error == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)))
            if len(values) > 1
            else error is None
        )
    compared = set.intersection(*(set(of) for of in lists.values()))
    assert collected.images("a", "b", "c") == len(compared)
    assert collected.images() == len({image for of in lists.values() for image in of})
    assert labelled.images + labelled.alone + labelled.unlabelled == len(compared)
    assert labelled.unlabelled == len([image for image in compared if image not in labels])


def test_lists_of_the_same_images_overlap_wholly_in_any_order(spark: SparkSession, scratch: Workspace) -> None:
    lists: Neighbours = {"a": {"1": ["2", "3"], "2": ["1", "3"], "3": ["2", "1"]}}
    lists["b"] = {image: neighbours[::-1] for image, neighbours in lists["a"].items()}
    told, _, _ = measured(spark, scratch, lists, 5)  # fewer than k others
    row = told["a", "b", "overlap"]
    assert (row.value, row.standard_error, row.chance, row.images, row.k) == (1, 0, 1, 3, 5)


def test_lists_of_different_images_do_not_overlap(spark: SparkSession, scratch: Workspace) -> None:
    told, _, _ = measured(spark, scratch, {"a": {"1": ["2"], "2": ["1"]}, "b": {"1": ["3"], "3": ["1"]}}, 1)
    row = told["a", "b", "overlap"]
    assert (row.value, row.standard_error, row.images) == (0, None, 1)


def test_fingerprints_without_an_image_in_common_cannot_be_compared(spark: SparkSession, scratch: Workspace) -> None:
    with pytest.raises(JobFailed, match="no image has neighbours by all of a, b"):
        measured(spark, scratch, {"a": {"1": ["2"], "2": ["1"]}, "b": {"3": ["4"], "4": ["3"]}}, 1)


def test_labels_that_nobody_shares_measure_nothing(spark: SparkSession, scratch: Workspace) -> None:
    lists = {"a": {"1": ["2"], "2": ["1"], "3": ["1"]}}
    told, labelled, _ = measured(spark, scratch, lists, 1, {"1": "x", "2": "y"})
    assert told == {} and labelled == Labelled((), 0, 2, 1)


def test_a_list_that_begins_with_all_there_are_is_perfect(spark: SparkSession, scratch: Workspace) -> None:
    images = [f"{number}" for number in range(6)]
    labels = {image: "even" if int(image) % 2 == 0 else "odd" for image in images}
    best = {
        image: sorted(images, key=lambda other: (labels[other] != labels[image], other == image)) for image in images
    }
    lists = {"a": {image: [other for other in near if other != image][:4] for image, near in best.items()}}
    told, _, _ = measured(spark, scratch, lists, 4, labels)
    assert told["a", None, "mean_average_precision"].value == 1
    assert told["a", None, "precision"].value == 0.5, "of four neighbours two can have the label"


# -- chance ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("others, relevant, k", [(5, 2, 3), (5, 1, 5), (4, 4, 2), (1, 1, 1), (6, 3, 4)])
def test_chance_levels_are_means_over_all_lists(
    spark: SparkSession, scratch: Workspace, others: int, relevant: int, k: int
) -> None:
    """Of every order of the others, for one image that shares its label with ``relevant`` of them."""
    names = [f"{number}" for number in range(others)]
    labels = {**{name: "x" for name in names[:relevant]}, "query": "x"}
    lists = {"a": {"query": names[:k], **{name: ["query"] for name in names}}}
    told, _, _ = measured(spark, scratch, lists, k, labels)
    precisions, averages = [], []
    for order in permutations(names):
        hits = [labels.get(name) == "x" for name in order[:k]]
        precisions.append(sum(hits) / k)
        total = sum(sum(hits[:rank]) / rank for rank in range(1, k + 1) if hits[rank - 1])
        averages.append(total / min(k, relevant))
    assert told["a", None, "precision"].chance == pytest.approx(statistics.mean(precisions))
    assert told["a", None, "mean_average_precision"].chance == pytest.approx(statistics.mean(averages))


def test_the_overlap_of_random_lists_is_that_of_chance(spark: SparkSession, scratch: Workspace) -> None:
    """With lists of their own length, and images of their own, for each fingerprint."""
    lists = drawn(seed=7, images=400, k=12, missing=0.1)
    told, _, collected = measured(spark, scratch, lists, 12)
    assert 0 < collected.images("a", "b", "c") < collected.images("a", "b") < collected.images("a") < 400
    for row in told.values():
        assert row.standard_error is not None and abs(row.value - row.chance) < 4 * row.standard_error


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_disagreements_are_the_lowest_overlaps_and_ties_are_spread(spark: SparkSession, scratch: Workspace) -> None:
    lists = drawn(seed=3, images=60, k=4, missing=0.0)
    _, _, collected = measured(spark, scratch, lists, 4)
    overlaps = {image: len({*lists["a"][image]} & {*lists["c"][image]}) / 4 for image in lists["a"]}
    chosen = measures.disagreements(collected, "a", "c", 8)
    assert [row.overlap for row in chosen] == sorted(overlaps.values())[:8]
    assert [(row.first, row.second) for row in chosen] == [
        (lists["a"][row.image_id], lists["c"][row.image_id]) for row in chosen
    ]
    ids = [row.image_id for row in chosen if row.overlap == 0]
    assert len(ids) > 2 and ids != sorted(ids), "not those with the first names"
    assert ids == [row.image_id for row in measures.disagreements(collected, "a", "c", 8) if row.overlap == 0]
    assert measures.disagreements(collected, "a", "c", 0) == []


def card(image_id: str, label: str | None) -> Card:
    return Card(image_id, image_id, image_id, label or "", label, None, None, "not_found", None, None)


def test_a_disagreement_marks_what_both_have_and_what_has_the_label() -> None:
    first, second = [f"{number}" for number in range(8)], ["9", "7", "0"]
    cards = {name: card(name, "x" if name in ("0", "q") else None) for name in [*first[:6], *second, "q"]}
    shown = report.disagreement("q", {"a": first, "b": second}, cards)
    assert (shown.in_common, shown.length) == (2, 8)
    (_, by_a), (_, by_b) = shown.lists
    assert [one.card.image_id for one in by_a] == first[:6] and [one.in_both for one in by_a] == [True] + [False] * 5
    assert [one.in_both for one in by_b] == [False, True, True], (
        "7 is in the other list, though too far down to be shown"
    )
    assert [one.same_label for one in by_b] == [False, False, True]
    unlabelled = report.disagreement("1", {"a": ["2"], "b": ["3"]}, cards)
    assert not unlabelled.lists[0][1][0].same_label, "none is not a label"


def test_a_title_leads_to_the_original_where_that_is_on_the_web(tmp_path: Path) -> None:
    web = Card(
        "w", "<b>A</b> title", "", "x", "x", "https://example.org/?a=1&b=2", None, "unsupported_scheme", None, None
    )
    comparison, row = (
        Comparison(("a", "b"), "cosine", 1, None),
        Measured("a", "b", "cosine", "overlap", 1, 0.0, None, 0.5, 2),
    )
    shown = report.disagreement(
        "q", {"a": ["w"], "b": ["q2"]}, {"q": card("q", None), "w": web, "q2": card("q2", None)}
    )
    told = report.Report(comparison, 2, 1, [row], Labelled(), [report.Pair(row, (shown,))], ())
    page = report.write(told, b"<svg/>", str(tmp_path / "r1"))
    assert '<a href="https://example.org/?a=1&amp;b=2" rel="noopener noreferrer">&lt;b&gt;A&lt;/b&gt; title</a>' in page
    assert page.count("<a href=") == 1 and "no picture: unsupported scheme" in page
    assert {file.name for file in (tmp_path / "r1").iterdir()} == {
        "plot.svg",
        "report.css",
    } and 'src="r1/plot.svg"' in page


def measures_of(*fingerprints: str) -> list[Measured]:
    comparison = Comparison(fingerprints, "cosine", 5, "label")
    overlaps = [Measured(*pair, "cosine", "overlap", 5, 0.4, 0.01, 0.1, 9) for pair in comparison.pairs]
    return overlaps + [Measured(name, None, "cosine", "precision", 5, 0.6, None, 0.1, 9) for name in fingerprints]


@pytest.mark.parametrize("fingerprints", [("one",), ("a", "b"), ("a", "b", "c", "d", "e", "a-rather-long-name")])
def test_the_plot_is_an_svg_file_and_always_the_same(fingerprints: tuple[str, ...]) -> None:
    pytest.importorskip("matplotlib")
    comparison = Comparison(fingerprints, "cosine", 5, "label")
    drawn = plot.draw(comparison, measures_of(*fingerprints))
    assert drawn.startswith(b"<?xml") and b"<svg" in drawn
    assert plot.draw(comparison, measures_of(*fingerprints)) == drawn


def test_a_missing_matplotlib_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    with pytest.raises(WrongInput, match="pip install matplotlib"):
        plot.check_installed()
