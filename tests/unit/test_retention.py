"""Which runs are old, undone, or made of others: by the records alone."""

from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from image_similarity.jobs import restore_runs
from image_similarity.warehouse import retention
from image_similarity.warehouse.records import Record
from image_similarity.warehouse.retention import UNDONE, published_slots
from image_similarity.warehouse.schemas import RUNS
from image_similarity.warehouse.snapshot import Pointer
from image_similarity.warehouse.warehouse import Warehouse

EMBEDDED = {"embeddings": ["pca"], "failures": ["pca"]}
FITTED = {**EMBEDDED, "projections": ["pca"]}
FOUND = {"neighbours": ["pca/cosine"], "failures": ["neighbours/pca/cosine"]}


def record(run: str, job: str = "embed_images", slot: str = "pca", replaced: Any = EMBEDDED, **more: Any) -> Record:
    now = datetime.now(timezone.utc)
    values = {"label": None, "status": "published", "inputs": {}, "settings": {}, "counts": {}, "versions": {}, **more}
    values |= {"outputs": {"replaced": replaced, "appended": {}}, "stages": {}, "seconds": 1.0, "recall": None}
    return Record(run_id=run, job=job, slot=slot, started_at=now, finished_at=now, **values)


def test_the_newest_runs_of_each_slot_stay() -> None:
    history = [record(f"r{number}") for number in range(4)] + [record("r1b", "find_neighbours", "pca/cosine")]
    assert retention.superseded(history, 2) == ["r0", "r1"]
    audits = [record(f"r{number}", "audit_neighbours", replaced={}) for number in range(4)]
    assert retention.superseded(audits, 2) == [], "they wrote no tables"


def test_runs_that_were_undone_do_not_push_good_ones_out() -> None:
    history = [record("r1"), record("r2"), record("r3"), record("r4", "restore_runs", "r2", settings={UNDONE: ["r3"]})]
    history += [record("r5")]
    assert retention.superseded(history, 2) == ["r1"], "kept are r2 and r5; r3 lies between them"


def test_all_runs_of_what_was_unpublished_are_old_until_one_is_restored() -> None:
    searched = {"matches": ["inbox/pca/cosine"], "failures": ["search/inbox/pca/cosine"]}
    history = [record(f"r{number}", "search_images", "inbox/pca/cosine", searched) for number in (1, 2)]
    history += [record("r3", "search_images", "other/pca/cosine", {"matches": ["other/pca/cosine"]})]
    forgotten = record("r4", "search_images", "inbox", {})
    history += [replace(forgotten, outputs={"removed": searched})]
    assert retention.superseded(history, 2) == ["r1", "r2"] and retention.unpublished(history) == {"r1", "r2"}
    history += [record("r5", "restore_runs", "r2", {}, inputs={"runs": ["r2"]}, settings={UNDONE: []})]
    assert retention.superseded(history, 2) == ["r1"]


def test_what_was_undone_and_what_was_made_of_it() -> None:
    history = [
        record("r1"),
        record("r2"),
        record("r3", "find_neighbours", "pca/cosine", replaced=FOUND, inputs={"embeddings": ["r2"]}),
        record("r4", "audit_neighbours", "pca/cosine", replaced={}, inputs={"neighbours": ["r3"]}),
        record("r5", "find_neighbours", "other/cosine", replaced=FOUND, inputs={"embeddings": ["r0"]}),
    ]
    undone = retention.newer(history, history[:1])
    assert undone == ["r2", "r3", "r4"]
    restoring = record("r6", "restore_runs", "r1", inputs={"runs": ["r1"]}, settings={UNDONE: undone})
    assert retention.undone([*history, restoring]) == {"r2", "r3", "r4"}
    again = record("r7", "restore_runs", "r2", inputs={"runs": ["r2"]}, settings={UNDONE: []})
    assert retention.undone([*history, restoring, again]) == {"r3", "r4"}


def test_a_projection_is_restored_with_the_components_that_it_used() -> None:
    fitted, reused = record("r1", replaced=FITTED), record("r2", inputs={"projections": ["r1"]})
    assert retention.published_slots(fitted) == {table: {"pca": "r1"} for table in FITTED}
    wanted = {**{table: {"pca": "r2"} for table in EMBEDDED}, "projections": {"pca": "r1"}}
    assert retention.published_slots(reused) == wanted
    refitted = record("r3", replaced=FITTED, inputs={"projections": ["r1"]})
    assert retention.published_slots(refitted)["projections"] == {"pca": "r3"}


def test_a_run_is_stale_when_what_it_was_made_of_is_not_current() -> None:
    before, now = record("r1"), record("r2", inputs={"embeddings": ["r1"]})
    found = record(
        "r3", "find_neighbours", "pca/cosine", replaced=FOUND, inputs={"embeddings": ["r1"], "vectors": ["r0"]}
    )
    history = [before, now, found]
    current = Pointer(1, {"embeddings": {"pca": ["r2"]}, "failures": {"pca": ["r2"]}})
    assert retention.is_current(current, now) and not retention.is_current(current, before)
    assert not retention.is_stale(current, now, history), "the run before is its own slot's"
    assert retention.is_stale(current, found, history)
    assert not retention.is_stale(Pointer(1, {"embeddings": {"pca": ["r1"]}}), found, history)


def a_search(run: str, day: int, inputs: Any) -> Record:
    slot = f"day-{day}/pca/cosine"
    replaced = {"matches": [slot], "failures": [f"search/{slot}"]}
    return record(run, "search_images", slot, replaced, inputs=inputs)


def run_id(number: int) -> str:
    return f"r20200101T000000-{number:08x}"


def publish(warehouse: Warehouse, made: Record) -> None:
    """As a job does at its end, with tables that have no files."""
    base, slots = warehouse.current(), published_slots(made)
    for table in slots:
        Path(warehouse.uri, table, f"run_id={made.run_id}").mkdir(parents=True)
    warehouse.write_record(made)
    warehouse.publish(base, slots, {RUNS: {"": made.run_id}})


def test_searches_keep_nothing_that_they_were_answered_by(tmp_path: Path) -> None:
    """Each name of queries stays current for ever, and nobody reads again what answered it."""
    warehouse = Warehouse(None, str(tmp_path))  # type: ignore[arg-type]
    history = []
    for night in range(4):
        embedding, searching = run_id(2 * night), run_id(2 * night + 1)
        history += [record(embedding), a_search(searching, night, {"embeddings": [embedding], "vectors": [embedding]})]
    for made in history:
        publish(warehouse, made)
    tables = ("embeddings", "failures")
    old = [f"{tmp_path}/{table}/run_id={run_id(number)}" for table in tables for number in (0, 2)]
    assert sorted(retention.removable(warehouse, 2)) == old


def test_a_run_that_is_no_search_keeps_what_it_was_made_of(tmp_path: Path) -> None:
    warehouse = Warehouse(None, str(tmp_path))  # type: ignore[arg-type]
    found = record(run_id(1), "find_neighbours", "pca/cosine", replaced=FOUND, inputs={"embeddings": [run_id(0)]})
    for made in (record(run_id(0)), found, record(run_id(2)), record(run_id(3))):
        publish(warehouse, made)
    assert [path for path in retention.removable(warehouse, 2) if "/embeddings/" in path] == []


def test_searches_by_what_was_undone_are_one_note() -> None:
    found = record("r1", "find_neighbours", "pca/cosine", replaced=FOUND, inputs={"embeddings": ["r0"]})
    history = [record("r0"), found, *(a_search(f"r{day}", day, {"embeddings": ["r0"]}) for day in range(2, 1500))]
    slots: dict[str, dict[str, list[str]]] = {}
    for made in history:
        for table, published in made.replaced.items():
            slots.setdefault(table, {}).update({slot: [made.run_id] for slot in published})
    assert restore_runs.stale(Pointer(1, slots), history) == []
    slots["embeddings"] = {"pca": ["r9999"]}
    history.append(record("r9999"))
    said = restore_runs.stale(Pointer(2, slots), history)
    assert len(said) == 2 and said[0].startswith("r1 (find_neighbours pca/cosine) was made of other runs")
    assert "current: 1,498;" in said[1]
