"""What a search is asked for: pictures, images of the collection, vectors; and what is refused, in one line."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from image_similarity.collection import queries
from image_similarity.collection.queries import Member, Picture, Vector
from image_similarity.collection.vectors import Store
from image_similarity.errors import JobFailed, WrongInput
from image_similarity.settings import EmbeddingsSettings
from image_similarity.storage import blobs

IDS = ["a.png", "birds/1.jpg", "http://there/x.jpg", "é.png"]
LIMITS = EmbeddingsSettings(max_bytes=1000)


@pytest.fixture
def store() -> Store:
    return Store(pa.array(IDS, pa.large_string()), None, np.eye(4, 3, dtype=np.float32))


def understood(store: Store, query: Any = None, image_id: Any = None) -> Any:
    return queries.understood(query, image_id, store, LIMITS)


def refusal(store: Store, query: Any = None, image_id: Any = None, kind: type[JobFailed] = WrongInput) -> str:
    with pytest.raises(JobFailed) as raised:
        understood(store, query, image_id)
    assert type(raised.value) is kind and "\n" not in str(raised.value)
    return str(raised.value)


def test_what_a_text_means(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photo.jpg").write_bytes(b"content")
    for name in ("photo.jpg", str(tmp_path / "photo.jpg"), "~/photo.jpg", f"file://{tmp_path}/photo.jpg"):
        assert understood(store, name).content == b"content"
    assert understood(store, Path("photo.jpg")) == Picture(b"content", "photo.jpg")
    for row, name in enumerate(IDS):
        assert understood(store, name) == understood(store, image_id=name) == Member(name, row)


def test_a_text_that_is_both_is_refused_with_both_ways_of_saying_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(b"here")
    assert "write image_id='a.png' or pathlib.Path('a.png')" in refusal(store, "a.png")
    assert understood(store, Path("a.png")).content == b"here"
    assert understood(store, image_id="a.png") == Member("a.png", 0)
    os.remove("a.png")
    os.symlink("nowhere", "a.png")  # it is a file for whoever wrote it
    assert "write image_id=" in refusal(store, "a.png")


def test_nothing_and_both(store: Store) -> None:
    assert "one query" in refusal(store) and "one query" in refusal(store, b"x", "a.png")


def test_names_of_nothing(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").touch()
    assert "'photo.jpeg' is neither a file here nor an image of the collection; did you mean photo.jpg?" in refusal(
        store, "photo.jpeg"
    )
    assert "did you mean birds/1.jpg?" in refusal(store, "birds/1.jpeg")
    assert "neither a file" in refusal(store, "") and "no such file" in refusal(store, Path("photo.jpeg"))
    assert "no image 'b.png' has a vector here; did you mean" in refusal(store, image_id="b.png")
    assert "image_id is a text, not 3" in refusal(store, image_id=3)
    for odd in ("x" * 5000, "a\0b", "a\nb"):
        refusal(store, odd)


def test_names_that_are_no_utf_8(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for odd in ("caf\udce9.png", "\udcff", "http://there/\udcff.jpg"):
        refusal(store, odd)
        assert "has a vector here" in refusal(store, image_id=odd)
    Path("caf\udce9.png").write_bytes(b"content")
    assert understood(store, "caf\udce9.png").content == b"content"
    assert understood(store, b"caf\xe9.png".decode(errors="surrogateescape")).content == b"content"


def test_what_is_no_file(store: Store, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "a named pipe: name the file of a picture" in refusal(store, tmp_path / "pipe")
    assert "a folder: name the file of a picture; search_images" in refusal(store, str(tmp_path))


def test_large_files_are_refused_unread(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "large.jpg", "wb") as file:
        file.truncate(500 * 10**6)

    def read(*_: Any) -> bytes:
        raise AssertionError("it was read")

    monkeypatch.setattr(blobs, "read", read)
    with pytest.raises(WrongInput) as raised:
        understood(store, tmp_path / "large.jpg")
    assert "large.jpg: too_many_bytes: 500,000,000 bytes, more than 1,000" in str(raised.value)
    assert raised.value.fields == {"reason": "too_many_bytes", "detail": "500,000,000 bytes, more than 1,000"}
    assert "the picture (1,001 bytes): too_many_bytes" in refusal(store, bytes(1001))


def test_addresses(store: Store) -> None:
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://me:secret@127.0.0.1:{server.server_port}/a.png?token=secret"
        text = refusal(store, address)
        server.shutdown()
    assert "private_address" in text and "secret" not in text and not asked
    assert "http." not in text and "give its file or its bytes" in text, "no setting of jobs can be given here"
    assert "unsupported_scheme" in refusal(store, "ftp://host/a.png")


def test_a_place_that_does_not_answer_is_no_wrong_input(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*_: Any) -> bytes:
        raise OSError("gone")

    (tmp_path / "a.jpg").write_bytes(b"x")
    monkeypatch.setattr(blobs, "read", read)
    assert "a.jpg: io_error: gone" in refusal(store, tmp_path / "a.jpg", kind=JobFailed)


def test_images_of_pil_are_upright_pixels(store: Store) -> None:
    turned = Image.new("RGB", (4, 2), (200, 0, 0))
    exif = turned.getexif()
    exif[0x0112] = 6
    held = BytesIO()
    turned.save(held, "PNG", exif=exif)
    with Image.open(held) as image, Image.open(BytesIO(understood(store, image).content)) as made:
        assert (made.size, made.mode, made.format) == ((2, 4), "RGB", "PNG")
        assert made.getpixel((0, 0)) == (200, 0, 0)
    assert understood(store, Image.new("CMYK", (2, 2))).content
    assert "the image: truncated" in refusal(store, Image.open(BytesIO(held.getvalue()[:-30])))


@pytest.mark.parametrize(
    "vector",
    [[1, 2, 3], (1.0, 2.0, 3.0), np.array([1, 2, 3]), np.arange(1, 4, dtype=np.float64), pa.array([1.0, 2, 3])],
    ids=["list", "tuple", "int64", "float64", "arrow"],
)
def test_vectors(store: Store, vector: Any) -> None:
    taken = understood(store, vector)
    assert isinstance(taken, Vector) and taken.values.dtype == np.float32 and taken.values.tolist() == [1, 2, 3]


def test_tensors(store: Store) -> None:
    torch = pytest.importorskip("torch")
    assert understood(store, torch.ones(3, requires_grad=True)).values.tolist() == [1, 1, 1]


def test_what_is_no_vector(store: Store) -> None:
    assert "the vector has 4 values, those of the collection 3" in refusal(store, [1, 2, 3, 4])
    assert "the vector has 0 values, those of the collection 3" in refusal(store, [])
    assert "not an array of shape (1, 3)" in refusal(store, [[1, 2, 3]])
    assert "the vector: non_finite: 2 of 3 values" in refusal(store, [1, float("nan"), 1e300])
    for odd in (object(), 3, {"a": 1}, ["a", "b", "c"], [[1], [1, 2]], True, [True, False, True], [1j, 1, 1]):
        assert "a query is a path" in refusal(store, odd)
