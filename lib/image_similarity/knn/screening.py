"""The precision of scores, chosen by what it proves: a few vectors are tried before all are compared.

A low precision multiplies faster, and proves less: what it leaves unproven is compared again, by brute force or in
float32. Whether it proves the neighbours of a vector depends on the *gap* between the scores of the last neighbour that
is wanted and of the last candidate that is kept. Scores in float32 tell the gap, whatever precision is tried.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from image_similarity.errors import counted
from image_similarity.knn import candidates, engine, scoring
from image_similarity.knn.backends.cpu import Cpu, CpuStrip
from image_similarity.knn.candidates import NONE, Keys, Lists, least, scores_of
from image_similarity.knn.distances import METRICS, Indices, Reals, Values
from image_similarity.knn.engine import MAX_UNCERTAIN_SHARE, Search
from image_similarity.knn.rerank import Part, Reranker, Scored
from image_similarity.knn.scoring import FLOAT32, SCREENS

QUERIES = 128
"""Vectors that are tried: enough to tell a share of a tenth from one of a third."""


def unproven(
    search: Search,
    queries: Part,
    others: Iterable[CpuStrip],
    add_vectors: Callable[[Reranker], None],
    everyone: int,
    tried: int,
) -> dict[str, float]:
    """For each precision the share of ``queries`` whose neighbours it would not prove among ``everyone`` vectors.

    ``search``: in float32. ``others``: strips of the ``tried`` vectors that the queries are compared with, which may be
    a random part of everyone; their lists stay as they are. ``add_vectors``: gives a `Reranker` their vectors.
    Among more vectors the gaps are smaller: how much is extrapolated from a quarter of the vectors that are tried.
    """
    lengths = [replace(search, screen=screen).list_lengths for screen in SCREENS]
    similar, dissimilar = (max(of_relation) + (max(of_relation) > 0) for of_relation in zip(*lengths))
    strip: CpuStrip = search.strip(Cpu(), queries, (similar, dissimilar))
    gaps: list[Reals] = []
    seen = 0
    for other in others:
        engine.compare([strip], [other.without_lists()])
        seen += len(other.part)
        if not gaps and seen >= tried / 4:
            gaps.append(_gaps(search, strip))
            quarter = seen
    gaps.append(_gaps(search, strip))
    shrinking = _shrinking(gaps[0], gaps[-1], seen / quarter, everyone / max(1, seen)) if seen < everyone else 1.0
    return {
        screen: _share(replace(search, screen=screen), queries, strip, add_vectors, shrinking) for screen in SCREENS
    }


def _gaps(search: Search, strip: CpuStrip) -> Reals:
    """(n, relations): the scores between the last neighbour that is wanted and the last candidate of float32."""
    lists = (strip.similar.keys(), search.similar), (strip.dissimilar.keys(), search.dissimilar)
    gaps = []
    for keys, k in lists:
        if k:
            scores = scores_of(np.sort(keys, axis=1))
            last = min(scoring.candidate_count(k, FLOAT32), scores.shape[1] - 1)
            gaps.append(scores[:, k - 1] - scores[:, last])
    return np.stack(gaps, axis=1)


def _shrinking(before: Reals, after: Reals, grown: float, will_grow: float) -> float:
    """How many times smaller gaps get where vectors become ``will_grow`` times as many.

    ``before``, ``after``: the gaps where they became ``grown`` times as many. Gaps are taken to go with a power.
    """
    if grown <= 1 or will_grow <= 1:
        return 1.0
    ratios = before[np.isfinite(before)], after[np.isfinite(after)]
    if not all(map(len, ratios)) or not np.median(ratios[1]) > 0:
        return 1.0
    power = max(0.0, float(np.log(np.median(ratios[0]) / np.median(ratios[1])) / np.log(grown)))
    return float(will_grow**power)


def _share(
    search: Search, queries: Part, strip: CpuStrip, add_vectors: Callable[[Reranker], None], shrinking: float
) -> float:
    """The share that is unproven in the precision of ``search``, where errors weigh ``shrinking`` times as much."""
    # A list has one entry more, for the vector itself.
    best: list[Keys] = [
        least(lists.keys(), length + 1 if length else 0)
        for lists, length in zip((strip.similar, strip.dissimilar), search.list_lengths)
    ]
    screen = search.precision
    screen = replace(screen, lost_at_the_end=screen.lost_at_the_end * shrinking)
    comparison = replace(search.comparison, screen=screen)
    scored = Scored(best[0], best[1], _error(search, queries) * np.float32(shrinking), comparison)
    similar, dissimilar = engine.rerank_candidates(queries, scored, add_vectors)
    lists = _without(similar, queries.index), _without(dissimilar, queries.index)
    return float((~engine.certify(search, lists)).mean())


def _error(search: Search, queries: Part) -> Values:
    """(n, 2): `scoring.bounds` among ``queries``, whose copies are taken for those of all vectors."""
    copied = replace(search.precision, copied=_COPIED[search.screen])
    copies = scoring.copies(queries.vectors, METRICS[search.metric], copied, search.common_scale)
    return scoring.bounds(copies, copies, copied, search.dimensions)


def _bfloat16(rows: Values) -> tuple[Values, Reals]:
    """The same as the copies of `scoring.BFLOAT16`, without torch, whose import takes seconds."""
    bits = rows.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)).view(np.float32)
    return rounded, np.sqrt(np.square(rows.astype(np.float64) - rounded).sum(axis=1))


_COPIED = {"float32": FLOAT32.copied, "bfloat16": _bfloat16}


def _without(lists: Lists, index: Indices) -> Lists:
    """``lists`` without the vectors themselves."""
    itself = (lists.keys != NONE) & (candidates.positions_of(lists.keys) == index[:, None])
    return Lists(np.sort(np.where(itself, NONE, lists.keys), axis=1), lists.lower_bound)


@dataclass(frozen=True)
class Choice:
    """A precision, and why."""

    screen: str
    because: str


def chosen(shares: Mapping[str, float], seconds: Mapping[str, float], brute_force_seconds: float) -> Choice:
    """The precision with which the whole takes least time.

    ``shares``: see `unproven`. ``seconds``: of comparing all pairs in each precision that is considered.
    ``brute_force_seconds``: of comparing all vectors by brute force.
    """

    def whole(screen: str) -> float:
        if shares[screen] > MAX_UNCERTAIN_SHARE and screen != FLOAT32.name:
            return seconds[screen] + whole(FLOAT32.name)
        return seconds[screen] + shares[screen] * brute_force_seconds

    best = min(seconds, key=whole)
    tried = ", ".join(f"{screen} leaves {shares[screen]:.0%} of a sample unproven" for screen in sorted(shares))
    times = ", ".join(f"{whole(screen):,.0f} s in {screen}" for screen in sorted(seconds))
    return Choice(best, f"{tried}; about {times}")


def once_more(screen: str, uncertain: int, vectors: int, following: str = FLOAT32.name) -> tuple[str, str]:
    """What is told where ``screen`` left too many vectors ``uncertain``: in plain words, and in detail."""
    plain = "  many vectors are almost alike: comparing them once more, more precisely"
    detail = (
        f"{screen} does not tell the neighbours of {uncertain:,} of {counted(vectors, 'vector')}: {following} follows"
    )
    return plain, f"  note: {detail}"
