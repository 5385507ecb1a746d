"""Classes, and the wider words above them: a Siamese cat is a cat, and a cat is a feline, a mammal, an animal.

ImageNet's classes are nouns of WordNet (Deng et al.: ImageNet: A large-scale hierarchical image database, CVPR 2009).
``imagenet.tsv`` has their parents: those that people would say of a picture (``tools/wordnet.py`` writes it). A noun
may have several parents, so what lies below a parent is a set of classes, and a sum over it counts each of them once.
"""

import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Node:
    """A class, or a parent of classes."""

    name: str
    leaves: frozenset[int]
    """The numbers of the classes below it; of a class, its own."""
    wnid: str | None = None
    """WordNet's id, as ImageNet writes it: ``n02123394``."""
    words: tuple[str, ...] = ()
    """All words that WordNet has for it, the usual one first, then others that people use."""


@dataclass(frozen=True)
class Hierarchy:
    """Classes in the order of a classifier, then their parents."""

    nodes: tuple[Node, ...]
    class_count: int
    differing: tuple[int, ...] = ()
    """Where most names are ImageNet's: the numbers of the classes that are called otherwise than ImageNet's there."""

    @classmethod
    def of(cls, names: Sequence[str]) -> "Hierarchy":
        """ImageNet's hierarchy if ``names`` are those of its classes, else a flat one.

        Up to a tenth of 1,000 names may be others: a misspelt class is still the one at its place. But where one of
        these is the name of another class, the order is another, so no place tells anything.
        """
        differing = _differing(names)
        if _is_order_kept(names, differing):
            return cls._by_place(names, differing)
        most = len(names) == _CLASSES and sum(_plain(name) in _words() for name in names) > _CLASSES / 2
        return replace(cls.flat(names), differing=differing) if most else cls.flat(names)

    @property
    def has_parents(self) -> bool:
        return len(self.nodes) > self.class_count

    @classmethod
    def flat(cls, names: Sequence[str]) -> "Hierarchy":
        """Classes without parents."""
        return cls(tuple(Node(name, frozenset([number])) for number, name in enumerate(names)), len(names))

    @classmethod
    def imagenet(cls, names: Sequence[str]) -> "Hierarchy":
        """ImageNet's 1,000 classes, called by ``names``, and their parents.

        Names are those of the classes at the same places: any of WordNet's words, case and underscores aside, or the
        id. What follows a comma does not count. ``ValueError`` if one is another's.
        """
        if len(names) != _CLASSES or _differing(names):
            raise ValueError("these are not the names of ImageNet's 1,000 classes in their order")
        return cls._by_place(names, ())

    @classmethod
    def _by_place(cls, names: Sequence[str], differing: tuple[int, ...]) -> "Hierarchy":
        lines = _imagenet()
        leaves = _leaves(lines)
        own = [*names, *(line.name for line in lines[len(names) :])]
        nodes = (Node(name, leaves[line.wnid], line.wnid, line.words) for name, line in zip(own, lines))
        return cls(tuple(nodes), len(names), differing)

    @cached_property
    def above(self) -> NDArray[np.int32]:
        """(c, p) int32: the numbers of all parents of each class, less c; rows are filled up with their number."""
        parents = self.nodes[self.class_count :]
        lists: list[list[int]] = [[] for _ in range(self.class_count)]
        for number, parent in enumerate(parents):
            for leaf in parent.leaves:
                lists[leaf].append(number)
        above = np.full((self.class_count, max(map(len, lists), default=0)), len(parents), dtype=np.int32)
        for leaf, numbers in enumerate(lists):
            above[leaf, : len(numbers)] = numbers
        return above

    def is_below(self, lower: NDArray[np.int32], upper: NDArray[np.int32]) -> NDArray[np.bool_]:
        """(m,): whether each node of ``lower`` (m,) is below that of ``upper`` (m,). Nothing is below itself."""
        below: NDArray[np.bool_] = self._below[np.maximum(upper - self.class_count, -1), lower]
        return below

    @cached_property
    def _below(self) -> NDArray[np.bool_]:
        """(p + 1, nodes): what is below each of the p parents, and below a class, which is nothing."""
        parents = self.nodes[self.class_count :]
        below = [[node.leaves < parent.leaves for node in self.nodes] for parent in parents]
        return np.array([*below, [False] * len(self.nodes)], dtype=np.bool_)

    def related(self, a: int, b: int) -> bool:
        """Whether node ``a`` is node ``b``, or above it, or below it."""
        one, other = self.nodes[a].leaves, self.nodes[b].leaves
        return one <= other or other <= one

    def named(self, label: str) -> tuple[int, ...]:
        """The numbers of the nodes that ``label`` may mean, in order; () if none.

        It is compared with names, first words of WordNet, and ids; if nothing has it, with all words. Case,
        underscores and hyphens do not matter. A crane is a bird, and a machine.
        """
        usual, others = self._by_word
        key = _plain(label)
        return usual.get(key) or others.get(key, ())

    @cached_property
    def _by_word(self) -> tuple[Mapping[str, tuple[int, ...]], Mapping[str, tuple[int, ...]]]:
        usual = [{node.name, *node.words[:1], node.wnid or node.name} for node in self.nodes]
        return _numbered(usual), _numbered([node.words for node in self.nodes])


def _numbered(words: Sequence[Iterable[str]]) -> dict[str, tuple[int, ...]]:
    numbers: dict[str, list[int]] = {}
    for number, of_one in enumerate(words):
        for word in {_plain(word) for word in of_one}:
            numbers.setdefault(word, []).append(number)
    return {word: tuple(of_word) for word, of_word in numbers.items()}


def _plain(word: str) -> str:
    """Without what differs between files of classes: case, underscores, hyphens, further words behind a comma."""
    return " ".join(word.partition(",")[0].casefold().replace("_", " ").replace("-", " ").split())


@dataclass(frozen=True)
class _Line:
    wnid: str
    name: str
    words: tuple[str, ...]
    parents: tuple[str, ...]


_CLASSES = 1000
_MOST_DIFFERING = _CLASSES // 10


@cache
def _imagenet() -> tuple[_Line, ...]:
    """Of the kept table: classes in their order, then parents."""
    text = (importlib.resources.files(__package__) / "imagenet.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
    return tuple(
        _Line(wnid, name, tuple(words.split(", ")), tuple(parents.split())) for wnid, name, words, parents in rows
    )


@cache
def _words() -> Mapping[str, frozenset[int]]:
    """Each word for a class -> the numbers of the classes that it may mean."""
    meanings: dict[str, set[int]] = {}
    for number, line in enumerate(_imagenet()[:_CLASSES]):
        for word in (line.wnid, line.name, *line.words):
            meanings.setdefault(_plain(word), set()).add(number)
    return {word: frozenset(numbers) for word, numbers in meanings.items()}


def _differing(names: Sequence[str]) -> tuple[int, ...]:
    """The numbers of the classes that ImageNet's class at that place is not called."""
    return tuple(number for number, name in enumerate(names) if number not in _words().get(_plain(name), ()))


def _is_order_kept(names: Sequence[str], differing: Sequence[int]) -> bool:
    return (
        len(names) == _CLASSES
        and len(differing) <= _MOST_DIFFERING
        and not any(_plain(names[number]) in _words() for number in differing)
    )


def _leaves(lines: Sequence[_Line]) -> dict[str, frozenset[int]]:
    """Id -> the numbers of the classes below it, each once however many ways lead to it."""
    parents = {line.wnid: line.parents for line in lines}
    leaves: dict[str, set[int]] = {line.wnid: set() for line in lines}
    for number, line in enumerate(lines[:_CLASSES]):
        climbing = {line.wnid}
        while climbing:
            for wnid in climbing:
                leaves[wnid].add(number)
            climbing = {parent for wnid in climbing for parent in parents[wnid]}
    return {wnid: frozenset(numbers) for wnid, numbers in leaves.items()}
