"""Copies made for a calibration: the job finds originals and the fingerprint, workers edit and embed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from image_similarity.errors import JobFailed, WrongInput
from image_similarity.grouping import calibration, near_duplicates
from image_similarity.grouping.calibration import KindRecall
from image_similarity.jobs import embed_images
from image_similarity.jobs.group_sources import Inputs
from image_similarity.jobs.job import Job
from image_similarity.knn.distances import Values
from image_similarity.reporting import note
from image_similarity.runtime.session import local_cores
from image_similarity.stages.embeddings import in_process, published
from image_similarity.stages.embeddings.prepare import PreparedFingerprint

if TYPE_CHECKING:
    import pyarrow as pa

    from image_similarity.neighbour_graph import Graph
    from image_similarity.stages.groups.thumbprints import Thumbprints
    from image_similarity.stages.groups.vectors import Batches

_SEED = 20


@dataclass(frozen=True)
class Copies:
    """What a limit finds of edited copies of some images of the collection."""

    job: Job
    inputs: Inputs
    graph: "Graph"
    scale: Values
    thumbprints: "Thumbprints"
    hashes: NDArray[np.uint64]
    """(m,) one for each image, by which the originals are drawn."""

    def recall(self, limit: float) -> Sequence[KindRecall]:
        """By kind of copy; none, with a note, where no copies can be embedded as the collection was."""
        try:
            return self._recall(limit)
        except (WrongInput, JobFailed, OSError) as error:  # weights that are not at hand, say: groups need none
            note(f"what the limit finds is not measured: {error}")
            return []

    def _recall(self, limit: float) -> Sequence[KindRecall]:
        from image_similarity.stages.groups import copies

        job, prepared = self.job, self._fingerprint()
        declared = published.declared_of(job.base_snapshot, self.inputs.settings.fingerprint)
        images = self.graph.images
        originals, count = copies.planned(images.nodes)
        drawn = calibration.sample(originals, images.nodes, self.hashes[images.first])
        job.say(
            f"group_images {job.slot}: {count:,} copies of {originals:,} images are made and embedded, to learn what "
            "the limit finds",
            event="note",
        )
        uris = self._uris(images.ids.take(images.first[drawn]))
        with job.step("embed copies"):
            made = copies.made(
                in_process.prepare_workers([declared]),
                copies.originals_of(uris, count, _SEED),
                prepared.spec,
                str(prepared.file) if prepared.file else None,
                job.settings.embeddings,
                job.settings.http,
                local_cores(job.session),
            )
        if made is None:
            note("what the limit finds is not measured: no copy could be made")
            return []
        return copies.recall(
            made,
            self._vectors_of(drawn),
            self.thumbprints.pixels[drawn],
            self.scale[drawn],
            near_duplicates.common_scale(self.scale),
            self._reach(drawn),
            self.graph.distance.shape[1],
            self._vectors(),
            self.inputs.settings.metric,
            limit,
        )

    def _fingerprint(self) -> PreparedFingerprint:
        """What embedded the collection, as this application prepared it, or as it was published."""
        name, application = self.inputs.settings.fingerprint, self.job.application
        prepared = application.prepared.get(name)
        if prepared is not None and prepared.spec.key == self.inputs.key:
            return prepared
        folder, http = embed_images.folder_for_workers(), self.job.settings.http
        return published.prepare_published(self.job.base_snapshot, name, folder, http)

    def _uris(self, ids: "pa.Array") -> list[str | None]:
        """Of images, by the manifest as it is published now."""
        import pyarrow.dataset as ds

        rows = self.job.base_snapshot.dataset("manifest").to_table(
            columns=["image_id", "uri"], filter=ds.field("image_id").isin(ids.cast("string"))
        )
        known = dict(zip(rows["image_id"].to_pylist(), rows["uri"].to_pylist()))
        return [known.get(image_id) for image_id in ids.to_pylist()]

    def _reach(self, node: NDArray[np.int64]) -> Values:
        """The distance of the last neighbour of each node."""
        listed = self.graph.distance[node]
        reach: Values = np.where(np.isfinite(listed), listed, np.float32(0)).max(axis=1, initial=0)
        return reach

    def _vectors_of(self, node: NDArray[np.int64]) -> Values:
        from image_similarity.stages.groups import vectors

        return vectors.Here(self._stored()).of(self.graph.images, node)

    def _vectors(self) -> Iterator[Values]:
        """Those of all nodes, part by part."""
        from image_similarity.stages.groups import vectors

        find = vectors.finder(self.graph.images, np.arange(self.graph.images.nodes))
        for batch in self._stored()():
            wanted = find(batch.column(0)) >= 0
            if wanted.any():
                yield vectors.as_values(batch.column(1).filter(wanted))

    def _stored(self) -> "Batches":
        from image_similarity.stages.groups import vectors

        return vectors.stored(self.job.base_snapshot, self.inputs.key or "")
