"""What a worker does with a stream of images, without Spark."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from image_similarity.imaging import decoding
from image_similarity.imaging.framing import Framing
from image_similarity.imaging.sandbox import IsolatedDecoders
from image_similarity.settings import EmbeddingsSettings, HttpSettings
from image_similarity.stages.embeddings import embedder, workers
from image_similarity.stages.embeddings.checkpoints import CheckpointWriter
from image_similarity.stages.embeddings.embedder import Embedder, Loaded, Measuring, Row
from image_similarity.stages.embeddings.known import KnownContents, number_of
from image_similarity.storage import blobs, fetch

ABORTING = Path(__file__).resolve().parents[1] / "aborting"
SETTINGS = EmbeddingsSettings()
LIMITS = SETTINGS.max_pixels, SETTINGS.decode_bytes, SETTINGS.decode_seconds


class Brightness:
    """A stand-in for a network: the mean of each channel, undefined for pictures that are wholly black."""

    def __init__(self, batch: int = 2, framing: Framing = Framing(1, 1, squash=True)):
        self.batch, self.framing = batch, framing
        self.batches: list[int] = []

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(len(images))
        means: NDArray[np.float32] = images.reshape(len(images), -1, 3).mean(axis=1).astype(np.float32)
        means[means.sum(axis=1) == 0] = np.nan
        return means


Embed = Callable[..., tuple[pd.DataFrame, list[dict[str, NDArray[np.float32]]]]]


@pytest.fixture
def embed(tmp_path: Path) -> Embed:
    """``embed(files, *fingerprints)``: the results, and the saved vectors of each fingerprint by image."""

    def run(
        files: list[Path],
        *kernels: Any,
        known: Any = None,
        wanted: int | None = None,
        size: Callable[[Path], int] = lambda _: -1,
        **options: Any,
    ) -> Any:
        folders = [tmp_path / f"saved-{number}" for number in range(len(kernels))]
        loaded = [
            Loaded(kernel, known, CheckpointWriter(str(f), "key", 3, 7, 0.0, 0.0))
            for kernel, f in zip(kernels, folders)
        ]
        rows = (Row(file.name, str(file), "v1", wanted or (1 << len(kernels)) - 1, size(file)) for file in files)
        results = pd.concat(
            map(pd.DataFrame, Embedder(loaded, EmbeddingsSettings(**options)).results(rows)), ignore_index=True
        )
        return results, [saved_in(folder) for folder in folders]

    return run


def saved_in(folder: Path) -> dict[str, NDArray[np.float32]]:
    tables = [pq.read_table(file) for file in sorted(folder.glob("part-00003-7-*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    assert all((row["fingerprint_key"], row["source_version"]) == ("key", "v1") for row in rows)
    return {row["image_id"]: np.array(row["embedding"], np.float32) for row in rows}


def thumbprints_in(folder: Path) -> dict[str, bytes]:
    """By image."""
    tables = [pq.read_table(file, columns=["image_id", "thumbprint"]) for file in folder.glob("*.parquet")]
    return {row["image_id"]: row["thumbprint"] for table in tables for row in table.to_pylist()}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Seven pictures, each of its own brightness."""
    made = [tmp_path / f"{level}.png" for level in range(10, 80, 10)]
    for file in made:
        Image.new("RGB", (3, 2), (int(file.stem),) * 3).save(file)
    return made


def test_results_are_in_order_and_batches_full(embed: Embed, files: list[Path]) -> None:
    network = Brightness()
    results, [saved] = embed(files, network)
    assert {name: vector.tolist() for name, vector in saved.items()} == {f.name: [int(f.stem)] * 3 for f in files}
    assert network.batches == [2, 2, 2, 1]
    assert results["embedded_on"].tolist() == [["cpu"]] * 7 and results["content_sha256"].nunique() == 7


def test_thumbprints_are_saved_with_the_vectors(embed: Embed, files: list[Path], tmp_path: Path) -> None:
    """Also of a fingerprint that alone wants an image, and of those in child processes."""
    embed(files, Brightness(), Brightness(framing=Framing(2, 2, scaled=False)), wanted=0b10)
    assert thumbprints_in(tmp_path / "saved-0") == {}
    expected = {file.name: bytes([int(file.stem)]) * 1024 for file in files}
    assert thumbprints_in(tmp_path / "saved-1") == expected
    loaded = Loaded(Brightness(), None, CheckpointWriter(str(tmp_path / "apart"), "key", 3, 7, 0.0, 0.0))
    with IsolatedDecoders(1, *LIMITS) as decoders:
        apart = Embedder([loaded], SETTINGS, isolated=decoders)
        list(apart.results(Row(file.name, str(file), "v1", 1) for file in files))
    assert thumbprints_in(tmp_path / "apart") == expected


def test_copies_go_through_the_network_once(embed: Embed, files: list[Path]) -> None:
    network = Brightness()
    results, [saved] = embed([files[0], files[0], files[1], files[0]], network)
    assert sum(network.batches) == 2 and results["embedded_on"].tolist() == [["cpu"], [None], ["cpu"], [None]]
    assert results["content_sha256"].nunique() == 2 and results["reason"].isna().all()
    assert list(saved) == ["10.png", "20.png"]


def test_known_contents_are_not_decoded(embed: Embed, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    network = Brightness()
    digests = embed(files, network)[0]["content_sha256"]
    known = KnownContents("key", np.unique([number_of("key", digest) for digest in digests]))
    network.batches.clear()
    monkeypatch.setattr(decoding, "decode", lambda *_: pytest.fail("decoded"))
    assert embed(files, network, known=known)[0]["embedded_on"].tolist() == [[None]] * 7 and network.batches == []


def test_answers_that_are_not_finite_are_failures_of_all_copies(
    embed: Embed, files: list[Path], tmp_path: Path
) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "black.png")
    results, [saved] = embed([tmp_path / "black.png", files[0], files[1], tmp_path / "black.png"], Brightness())
    assert results["refused"].tolist() == [["3 of 3 values"], [None], [None], ["3 of 3 values"]]
    assert results["embedded_on"].tolist() == [[None], ["cpu"], ["cpu"], [None]] and list(saved) == ["10.png", "20.png"]


def test_bad_files_do_not_disturb_the_others(embed: Embed, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    results, _ = embed([files[0], tmp_path / "bad.png", tmp_path / "gone.png", files[1]], Brightness())
    assert results["reason"].tolist() == [None, "not_an_image", "not_found", None]


def test_several_fingerprints_share_fetching_decoding_and_framing(
    embed: Embed, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of equal framing, one of another size of it, and one that needs the whole picture: two decodings."""
    kernels = [
        Brightness(2),
        Brightness(3),
        Brightness(2, Framing(2, 2, squash=True)),
        Brightness(2, Framing(1, 1, scaled=False)),
    ]
    decoded: list[int | None] = []
    framed: list[Framing] = []
    decode, fit = decoding.decode, Framing.fit

    def noted_decode(*given: Any, **options: Any) -> Any:
        decoded.append(given[2])
        return decode(*given, **options)

    def noted_fit(self: Framing, image: Image.Image) -> NDArray[np.uint8]:
        framed.append(self)
        return fit(self, image)

    monkeypatch.setattr(decoding, "decode", noted_decode)
    monkeypatch.setattr(Framing, "fit", noted_fit)
    results, saved = embed(files[:4], *kernels)
    assert sorted(decoded, key=str) == [512] * 4 + [None] * 4 and len(framed) == 12
    assert all([*vectors] == [file.name for file in files[:4]] for vectors in saved)
    assert results["embedded_on"].tolist() == [["cpu"] * 4] * 4


def test_only_those_that_want_an_image_get_it(embed: Embed, files: list[Path]) -> None:
    results, saved = embed(files[:2], Brightness(), Brightness(), wanted=0b10)
    assert results["embedded_on"].tolist() == [[None, "cpu"]] * 2 and saved[0] == {} and len(saved[1]) == 2


def test_fetching_goes_on_while_the_network_works(
    embed: Embed, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many images are being fetched at once as there are threads for it, but no more are decoding than may be."""
    fetching, most_fetching, together = [0], [0], threading.Barrier(3, timeout=10)
    decoding_now, most_decoding, lock = [0], [0], threading.Lock()
    fetch_once, decode = fetch.fetch, decoding.decode

    def counted(counter: list[int], most: list[int], call: Callable[[], Any]) -> Any:
        with lock:
            counter[0] += 1
            most[0] = max(most[0], counter[0])
        try:
            return call()
        finally:
            with lock:
                counter[0] -= 1

    def slow_fetch(*given: Any) -> bytes:
        def wait() -> bytes:
            together.wait()  # passes only when three are here
            content: bytes = fetch_once(*given)
            return content

        content: bytes = counted(fetching, most_fetching, wait)
        return content

    monkeypatch.setattr(fetch, "fetch", slow_fetch)

    def slow_decode(*given: Any, **options: Any) -> Any:
        def work() -> Any:
            time.sleep(0.05)  # long enough for the others to come, if they may
            return decode(*given, **options)

        return counted(decoding_now, most_decoding, work)

    monkeypatch.setattr(decoding, "decode", slow_decode)
    results, _ = embed(files[:6], Brightness(), fetch_threads=3, decode_threads=1)
    assert len(results) == 6 and most_fetching == [3] and most_decoding == [1]


def test_a_task_that_is_tried_again_knows_what_it_saved(tmp_path: Path, files: list[Path]) -> None:
    first = CheckpointWriter(str(tmp_path / "s"), "key", 3, 7, 0.0, 0.0)
    assert first.earlier_contents() == []
    loaded = Loaded(Brightness(), None, first)
    results = pd.concat(
        map(
            pd.DataFrame,
            Embedder([loaded], EmbeddingsSettings()).results(Row(f.name, str(f), "v1", 1) for f in files[:3]),
        )
    )
    again = CheckpointWriter(str(tmp_path / "s"), "key", 3, 8, 0.0, 0.0)
    assert sorted(again.earlier_contents()) == sorted(results["content_sha256"])
    assert CheckpointWriter(str(tmp_path / "s"), "key", 4, 8, 0.0, 0.0).earlier_contents() == [], (
        "another partition's are not its own"
    )


def test_vectors_are_saved_when_it_is_time_and_at_the_end(tmp_path: Path, files: list[Path]) -> None:
    patient = CheckpointWriter(
        str(tmp_path / "s"), "key", 0, 0, 0.0, 3600.0
    )  # the job began in 1970: a twentieth of that is long
    rows = (Row(file.name, str(file), None, 1) for file in files)
    embedder = Embedder([Loaded(Brightness(), None, patient)], EmbeddingsSettings())
    counts = [len(list(tmp_path.glob("s/*"))) for _ in embedder.results(rows)]
    assert counts == [0, 0, 0, 0] and len(list(tmp_path.glob("s/*"))) == 1


class Measured:
    """A task that measures pictures, and saves vectors after every batch, but measurements only when it must."""

    def __init__(self, folder: Path, known: KnownContents | None = None, number: int = 7):
        self.folder = folder
        writer = CheckpointWriter(str(folder / "v"), "key", 3, number, time.time(), 0.0)
        self.loaded = Loaded(Brightness(), None, writer)
        attempt = embedder.Attempt(3, number, is_retry=number > 7)
        measuring = Measuring(str(folder / "q"), known)
        patient = EmbeddingsSettings(save_seconds=3600)
        self.measurer = embedder.measurer_of(measuring, [self.loaded], patient, time.time(), attempt)
        self.embedder = Embedder([self.loaded], SETTINGS, measurer=self.measurer)

    def saved(self, name: str) -> list[dict[str, Any]]:
        files = sorted((self.folder / name).glob("*.parquet"))
        return [row for file in files for row in pq.read_table(file).to_pylist()]


def test_measurements_are_saved_before_the_vectors_of_the_same_pictures(tmp_path: Path, files: list[Path]) -> None:
    """A run that resumes does not read them again. Copies are measured once."""
    task = Measured(tmp_path)
    rows = (Row(file.name, str(file), "v1", 1) for file in [files[0], *files])
    saved = 0
    for _ in task.embedder.results(rows):
        contents = [{row["content_sha256"] for row in task.saved(name)} for name in ("v", "q")]
        assert contents[0] <= contents[1]
        saved = max(saved, len(contents[0]))
    assert saved >= 6, "vectors were saved on the way"
    measured = task.saved("q")
    assert len(measured) == len({row["content_sha256"] for row in measured}) == 7
    first = next(row for row in measured if row["size_bytes"] == files[0].stat().st_size)
    assert (first["width"], first["height"], first["format"], first["contrast"]) == (3, 2, "PNG", 0)


def test_a_task_that_is_tried_again_measures_nothing_twice(tmp_path: Path, files: list[Path]) -> None:
    rows = [Row(file.name, str(file), "v1", 1) for file in files]
    list(Measured(tmp_path).embedder.results(iter(rows[:5])))
    task = Measured(tmp_path, number=8)
    assert len(task.saved("q")) == 5
    list(task.embedder.results(iter(rows)))
    assert len(task.saved("q")) == 7


def test_a_known_vector_is_measured_alone_and_known_numbers_are_not_measured_again(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row(file.name, str(file), "v1", 1) for file in files]
    first = Measured(tmp_path / "first")
    results = pd.concat(map(pd.DataFrame, first.embedder.results(iter(rows))))
    known = KnownContents("key", np.unique([number_of("key", digest) for digest in results["content_sha256"]]))
    second = Measured(tmp_path / "second")
    second.loaded.known = known
    again = pd.concat(map(pd.DataFrame, second.embedder.results(iter(rows))))
    assert again["embedded_on"].tolist() == [[None]] * 7 and second.saved("v") == []
    by_content = [{row["content_sha256"]: row for row in task.saved("q")} for task in (first, second)]
    assert by_content[0] == by_content[1] and len(by_content[0]) == 7
    monkeypatch.setattr(decoding, "decode", lambda *_: pytest.fail("decoded"))
    third = Measured(tmp_path / "third", known)
    third.loaded.known = known
    assert len(list(third.embedder.results(iter(rows)))) > 0 and third.saved("q") == []


def test_classes_are_saved_with_the_vectors_and_none_where_a_logit_is_not_finite(
    tmp_path: Path, files: list[Path]
) -> None:
    class Classifying(Brightness):
        def with_logits(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            vectors = self(images)
            logits = np.repeat(np.arange(100, dtype=np.float32)[None], len(images), axis=0)
            logits[vectors[:, 0] == 20, 3] = np.inf
            return vectors, logits

    writer = CheckpointWriter(str(tmp_path / "s"), "key", 3, 7, 0.0, 0.0, "c1")
    loaded = Loaded(Classifying(), None, writer, keeps_classes=True)
    list(Embedder([loaded], SETTINGS).results(Row(file.name, str(file), "v1", 1) for file in files[:3]))
    [saved] = [pq.read_table(file).to_pylist() for file in (tmp_path / "s").iterdir()]
    classes = {row["image_id"]: (row["classes"], row["logits"], row["rest"]) for row in saved}
    assert {row["classifier_key"] for row in saved} == {"c1"}, "of each it is known what the classifier says"
    kept = list(range(99, 35, -1))
    assert classes["20.png"] == ([], [], None) and classes["10.png"][:2] == (kept, kept)
    assert classes["10.png"][2] == pytest.approx(np.log(np.exp(np.arange(36.0)).sum()), rel=1e-6)
    assert all(len(row["embedding"]) == 3 for row in saved)


def test_a_process_with_a_decoder_that_hangs_ends_itself(
    embed: Embed, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread cannot be stopped; the task is tried again, with decoders in processes of their own."""
    ended, killed, decode = threading.Event(), list[int](), decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda *given, **_: decode(*given) if ended.wait(30) else None)
    monkeypatch.setattr(os, "kill", lambda process, _: killed.append(process))
    with pytest.raises(TimeoutError):
        embed(files[:2], Brightness(), decode_seconds=0.2)
    ended.set()
    assert set(killed) == {os.getpid()}


@pytest.mark.timeout(30)
def test_a_picture_that_waits_for_its_turn_is_not_slow(
    embed: Embed, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another picture has all of the memory for ten times as long as a decoding may last."""
    monkeypatch.setattr(os, "kill", lambda *_: None)
    turn = ExitStack()
    turn.enter_context(decoding.turns.taken(6, 6))
    threading.Timer(1.0, turn.close).start()
    results, _ = embed(files, Brightness(), max_pixels=6, decode_seconds=0.1)
    assert results["reason"].isna().all() and results["embedded_on"].tolist() == [["cpu"]] * 7


def test_the_decoder_of_a_task_that_is_tried_again_ends_with_it(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it ends: here the network raises, and the result is left in the middle."""

    class Broken(Brightness):
        def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            raise RuntimeError("broken")

    children, popen = list[subprocess.Popen[bytes]](), subprocess.Popen

    def noted(*given: Any, **options: Any) -> Any:
        children.append(popen(*given, **options))
        return children[-1]

    monkeypatch.setattr(subprocess, "Popen", noted)
    monkeypatch.setattr(workers, "is_retry", lambda: True)
    for network in (Broken(), Brightness()):
        writer = CheckpointWriter(str(tmp_path / "saved"), "key", 0, 0, 0.0, 0.0)
        results = results_of_a_task(files, Loaded(network, None, writer), monkeypatch)
        with suppress(RuntimeError):
            next(results)
        results.close()
    assert 2 <= len(children) <= 4 and all(child.returncode is not None for child in children)


def test_a_task_on_a_gpu_decodes_in_processes_that_its_workers_next_task_goes_on_with(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as the task has cores. A file that ends one of them is a failure, and no task is tried again."""
    monkeypatch.setattr(decoding, "decode", lambda *_, **__: pytest.fail("decoded in the worker"))
    monkeypatch.setattr(sys, "path", [str(ABORTING), *sys.path])
    (tmp_path / "aborts.png").write_bytes(b"ABORT now")
    embedder._decoders_of_worker.cache_clear()
    used = []
    for number in range(2):
        writer = CheckpointWriter(str(tmp_path / f"saved-{number}"), "key", 3, 7, 0.0, 0.0)
        loaded = Loaded(Brightness(), None, writer, device="a GPU")
        found = pd.concat(results_of_a_task([*files, tmp_path / "aborts.png"], loaded, monkeypatch))
        assert found["embedded_on"].tolist() == [["a GPU"]] * 7 + [[None]]
        assert found["reason"].tolist() == [None] * 7 + ["decoder_crashed"]
        saved = saved_in(tmp_path / f"saved-{number}")
        assert {name: vector.tolist() for name, vector in saved.items()} == {
            file.name: [int(file.stem)] * 3 for file in files
        }
        used.append(embedder._decoders_of_worker(3, *LIMITS))
    assert used[0] is used[1] and used[0].processes == 3
    used[0].close()
    embedder._decoders_of_worker.cache_clear()


def results_of_a_task(files: list[Path], loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `workers` yields in a task of three cores."""
    monkeypatch.setattr(workers, "_load", lambda *_: [loaded])
    columns = [[file.name, str(file), "v1", 1, -1] for file in files]
    batches = iter([tuple(pd.Series(column) for column in zip(*columns))])
    devices = SimpleNamespace(cores_of_task=lambda: 3)
    return workers._results(batches, [], devices, EmbeddingsSettings(), HttpSettings(), 0.0)  # type: ignore[arg-type]


@pytest.mark.timeout(30)
def test_reads_that_hang_are_given_up_and_the_others_go_on(
    embed: Embed, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a drive that is gone, here of twice as many files as there are threads."""
    answered, read = threading.Event(), blobs.read

    def hang(uri: str, limit: int) -> bytes:
        if uri == str(files[6]):
            return read(uri, limit)
        answered.wait(60)
        return b""

    monkeypatch.setattr(blobs, "read", hang)
    try:
        results, _ = embed(files, Brightness(), fetch_threads=3, read_seconds=0.2)
    finally:
        answered.set()
    assert results["reason"].tolist() == ["timeout"] * 6 + [None]
    assert results["detail"].tolist()[:6] == ["no answer within 0.2 s"] * 6


@pytest.mark.parametrize(
    "size", [lambda file: file.stat().st_size, lambda _: -1, lambda _: 10], ids=["known", "unknown", "wrong"]
)
def test_no_more_bytes_are_held_than_may_be(
    embed: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: Callable[[Path], int]
) -> None:
    """Whether sizes are known, unknown, or wrong. Two files fit."""
    files = [tmp_path / f"{number}.png" for number in range(10, 20)]
    for file in files:
        Image.new("RGB", (3, 2), (int(file.stem),) * 3).save(file)
        file.write_bytes(file.read_bytes().ljust(1000, b"\0"))  # what follows a picture does not matter
    held, most, lock, fetch_once, decode = [0], [0], threading.Lock(), fetch.fetch, decoding.decode

    def counted(*given: Any) -> bytes:
        content = fetch_once(*given)
        with lock:
            held[0] += len(content)
            most[0] = max(most[0], held[0])
        return content

    def slow_decode(content: bytes, *given: Any, **options: Any) -> Any:
        time.sleep(0.01)
        picture = decode(content, *given, **options)
        with lock:
            held[0] -= len(content)
        return picture

    monkeypatch.setattr(fetch, "fetch", counted)
    monkeypatch.setattr(decoding, "decode", slow_decode)
    limits = {"fetch_threads": 8, "decode_threads": 8, "fetch_bytes": 2500, "max_bytes": 1200}
    results, _ = embed(files, Brightness(), size=size, **limits)
    assert results["reason"].isna().all() and 1000 <= most[0] <= 2000
    most[0] = 0
    results, _ = embed(files, Brightness(), size=size, **limits | {"fetch_bytes": 100})
    assert results["reason"].isna().all() and most == [1000], "a larger file goes alone"


def test_after_an_error_the_images_that_wait_are_not_read(
    embed: Embed, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Brightness):
        def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            raise RuntimeError("broken")

    fetched, fetch_once = list[str](), fetch.fetch

    def slow_fetch(*given: Any) -> bytes:
        time.sleep(0.05)
        fetched.append(given[0])
        return fetch_once(*given)

    monkeypatch.setattr(fetch, "fetch", slow_fetch)
    with pytest.raises(RuntimeError, match="broken"):
        embed(files * 3, Broken(batch=8), fetch_threads=1)
    assert len(fetched) < 21


def test_contents_that_agree_in_60_bits_are_two() -> None:
    """Two pictures with such digests were found within a minute."""
    first, second = (f"{'0123456789abcde'}{digit * 49}" for digit in "01")
    known = KnownContents("drawn by this run", np.array([number_of("drawn by this run", first)]))
    assert first in known and second not in known
    assert first not in KnownContents("of another run", known.numbers), "a number says nothing to another run"
