"""Measures of calibration, on classifiers that are made so that the answer is known."""

import numpy as np
import pytest
from torchvision.models._meta import _IMAGENET_CATEGORIES

from image_similarity.tagging import calibration, temperature
from image_similarity.tagging.calibration import accuracy_by_coverage, expected_calibration_error, measured
from image_similarity.tagging.hierarchy import Hierarchy
from image_similarity.tagging.scores import Scores, kept

CLASSES = 300
NAMES = [f"class {number}" for number in range(CLASSES)]
FLAT = Hierarchy.flat(NAMES)
IMAGENET = Hierarchy.of(_IMAGENET_CATEGORIES)
PLACE = {name: number for number, name in enumerate(_IMAGENET_CATEGORIES)}


def drawn(images: int, overconfidence: float = 1.0, classes: int = CLASSES) -> tuple[Scores, list[str]]:
    """A perfect classifier: labels are drawn from its own probabilities. Then its logits are multiplied."""
    random = np.random.default_rng(5)
    logits = random.normal(size=(images, classes)) * random.uniform(0.5, 4, size=(images, 1))
    labels = (logits + random.gumbel(size=logits.shape)).argmax(axis=1)
    return kept((logits * overconfidence).astype(np.float32)), [NAMES[label] for label in labels]


def two_classes(confidence: float, right: int, images: int, times: float = 1.0) -> tuple[Scores, list[str]]:
    """Class 0 is guessed of every image, with ``confidence``; ``right`` of ``images`` are of class 0."""
    logit = np.log(confidence / (1 - confidence)) * times
    logits = np.tile(np.array([[logit, 0.0]], dtype=np.float32), (images, 1))
    return kept(logits), ["a"] * right + ["b"] * (images - right)


def test_a_perfect_classifier_is_calibrated() -> None:
    scores, labels = drawn(20_000)
    result = measured(scores, FLAT, labels, 0.5, 1.0)
    assert result.expected_calibration_error < 0.4 * np.sqrt(15 / 20_000)
    assert result.temperature.best == pytest.approx(1, abs=0.03)
    assert result.images == 20_000 and not result.unmatched


@pytest.mark.parametrize(("classes", "error"), [(50, 0.03), (CLASSES, 0.08)])
@pytest.mark.parametrize("times", [0.5, 2.0, 3.0])
def test_the_temperature_is_that_by_which_it_is_overconfident(times: float, classes: int, error: float) -> None:
    """Classes that are not kept count as equal, which makes the temperature a little low."""
    scores, labels = drawn(10_000, times, classes)
    flat = Hierarchy.flat(NAMES[:classes])
    result = measured(scores, flat, labels, 0.5, 1.0)
    assert result.temperature.best == pytest.approx(times, rel=error)
    assert result.error_at_best_temperature and result.expected_calibration_error > 3 * result.error_at_best_temperature
    at_best = measured(scores, flat, labels, 0.5, result.temperature.best or 0)
    assert at_best.expected_calibration_error == pytest.approx(result.error_at_best_temperature)


def test_in_closed_form() -> None:
    """.8 of the guesses are right, and it says .8 at a temperature of 2; it says .941 at 1."""
    scores, labels = two_classes(0.8, 800, 1000, times=2)
    result = measured(scores, Hierarchy.flat("ab"), labels, 0.95, 1.0)
    says = 0.8**2 / (0.8**2 + 0.2**2)
    assert result.accuracy == 0.8
    assert result.expected_calibration_error == pytest.approx(says - 0.8, abs=1e-6)
    assert result.temperature.best == pytest.approx(2, rel=2e-3)
    assert result.error_at_best_temperature == pytest.approx(0, abs=1e-3)
    assert (result.tags.coverage, result.tags.precision) == (0, None)
    [point] = result.by_coverage
    assert (point.coverage, point.accuracy) == (1, 0.8) and point.threshold == pytest.approx(says)


def test_what_the_threshold_lets_through() -> None:
    logits = np.log(np.array([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.51, 0.49]], dtype=np.float32))
    result = measured(kept(logits), Hierarchy.flat("ab"), ["a", "b", "a", "b"], 0.65, 1.0)
    assert (result.tags.coverage, result.tags.precision) == (0.5, 0.5) and result.tags == result.classes
    assert [(round(of.threshold, 2), of.coverage, of.accuracy) for of in result.by_coverage] == [
        (0.9, 0.25, 1.0),
        (0.7, 0.5, 0.5),
        (0.6, 0.75, pytest.approx(2 / 3)),
        (0.51, 1.0, 0.5),
    ]


def test_the_order_of_images_does_not_matter() -> None:
    """Not even among equally confident guesses."""
    random = np.random.default_rng(2)
    confidence, right = np.round(random.random(1000), 1), random.random(1000) < 0.6
    order = random.permutation(1000)
    error = expected_calibration_error(confidence, right)
    assert expected_calibration_error(confidence[order], right[order]) == pytest.approx(error, abs=1e-12)
    assert accuracy_by_coverage(confidence[order], right[order]) == accuracy_by_coverage(confidence, right)


def test_of_equally_confident_guesses_the_error_is_the_gap() -> None:
    right = np.array([True] * 7 + [False] * 3)
    assert expected_calibration_error(np.full(10, 0.7), right) == pytest.approx(0)
    assert expected_calibration_error(np.full(10, 0.9), right) == pytest.approx(0.2)


def test_points_are_few_and_end_with_all() -> None:
    points = accuracy_by_coverage(np.linspace(0.1, 0.9, 1001), np.arange(1001) > 500)
    assert len(points) == calibration.POINTS and points[-1].coverage == 1
    assert points[0].coverage == pytest.approx(0.05, abs=0.001) and points[0].accuracy == 1
    assert accuracy_by_coverage(np.zeros(0), np.zeros(0, dtype=bool)) == ()


# Labels


def of_imagenet(*pictures: dict[str, float]) -> Scores:
    """Of pictures with these probabilities; the other classes share what remains."""
    values = np.empty((len(pictures), 1000))
    for row, picture in zip(values, pictures):
        row[:] = (1.0001 - sum(picture.values())) / 1000
        row[[PLACE[name] for name in picture]] = list(picture.values())
    return kept(np.log(values).astype(np.float32))


def test_wider_labels_are_guessed_in_their_own_words() -> None:
    """A beagle at .5 with a basset at .4 is a dog at .9, if labels say dog."""
    scores = of_imagenet({"beagle": 0.5, "basset": 0.4, "tabby": 0.1})
    as_dog, as_beagle = (measured(scores, IMAGENET, [label], 0.95, 1.0) for label in ("dog", "beagle"))
    assert as_dog.by_coverage[0].threshold == pytest.approx(0.9, abs=1e-2) and as_dog.accuracy == 1
    assert as_beagle.by_coverage[0].threshold == pytest.approx(0.5, abs=1e-2) and as_beagle.accuracy == 1


def test_of_several_wider_labels_the_narrowest_is_guessed() -> None:
    scores = of_imagenet(*[{"beagle": 0.5, "basset": 0.3, "pug": 0.1}] * 3)
    for labels, probability in ((["dog", "hound", "animal"], 0.8), (["animal", "beagle", "dog"], 0.5)):
        result = measured(scores, IMAGENET, labels, 0.95, 1.0)
        assert [point.threshold for point in result.by_coverage] == [pytest.approx(probability, abs=0.01)]


def test_a_tag_above_the_label_is_right_and_one_beside_it_is_not() -> None:
    scores = of_imagenet({"beagle": 0.3, "basset": 0.3}, {"tabby": 0.3, "tiger cat": 0.3}, {"teapot": 0.2})
    result = measured(scores, IMAGENET, ["beagle", "n02088364", "coffeepot"], 0.5, 1.0)
    assert result.tags.coverage == pytest.approx(2 / 3) and result.tags.precision == 0.5
    assert (result.classes.coverage, result.classes.precision) == (0, None)


def test_labels_that_are_no_class_are_counted_and_named() -> None:
    scores = of_imagenet(*[{"beagle": 0.9}] * 6)
    result = measured(scores, IMAGENET, ["Beagle", "Rex", "Rex", "Anna", None, ""], 0.5, 1.0)
    assert result.images == 1 and dict(result.unmatched) == {"Rex": 2, "Anna": 1}
    assert list(result.unmatched) == ["Rex", "Anna"]


@pytest.mark.parametrize(("label", "says"), [("Rex", "'Rex'"), (None, "there are none")])
def test_no_label_that_is_a_class_is_said(label: str | None, says: str) -> None:
    with pytest.raises(ValueError, match=f"no label is a class.*{says}"):
        measured(of_imagenet({"beagle": 0.9}), IMAGENET, [label], 0.5, 1.0)


def test_other_numbers_of_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="2 labels for 1 images"):
        measured(of_imagenet({"beagle": 0.9}), IMAGENET, ["a", "b"], 0.5, 1.0)


def test_an_ambiguous_label_is_either() -> None:
    scores = of_imagenet({"crane bird": 0.9}, {"crane": 0.9}, {"teapot": 0.9})
    assert measured(scores, IMAGENET, ["crane"] * 3, 0.5, 1.0).accuracy == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("confidence", "right", "images"), [(0.8, 12, 12), (0.8, 3000, 3000), (0.51, 3000, 3000), (0.8, 0, 30)]
)
def test_a_temperature_at_an_end_of_what_is_looked_at_is_not_named(confidence: float, right: int, images: int) -> None:
    """Labels that contradict no guess, or every one, would make probabilities 1, or equal."""
    scores, labels = two_classes(confidence, right, images)
    fit = measured(scores, Hierarchy.flat("ab"), labels, 0.5, 1.0).temperature
    assert fit.best is None and fit.labels == images
    end, bound = (fit.interval[0], temperature.COLDEST) if right else (fit.interval[1], temperature.HOTTEST)
    assert end == pytest.approx(bound)
    record = measured(scores, Hierarchy.flat("ab"), labels, 0.5, 1.0).record()
    assert record["best_temperature"] is record["expected_calibration_error_at_best"] is None
    assert record["temperatures_that_fit"] == [round(end, 4) for end in fit.interval]


def test_how_many_labels_tell_a_temperature() -> None:
    """Those that are said to be needed: with half as many it is not told, with more it is."""
    few = measured(*at_temperature_two(20)).temperature
    assert few.best is None and few.needed and 40 < few.needed < 400
    assert measured(*at_temperature_two(few.needed // 20 * 10)).temperature.best is None
    enough = measured(*at_temperature_two(-(-few.needed * 2 // 10) * 10)).temperature
    assert enough.needed is None and enough.best == pytest.approx(2, rel=1e-2)
    low, high = enough.interval
    assert low < 2 < high <= low * temperature.NARROW


def at_temperature_two(images: int) -> tuple[Scores, Hierarchy, list[str], float, float]:
    scores, labels = two_classes(0.8, images * 8 // 10, images, times=2)
    return scores, Hierarchy.flat("ab"), labels, 0.5, 1.0


def test_the_interval_holds_the_true_temperature_nineteen_times_in_twenty() -> None:
    random, hits = np.random.default_rng(3), 0
    for _ in range(200):
        right = int(random.binomial(300, 0.8))
        scores, labels = two_classes(0.8, right, 300, times=2)
        low, high = measured(scores, Hierarchy.flat("ab"), labels, 0.5, 1.0).temperature.interval
        hits += low <= 2 <= high
    assert 182 <= hits <= 197


def test_a_label_whose_classes_are_not_kept_is_still_possible() -> None:
    logits = np.zeros((50, 1000), dtype=np.float32)
    logits[:, :100] = 3
    result = measured(kept(logits), IMAGENET, ["toilet tissue"] * 50, 0.5, 1.0)
    assert result.accuracy == 0 and result.temperature.best is None
    assert result.temperature.interval[0] > 2  # the hotter, the less certain


def test_tags_are_measured_at_several_thresholds() -> None:
    """Parents included: a beagle at .34 and a tabby at .3 are an animal at .6."""
    of_classes = np.full((2, 1000), 1e-9)
    of_classes[0, [PLACE["beagle"], PLACE["tabby"]]] = 0.34, 0.3
    of_classes[1, PLACE["teapot"]] = 0.75
    rest = (1 - of_classes.sum(axis=1, keepdims=True)) / 500
    of_classes[:, 500:1000] += rest  # things, none of which has much
    result = measured(kept(np.log(of_classes).astype(np.float32)), IMAGENET, ["dog", "beagle"], 0.85, 1.0)
    said = {at: (said.coverage, said.precision) for at, said in result.by_threshold.items()}
    assert list(said) == list(calibration.THRESHOLDS)
    assert said[0.3] == said[0.6] == (1.0, 0.5) and said[0.7] == (0.5, 0.0) and said[0.9] == (0.0, None)
    record = result.record()
    assert record["tags_by_threshold"][5:7] == [[0.6, 1.0, 0.5], [0.7, 0.5, 0.0]]
    assert record["tags_by_threshold"][-1] == [0.9, 0.0, None]
    assert (record["coverage"], record["precision"]) == (0.0, None)


def test_the_record_is_short_and_plain() -> None:
    scores, labels = drawn(200)
    record = measured(scores, FLAT, labels, 0.5, 1.0).record()
    assert record["labelled"] == 200 and record["unmatched"] == {}
    assert len(record["accuracy_by_coverage"]) == calibration.POINTS
    assert all(len(str(value)) <= 6 for point in record["accuracy_by_coverage"] for value in point)
