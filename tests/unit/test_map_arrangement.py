"""Which places are kept and which are new; where images are that UMAP did not place; how good all that is."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from image_similarity.knn import distances
from image_similarity.knn.distances import METRICS
from image_similarity.mapping import layout
from image_similarity.settings import MapSettings
from image_similarity.stages.map import arrangement, measures, table
from image_similarity.stages.map.arrangement import Arrangement, Earlier
from image_similarity.stages.map.shown import Shown


def vectors(images: int, seed: int = 0) -> Any:
    """Around ten centres."""
    random = np.random.default_rng(seed)
    return (random.normal(size=(10, 6))[np.arange(images) % 10] + random.normal(0, 0.2, (images, 6))).astype(np.float32)


def shown(values: Any, k: int = 8, names: Any = None) -> Shown:
    """Images with these vectors, each a node of its own."""
    ids = names or [f"i{number:05}" for number in range(len(values))]
    far = distances_of(values)
    np.fill_diagonal(far, np.inf)
    order = np.argsort(far, axis=1, kind="stable")[:, : min(k, len(values) - 1)].astype(np.int32)
    node = np.arange(len(values), dtype=np.int32)
    near = np.take_along_axis(far, order, axis=1).astype(np.float32)
    return Shown(pa.table({"image_id": ids}), node, node.astype(np.int64), order, near)


def distances_of(values: Any) -> Any:
    rows = distances.measured(values, METRICS["cosine"]).rows()
    return 1 - rows @ rows.T


def silent(_: str) -> AbstractContextManager[None]:
    return nullcontext()


def arranged(of: Shown, earlier: Earlier | None = None, key: str | None = "k", **settings: Any) -> Arrangement:
    return arrangement.arranged(of, earlier, MapSettings(**settings), key, silent)


def as_earlier(of: Shown, made: Arrangement) -> Earlier:
    rows = pa.Table.from_batches(table.rows(of, made, "f", "cosine"))
    return Earlier("r1", made.record, rows.select(table.READ))


VALUES = vectors(100)
FIRST = shown(VALUES[:95])


def test_the_rows_are_those_of_the_table() -> None:
    made = arranged(FIRST)
    rows = pa.Table.from_batches(table.rows(FIRST, made, "f", "cosine"))
    assert rows["image_id"].to_pylist() == FIRST.ids.to_pylist()
    assert rows["grid_column"].to_numpy().tolist() == made.cell[:, 0].tolist()
    assert rows["y"].to_numpy().tolist() == made.positions[:, 1].tolist()
    assert set(rows["metric"].to_pylist()) == {"cosine"}


def test_known_images_stay_and_new_ones_lie_beside_their_neighbours() -> None:
    before = arranged(FIRST)
    both = shown(VALUES)
    after = arranged(both, as_earlier(FIRST, before))
    assert (after.why_new, after.placed, after.since_layout) == (None, 5, 5)
    assert (after.positions[:95] == before.positions).all() and (after.cell[:95] == before.cell).all()
    assert len(np.unique(after.cell, axis=0)) == 100
    assert np.isfinite(after.positions).all()
    new, random = np.arange(95, 100), np.random.default_rng(0).integers(0, 95, (5, 8))
    near, far = (
        np.linalg.norm(after.positions[others] - after.positions[new][:, None], axis=2).mean()
        for others in (both.neighbour[new], random)
    )
    assert near < far / 2


def changed(record: dict[str, Any], **values: Any) -> Earlier:
    earlier = as_earlier(FIRST, arranged(FIRST))
    return Earlier(earlier.run, {**earlier.record, **record, **values}, earlier.rows)


REASONS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another version": ({"recipe": 0}, {}, "another version"),
    "other vectors": ({"fingerprint_key": "other"}, {}, "the vectors are others"),
    "another seed": ({}, {"seed": 3}, "map.seed or map.free is another"),
    "more free cells": ({}, {"free": 0.3}, "map.seed or map.free is another"),
    "always": ({}, {"relayout": 0}, "map.relayout = 0"),
    "many since": ({"since_layout": 5}, {}, "10 of 100 images are new since the last layout"),
    "a great wall": ({"columns": 40, "rows": 30}, {}, "most images of the map before are gone"),
    "a full wall": ({"columns": 10, "rows": 9}, {}, "no cells are free"),
}


@pytest.mark.parametrize("name", REASONS)
def test_why_all_places_are_new(name: str) -> None:
    record, settings, reason = REASONS[name]
    made = arranged(shown(VALUES), changed(record), **settings)
    assert made.why_new is not None and reason in made.why_new
    assert made.since_layout == 0 and len(np.unique(made.cell, axis=0)) == 100


def test_there_was_no_map() -> None:
    assert arranged(FIRST).why_new == "no map was published before"


def test_of_many_nodes_a_sample_is_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out, lay_out = [], layout.lay_out

    def counted(neighbour: Any, *arguments: Any) -> Any:
        laid_out.append(len(neighbour))
        return lay_out(neighbour, *arguments)

    monkeypatch.setattr(layout, "lay_out", counted)
    of = shown(vectors(1300))
    made = arranged(of, layout_rows=1000)
    assert laid_out == [1000] and made.placed == 300
    assert np.isfinite(made.positions).all() and len(np.unique(made.cell, axis=0)) == 1300
    kept = measures.measured(of, made, "cosine", None)
    assert kept.kept_on_layout is not None and kept.by_chance is not None
    assert kept.kept_on_layout > 5 * kept.by_chance


# -- how good it is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_ranks_are_those_of_the_distances(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "_ROWS_AT_ONCE", 7)
    values, queries = vectors(40), np.array([3, 39])
    ranks = measures.exact_ranks(values, queries, METRICS[metric])
    measured = distances.measured(values, METRICS[metric])
    for query, row in zip(queries.tolist(), ranks):
        others = np.arange(40)
        bits = distances.pairs(METRICS[metric], measured, measured, np.full(40, query), others)
        order = sorted((others[others != query]).tolist(), key=lambda other: (bits[other], other))
        assert row[query] == 0 and [int(row[other]) for other in order] == list(range(1, 40))


def test_a_map_is_better_than_chance_and_trustworthy() -> None:
    values = vectors(300)
    of = shown(values, k=10)
    quality = measures.measured(of, arranged(of), "cosine", lambda node: values[node])
    assert quality.kept_on_grid is not None and quality.by_chance is not None
    assert quality.kept_on_grid > 3 * quality.by_chance
    assert quality.trustworthy_layout is not None and quality.trustworthy_layout > 0.8
    assert quality.trustworthy_grid is not None and quality.trustworthy_grid > 0.8


def test_ranks_are_among_a_sample_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "COMPARED", 50)
    monkeypatch.setattr(measures, "QUERIES", 10)
    values, asked = vectors(300), []

    def read(node: Any) -> Any:
        asked.append(len(node))
        return values[node]

    of = shown(values)
    quality = measures.measured(of, arranged(of), "cosine", read)
    assert asked == [50] and quality.trustworthy_grid is not None


def test_without_vectors_trustworthiness_is_not_known() -> None:
    of = shown(VALUES)
    quality = measures.measured(of, arranged(of), "cosine", None)
    assert quality.trustworthy_grid is None and quality.kept_on_grid is not None


@pytest.mark.parametrize("images", [1, 2, 3])
def test_few_images_have_no_measures(images: int) -> None:
    values = vectors(images)
    of = shown(values)
    quality = measures.measured(of, arranged(of), "cosine", lambda node: values[node])
    assert quality.trustworthy_grid is None
    assert (quality.by_chance is None) == (images == 1)
