"""`Collection`: one published state of a warehouse, for programs and notebooks."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from image_similarity.collection import changes, database, defaults, lookup, reading, runs, summary, tables, vectors
from image_similarity.collection.runs import Run
from image_similarity.collection.vectors import Store
from image_similarity.warehouse.snapshot import Snapshot

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from image_similarity.collection.display import Pictures
    from image_similarity.collection.encoder import Encoder
    from image_similarity.settings import EmbeddingsSettings


class Embeddings(NamedTuple):
    """The vectors of one fingerprint: ``ids, vectors = collection.embeddings()``."""

    ids: NDArray[np.object_]
    """(n,): image_id as str, in the order of its bytes (UTF-8)."""
    vectors: NDArray[np.float32]
    """(n, d) float32, read-only; row i is that of ``ids[i]``. Mapped from a file where possible."""


@dataclass(frozen=True, eq=False, repr=False)
class Collection:
    """What is published in one warehouse. Made by `image_similarity.open`; several threads may use it.

    It keeps showing the state that was read while jobs publish others; `refresh` reads the newest one. Tables are
    pyarrow tables. The metadata of their schema say what they are of (``fingerprint``, ``metric``, ``run_id``).

    Where no fingerprint is named, the only one is meant, else ``vgg16-fc2``. Where no metric is named, the one by which
    its neighbours are published is meant; ``cosine`` if several are.

    Every method raises ``WrongInput``, with near names, for a name that is not known here and for what is not
    published; and ``JobFailed`` if files cannot be read: because they were cleaned meanwhile, say.
    """

    snapshot: Snapshot
    """What is read. For modules of this project alone."""
    weights: Mapping[str, str]
    """fingerprint -> file or address of its weights, in the place of the recorded ones."""
    _stores: dict[str, Store] = field(default_factory=dict)
    _tags: dict[str, Any] = field(default_factory=dict)
    _encoders: "dict[str | None, Encoder]" = field(default_factory=dict)
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
        """The newest published state, as another object; this one if nothing was published since.

        Vectors that are the same in both are not read again. Raises as `image_similarity.open` does.
        """
        newest = reading.newest(self.uri)
        if newest.pointer == self.snapshot.pointer:
            return self
        with reading.named_errors(newest), self._lock:
            published = defaults.fingerprints_of(newest)
            names = {vectors.name_of(newest, name) for name in published}
            keys = {vectors.key_of(newest, name) for name in published}
            stores = {name: store for name, store in self._stores.items() if name in names}
            # One that has not loaded yet would look for its projection in the old state, which may be cleaned.
            encoders = {key: encoder for key, encoder in self._encoders.items() if key in keys and encoder.is_loaded}
        return Collection(newest, self.weights, stores, _encoders=encoders)

    def store(self, fingerprint: str | None = None) -> Store:
        """The vectors of ``fingerprint``, read once. For modules of this project alone; users call `embeddings`."""
        name = defaults.fingerprint_of(self.snapshot, fingerprint)
        with reading.named_errors(self.snapshot), self._lock:  # a second thread waits for the copy of the first
            key = vectors.name_of(self.snapshot, name)
            if key not in self._stores:
                self._stores[key] = vectors.store_of(self.snapshot, name)
            return self._stores[key]

    def tags_of(self, fingerprint: str) -> Any:
        """The tag of each image of the store of ``fingerprint``, see `tagged.tags_of`. Read once. For modules of this
        project alone.
        """
        from image_similarity.collection import tagged

        ids = self.store(fingerprint).ids
        with reading.named_errors(self.snapshot), self._lock:
            if fingerprint not in self._tags:
                self._tags[fingerprint] = tagged.tags_of(self.snapshot, fingerprint, ids)
            return self._tags[fingerprint]

    def encoder(self, fingerprint: str) -> "Encoder":
        """What embeds pictures by ``fingerprint``, loaded once. For modules of this project alone."""
        from image_similarity.collection.encoder import Encoder

        with reading.named_errors(self.snapshot), self._lock:
            key = vectors.key_of(self.snapshot, fingerprint)
            if key not in self._encoders:
                self._encoders[key] = Encoder(self.snapshot, fingerprint, self.weights)
            return self._encoders[key]

    def limits(self, fingerprint: str) -> "EmbeddingsSettings":
        """The limits of files and pictures that ``fingerprint`` was embedded with. For modules of this project alone.

        Those of the settings' defaults where they are not recorded, and for vectors of one's own.
        """
        from image_similarity.collection.encoder import settings_of
        from image_similarity.settings import EmbeddingsSettings

        if not self.snapshot.run_ids("embeddings", fingerprint):
            return EmbeddingsSettings()
        with reading.named_errors(self.snapshot):
            return settings_of(self.snapshot, fingerprint)

    def look_up(self, image_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What is published of a few images, see `lookup.images`. For modules of this project alone."""
        with reading.named_errors(self.snapshot):
            return lookup.images(self.snapshot, image_ids)

    # -- tables --------------------------------------------------------------------------------------------------------

    def fingerprints(self) -> pa.Table:
        """The published fingerprints, the default first, then by name.

        Columns: ``fingerprint``, ``kind`` (``network``, ``exported``, ``pca``, ...; ``external``: vectors of one's
        own), ``network``, ``layer``, ``weights`` (what was loaded), ``fingerprint_key``, ``run_id`` (strings),
        ``trained`` (boolean), ``dimensions`` (int32), ``images`` (int64: images with a vector). Null where it does not
        apply or is not recorded. No rows if nothing is embedded yet.
        """
        with reading.named_errors(self.snapshot):
            return tables.fingerprints(self.snapshot)

    def neighbours(
        self,
        fingerprint: str | None = None,
        *,
        metric: str | None = None,
        relation: str | None = None,
        k: int | None = None,
    ) -> pa.Table:
        """The published neighbours by one fingerprint and one metric, of one run.

        Columns: ``image_id``, ``neighbour_id`` (strings), ``rank`` (int32, from 1), ``distance`` (float32), and
        ``fingerprint``, ``relation``, ``metric``, ``method`` (dictionaries of strings). Rows: ``similar`` ones, then
        ``dissimilar`` ones; of each in the order of image_id, then rank. ``relation``: only these. ``k``: only the
        ``k`` of each list. Raises ``WrongInput`` for names that are not published, and for a ``k`` above the length of
        the published lists.
        """
        with reading.named_errors(self.snapshot):
            return tables.neighbours(self.snapshot, fingerprint, metric, relation, k)

    def embeddings(self, fingerprint: str | None = None) -> Embeddings:
        """The vectors of one fingerprint, in the order of image_id: ids (n,) and vectors (n, d) float32.

        The vectors are read-only, and mapped from a copy that the first call makes in the user's cache folder
        (``~/.cache/image-similarity/vectors``, at most 10 GiB or ``$IMAGE_SIMILARITY_CACHE_BYTES``). Images with the
        same bytes have equal rows. Images without a vector have none. Raises ``JobFailed`` if vectors are missing, or
        can be put nowhere.
        """
        store = self.store(fingerprint)
        values = store.vectors.view()
        values.flags.writeable = False
        return Embeddings(store.ids.to_numpy(zero_copy_only=False), values)

    def images(self, fingerprint: str | None = None) -> pa.Table:
        """All images of the manifest, a row each, in the order of image_id.

        Columns: ``image_id``, ``uri``, ``size_bytes`` (int64), ``modified_at`` (timestamp, UTC), ``source_version``,
        ``attributes`` (map of strings); of what was embedded ``width``, ``height`` (int32, pixels) and
        ``content_sha256``; and where nothing was, ``reason`` and ``detail`` of the failure. Null where it is not
        known: of an image that is new since the last run of embed_images, say.

        ``fingerprint``: which embeddings are looked at; None: the first of `fingerprints` that has some.
        """
        with reading.named_errors(self.snapshot):
            return tables.images(self.snapshot, fingerprint)

    def groups(
        self,
        kind: str = "near-duplicates",
        fingerprint: str | None = None,
        metric: str | None = None,
        level: int | None = None,
    ) -> pa.Table:
        """The members of published groups, in the order of level, group_id, position.

        ``kind``: ``near-duplicates``, ``identical`` or ``similar``. ``level``: 0 (the finest) to 2 of ``similar``; 0 of
        the others; None: all. Columns: ``group_id``, ``image_id``, ``fingerprint``, ``metric``, ``kind`` (strings),
        ``level``, ``position`` (int32), ``representative`` (boolean), ``distance_to_representative`` (float32).
        """
        with reading.named_errors(self.snapshot):
            return tables.groups(self.snapshot, "groups", kind, fingerprint, metric, level)

    def group_summary(
        self,
        kind: str = "near-duplicates",
        fingerprint: str | None = None,
        metric: str | None = None,
        level: int | None = None,
    ) -> pa.Table:
        """The published groups, a row each, in the order of level, size (the largest first), group_id.

        Arguments as of `groups`. Columns: ``group_id``, ``fingerprint``, ``metric``, ``kind``, ``representative_id``,
        ``nearest_outside_id``, ``label`` (strings), ``level``, ``size`` (int32), ``weakest_link``, ``widest_pair``,
        ``nearest_outside`` (float32, distances).
        """
        with reading.named_errors(self.snapshot):
            return tables.groups(self.snapshot, "group_summary", kind, fingerprint, metric, level)

    def quality(self) -> pa.Table:
        """What was measured of each picture while it was decoded, in the order of image_id.

        Columns as of the table ``quality``: ``image_id``, ``content_sha256``, ``format`` (strings), ``width``,
        ``height`` (int32, pixels), ``size_bytes`` (int64), ``brightness_p5``, ``brightness_p95``, ``contrast``,
        ``sharpness``, ``entropy``, ``one_colour_share`` (float32), ``flags`` (list of strings). ``docs/quality.md``
        explains each. Images that could not be decoded, or that were embedded by an earlier version, have no row.
        """
        with reading.named_errors(self.snapshot):
            return tables.quality(self.snapshot)

    def tags(self, fingerprint: str | None = None) -> pa.Table:
        """The classes that the classifier of one fingerprint sees in each image, in the order of image_id, rank.

        ``fingerprint``: one that has tags; None: the only one, else ``vgg16-fc2``. Columns as of the table ``tags``:
        ``image_id``, ``fingerprint``, ``class``, ``wnid`` (strings), ``rank`` (int32, from 1), ``probability``
        (float32), ``accepted`` (boolean), ``content_sha256`` (string). What is not accepted is a guess: *the* tag of an
        image is its row of rank 1, if that is accepted. An image has rows only while its content is the one that was
        tagged: a file that was replaced has none until ``tag_images`` runs again.
        """
        with reading.named_errors(self.snapshot):
            return tables.tags(self.snapshot, fingerprint)

    def isolation(self, fingerprint: str | None = None, metric: str | None = None) -> pa.Table:
        """How far each image is from its similar neighbours, the odd ones out first, ties by image_id.

        Columns: ``image_id``, ``mean_distance`` (float32, to the images in its list), ``percentile`` (float32, 0 to 1:
        the share of the other images that are less isolated), ``neighbours`` (int32: the length of its list),
        ``fingerprint``, ``metric``. An image without a list has no row.
        """
        from image_similarity.collection import odd_ones  # with what compares vectors, which takes part of a second

        with reading.named_errors(self.snapshot):
            return odd_ones.isolation(self.snapshot, fingerprint, metric)

    def mislabelled(self, attribute: str, fingerprint: str | None = None, metric: str | None = None) -> pa.Table:
        """Images by how much their similar neighbours speak for another value of ``attribute`` than their own.

        The likeliest mistakes come first, ties by image_id. Columns: ``image_id``, ``label``, ``suggested_label``
        (strings; null where all neighbours have its own), ``score`` (float32, -1 to 1; above 0 the neighbours speak for
        the suggested label), ``own_share`` (float32, 0 to 1: the share of its own in their weight), ``fingerprint``,
        ``metric``. Images without a label, or with one that nobody else has, are not judged and have no row. As
        neighbours, those without a label speak for none, and their weight counts.

        ``attribute``: ``folder`` is the first folder of image_id where no attribute is called so. Raises ``WrongInput``
        for an attribute that no image has, and for one that is another for every image.
        """
        from image_similarity.collection import odd_ones

        with reading.named_errors(self.snapshot):
            return odd_ones.mislabelled(self.snapshot, attribute, fingerprint, metric)

    def layout(self, fingerprint: str | None = None, metric: str | None = None) -> pa.Table:
        """Where each image is on the map, in the order of image_id.

        ``fingerprint``, ``metric``: those that have a layout; None: the only one. Columns as of the table ``layout``:
        ``image_id``, ``fingerprint``, ``metric`` (strings), ``x``, ``y`` (float64, where UMAP or its neighbours placed
        it), ``grid_column``, ``grid_row`` (int32, from 0: its cell on the wall, which no other image has),
        ``content_sha256`` (string: the file that was placed; null for vectors of one's own), ``since_layout``
        (boolean: whether the image came later than the layout, and lies beside its neighbours).
        """
        with reading.named_errors(self.snapshot):
            return tables.layout(self.snapshot, fingerprint, metric)

    def matches(
        self, queries: str | None = None, fingerprint: str | None = None, metric: str | None = None
    ) -> pa.Table:
        """What ``search_images`` published for a batch of queries, in the order of query_id, relation, rank.

        ``queries``: the name of the batch; None: the only one. Columns as of the table ``matches``: ``queries``,
        ``query_id``, ``query_uri``, ``image_id``, ``fingerprint``, ``metric``, ``relation``, ``verdict`` (strings),
        ``rank`` (int32), ``distance`` (float32).
        """
        with reading.named_errors(self.snapshot):
            return tables.matches(self.snapshot, queries, fingerprint, metric)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """All published runs, newest last."""
        with reading.named_errors(self.snapshot):
            return runs.runs_of(self.snapshot)

    def changes(
        self, run_a: str | None = None, run_b: str | None = None, *, job: str | None = None, slot: str | None = None
    ) -> pa.Table:
        """What changed from ``run_a`` to ``run_b``: ids or labels of runs of the same job and slot.

        None and None: the current run of a slot and the one before it. ``run_a`` alone: since that run. ``run_b``
        alone: what that run changed. ``job``: ``build_manifest``, ``embed_images``, ``find_neighbours`` (where a label
        or None means several) or ``group_images``. ``slot``: that of the default fingerprint and metric.

        Images (not of ``group_images``), in the order of image_id; those that did not change have no row:

        - ``image_id``, ``change`` (``appeared``, ``gone``, ``changed``)
        - ``what``: ``file`` or ``place`` of the manifest; ``content`` or ``fingerprint`` (its key) of embeddings, and
          the reason of the failure where an image is gone for one; ``neighbours``
        - ``before``, ``after``: source versions, places, hashes or keys; null for neighbours
        - ``entered``, ``dropped`` (int32): how many similar neighbours are new in its list, or gone from it; else null

        Groups, in the order of kind, level, group_id: ``kind``, ``level`` (int32), ``group_id``, ``change``, ``before``
        (the group_id that a changed group had), ``size_before``, ``size_after``, ``entered``, ``dropped`` (int32:
        members).

        Raises ``WrongInput`` for runs of different jobs or slots, and for a run whose files retention has removed.
        """
        with reading.named_errors(self.snapshot):
            return changes.between(self.snapshot, run_a, run_b, job, slot)

    # -- search --------------------------------------------------------------------------------------------------------

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
        """What looks like one picture: its ``k`` nearest, and its ``dissimilar`` farthest, of all that have a vector.

        ``query``: a path (str or `pathlib.Path`), the bytes of a file, an http(s) address, or a vector of d numbers;
        a str that is no file but an image_id is that image, and ``image_id`` is always one. A picture that is not in
        the collection is embedded as the collection was, and is not added to it.

        Columns: ``relation``, ``rank`` (int32, from 1), ``image_id``, ``distance`` (float32), ``verdict`` (``yes``: the
        same picture again, ``near``, ``no``; null where no near-duplicates are published), ``uri``, ``width``,
        ``height`` (int32), ``attributes`` (map); and where tags are published ``tag``, null for an image without an
        accepted one. Rows: ``similar`` ones, then ``dissimilar`` ones, by rank. The
        metadata of the schema say what was compared, and how. Raises ``WrongInput`` for what is no picture, and where
        weights are gone.
        """
        from image_similarity.collection import search

        return search.search(
            self, query, k, image_id=image_id, fingerprint=fingerprint, metric=metric, dissimilar=dissimilar
        )

    # -- SQL -----------------------------------------------------------------------------------------------------------

    def duckdb(self, connection: "DuckDBPyConnection | None" = None) -> "DuckDBPyConnection":
        """A connection to DuckDB with a view of each table, and views of several (``docs/tables.md`` lists them).

        They show the state of this collection, wherever its warehouse was when ``views.sql`` was written.
        ``connection``: one of your own, with the secrets of an object store, say, or with other tables; None: a new one
        in memory. Raises ``WrongInput`` where DuckDB is not installed, ``JobFailed`` where it cannot read the files.
        """
        return database.connected(self.snapshot, connection)

    # -- for people ----------------------------------------------------------------------------------------------------

    def show(self, rows: Any, limit: int = 36, notes: "str | Sequence[str] | None" = None) -> "Pictures":
        """The pictures of ``rows``, for a notebook: small, with titles, distances and verdicts below them.

        ``rows``: a table of images, neighbours, groups, matches or answers, by Arrow, pandas or DuckDB, of which the
        first ``limit`` rows are shown; or an image_id, the ``Path`` of a file, or a list of these. Of neighbours, each
        image stands left of what was found for it. The images of a group stand together. Files are read when the
        notebook shows them. One that cannot be read, or that was replaced since it was embedded, leaves an empty frame
        that says so. ``notes``: the column or columns that are told below pictures, in the place of distances and
        verdicts. Outside of notebooks it is a list of titles. Raises ``WrongInput`` for a table without images, and
        for a limit above 200.
        """
        from image_similarity.collection import display  # with Pillow, which tables do not need

        return display.pictures(rows, display.of_snapshot(self.snapshot), limit, notes)

    def __repr__(self) -> str:
        return summary.text(self.snapshot)

    def _repr_html_(self) -> str:
        return summary.html(self.snapshot)
