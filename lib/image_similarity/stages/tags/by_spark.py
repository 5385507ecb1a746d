"""Tags by Spark's tasks. Vectors stay where they are read: only tags are joined with images."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from image_similarity.runtime.progress import progress, step
from image_similarity.stages.tags.scores import CONTENT, SCORES, VECTOR, from_vectors
from image_similarity.stages.tags.table import TAGS, Tagger
from image_similarity.warehouse.schemas import SCHEMAS
from image_similarity.warehouse.warehouse import Warehouse
from image_similarity.warehouse.workspace import Workspace

if TYPE_CHECKING:
    from image_similarity.fingerprints.classifier import Classifier

_ASKED = pa.schema([(CONTENT, pa.string())])


@dataclass(frozen=True)
class Source:
    """As `in_process.Source`, of runs that Spark reads."""

    warehouse: Warehouse
    runs: list[str]
    """Of ``vectors``, or of ``class_scores`` where there is no ``classifier``."""
    scratch: Workspace
    classifier: "Classifier | None" = None

    def all(self) -> DataFrame:
        """Rows of `SCORES`, also of contents whose images are gone."""
        return self._scored(self._stored)

    def of(self, contents: Collection[str]) -> Iterator[pa.RecordBatch]:
        """As `in_process.Source.of`. What Spark chose passes through this process."""
        asked = pa.record_batch([pa.array(list(contents), pa.string())], schema=_ASKED)
        wanted = F.broadcast(self.scratch.store("asked-contents", _ASKED, [asked]))
        self.scratch.write("asked-scores", self._scored(self._stored.join(wanted, CONTENT, "left_semi")))
        for part in self.scratch.parts("asked-scores", SCORES.names):
            yield from (batch for batch in part.cast(SCORES).to_batches() if len(batch))

    def not_finite(self, embeddings: list[str]) -> int:
        """As `in_process.Source.not_finite`, of the images in the runs ``embeddings``."""
        unclear = self._kept.where("rest IS NULL").select(CONTENT)
        return self.warehouse.read("embeddings", embeddings).join(unclear, CONTENT, "left_semi").count()

    @property
    def _kept(self) -> DataFrame:
        return self.warehouse.read("class_scores", self.runs)

    @property
    def _stored(self) -> DataFrame:
        if self.classifier is None:
            return self._kept.where("rest IS NOT NULL").select(*SCORES.names)
        return self.warehouse.read("vectors", self.runs).select(CONTENT, VECTOR)

    def _scored(self, stored: DataFrame) -> DataFrame:
        classifier = self.classifier
        if classifier is None:
            return stored

        def scored(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            yield from (from_vectors(batch, classifier) for batch in batches if len(batch))

        return stored.mapInArrow(scored, from_arrow_schema(SCORES))


def run(source: Source, embeddings: list[str], images: int, fingerprint: str, tagger: Tagger, into: str) -> None:
    """Writes ``tags`` as run ``into``, of the ``images`` in the runs ``embeddings``: the rows of `in_process.run`."""

    def tagged(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from (tagger.of_contents(batch) for batch in batches if len(batch))

    warehouse, spark = source.warehouse, source.scratch.session
    scored = source.all()
    with progress(spark, "tag", images, "pictures", scored.rdd.getNumPartitions()):
        # Written once: sorting would compute it twice.
        tags = source.scratch.write("tags-of-contents", scored.mapInArrow(tagged, from_arrow_schema(TAGS)))
    named = warehouse.read("embeddings", embeddings).select("image_id", CONTENT).join(tags, CONTENT)
    rows = named.withColumn("fingerprint", F.lit(fingerprint)).select(*SCHEMAS["tags"].names)
    with step(spark, "join with images"):
        warehouse.write("tags", into, rows.orderBy("image_id", "rank"))
