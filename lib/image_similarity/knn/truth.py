"""The true neighbours of a few vectors among many: each is compared with all."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from image_similarity.knn import all_pairs, candidates, engine
from image_similarity.knn.backends.cpu import Cpu
from image_similarity.knn.candidates import NONE, Keys, Lists
from image_similarity.knn.distances import Values
from image_similarity.knn.engine import Search
from image_similarity.knn.rerank import Part, Reranker
from image_similarity.knn.threads import in_threads

_ROWS_AT_ONCE = 2048


def list_lengths(search: Search) -> tuple[int, int]:
    """The number of candidates in a list: one more than in other lists, for the vector itself."""
    return search.list_lengths[0] + 1, 0


def nearest(search: Search, queries: Part, vectors: Part, threads: int) -> Keys:
    """The sorted keys (m, k) of the k nearest of ``vectors`` (n) for each of ``queries`` (m), which are among them.

    ``vectors``: their positions ascend. Where there are fewer than k others, the rest of a list is `NONE`.
    """
    k = search.similar
    if not len(queries) or not k:
        return np.empty((len(queries), k), dtype=np.int64)
    backend, starts = Cpu(), range(0, len(vectors), _ROWS_AT_ONCE)

    def compared(thread: int) -> tuple[Keys, Values]:
        strip = search.strip(backend, queries, list_lengths(search))
        for start in starts[thread::threads]:
            engine.compare([strip], [search.strip(backend, vectors[start : start + _ROWS_AT_ONCE], (0, 0))])
        return strip.keys()[0], strip.error

    with all_pairs.one_core(search.precision):
        scores, errors = zip(*in_threads(threads, compared, range(min(threads, len(starts)))))
    return settled(search, queries, scores, errors, lambda reranker: reranker.add(vectors), [vectors])


def settled(
    search: Search,
    queries: Part,
    scores: Sequence[Keys],
    errors: Sequence[Values],
    add_vectors: Callable[[Reranker], None],
    everyone: Iterable[Part],
) -> Keys:
    """Exact distances for the best of all ``scores``, and brute force for the vectors whose lists these do not prove.

    ``scores``, ``errors``: lists (m, `list_lengths`) of ``queries`` from several comparisons. ``add_vectors``: gives a
    `Reranker` the vectors of all candidates. ``everyone``: all vectors.
    """
    nothing = [np.empty((len(queries), 0), np.int64)]
    scored = engine.merge(search, scores, nothing, errors, list_lengths(search))
    lists, empty = engine.rerank_candidates(queries, scored, add_vectors)
    keys = np.sort(np.where(candidates.positions_of(lists.keys) == queries.index[:, None], NONE, lists.keys), axis=1)
    uncertain = np.nonzero(~engine.certify(search, (Lists(keys, lists.lower_bound), empty)))[0]
    keys = keys[:, : search.similar].copy()
    if len(uncertain):
        keys[uncertain] = engine.brute_force(search.measure, queries[uncertain], everyone, search.similar, 0)[0].keys
    return keys
