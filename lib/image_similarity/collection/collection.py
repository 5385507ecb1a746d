"""`Collection`: one published state of a warehouse, for programs and notebooks."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.collection import defaults, display, runs, vectors
from image_similarity.collection.display import DEFAULT_LIMIT, Pictures
from image_similarity.collection.runs import Run
from image_similarity.collection.vectors import Store
from image_similarity.warehouse.snapshot import Snapshot, open_snapshot


class Embeddings(NamedTuple):
    """The vectors of one fingerprint: ``ids, vectors = collection.embeddings()``."""

    ids: NDArray[np.object_]
    """(n,): image_id as str, in the order of its bytes (UTF-8)."""
    vectors: NDArray[np.float32]
    """(n, d) float32, read-only; row i is that of ``ids[i]``. Mapped from a file where possible."""


@dataclass(frozen=True, eq=False)
class Collection:
    """What is published in one warehouse. Made by `image_similarity.open`; may be used by several threads.

    It keeps showing the state that was read while jobs publish others; `refresh` reads the newest one. Every method
    raises ``WrongInput`` for a name that is not known here, with near names; and ``JobFailed`` if files cannot be
    read: because retention has removed them meanwhile, say.
    """

    snapshot: Snapshot
    """What is read. For modules of this project alone."""
    weights: Mapping[str, str]
    """fingerprint -> file or address of its weights, in the place of the recorded ones."""
    _stores: dict[str, Store] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.RLock)

    @property
    def uri(self) -> str:
        """The warehouse: an absolute path, or a URI."""
        return self.snapshot.uri

    @property
    def version(self) -> int:
        """The version of the published state that was read. Every publication makes the next one."""
        return self.snapshot.pointer.version

    def refresh(self) -> "Collection":
        """The newest published state, as another object; this one if nothing was published since."""
        newest = open_snapshot(self.uri)
        if newest.pointer == self.snapshot.pointer:
            return self
        return Collection(newest, self.weights, dict(self._stores))

    def store(self, fingerprint: str | None = None) -> Store:
        """The vectors of ``fingerprint``, read once. For modules of this project alone; users call `embeddings`."""
        name = defaults.fingerprint_of(self.snapshot, fingerprint)
        with self._lock:  # a second thread waits for the copy that the first one makes
            key = vectors.name_of(self.snapshot, name)
            if key not in self._stores:
                self._stores[key] = vectors.store_of(self.snapshot, name)
            return self._stores[key]

    def fingerprints(self) -> pa.Table:
        """The published fingerprints, the default first."""
        raise NotImplementedError

    def neighbours(
        self,
        fingerprint: str | None = None,
        *,
        metric: str | None = None,
        relation: str | None = None,
        k: int | None = None,
    ) -> pa.Table:
        """The published neighbours by one fingerprint and one metric."""
        raise NotImplementedError

    def embeddings(self, fingerprint: str | None = None) -> Embeddings:
        """The vectors of one fingerprint: ids (n,), vectors (n, d) float32, in the order of image_id."""
        store = self.store(fingerprint)
        values = store.vectors.view()
        values.flags.writeable = False
        return Embeddings(store.ids.to_numpy(zero_copy_only=False), values)

    def images(self) -> pa.Table:
        """All images of the manifest."""
        raise NotImplementedError

    def groups(
        self,
        kind: str = "near-duplicates",
        fingerprint: str | None = None,
        metric: str | None = None,
        level: int | None = None,
    ) -> pa.Table:
        """The members of published groups."""
        raise NotImplementedError

    def group_summary(
        self,
        kind: str = "near-duplicates",
        fingerprint: str | None = None,
        metric: str | None = None,
        level: int | None = None,
    ) -> pa.Table:
        """The published groups, a row each."""
        raise NotImplementedError

    def tags(self, fingerprint: str | None = None) -> pa.Table:
        """No job publishes tags yet."""
        raise NotImplementedError

    def matches(
        self, queries: str | None = None, fingerprint: str | None = None, metric: str | None = None
    ) -> pa.Table:
        """What search_images published for a batch of queries."""
        raise NotImplementedError

    def runs(self) -> list[Run]:
        """All published runs, newest last."""
        return runs.runs_of(self.snapshot)

    def changes(self, run_a: str | None = None, run_b: str | None = None) -> pa.Table:
        """What changed between two runs of the same job and slot."""
        raise NotImplementedError

    def search(
        self,
        query: "str | Path | bytes | Sequence[float] | NDArray[Any] | None" = None,
        k: int = 12,
        *,
        image_id: str | None = None,
        fingerprint: str | None = None,
        metric: str | None = None,
        dissimilar: int = 0,
    ) -> pa.Table:
        """What looks like one picture."""
        from image_similarity.collection import search

        return search.search(
            self, query, k, image_id=image_id, fingerprint=fingerprint, metric=metric, dissimilar=dissimilar
        )

    def show(self, rows: Any, limit: int = DEFAULT_LIMIT, notes: "str | Sequence[str] | None" = None) -> Pictures:
        """The pictures of ``rows``, for a notebook: small, with titles, distances and verdicts below them.

        ``rows``: a table of images, neighbours, groups, matches or answers, by Arrow, pandas or DuckDB, of which the
        first ``limit`` rows are shown; or an image_id, the ``Path`` of a file, or a list of these. Of neighbours, each
        image stands left of what was found for it. The images of a group stand together. Files are read when the
        notebook shows them. One that cannot be read, or that has changed since it was embedded, leaves an empty frame
        that says so. ``notes``: the column or columns that are told below pictures, in the place of distances and
        verdicts. Outside of notebooks it is a list of titles. Raises ``WrongInput`` for a table without images, and
        for a limit above 400.
        """
        return display.pictures(rows, display.of_snapshot(self.snapshot), limit, notes)
