"""How good approximate lists are: a sample of the images, and its true neighbours."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from image_similarity.errors import WrongInput, counted
from image_similarity.knn import candidates, recall
from image_similarity.knn.candidates import NONE, Keys
from image_similarity.knn.distances import Indices, Reals
from image_similarity.knn.recall import Recall
from image_similarity.settings import ApproximateSettings, NeighboursSettings
from image_similarity.stages.neighbours.numbers import Images, Numbers, Sharing, hashes, lowest
from image_similarity.stages.neighbours.table import lists_of


@dataclass(frozen=True)
class Approximation:
    """How similar neighbours were found approximately, and how good they are."""

    recall: Recall
    nlist: int
    nprobe: int
    """The number of partitions that each vector was compared with, its home partition among them."""
    rounds: int
    """The number of rounds in which neighbours of neighbours were compared."""
    good_enough: bool
    across_borders: float | None
    """The recall of those true neighbours whose home partition is not the vector's own; None if there are none."""


@dataclass(frozen=True)
class Audit:
    """A sample of images, by a hash of image_id and seed, and their true neighbours."""

    image: Indices
    """The numbers (n,) of the images, in the order of their ids."""
    vectors: Indices
    """The numbers (m,) of the images' vectors, each once, ascending."""
    vector_of: Indices
    """For each image (n,), the index of its vector in ``vectors``."""
    nearest: Keys
    """The true neighbours (m, k) of the vectors."""
    true: Keys
    """The true neighbours (n, k) of the images."""
    _settings: NeighboursSettings
    _seed: int
    _collection_size: int
    _sharing: Sharing | None

    @classmethod
    def of(
        cls,
        numbers: Numbers,
        images: Images,
        settings: NeighboursSettings,
        approximate: ApproximateSettings,
        again: int,
    ) -> "Audit":
        """A sample whose true neighbours are not known yet. ``again``: how many samples were taken before this one,
        which is independent of them.
        """
        seed = approximate.seed + again
        image = np.sort(lowest(hashes(images.ids, seed), approximate.audit_queries))
        vectors, vector_of = np.unique(numbers.vector[image], return_inverse=True)
        nothing = np.empty((len(vectors), 0), np.int64)
        return cls(
            image, vectors, vector_of, nothing, nothing, settings, approximate.seed, len(images.ids), images.sharing
        )

    def with_truth(self, nearest: Keys) -> "Audit":
        """The same sample with the true neighbours (m, k) of its vectors."""
        return replace(self, nearest=nearest, true=self.of_images(nearest))

    def of_images(self, keys: Keys) -> Keys:
        """The lists (n, k) of the images, from the lists ``keys`` (m, any) of their vectors."""
        k, vector = self._settings.similar, self.vectors[self.vector_of]
        if self._sharing is None:
            return keys[self.vector_of, :k]
        return lists_of(
            self._sharing, self.image, vector, keys[self.vector_of, :k], k, False, self._settings.drop_duplicates
        )

    def recall(self, distances: Reals) -> Recall:
        """Recall of lists of the images; ``distances`` (n, any) are those of their neighbours, nan where a list has no
        entry.
        """
        return recall.estimated(
            recall.of_each(distances, candidates.distances_of(self.true)), self._seed, self._collection_size
        )

    def recall_of_lists(self, keys: Keys) -> Recall:
        """Recall of the lists ``keys`` (m, any) of the vectors."""
        return self.recall(candidates.distances_of(self.of_images(keys)))

    def across_borders(self, keys: Keys, home: NDArray[np.int32]) -> float | None:
        """`Approximation.across_borders` of the lists ``keys`` (m, any) of the vectors. ``home``: by number.

        A true neighbour that is not in the list counts as found if the list is complete: others in it are as near.
        """
        is_complete = recall.of_each(*(candidates.distances_of(of) for of in (keys, self.nearest))) == 1
        is_there = self.nearest != NONE
        true = np.where(is_there, candidates.positions_of(self.nearest), 0)
        across = is_there & (home[true] != home[self.vectors][:, None])
        listed = np.where(keys == NONE, -1, candidates.positions_of(keys))
        is_listed = np.array([np.isin(*rows) for rows in zip(true, listed)]).reshape(true.shape)
        return float((is_listed | is_complete[:, None])[across].mean()) if across.any() else None


def check(images: int, approximate: ApproximateSettings) -> None:
    """Raise ``WrongInput`` where the sample is so small that even a table without a miss could not reach the target."""
    tolerated_share = 1 - approximate.recall_target + approximate.recall_slack
    if approximate.audit_queries < images and approximate.audit_queries * tolerated_share < recall.RULE_OF_THREE:
        needed = "all" if tolerated_share <= 0 else f"{math.ceil(recall.RULE_OF_THREE / tolerated_share):,}"
        raise WrongInput(
            f"approximate.audit_queries = {counted(approximate.audit_queries, 'is', 'are')} too few to tell whether "
            f"recall is {approximate.recall_target - approximate.recall_slack:.4g} or more: ask {needed}, or set "
            "recall_slack to more"
        )


def too_low(approximation: Approximation, approximate: ApproximateSettings) -> str:
    """Why lists that are not good enough are not published."""
    return (
        f"recall is {approximation.recall}, but approximate.recall_target is {approximate.recall_target} "
        f"(and the interval may begin at {approximate.recall_target - approximate.recall_slack:.4g}): "
        "nothing was published; raise approximate.nprobe, probe_doublings or rounds, or "
        'set approximate.fallback = "exact"'
    )
