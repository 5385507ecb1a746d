"""What the arguments of search_images ask for: the queries, what they are compared by, and how many answers."""

import argparse
from dataclasses import dataclass
from typing import Any

from image_similarity.errors import WrongInput
from image_similarity.redaction import redacted
from image_similarity.settings import Settings
from image_similarity.stages.search import queries
from image_similarity.storage import uris


@dataclass(frozen=True)
class Request:
    """One search: of pictures, or of vectors of one's own."""

    queries: str
    """Their name."""
    fingerprint: str
    metric: str
    similar: int
    dissimilar: int
    images: str | None
    own_vectors: str | None

    @property
    def slot(self) -> str:
        return queries.slot_of(self.queries, self.fingerprint, self.metric)

    @property
    def place(self) -> str:
        """Where the queries are, as records have it."""
        return redacted(uris.absolute(str(self.images if self.images is not None else self.own_vectors)))

    @property
    def record(self) -> dict[str, Any]:
        """What goes into ``runs.settings``."""
        return {
            "queries": self.queries,
            "images": uris.absolute(self.images) if self.images is not None else None,
            "embeddings": uris.absolute(self.own_vectors) if self.own_vectors is not None else None,
            "fingerprint": self.fingerprint,
            "metric": self.metric,
            "similar": self.similar,
            "dissimilar": self.dissimilar,
        }


def of(arguments: argparse.Namespace, settings: Settings) -> Request:
    """Raises ``WrongInput`` unless pictures or vectors are given, and for a name of queries that cannot be one."""
    if (arguments.images is None) == (arguments.embeddings is None):
        given = "both are given" if arguments.images is not None else "neither is given"
        raise WrongInput(f"--images or --embeddings says what is searched for: {given}")
    name = queries.chosen_name(arguments.queries, arguments.images or arguments.embeddings)
    chosen = settings.neighbours
    return Request(
        name,
        chosen.fingerprint,
        chosen.metric,
        settings.search.similar,
        settings.search.dissimilar,
        arguments.images,
        arguments.embeddings,
    )
