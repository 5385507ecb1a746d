"""Mapped copies of vectors: who makes them, who uses them, and what becomes of them where they cannot be kept."""

import errno
import fcntl
import gc
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import image_similarity as ims
from image_similarity.collection import copies, vectors
from image_similarity.collection.copies import LIMIT
from warehouses import Made, random_vectors

ROOT = Path(__file__).resolve().parents[2]
NAMES = [f"{number}.jpg" for number in range(64)]
VECTORS = random_vectors(NAMES, 256)
SIZE = 4 * 64 * 256


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(LIMIT, raising=False)
    return tmp_path / "cache" / "image-similarity" / "vectors"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    warehouse = Made(str(tmp_path / "warehouse"))
    warehouse.embeddings({name: name for name in NAMES}, VECTORS)
    return warehouse


def whole(cache: Path) -> list[str]:
    return sorted(place.name for place in cache.glob("[!.]*"))


def half(cache: Path) -> list[str]:
    """What is no copy yet, or not any more."""
    return sorted(place.name for place in cache.glob(".*") if place.is_dir())


def check(collection: ims.Collection) -> None:
    ids, values = collection.embeddings()
    assert list(ids) == sorted(NAMES) and np.array_equal(values, np.array([VECTORS[name] for name in ids], np.float32))


def test_a_copy_is_made_once(made: Made, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(ims.open(made.uri))
    assert len(whole(cache)) == 1 and not half(cache) and cache.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(vectors, "source_of", None)
    check(ims.open(made.uri))
    assert ims.open(made.uri).store().copy is not None


def test_vectors_are_never_all_in_memory(tmp_path: Path) -> None:
    program = f"""
import numpy as np
import pyarrow as pa
import image_similarity as ims
from image_similarity.collection import vectors
from image_similarity.warehouse import parquet
from image_similarity.warehouse.schemas import SCHEMAS
from warehouses import Made, sha256

parquet._BUFFER_BYTES = vectors._BATCH_BYTES = 2**20
images, dimensions = 20_000, 1024
made = Made({str(tmp_path / "wide")!r})
contents = {{str(image): str(image) for image in range(images)}}
run = made.embeddings(contents, {{"0": [0.0]}})
def batches():
    for start in range(0, images, 1000):
        values = np.random.default_rng(start).random((1000, dimensions), np.float32)
        names = [sha256(str(image)) for image in range(start, start + 1000)]
        embedding = pa.ListArray.from_arrays(np.arange(0, values.size + 1, dimensions, dtype=np.int32), values.ravel())
        yield parquet.in_schema(pa.table({{"content_sha256": names, "embedding": embedding}}), SCHEMAS["vectors"])
parquet.write_file(f"{{made.uri}}/vectors/run_id={{run}}/part-00000.parquet", SCHEMAS["vectors"], batches())
values = ims.open(made.uri).embeddings().vectors
assert values.shape == (images, dimensions)
print(values.nbytes, pa.default_memory_pool().max_memory())
"""
    paths = {**os.environ, "PYTHONPATH": f"{ROOT}/lib{os.pathsep}{ROOT}/tests"}
    told = subprocess.run([sys.executable, "-c", program], env=paths, stdout=subprocess.PIPE, text=True, check=True)
    size, most = map(int, told.stdout.split())
    assert most < 0.75 * size, "pyarrow would read the vectors of a whole file ahead"


def test_vectors_that_are_larger_than_memory_are_mapped(tmp_path: Path) -> None:
    rows, dimensions = 2**28, 1024  # a TiB, all of it a hole
    with open(tmp_path / "vectors.npy", "w+b") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimensions)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 4 * rows * dimensions)
        values = vectors._mapped(file, np.float32, None)
    assert values.nbytes == 2**40 and values[-1, -1] == 0


def test_another_state_is_another_copy(made: Made, cache: Path) -> None:
    check(ims.open(made.uri))
    made.embeddings({name: name for name in NAMES[:3]}, {})
    assert len(ims.open(made.uri).embeddings().ids) == 3 and len(whole(cache)) == 2


def test_processes_that_begin_at_once_make_one_copy(made: Made, cache: Path) -> None:
    program = f"""
import time
import image_similarity as ims
from image_similarity.collection import vectors
write = vectors._Array.write
def slowly(*arguments):
    print("writes", flush=True)
    time.sleep(0.3)
    write(*arguments)
vectors._Array.write = slowly
print(ims.open({made.uri!r}).embeddings().vectors.shape)
"""
    paths = {**os.environ, "PYTHONPATH": f"{ROOT}/lib"}
    started = [
        subprocess.Popen([sys.executable, "-c", program], env=paths, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    told = "".join(process.communicate()[0] for process in started)
    assert told.count("writes") == 1 and told.count("(64, 256)") == 3
    assert len(whole(cache)) == 1 and not half(cache)


def test_what_a_dead_process_left_goes_and_what_a_live_one_writes_stays(made: Made, cache: Path) -> None:
    for name in (".dead.0123", ".live.4567", ".no-lock.89ab"):
        (cache / name).mkdir(parents=True)
    (cache / ".dead.0123" / "lock").touch()
    with open(cache / ".live.4567" / "lock", "wb") as lock:
        copies._flock(lock, fcntl.LOCK_SH)
        check(ims.open(made.uri))
    assert half(cache) == [".live.4567"]


def _cut(place: Path) -> None:
    os.truncate(place / "vectors.npy", 1000)


def _no_names(place: Path) -> None:
    (place / "images.arrow").unlink()


def _not_whole(place: Path) -> None:
    (place / "whole").unlink()


def _other_rows(place: Path) -> None:
    with open(place / "vectors.npy", "wb") as file:
        np.save(file, np.zeros((3, 256), np.float32))


@pytest.mark.parametrize("damage", [_cut, _no_names, _not_whole, _other_rows])
def test_a_damaged_copy_is_made_anew(made: Made, cache: Path, damage: Any) -> None:
    check(ims.open(made.uri))
    (place,) = cache.glob("[!.]*")
    damage(place)
    check(ims.open(made.uri))
    assert len(whole(cache)) == 1 and not half(cache)
    check(ims.open(made.uri))


def test_measures_are_kept_beside_the_copy(made: Made, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ims.open(made.uri).store().measured("correlation")
    monkeypatch.setattr(vectors, "_shift_and_scale", None)
    after = ims.open(made.uri).store().measured("correlation")
    assert np.array_equal(before.scale, after.scale) and np.array_equal(before.shift, after.shift)
    monkeypatch.undo()
    (file,) = cache.rglob("correlation.npy")
    file.write_bytes(b"half")
    assert np.array_equal(ims.open(made.uri).store().measured("correlation").scale, before.scale)


# -- the bound ---------------------------------------------------------------------------------------------------------


def _used_at(cache: Path, seconds: dict[str, float]) -> None:
    for name, at in seconds.items():
        os.utime(cache / name / "lock", (at, at))


def test_what_was_used_longest_ago_goes_first(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, str(3 * SIZE))
    warehouses = [Made(str(tmp_path / f"w{number}")) for number in range(3)]
    names: list[str] = []
    for warehouse in warehouses:
        warehouse.embeddings({name: name for name in NAMES}, VECTORS)
        if len(names) == 2:
            ims.open(warehouses[0].uri).embeddings()  # used again
            _used_at(cache, {names[1]: 10})
        ims.open(warehouse.uri).embeddings()
        gc.collect()
        names += [name for name in whole(cache) if name not in names]
    assert whole(cache) == sorted([names[0], names[2]])


def test_no_copy_goes_that_is_in_use(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv(LIMIT, str(int(1.5 * SIZE)))
    first, second = Made(str(tmp_path / "w1")), Made(str(tmp_path / "w2"))
    for warehouse in (first, second):
        warehouse.embeddings({name: name for name in NAMES}, VECTORS)
    values = ims.open(first.uri).embeddings().vectors
    gc.collect()
    (name,) = whole(cache)
    other = ims.open(second.uri).embeddings().vectors
    assert whole(cache) == [name] and np.array_equal(values, other), "the array alone says that it is used"
    assert f"copies in use take 0.1 MiB of the 0.1 MiB that {LIMIT} allows" in capsys.readouterr().err
    del values, other
    gc.collect()
    made = Made(str(tmp_path / "w3"))
    made.embeddings({name: name for name in NAMES}, VECTORS)
    check(ims.open(made.uri))
    assert name not in whole(cache) and len(whole(cache)) == 1


def test_vectors_that_are_more_than_the_bound(
    made: Made, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv(LIMIT, "1000")
    check(ims.open(made.uri))
    assert f"are kept in memory (0.1 MiB are more than {LIMIT} allows" in capsys.readouterr().err and not whole(cache)
    monkeypatch.setenv(LIMIT, "0")
    check(ims.open(made.uri))
    assert capsys.readouterr() == ("", ""), "this was asked for"
    monkeypatch.setenv(LIMIT, "10 GB")
    with pytest.raises(ims.WrongInput, match=f"{LIMIT} = '10 GB' is no number of bytes"):
        ims.open(made.uri).embeddings()


# -- where a copy cannot be kept ---------------------------------------------------------------------------------------


def test_a_home_that_cannot_be_written(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    collection = ims.open(made.uri)
    check(collection)
    assert f"vectors are kept in memory ({tmp_path}/file/" in capsys.readouterr().err
    check(collection)
    assert len(collection.store().measured("cosine")) == 64 and not capsys.readouterr().err, "it is said once"


def test_a_copy_in_a_home_that_cannot_be_written_is_used(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    check(ims.open(made.uri))
    opened = open

    def read_only(path: Any, mode: str = "r") -> Any:
        if mode != "rb":
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, mode)

    def no_time(path: Any, *times: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(copies, "open", read_only, raising=False)
    monkeypatch.setattr(os, "utime", no_time)
    monkeypatch.setattr(vectors, "source_of", None)
    check(ims.open(made.uri))


def test_a_home_without_locks(made: Made, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(file: Any, how: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unknown)
    check(ims.open(made.uri))
    check(ims.open(made.uri))
    assert len(whole(cache)) == 1


def test_a_disk_that_is_full(made: Made, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    usage = SimpleNamespace(total=100, used=100, free=0)
    monkeypatch.setattr("image_similarity.storage.disk_space.shutil.disk_usage", lambda folder: usage)
    check(ims.open(made.uri))
    assert f"but {cache} has 0.0 MiB free" in capsys.readouterr().err and not whole(cache) and not half(cache)


def test_a_disk_that_is_full_of_copies(made: Made, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (cache / "old").mkdir(parents=True)
    (cache / "old" / "lock").touch()

    def usage(folder: str) -> SimpleNamespace:
        return SimpleNamespace(total=100, used=100, free=0 if (cache / "old").exists() else 2**30)

    monkeypatch.setattr("image_similarity.storage.disk_space.shutil.disk_usage", usage)
    check(ims.open(made.uri))
    assert len(whole(cache)) == 1 and "old" not in whole(cache) and not capsys.readouterr().err


def _fill(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)


def test_a_disk_that_fills_meanwhile(made: Made, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    _fill(monkeypatch)
    check(ims.open(made.uri))
    assert "in memory (" in (told := capsys.readouterr().err) and "No space left on device" in told
    assert not whole(cache) and not half(cache)


def test_neither_home_nor_memory(made: Made, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv(LIMIT, "1000")
    monkeypatch.setattr(vectors, "available_memory", lambda: 1000)
    collection = ims.open(made.uri)
    check(collection)
    assert f"vectors are kept in {tempfile.gettempdir()} until this process ends" in capsys.readouterr().err
    assert (
        collection.store().copy is None and collection.store().measured("cosine").values is collection.store().vectors
    )
    _fill(monkeypatch)
    with pytest.raises(ims.JobFailed, match=f"No space left on device .*{LIMIT}"):
        ims.open(made.uri).embeddings()


def test_where_copies_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert copies.folder() == Path.home() / ".cache" / "image-similarity" / "vectors"


def test_a_copy_holds_nothing_back_from_writers(made: Made) -> None:
    """A mapping is private: what a program does to its array reaches neither the copy nor others."""
    store = ims.open(made.uri).store()
    store.vectors[0] = 7
    check(ims.open(made.uri))
