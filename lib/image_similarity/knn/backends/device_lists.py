"""Lists of the best scores on a device: what passes is pending first, and is merged by a sort."""

import numpy as np
import torch

from image_similarity.knn.candidates import NONE

Tensor = torch.Tensor

_PENDING = 4
"""Room for pending entries, as a multiple of a list's length. About a list's length passes when the number of vectors
compared doubles, and less with each tile after that."""


class PendingBest:
    """For each row the ``k`` greatest scores so far as keys, and entries that are pending: ``count`` (n,) of them."""

    def __init__(self, k: int, count: Tensor):
        self.k, self.width, self.count = k, _PENDING * k, count
        rows, device = len(count), count.device
        self._keys = torch.full((rows, k), NONE, device=device)
        """(n, k), sorted."""
        self.cut = torch.full((rows,), -np.inf if k else np.inf, dtype=torch.float32, device=device)
        """(n,): a score becomes pending only if it exceeds this."""
        self.pending = torch.empty((rows, self.width), dtype=torch.int64, device=device)
        self.most_pending = 0
        """The most entries that any row may have pending."""

    def append(self, part: slice, row: Tensor, keys: Tensor) -> None:
        """Make ``keys`` pending for ``row`` of ``part``, which ascends. Those without room are only counted."""
        count = self.count[part]
        added = torch.bincount(row, minlength=len(count))
        place = count[row] + torch.arange(len(row), device=row.device) - (added.cumsum(0) - added)[row]
        fits = place < self.width
        self.pending[part][row[fits], place[fits]] = keys[fits]
        count += added.int()

    def merge(self, step: int) -> None:
        """Merge the pending entries into the lists, ``step`` rows at a time."""
        for start in range(0, len(self.count), step):
            part = slice(start, start + step)
            self.replace(self.merged_with(self._keys[part, :0], part), part)
        self.most_pending = 0

    def merged_with(self, keys: Tensor, part: slice) -> Tensor:
        """The best of the lists of ``part``, of their pending entries and of ``keys`` (n, any): (n, k), sorted."""
        pending = self.pending[part, : self.most_pending]
        place = torch.arange(pending.shape[1], device=pending.device)
        pending = torch.where(place < self.count[part, None], pending, NONE)
        return torch.cat([self._keys[part], pending, keys], dim=1).sort(dim=1).values[:, : self.k]

    def replace(self, keys: Tensor, part: slice) -> None:
        """Make ``keys`` (n, k) the lists of ``part``, of which nothing is pending then."""
        if self.k:
            self._keys[part] = keys
            self.cut[part] = score_of(keys[:, -1])
        self.count[part] = 0

    def complete(self, step: int) -> Tensor:
        """The lists (n, k), sorted, with all that was pending."""
        if self.most_pending:
            self.merge(step)
        return self._keys


def keys_of(scores: Tensor, positions: Tensor) -> Tensor:
    """The same as `candidates.keys_of_scores`."""
    bits = (-scores).view(torch.int32)
    ordered = torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)
    return (ordered.long() << 32) | positions.long()


def score_of(keys: Tensor) -> Tensor:
    """The scores in ``keys``; -inf for `NONE`."""
    ordered = (keys >> 32).int()
    scores = -torch.where(ordered >= 0, ordered, ordered ^ 0x7FFFFFFF).view(torch.float32)
    return torch.where(keys == NONE, -np.inf, scores)
