"""What a published state says of a query and an image: the same as its near-duplicates, with little of it in memory."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import oracle
from image_similarity import neighbour_graph
from image_similarity.grouping import local_scale
from image_similarity.grouping.local_scale import Limits
from image_similarity.stages.search import judging
from image_similarity.stages.search.judging import Contents, Judge
from image_similarity.storage.filesystems import files_of
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.snapshot import Pointer, Snapshot

LIMITS = Limits(0.5, 0.05, 2.0)


def tables(images: int, contents: int, k: int) -> tuple[pa.Table, pa.Table]:
    """Embeddings and neighbours of images, each content of which is several of them."""
    content, names = np.arange(images) % contents, [f"{number:03}" for number in range(images)]
    vectors = np.random.default_rng(0).integers(-9, 10, (contents, 5)).astype(np.float32)
    found = oracle.neighbours(vectors[content], "cosine", k)
    sha = [hashlib.sha256(bytes([number])).hexdigest() for number in content]
    neighbours = {
        "image_id": [names[row] for row, *_ in found],
        "relation": ["similar"] * len(found),
        "rank": pa.array([rank for _, rank, *_ in found], pa.int32()),
        "neighbour_id": [names[other] for _, _, other, _ in found],
        "distance": pa.array([distance for *_, distance in found], pa.float32()),
    }
    return pa.table({"image_id": names, "content_sha256": sha}), pa.table(neighbours)


def published(folder: Path, **rows: pa.Table) -> Snapshot:
    """A state with ``rows`` of tables; columns that are not given are null."""
    slots = {"embeddings": "f", "neighbours": "f/cosine", "vectors": "key"}
    for table, of in rows.items():
        whole = {name: of[name] if name in of.column_names else pa.nulls(len(of)) for name in SCHEMAS[table].names}
        path = folder / table / "run_id=r1"
        path.mkdir(parents=True)
        pq.write_table(pa.table(whole).cast(SCHEMAS[table]), path / "part-0.parquet", row_group_size=100)
    return Snapshot(str(folder), Pointer(1, {table: {slots[table]: ["r1"]} for table in rows}), files_of(str(folder)))


@pytest.mark.parametrize("copies", [1, 4])
@pytest.mark.parametrize("is_own", [False, True])
def test_scales_are_those_of_the_near_duplicates(tmp_path: Path, copies: int, is_own: bool) -> None:
    """Where files are several images, and for vectors of one's own, which have no files."""
    embeddings, neighbours = tables(40 * copies, 40, 30)
    images = (
        neighbour_graph.images_in(ds.dataset(neighbours))
        if is_own
        else neighbour_graph.images_of(ds.dataset(embeddings))
    )
    lists = neighbour_graph.read(ds.dataset(neighbours), images, neighbour_graph.Names(images.ids)).distance
    wanted = local_scale.scales(lists)[images.node]
    rows = {"neighbours": neighbours} if is_own else {"neighbours": neighbours, "embeddings": embeddings}
    judge = Judge(published(tmp_path, **rows), "f", "cosine", LIMITS, 0.1, "r1")
    assert judge.scales(images.ids).tolist() == wanted.tolist() and (wanted > 0).mean() > 0.5
    if not is_own:
        known = Contents.of(
            *(embeddings[name].combine_chunks().cast(pa.large_string()) for name in embeddings.column_names)
        )
        assert judge.scales(images.ids, known).tolist() == wanted.tolist()
    some = images.ids.take(pa.array([7, 3]))
    assert judge.scales(some).tolist() == wanted[[7, 3]].tolist()
    assert judge.scales(pa.array(["nobody's"])).tolist() == [0]


def test_scales_do_not_depend_on_how_many_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings, neighbours = tables(120, 30, 20)
    judge = Judge(published(tmp_path, neighbours=neighbours, embeddings=embeddings), "f", "cosine", LIMITS, 0.1, "r1")
    together = judge.scales(embeddings["image_id"].combine_chunks())
    monkeypatch.setattr(judging, "_FEW", 0)
    monkeypatch.setattr(judging, "_ROWS_AT_ONCE", 150)
    assert judge.scales(embeddings["image_id"].combine_chunks()).tolist() == together.tolist()


def test_tables_are_read_a_little_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not whole files ahead."""
    embeddings, neighbours = tables(20, 20, 8)
    pixels = [bytes([number]) * judging.THUMBPRINT_BYTES for number in range(20)]
    vectors = pa.table({"content_sha256": embeddings["content_sha256"], "thumbprint": pixels})
    state = published(tmp_path, neighbours=neighbours, embeddings=embeddings, vectors=vectors)
    read = []

    class Watched:
        def __init__(self, table: str, of: ds.Dataset) -> None:
            self.table, self.of = table, of

        def to_batches(self, **arguments: object) -> object:
            read.append((self.table, arguments.get("batch_readahead"), arguments.get("fragment_readahead")))
            return self.of.to_batches(**arguments)

    dataset = Snapshot.dataset
    monkeypatch.setattr(Snapshot, "dataset", lambda self, table, slot: Watched(table, dataset(self, table, slot)))
    Judge(state, "f", "cosine", LIMITS, 0.1, "r1").scales(pa.array(["001"]))
    found = judging.thumbprints(state, "key", embeddings["content_sha256"].combine_chunks())
    assert found.is_there.all() and np.array_equal(found.pixels[:, 0], np.arange(20))
    assert read == [("neighbours", 1, 1), ("vectors", 1, 1)]
