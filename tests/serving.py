"""A server of `image_similarity.serve` on loopback, and clients that behave, or do not.

`StandIn` is a collection that needs no warehouse: a vector is the mean colours of four parts of a picture.
"""

import hashlib
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.cookies import SimpleCookie
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
from PIL import Image

from image_similarity.collection import queries
from image_similarity.errors import Unreadable, WrongInput
from image_similarity.imaging.framing import Framing
from image_similarity.imaging.sandbox import IsolatedDecoders
from image_similarity.serve.app import Desk, application
from image_similarity.serve.server import Server, listen
from image_similarity.settings import EmbeddingsSettings

TOKEN = "a-token-of-tests"
ODD_IDS = (
    "plain.png",
    "with 'quotes' and \"more\".png",
    "folder/../slashes//x.png",
    "new\nline.png",
    "nul\x00byte.png",
    "<script>window.hacked=1</script>.png",
    "x" * 5000 + ".png",
    "\u202eright to left ünï.png",
    "100%25?&=#.png",
)
_PIXELS, _MEMORY, _SECONDS = 89_478_485, 4 << 30, 30.0
_SIDE = 8


def picture(colour: tuple[int, int, int] = (200, 60, 40), size: tuple[int, int] = (160, 120)) -> bytes:
    """A PNG of nearly one colour."""
    pixels = np.clip(np.array(colour) + np.random.default_rng(0).integers(-9, 10, (size[1], size[0], 3)), 0, 255)
    content = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(content, "PNG")
    return content.getvalue()


FINGERPRINTS = ("colours", "other")
"""Those of a `StandIn`. Where none is named, none is meant."""


class StandIn:
    """Has what is served of a `Collection`. ``pause``: seconds that every search takes."""

    def __init__(self, folder: Path, ids: tuple[str, ...] = ODD_IDS, version: int = 1) -> None:
        folder.mkdir(exist_ok=True)
        self.uri, self.version, self.ids = str(folder / "warehouse"), version, ids
        self.newest: StandIn | None = None
        self.pause, self.at_once, self.most_at_once, self.searches = 0.0, 0, 0, 0
        self.lock = threading.Lock()
        self.decoders = IsolatedDecoders(2, _PIXELS, _MEMORY, _SECONDS)
        self.files = [folder / f"{number}.png" for number in range(len(ids))]
        for number, file in enumerate(self.files):
            file.write_bytes(picture((25 * number, 255 - 20 * number, 90), (100 + 40 * number, 150)))
        self.contents = [hashlib.sha256(file.read_bytes()).hexdigest() for file in self.files]
        self.vectors = np.stack([self.vector(file.read_bytes()) for file in self.files])

    def vector(self, content: bytes) -> Any:
        square = self.decoders.framed(content, [Framing(_SIDE, _SIDE, squash=True)]).squares[0].astype(float)
        return square.reshape(2, _SIDE // 2, 2, _SIDE // 2, 3).mean((1, 3)).reshape(-1)

    def refresh(self) -> "StandIn":
        return self.newest or self

    def fingerprints(self) -> pa.Table:
        names = list(FINGERPRINTS)
        trained, images = pa.array([None, False]), [len(self.ids)] * 2
        return pa.table({"fingerprint": names, "kind": ["colours"] * 2, "trained": trained, "images": images})

    def limits(self, fingerprint: str) -> EmbeddingsSettings:
        return EmbeddingsSettings()

    def store(self, fingerprint: str) -> Any:
        return SimpleNamespace(ids=pa.array(self.ids))

    def look_up(self, image_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        wanted = set(image_ids)
        return {row["image_id"]: row for row in self.images().to_pylist() if row["image_id"] in wanted}

    def images(self) -> pa.Table:
        return pa.table(
            {
                "image_id": self.ids,
                "uri": list(map(str, self.files)),
                "content_sha256": self.contents,
                "attributes": pa.array([[("title", f"Title {name[:200]}")] for name in self.ids], _ATTRIBUTES),
                "width": [100 + 40 * number for number in range(len(self.ids))],
                "height": [150] * len(self.ids),
            }
        )

    def search(
        self,
        query: Any = None,
        k: int = 12,
        *,
        image_id: str | None = None,
        fingerprint: str | None = None,
        metric: str | None = None,
        dissimilar: int = 0,
    ) -> pa.Table:
        with self.lock:
            self.at_once, self.searches = self.at_once + 1, self.searches + 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            time.sleep(self.pause)
            return self._found(query, k, image_id, fingerprint, metric or "euclidean", dissimilar)
        finally:
            with self.lock:
                self.at_once -= 1

    def _found(self, query: Any, k: int, image_id: str | None, name: Any, metric: str, dissimilar: int) -> pa.Table:
        if image_id is not None:
            if image_id not in self.ids:
                raise WrongInput(f"no image has the id {image_id!r}")
            vector = self.vectors[self.ids.index(image_id)]
        else:
            try:
                vector = self.vector(query) if isinstance(query, bytes) else np.asarray(query)
            except Unreadable as fault:
                raise queries.refused("the picture", fault) from None
        if len(vector) != self.vectors.shape[1]:
            raise WrongInput(f"the vector has {len(vector)} numbers, those of {name} have {self.vectors.shape[1]}")
        distance = np.linalg.norm(self.vectors - vector, axis=1)
        order = [place for place in np.argsort(distance, kind="stable") if self.ids[place] != image_id]
        rows = [("similar", rank, place) for rank, place in enumerate(order[:k], 1)]
        rows += [("dissimilar", rank, place) for rank, place in enumerate(order[::-1][:dissimilar], 1)]
        table = pa.table(
            {
                "relation": [row[0] for row in rows],
                "rank": [row[1] for row in rows],
                "image_id": [self.ids[row[2]] for row in rows],
                "distance": [float(distance[row[2]]) for row in rows],
                "verdict": ["yes" if distance[row[2]] == 0 else "no" for row in rows],
                "uri": [str(self.files[row[2]]) for row in rows],
            }
        )
        about = self.images().select(["image_id", "width", "height", "attributes"]).take([row[2] for row in rows])
        for column in about.column_names[1:]:
            table = table.append_column(column, about[column])
        facts = {"fingerprint": name, "metric": metric, "vectors": str(len(self.ids)), "exact": "true"}
        if image_id is not None:
            facts |= {"query_width": str(100 + 40 * self.ids.index(image_id)), "query_height": "150"}
        return table.replace_schema_metadata({**facts, "query_vector": "embedded"})


_ATTRIBUTES = pa.map_(pa.string(), pa.string())


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    """By names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass(frozen=True)
class Served:
    """A server that is running."""

    port: int
    desk: Desk

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def send(self, method: str, path: str, body: Any = None, headers: Mapping[str, str | None] | None = None) -> Reply:
        """One request on its own connection, by a program that knows the token. Headers that are None are left out."""
        usual: dict[str, str | None] = {"Authorization": f"Bearer {TOKEN}"}
        given = {name: value for name, value in {**usual, **(headers or {})}.items() if value is not None}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            try:
                connection.request(method, path, body, given)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the server has answered before it had all
            response = connection.getresponse()
            return Reply(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def get(self, path: str, headers: Mapping[str, str | None] | None = None, **fields: Any) -> Reply:
        return self.send("GET", path + (f"?{urlencode(fields)}" if fields else ""), headers=headers)

    def post(self, path: str, body: Any = b"", headers: Mapping[str, str | None] | None = None) -> Reply:
        return self.send("POST", path, body, headers)

    def ask(self, value: Any) -> Reply:
        return self.post("/similar", json.dumps(value), {"Content-Type": "application/json"})

    def browser(self) -> "Browser":
        """A browser that has opened the printed address."""
        reply = self.get("/", {"Authorization": None}, token=TOKEN)
        cookie = SimpleCookie(reply.headers["set-cookie"]).popitem()[1]
        return Browser(self, f"{cookie.key}={cookie.value}", cookie["path"])

    def head(self, method: str, target: str, length: int = 0) -> bytes:
        """The head of a request that is sent by `raw`."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host}", f"Authorization: Bearer {TOKEN}"]
        return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()

    def raw(self, content: bytes, seconds: float = 20.0) -> bytes:
        """What the server sends for ``content`` until it closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as connection:
            connection.sendall(content)
            received = b""
            while chunk := connection.recv(1 << 16):
                received += chunk
            return received


@dataclass(frozen=True)
class Browser:
    """Sends no token, but its cookie. ``path``: of the cookie, below which it has the pages."""

    served: Served
    cookie: str
    path: str

    def headers(self, headers: Mapping[str, str | None] | None = None) -> dict[str, str | None]:
        return {"Authorization": None, "Cookie": f"a=b; {self.cookie}", **(headers or {})}

    def get(self, path: str, headers: Mapping[str, str | None] | None = None) -> Reply:
        return self.served.get(self.path.removesuffix("/") + path, self.headers(headers))

    def post(self, path: str, body: Any = b"", headers: Mapping[str, str | None] | None = None) -> Reply:
        return self.served.post(self.path.removesuffix("/") + path, body, self.headers(headers))


def form(fields: Mapping[str, str], file: bytes | None = None, name: str = "picture") -> tuple[bytes, dict[str, str]]:
    """The body and headers of the page's form."""
    parts = [f'Content-Disposition: form-data; name="{key}"\r\n\r\n{value}'.encode() for key, value in fields.items()]
    if file is not None:
        disposition = f'Content-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'
        parts.append(disposition.encode() + file)
    body = b"".join(b"--edge\r\n" + part + b"\r\n" for part in parts) + b"--edge--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=edge", "Accept": "text/html"}


@contextmanager
def serving(collection: Any, gallery: str | None = None, **options: Any) -> Iterator[Served]:
    """A server in a thread of this process. Of a `StandIn`, ``colours`` is the usual fingerprint."""
    if isinstance(collection, StandIn):
        options.setdefault("fingerprints", FINGERPRINTS)
    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        app = application(collection, gallery, TOKEN, port=port, **options)
        server = Server(app, listening)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        try:
            yield Served(port, app.state.desk)
        finally:
            server.stop()
            thread.join(20)
            app.state.desk.close()
            assert not thread.is_alive(), "the server does not end"
