"""Which places are kept and which are new; where images are that UMAP did not place; how good all that is."""

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from image_similarity.errors import JobFailed
from image_similarity.knn import distances
from image_similarity.knn.distances import METRICS
from image_similarity.mapping import layout
from image_similarity.reporting import JSON, Reporter, reporting_to
from image_similarity.runtime.session import lazy_session
from image_similarity.settings import MapSettings
from image_similarity.stages.map import arrangement, measures, table
from image_similarity.stages.map.arrangement import Arrangement, Earlier, NoEarlier
from image_similarity.stages.map.shown import Shown


def vectors(images: int, seed: int = 0) -> Any:
    """Around ten centres."""
    random = np.random.default_rng(seed)
    return (random.normal(size=(10, 6))[np.arange(images) % 10] + random.normal(0, 0.2, (images, 6))).astype(np.float32)


def shown(values: Any, k: int = 8, names: Any = None) -> Shown:
    """Images with these vectors, each a node of its own; its content is that of its vector."""
    ids = names or [f"i{number:05}" for number in range(len(values))]
    far = distances_of(values)
    np.fill_diagonal(far, np.inf)
    order = np.argsort(far, axis=1, kind="stable")[:, : min(k, len(values) - 1)].astype(np.int32)
    node = np.arange(len(values), dtype=np.int32)
    near = np.take_along_axis(far, order, axis=1).astype(np.float32)
    content = np.array([hashlib.sha256(value.tobytes()).digest() for value in values], "S32")
    return Shown(pa.table({"image_id": ids}), node, node.astype(np.int64), order, near, content)


def distances_of(values: Any) -> Any:
    rows = distances.measured(values, METRICS["cosine"]).rows()
    return 1 - rows @ rows.T


def arranged(of: Shown, earlier: Earlier | None = None, key: str = "k", **settings: Any) -> Arrangement:
    spark = lazy_session(lambda: pytest.fail("Spark was started"))
    return arrangement.arranged(spark, of, earlier or NoEarlier(), MapSettings(**settings), key)


def as_earlier(of: Shown, made: Arrangement) -> Earlier:
    rows = pa.Table.from_batches(table.rows(of, made, "f", "cosine"))
    return Earlier("r1", made.record, rows.select(table.READ))


def gone(_: Any) -> Any:
    raise JobFailed("the vectors are gone")


VALUES = vectors(100)
FIRST = shown(VALUES[:95])


def test_the_rows_are_those_of_the_table() -> None:
    made = arranged(FIRST)
    rows = pa.Table.from_batches(table.rows(FIRST, made, "f", "cosine"))
    assert rows["image_id"].to_pylist() == FIRST.ids.to_pylist()
    assert rows["grid_column"].to_numpy().tolist() == made.cell[:, 0].tolist()
    assert rows["y"].to_numpy().tolist() == made.positions[:, 1].tolist()
    assert set(rows["metric"].to_pylist()) == {"cosine"}
    assert rows["content_sha256"].to_pylist() == [hashlib.sha256(value.tobytes()).hexdigest() for value in VALUES[:95]]
    own = pa.Table.from_batches(table.rows(replace(FIRST, content=None), made, "f", "cosine"))
    assert own["content_sha256"].null_count == 95, "nobody has read these files"


def test_known_images_make_room_and_new_ones_lie_beside_their_neighbours() -> None:
    before = arranged(FIRST)
    both = shown(VALUES)
    after = arranged(both, as_earlier(FIRST, before))
    assert (after.why_new, after.placed, after.since_layout.sum()) == (None, 5, 5)
    assert (after.positions[:95] == before.positions).all()
    assert (after.cell[:95] != before.cell).any(axis=1).sum() == after.moved <= 10
    assert len(np.unique(after.cell, axis=0)) == 100
    assert np.isfinite(after.positions).all()
    new, random = np.arange(95, 100), np.random.default_rng(0).integers(0, 95, (5, 8))
    near, far = (
        np.linalg.norm(after.positions[others] - after.positions[new][:, None], axis=2).mean()
        for others in (both.neighbour[new], random)
    )
    assert near < far / 2


def test_an_image_whose_file_was_replaced_is_new() -> None:
    """What it looks like now is elsewhere on the map."""
    before, values = arranged(FIRST), VALUES[:95].copy()
    values[3] = VALUES[99]
    replaced = shown(values)
    after = arranged(replaced, as_earlier(FIRST, before))
    assert (after.why_new, after.placed, after.since_layout.sum()) == (None, 1, 1)
    others = np.arange(95) != 3
    assert (after.cell[others] != before.cell[others]).any(axis=1).sum() == after.moved <= 2
    near = np.linalg.norm(after.positions[replaced.neighbour[3]] - after.positions[3], axis=1).mean()
    assert near < np.linalg.norm(before.positions[3] - after.positions[3]) / 2


def test_those_that_stay_count_until_all_places_are_new() -> None:
    before, both = arranged(FIRST), shown(VALUES)
    after = arranged(both, as_earlier(FIRST, before))
    assert np.flatnonzero(after.since_layout).tolist() == list(range(95, 100))
    more = np.concatenate([VALUES, vectors(6, seed=30)])
    made = arranged(shown(more), as_earlier(both, after))
    assert made.why_new is not None and "11 of 106 images are new since the last layout" in made.why_new


def test_many_replaced_images_are_a_new_layout() -> None:
    earlier, values = as_earlier(FIRST, arranged(FIRST)), VALUES[:95].copy()
    values[:10] = vectors(10, seed=7)
    made = arranged(shown(values), earlier)
    assert made.why_new is not None and "10 of 95 images are new" in made.why_new


def test_a_renamed_image_keeps_its_place() -> None:
    """Copies too: of three, two are there, with other names."""
    values = VALUES[:95].copy()
    values[1] = values[2] = values[0]
    of = shown(values)
    before = arranged(of)
    names = [f"i{number:05}" for number in range(95)]
    names[50] = "renamed"
    renamed = shown(values, names=names)
    after = arranged(renamed, as_earlier(of, before))
    assert (after.placed, after.since_layout.sum()) == (0, 0) and (after.cell == before.cell).all()
    copies = shown(np.concatenate([values[:93], values[:1]])[2:], names=["c1", *names[3:93], "c2"])
    after = arranged(copies, as_earlier(of, before))
    places = {tuple(cell) for cell in after.cell[[0, 91]].tolist()}
    assert after.placed == 0 and places <= {tuple(cell) for cell in before.cell[:3].tolist()} and len(places) == 2


def test_files_that_changed_names_change_places() -> None:
    before = arranged(FIRST)
    order = np.arange(95)
    order[[3, 4]] = [4, 3]
    after = arranged(shown(VALUES[order]), as_earlier(FIRST, before))
    assert after.placed == 0 and (after.cell == before.cell[order]).all()


def test_own_vectors_are_known_by_their_ids() -> None:
    own, both = replace(FIRST, content=None), replace(shown(VALUES), content=None)
    before = arranged(own, key="sha256")
    after = arranged(both, as_earlier(own, before), key="sha256")
    assert (after.why_new, after.placed) == (None, 5)
    assert (after.cell[:95] != before.cell).any(axis=1).sum() == after.moved <= 10


def test_images_that_came_and_left_do_not_count() -> None:
    """Nine come each time, and those before leave: the other 90 keep their layout for good."""
    names, values = [f"i{number:05}" for number in range(90)], VALUES[:90]
    of = shown(values, names=names)
    first = made = arranged(of)
    for time in range(5):
        earlier = as_earlier(of, made)
        own = [f"j{time}-{number}" for number in range(9)]
        of = shown(np.concatenate([values, vectors(9, seed=10 + time)]), names=[*names, *own])
        made = arranged(of, earlier)
        assert (made.why_new, made.placed, made.record["since_layout"]) == (None, 9, 9)
        assert (made.positions[:90] == first.positions).all()


def test_a_map_that_does_not_say_what_its_images_were() -> None:
    """An earlier version made it."""
    before = as_earlier(replace(FIRST, content=None), arranged(FIRST))
    assert arranged(FIRST, before).why_new == "the map before was made by another version"
    before = as_earlier(FIRST, arranged(FIRST))
    silent = before.rows.set_column(6, "since_layout", pa.nulls(95, pa.bool_()))
    assert arranged(FIRST, replace(before, rows=silent)).why_new == "the map before was made by another version"


def changed(record: dict[str, Any], **values: Any) -> Earlier:
    earlier = as_earlier(FIRST, arranged(FIRST))
    return Earlier(earlier.run, {**earlier.record, **record, **values}, earlier.rows)


REASONS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another version": ({"recipe": 0}, {}, "another version"),
    "other vectors": ({"fingerprint_key": "other"}, {}, "the vectors are others"),
    "another seed": ({}, {"seed": 3}, "map.seed was 0, and is 3"),
    "more free cells": ({}, {"free": 0.3}, "map.free was 0.12, and is 0.3"),
    "always": ({}, {"relayout": 0}, "map.relayout = 0"),
    "a great wall": ({"columns": 40, "rows": 30}, {}, "most images of the map before are gone"),
    "a full wall": ({"columns": 10, "rows": 9}, {}, "no cells are free"),
}


@pytest.mark.parametrize("name", REASONS)
def test_why_all_places_are_new(name: str) -> None:
    record, settings, reason = REASONS[name]
    made = arranged(shown(VALUES), changed(record), **settings)
    assert made.why_new is not None and reason in made.why_new
    assert not made.since_layout.any() and len(np.unique(made.cell, axis=0)) == 100


def test_there_was_no_map() -> None:
    assert arranged(FIRST).why_new == "no map by this fingerprint and metric was published before"


def test_of_many_nodes_a_sample_is_laid_out(monkeypatch: pytest.MonkeyPatch) -> None:
    laid_out, lay_out = [], layout.lay_out

    def counted(neighbour: Any, *arguments: Any, **named: Any) -> Any:
        laid_out.append(len(neighbour))
        return lay_out(neighbour, *arguments, **named)

    monkeypatch.setattr(layout, "lay_out", counted)
    of = shown(vectors(1300))
    made = arranged(of, layout_rows=1000)
    assert laid_out == [1000] and made.placed == 300
    assert np.isfinite(made.positions).all() and len(np.unique(made.cell, axis=0)) == 1300
    kept = measures.measured(of, made, "cosine", gone)
    assert kept.kept_on_layout is not None and kept.by_chance is not None
    assert kept.kept_on_layout > 5 * kept.by_chance


@pytest.mark.parametrize(
    ("step", "images"), [("lay out", 1000), ("find cells", 1000), ("lay out a sample", 1000), ("place new images", 60)]
)
def test_long_steps_say_how_far_they_are(step: str, images: int, capsys: Any) -> None:
    of = shown(vectors(1300 if "sample" in step else 1000))
    earlier = as_earlier(of, arranged(of, layout_rows=1000)) if "new" in step else None
    if earlier:
        of = shown(vectors(1060))
    capsys.readouterr()
    with reporting_to(Reporter(JSON, every=0.002)):
        arranged(of, earlier, layout_rows=1000)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    done = [line["done"] for line in lines if line["event"] == "progress" and line["step"] == step]
    assert any(0 < images_done < images for images_done in done) and done == sorted(done)
    assert {line["total"] for line in lines if line["step"] == step} == {images}


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
    assert quality.nearest == 10 and quality.why_not is None
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
    quality = measures.measured(of, arranged(of), "cosine", gone)
    assert quality.trustworthy_grid is None and quality.kept_on_grid is not None
    assert quality.why_not == "the vectors are gone" and "why_not" not in quality.record


@pytest.mark.parametrize("images", [1, 2, 3])
def test_few_images_have_no_measures(images: int) -> None:
    values = vectors(images)
    of = shown(values)
    quality = measures.measured(of, arranged(of), "cosine", lambda node: values[node])
    assert quality.trustworthy_grid is None and quality.why_not == "there are too few images with neighbours"


@pytest.mark.parametrize(("images", "says_nothing"), [(2, True), (25, True), (26, False)])
def test_where_all_others_are_around_an_image_nothing_is_kept(images: int, says_nothing: bool) -> None:
    values = vectors(images)
    of = shown(values)
    quality = measures.measured(of, arranged(of), "cosine", lambda node: values[node])
    kept = (quality.kept_on_layout, quality.kept_on_grid, quality.by_chance)
    assert [share is None for share in kept] == [says_nothing] * 3
