"""The answers to all queries with their verdicts: what ``matches`` says of a search."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from image_similarity.stages.search import judging, matches
from image_similarity.stages.search.judging import Judge
from image_similarity.stages.search.matches import VERDICTS, Judged, Lists, Table
from image_similarity.stages.search.queries import ROWS, Queries
from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from image_similarity.stages.search.answers import Answers


@dataclass(frozen=True)
class Results:
    """The answers to all queries ``rows``, judged. Lists name images by their places in ``ids``."""

    rows: pa.Table
    ids: pa.Array
    similar: Lists
    dissimilar: Lists
    judged: Judged

    @property
    def by_verdict(self) -> dict[str, int]:
        """The best verdict on each query, whose row is in the table -> their number."""
        tally = Counter(self.judged.of_queries.tolist())
        return {verdict: tally[verdict] for verdict in VERDICTS}

    def table(self, named: Table, k: int) -> Iterator[pa.RecordBatch]:
        """The rows of ``matches``: the first ``k`` of each query, and the one with its best verdict."""
        similar = self.similar.only(self.judged.listed(k))
        return named.rows(self.rows, self.ids, similar, self.dissimilar, self.judged)


def judged(
    published: Snapshot,
    fingerprint: str,
    key: str | None,
    judge: Judge | None,
    queries: Queries,
    answers: "Answers",
    files: Sequence[str],
) -> Results:
    """``answers`` to ``queries``, with the verdicts of ``judge``. Without one only the same bytes are told.

    ``key``: of the vectors of ``fingerprint`` that were searched, None for vectors of one's own. ``files``: of vectors
    with the thumbprints of queries that the collection lacks.
    """
    names = queries.rows["query_id"].combine_chunks()
    rows = queries.rows.take(pc.index_in(answers.queries.cast(pa.string()), value_set=names))
    similar, dissimilar = (
        Lists.of(of.row, of.rank, of.neighbour, of.distance, len(rows)) for of in (answers.similar, answers.dissimilar)
    )
    contents = rows["content"].combine_chunks()
    copies = matches.copies(published, fingerprint, key, contents)
    ids = pa.concat_arrays([answers.images, copies.cast(pa.large_string())]).unique()  # places stay what they are
    images = matches.known(published, fingerprint, key, ids)
    similar = matches.with_copies(similar, ids, images, contents)
    thumbprints = judging.thumbprints(published, key if judge is not None else None, contents, files)
    verdicts = matches.judged(judge, similar, dissimilar, ids, images, contents, thumbprints)
    return Results(rows, ids, similar, dissimilar, verdicts)


def nothing() -> Results:
    """No query, and so no answer."""
    none, nobody = Lists(np.empty((0, 0), np.int64), np.empty((0, 0), np.float32)), np.empty((0, 0), object)
    ids = pa.array([], pa.large_string())
    return Results(ROWS.empty_table(), ids, none, none, Judged(nobody, nobody, nobody.astype(bool)))
