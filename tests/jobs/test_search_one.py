"""`Collection.search`: the answers are those of the published table, whatever the query is given as."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import image_similarity as ims
import programs
from image_similarity.collection.encoder import Encoder
from image_similarity.errors import JobFailed, WrongInput
from image_similarity.imaging import decoding
from image_similarity.jobs import build_manifest, embed_images, find_neighbours, group_images
from image_similarity.jobs.command_line import main

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

FINGERPRINTS = ("tiny", "own", "colours", "edges", "few")
METRICS = ("cosine", "correlation", "euclidean")
STEP = 2.0**-23
COUNT = 20


def draw(file: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((90 + 5 * seed, 70), Image.Resampling.BICUBIC).save(file)


@pytest.fixture(scope="module")
def warehouse(spark: "SparkSession", tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`COUNT` pictures, a copy of one, one without edges, and what is no picture; by every kind of fingerprint."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "pictures").mkdir()
    for seed in range(COUNT):
        draw(folder / "pictures" / f"{seed:02}.{'png' if seed % 2 else 'jpg'}", seed)
    (folder / "pictures" / "copy of 03.png").write_bytes((folder / "pictures" / "03.png").read_bytes())
    Image.new("RGB", (64, 48), (90, 90, 90)).save(folder / "pictures" / "plain.png")
    (folder / "pictures" / "broken.png").write_bytes(b"no picture")
    programs.save(folder / "encoder.pt2", side=32)
    settings = ["--warehouse", str(folder / "warehouse"), *tiny, "--set", "embeddings.max_failed_fraction=0.5"]
    for declared in (
        f'own={{kind="exported",weights="{folder / "encoder.pt2"}",pooling="average"}}',
        'colours={kind="colour-histogram"}',
        'edges={kind="hog",size=32,cell=8}',
        'few={kind="pca",base="tiny",dimensions=6}',
    ):
        settings += ["--set", f"fingerprints.{declared}"]
    assert main(build_manifest, [*settings, "--images", str(folder / "pictures")], session=spark) == 0
    names = [part for name in FINGERPRINTS for part in ("--fingerprint", name)]
    assert main(embed_images, [*settings, *names], session=spark) == 0
    for name in FINGERPRINTS:
        for metric in METRICS:
            assert main(find_neighbours, [*settings, "--fingerprint", name, "--metric", metric], session=spark) == 0
    assert main(group_images, [*settings, "--fingerprint", "colours"], session=spark) == 0
    return folder / "warehouse"


@pytest.fixture(scope="module")
def collection(warehouse: Path) -> ims.Collection:
    return ims.open(warehouse)


@pytest.fixture
def empty_handed(collection: ims.Collection) -> Iterator[ims.Collection]:
    """The collection, which knows nobody's bytes: every picture is embedded anew."""
    stores = [collection.store(name) for name in FINGERPRINTS]
    contents = [store.contents for store in stores]
    for store in stores:
        object.__setattr__(store, "contents", None)
    yield collection
    for store, before in zip(stores, contents):
        object.__setattr__(store, "contents", before)


def published_lists(collection: ims.Collection, name: str, metric: str) -> dict[tuple[str, str], list[Any]]:
    lists: dict[tuple[str, str], list[Any]] = {}
    rows = collection.snapshot.table("neighbours", f"{name}/{metric}").to_pylist()
    for row in sorted(rows, key=lambda row: row["rank"]):
        lists.setdefault((row["image_id"], row["relation"]), []).append((row["neighbour_id"], row["distance"]))
    return lists


def rows(answer: pa.Table, relation: str = "similar") -> list[tuple[str, float]]:
    return [(row["image_id"], row["distance"]) for row in answer.to_pylist() if row["relation"] == relation]


def about(answer: pa.Table) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in answer.schema.metadata.items()}


def files(collection: ims.Collection) -> dict[str, Path]:
    return {row["image_id"]: Path(row["uri"]) for row in collection.snapshot.table("manifest").to_pylist()}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", FINGERPRINTS)
def test_an_image_of_the_collection_has_its_published_neighbours(
    collection: ims.Collection, name: str, metric: str
) -> None:
    lists = published_lists(collection, name, metric)
    images = {image for image, _ in lists}
    assert len(images) == COUNT + 1 + ((name, metric) not in (("edges", "cosine"), ("edges", "correlation")))
    by: dict[str, Any] = {"fingerprint": name, "metric": metric}
    for image in sorted(images):
        answer = collection.search(image_id=image, dissimilar=12, **by)
        assert rows(answer) == lists[image, "similar"] and rows(answer, "dissimilar") == lists[image, "dissimilar"]
        assert answer["rank"].to_pylist() == [*range(1, 13), *range(1, 13)]
        assert about(answer)["vectors"] == str(len(images) - 1) and about(answer)["query_vector"] == "published"
        answer = collection.search(files(collection)[image], k=13, **by)
        assert (image, 0.0) in rows(answer) and about(answer)["vectors"] == str(len(images))
        assert [row for row in rows(answer) if row[0] != image] == lists[image, "similar"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", FINGERPRINTS)
def test_a_picture_that_is_embedded_anew_has_the_same_distances(
    empty_handed: ims.Collection, name: str, metric: str
) -> None:
    lists = published_lists(empty_handed, name, metric)
    for image in sorted({image for image, _ in lists}):
        answer = empty_handed.search(files(empty_handed)[image], k=99, fingerprint=name, metric=metric)
        assert about(answer)["query_vector"] == "embedded" and about(answer)["query_device"] == "cpu"
        anew, vector = dict(rows(answer)), empty_handed.store(name).vectors[empty_handed.store(name).row_of(image)]
        allowed = 2 * STEP * (1.0 if metric != "euclidean" else float(np.linalg.norm(vector)))
        assert len(anew) == len({of for of, _ in lists}) and anew[image] <= allowed
        for neighbour, distance in lists[image, "similar"]:
            assert abs(anew[neighbour] - distance) <= max(allowed, 2 * STEP * distance)


def test_the_columns(collection: ims.Collection) -> None:
    answer = collection.search(image_id="03.png", k=3, dissimilar=2, fingerprint="tiny", metric="cosine")
    assert answer.schema.names == ["relation", "rank", "image_id", "distance", "verdict"] + [
        *("uri", "width", "height", "attributes")
    ]
    first = answer.to_pylist()[0]
    with Image.open(first["uri"]) as image:
        assert (first["width"], first["height"]) == image.size
    assert answer["relation"].to_pylist() == ["similar"] * 3 + ["dissimilar"] * 2
    told = about(answer)
    assert (told["fingerprint"], told["metric"], told["exact"]) == ("tiny", "cosine", "true")
    assert told["run_id"] in collection.snapshot.runs and len(told["query_sha256"]) == 64
    assert "query_width" in told and "query_device" not in told


def test_all_ways_to_give_a_picture_are_the_same(empty_handed: ims.Collection, warehouse: Path) -> None:
    file = warehouse.parent / "pictures" / "05.png"
    by: dict[str, Any] = {"fingerprint": "colours", "metric": "cosine"}
    expected = rows(empty_handed.search(file, **by))
    with Image.open(file) as image:
        ways: list[Any] = [str(file), file.read_bytes(), bytearray(file.read_bytes()), image.copy()]
    ways.append(empty_handed.store("colours").vectors[empty_handed.store("colours").row_of("05.png")])
    for way in ways:
        assert rows(empty_handed.search(way, **by)) == expected
    assert rows(empty_handed.search("05.png", **by)) == expected[1:] + rows(empty_handed.search(file, k=13, **by))[-1:]


def test_copies_are_told_by_their_bytes(collection: ims.Collection, warehouse: Path) -> None:
    """Also where no near-duplicates are published."""
    for name in ("tiny", "colours"):
        answer = collection.search(
            (warehouse.parent / "pictures" / "03.png").read_bytes(), k=5, fingerprint=name, metric="cosine"
        )
        verdicts = dict(zip(answer["image_id"].to_pylist(), answer["verdict"].to_pylist()))
        assert list(verdicts)[:2] == ["03.png", "copy of 03.png"]
        assert {image for image, verdict in verdicts.items() if verdict == "yes"} == {"03.png", "copy of 03.png"}
        judged = name == "colours"
        assert set(list(verdicts.values())[2:]) <= ({"near", "no"} if judged else {None})
        assert ("near_duplicates_run_id" in about(answer)) == judged


def test_a_verdict_does_not_depend_on_how_many_are_asked_for(collection: ims.Collection) -> None:
    many = collection.search(image_id="03.png", k=20, fingerprint="colours", metric="cosine")
    few = collection.search(image_id="03.png", k=2, fingerprint="colours", metric="cosine")
    assert few.to_pylist() == many.slice(0, 2).to_pylist()


# -- what is refused ---------------------------------------------------------------------------------------------------


def refusal(collection: ims.Collection, *query: Any, **more: Any) -> str:
    with pytest.raises(WrongInput) as raised:
        collection.search(*query, **{"fingerprint": "colours", "metric": "cosine", **more})
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_what_has_no_distance(collection: ims.Collection, warehouse: Path) -> None:
    plain = warehouse.parent / "pictures" / "plain.png"
    for query, name in (("plain.png", "plain.png"), (plain, str(plain)), ([0.0] * 324, "the vector")):
        text = refusal(collection, query, fingerprint="edges")
        assert text.startswith(f"{name}: zero_vector: all values are 0")
    assert "plain.png: constant_vector" in refusal(collection, plain, fingerprint="edges", metric="correlation")
    assert collection.search(plain, 1, fingerprint="edges", metric="euclidean")["image_id"].to_pylist() == ["plain.png"]


def test_pictures_that_cannot_be_read(
    collection: ims.Collection, warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of them is decoded in this process."""

    def decoded(*_: Any, **__: Any) -> Any:
        raise AssertionError("it was decoded here")

    monkeypatch.setattr(decoding, "open_upright", decoded)
    broken = warehouse.parent / "pictures" / "broken.png"
    assert refusal(collection, broken) == f"{broken}: not_an_image: no known format accepts its beginning"
    whole = (warehouse.parent / "pictures" / "05.png").read_bytes()
    assert "the picture (" in refusal(collection, whole[:-200]) and "truncated" in refusal(collection, whole[:-200])
    assert "empty: 0 bytes" in refusal(collection, b"")
    huge = Image.new("1", (10_000, 10_000))
    huge.save(tmp_path / "huge.png")
    assert "huge.png: too_many_pixels: " in refusal(collection, tmp_path / "huge.png")
    assert collection.search(whole + b" ", fingerprint="colours", metric="cosine").num_rows == 12, "it goes on"


def test_wrong_arguments(collection: ims.Collection) -> None:
    assert "the vector has 3 values, those of the collection 256" in refusal(collection, [1, 2, 3])
    for k in (-1, 1.5, "3", True, None):
        assert "k is a whole number of 0 or more" in refusal(collection, "03.png", k)
    assert "dissimilar is a whole number" in refusal(collection, "03.png", dissimilar=-3)
    assert "nothing is asked for" in refusal(collection, "03.png", 0)
    assert "did you mean colours?" in refusal(collection, "03.png", fingerprint="colour")
    assert "metric 'cosinus'" in refusal(collection, "03.png", metric="cosinus")
    two: Any = np.int64(2)
    assert rows(collection.search("03.png", 0, dissimilar=two, fingerprint="tiny", metric="cosine")) == []
    everything = collection.search("03.png", 10**6, fingerprint="tiny", metric="cosine")
    assert everything.num_rows == COUNT + 1


def test_weights_that_are_gone(warehouse: Path, tmp_path: Path) -> None:
    """Only a picture that must be embedded needs them; once they are back, or named, it is answered."""
    encoder, away = warehouse.parent / "encoder.pt2", tmp_path / "away.pt2"
    query = (warehouse.parent / "pictures" / "05.png").read_bytes()
    encoder.rename(away)
    try:
        collection = ims.open(warehouse)
        by: dict[str, Any] = {"fingerprint": "own", "metric": "cosine"}
        expected = rows(collection.search(query, **by))
        with pytest.raises(
            WrongInput, match=r"fingerprint own: .*no such file: .*encoder\.pt2.*weights=\{'own': FILE\}"
        ):
            collection.search(query + b" ", **by)
        named = ims.open(warehouse, weights={"own": str(away)})
        answer = named.search(query + b" ", **by)
        assert [image for image, _ in rows(answer)] == [image for image, _ in expected]
    finally:
        away.rename(encoder)
    assert collection.search(query + b" ", **by).num_rows == 12


# -- how much is loaded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fingerprint", "query", "loaded"),
    [("tiny", "05.png", False), ("tiny", "new", True), ("colours", "new", False)],
)
def test_what_is_not_needed_is_not_loaded(
    warehouse: Path, tmp_path: Path, fingerprint: str, query: str, loaded: bool
) -> None:
    """Never Spark; torch where a network embeds a picture that the collection does not have."""
    file = warehouse.parent / "pictures" / query
    if query == "new":
        draw(tmp_path / "new.png", 77)
        file = tmp_path / "new.png"
    program = (
        "import sys; sys.modules['pyspark'] = None; import image_similarity as ims; "
        f"answer = ims.open({str(warehouse)!r}).search({str(file)!r}, fingerprint={fingerprint!r}, metric='cosine'); "
        "assert answer.num_rows == 12; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, str(loaded)), done.stderr


def test_threads_share_one_network(warehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = Encoder._loaded

    def counted(encoder: Encoder) -> Any:
        loads.append(encoder)
        return load(encoder)

    monkeypatch.setattr(Encoder, "_loaded", counted)
    collection, answers = ims.open(warehouse), list[Any]()
    query = (warehouse.parent / "pictures" / "05.png").read_bytes() + b" "

    def ask() -> None:
        answers.append(rows(collection.search(query, fingerprint="tiny", metric="cosine")))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1 and len(answers) == 6 and all(answer == answers[0] for answer in answers)


def test_files_that_were_cleaned_are_told(warehouse: Path, tmp_path: Path) -> None:
    shutil.copytree(warehouse, tmp_path / "w")
    collection = ims.open(tmp_path / "w")
    collection.search("05.png", fingerprint="tiny", metric="cosine")
    shutil.rmtree(tmp_path / "w" / "manifest")
    with pytest.raises(JobFailed, match="published files are gone"):
        collection.search("05.png", fingerprint="tiny", metric="cosine")
