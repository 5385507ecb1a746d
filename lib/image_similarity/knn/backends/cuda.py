"""Compares on a GPU, by torch and, where it works, by Triton (``kernels``).

A tile of scores is multiplied on tensor cores. Its scores are filtered by what each row's lists already hold: they are
compared with the worst score there before anything is sorted. The few that pass are *pending* until they are merged
into the list by a sort. The first tile of a row has nothing to be compared with: its best are found by ``topk``. So are
those of a tile in which more pass than there is room for.

Exact distances are computed in float64 in any order. Doubtful pairs (see `image_similarity.knn.distances`) are computed
again on the host, in order, so every distance is the host's to the last bit.

Memory: a tile for which the GPU has none is cut in four. Vectors for which it has none stay in the host's memory and
are sent when they are compared. The same code runs with ``device`` = ``cpu``, slowly.
"""

import contextlib
import socket
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from image_similarity.errors import DeviceFailed
from image_similarity.knn import distances, scoring
from image_similarity.knn.backends import launching
from image_similarity.knn.backends.device_distances import StoredVectors, block, rounded, tensor_of
from image_similarity.knn.backends.device_lists import PendingBest, keys_of
from image_similarity.knn.backends.tensor_cores import BFLOAT16, TF32, product
from image_similarity.knn.candidates import _LOW, NONE, Keys, Lists
from image_similarity.knn.distances import BITS_MAX, Bits, Indices, Metric, Values, Vectors
from image_similarity.knn.rerank import Part, lower_bound_of
from image_similarity.knn.scoring import Comparison, Copies, Extremes, Screen

Tensor = torch.Tensor
Range = tuple[int, int]
"""Rows from the first to before the second."""

TILE = 32768
"""Rows and columns that are compared at once. A larger tile takes more memory, and fewer waits for its counts."""
LEAST_TILE = 256
_FIRST = 2048
"""The vectors that give lists their first entries. From then on, twice as many vectors each time let about a list's
length pass."""
_SHARE_FOR_VECTORS = 0.5
"""Vectors stay on the GPU if they take at most this share of the memory that was free. Tiles need the rest."""
_CHUNK_BYTES = 2**28

_Result = TypeVar("_Result")


class Cuda:
    """Compares on one ``device``, as torch names it.

    ``tile``: rows and columns that are compared at once, at most. ``vector_bytes``: how much of the vectors stays on
    the device; None for a share of its free memory. ``fused``: whether Triton's kernels are used; None for where they
    work. Raises ``DeviceFailed`` if the device cannot be used.
    """

    kind = "cuda"
    screens: Sequence[Screen] = (BFLOAT16, TF32)
    block_rows = TILE

    def __init__(self, device: str, tile: int = TILE, vector_bytes: int | None = None, fused: bool | None = None):
        self.device, self.tile, self.name = torch.device(device), tile, device
        with self.guarded():
            if self.device.type == "cuda":
                self.name = f"{device} ({torch.cuda.get_device_name(self.device)})"
                torch.cuda.set_device(self.device)  # kernels start on the current device
            self._vector_bytes = self._memory_for_vectors() if vector_bytes is None else vector_bytes
            self._kernels: Any = None
            self.why_no_kernels = ""
            """Why Triton's kernels do not work here; empty if they do, or if they are not wanted."""
            if fused is None:
                self._kernels, self.why_no_kernels = launching.kernels_for(self.device)
            elif fused:
                self._kernels = launching.imported()
        self._runs: tuple[Tensor, Tensor, Tensor] | None = None
        self._sent: tuple[Any, Tensor] = (None, torch.empty(0))

    def strip(self, part: Part, comparison: Comparison, similar: int, dissimilar: int) -> "CudaStrip":
        with self.guarded():
            return CudaStrip(self, part, comparison, similar, dissimilar)

    # -- memory and faults ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Turns errors of the device into ``DeviceFailed``."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise DeviceFailed(
                f"{socket.gethostname()}: {self.name} has too little memory to compare vectors, even in tiles of "
                f"{self.tile} rows; use a GPU with more memory or fewer tasks on it, or compare on the CPU "
                f"({str(error).splitlines()[0]})"
            ) from None
        except RuntimeError as error:
            if "CUDA" not in str(error) and "cuda" not in str(error):
                raise  # a defect of this program
            raise DeviceFailed(
                f"{socket.gethostname()}: {self.name} failed while vectors were compared: {str(error).splitlines()[0]}"
            ) from None

    def in_tiles(self, work: Callable[[int], _Result]) -> _Result:
        """``work`` of the tile, which is halved while memory does not suffice. Work that fails must change nothing."""
        while True:
            with self._halving():
                return work(self.tile)

    @contextlib.contextmanager
    def _halving(self) -> Iterator[None]:
        """Halves the tile if memory does not suffice, or raises ``OutOfMemoryError`` if it is as small as can be."""
        try:
            yield
            return
        except torch.OutOfMemoryError as error:
            if self.tile <= LEAST_TILE:
                raise
            traceback.clear_frames(error.__traceback__)  # what the failed work had allocated
        self.tile //= 2
        self._runs = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _memory_for_vectors(self) -> int:
        """Bytes that may be allocated on the device before vectors are kept on the host."""
        if self.device.type != "cuda":
            return 2**62
        free, total = torch.cuda.mem_get_info(self.device)
        fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0)(self.device)
        reserved, allocated = torch.cuda.memory_reserved(self.device), torch.cuda.memory_allocated(self.device)
        free = min(free, int(fraction * total) - reserved) + reserved - allocated
        return allocated + int(_SHARE_FOR_VECTORS * free)

    def home(self, size: int) -> torch.device:
        """Where ``size`` bytes of vectors are kept: on the device while there is room, else on the host."""
        allocated = torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0
        return self.device if allocated + size <= self._vector_bytes else torch.device("cpu")

    # -- scores --------------------------------------------------------------------------------------------------------

    def compare(self, a: "CudaStrip", b: "CudaStrip", rows: Range, columns: Range) -> None:
        """Offer all scores of ``rows`` of ``a`` against ``columns`` of ``b`` to the lists of both."""
        pieces = self._pieces(a, b, rows, columns)
        if len(pieces) > 1:
            for of_rows, of_columns in pieces:
                self.compare(a, b, of_rows, of_columns)
            return
        diagonal = a is b and rows == columns
        done = False
        with self._halving():
            filtered = a.is_full(rows) and b.is_full(columns) and self._filter(a, b, rows, columns, diagonal)
            if not filtered:
                self._take_the_best(a, b, rows, columns, diagonal)
            done = True
        if not done:
            self.compare(a, b, rows, columns)
            return
        a.seen[slice(*rows)] += columns[1] - columns[0] - diagonal
        if not diagonal:
            b.seen[slice(*columns)] += rows[1] - rows[0]
        for best in {*a.lists, *b.lists}:
            if best.most_pending > best.width // 4:
                self.in_tiles(best.merge)

    def _pieces(self, a: "CudaStrip", b: "CudaStrip", rows: Range, columns: Range) -> list[tuple[Range, Range]]:
        """``rows`` and ``columns`` in pieces to be compared one after the other; those alone if they are one piece.

        Pieces of full lists are tiles. Lists that are not full get their first entries from a few vectors: to find the
        best of a few, and then to filter the others by these, costs less than to find the best of all.
        """
        diagonal = a is b and rows == columns
        most_rows = self.tile if b.is_full(columns) else min(self.tile, _FIRST)
        most_columns = self.tile if a.is_full(rows) else min(self.tile, _FIRST)
        halved_rows, halved_columns = _halved(rows, most_rows), _halved(columns, most_columns)
        if diagonal:
            halved_rows = halved_columns = max(halved_rows, halved_columns, key=len)
        pieces = [(of_rows, of_columns) for of_rows in halved_rows for of_columns in halved_columns]
        return [piece for piece in pieces if piece[0] <= piece[1]] if diagonal else pieces

    def _scores(self, a: "CudaStrip", b: "CudaStrip", rows: Range, columns: Range) -> Tensor:
        i, j = slice(*rows), slice(*columns)
        scores = product(self._low(a, first=True)[i], self._low(b)[j])
        if not a.copies.angular:
            scores.sub_(a.half[i, None]).sub_(b.half[None, j])
        return scores

    def _low(self, strip: "CudaStrip", first: bool = False) -> Tensor:
        """The copies of ``strip`` on the device. Those of the ``first`` operand, which stays the same for many tiles,
        are sent once.
        """
        low: Tensor = strip.copies.low
        if low.device.type == self.device.type:
            return low
        if first and self._sent[0] is not strip:
            self._sent = (strip, low.to(self.device))
        return self._sent[1] if self._sent[0] is strip else low.to(self.device)

    def _take_the_best(self, a: "CudaStrip", b: "CudaStrip", rows: Range, columns: Range, diagonal: bool) -> None:
        """Merge the best scores of each row and column into their lists. Changes nothing if memory does not suffice."""
        scores = self._scores(a, b, rows, columns)
        sides = [(a, rows, b, columns, scores)] + ([] if diagonal else [(b, columns, a, rows, scores.T)])
        merged = []
        for farthest in (False, True):
            if diagonal:
                scores.fill_diagonal_(np.inf if farthest else -np.inf)
            for strip, part, other, others, of_strip in sides:
                best = strip.lists[farthest]
                values, place = of_strip.topk(min(best.k, of_strip.shape[1]), dim=1, largest=not farthest)
                keys = keys_of(-values if farthest else values, other.positions[slice(*others)][place])
                keys = torch.where(values.isinf(), NONE, keys)
                merged.append((best, part, best.merged_with(keys, slice(*part))))
        for best, part, keys in merged:
            best.replace(keys, slice(*part))

    def _filter(self, a: "CudaStrip", b: "CudaStrip", rows: Range, columns: Range, diagonal: bool) -> bool:
        """Append every score that passes to the pending entries. False, without any change, if there is no room."""
        sides = (a, slice(*rows)), (b, slice(*columns))
        before = [strip.counts[:, part].clone() for strip, part in sides]
        filter_tile = self._filter_by_kernels if self._kernels else self._filter_by_torch
        fits = False
        try:
            runs_fit = filter_tile(a, b, rows, columns, diagonal)
            most = torch.cat([a.counts.amax(dim=1), b.counts.amax(dim=1), runs_fit]).tolist()
            lists = [*a.lists, *b.lists]
            fits = bool(most[-1]) and all(count <= best.width for count, best in zip(most, lists))
        finally:
            if not fits:
                for (strip, part), count in zip(sides, before):
                    strip.counts[:, part] = count
        if fits:
            for count, best in zip(most, lists):
                best.most_pending = count
        return fits

    def _filter_by_torch(self, a: "CudaStrip", b: "CudaStrip", rows: Range, columns: Range, diagonal: bool) -> Tensor:
        scores, (i, j) = self._scores(a, b, rows, columns), (slice(*rows), slice(*columns))
        near, far = zip(*([best.cut[part] for best in strip.lists] for strip, part in ((a, i), (b, j))))
        passes = scores > torch.minimum(near[0][:, None], near[1])
        passes |= scores < torch.maximum(-far[0][:, None], -far[1])
        if diagonal:
            passes.triu_(1)
        row, column = passes.nonzero(as_tuple=True)
        score = scores[row, column]
        for strip, part, at, position in (
            (a, i, row, b.positions[j][column]),
            (b, j, column, a.positions[i][row]),
        ):
            for farthest, best in enumerate(strip.lists):
                of_list = -score if farthest else score
                kept = of_list > best.cut[part][at]
                ascending, order = at[kept].sort()
                best.append(part, ascending, keys_of(of_list[kept], position[kept])[order])
        return torch.ones(1, dtype=torch.int32, device=self.device)

    def _filter_by_kernels(self, a: "CudaStrip", b: "CudaStrip", rows: Range, columns: Range, diagonal: bool) -> Tensor:
        if self._runs is None:
            capacity = max(1, self.tile**2 // 128)
            self._runs = (
                torch.empty((capacity, self._kernels.RUN), dtype=torch.float32, device=self.device),
                torch.empty(capacity, dtype=torch.int32, device=self.device),
                torch.zeros(1, dtype=torch.int32, device=self.device),
            )
        i, j = slice(*rows), slice(*columns)
        self._runs[2].zero_()
        lists = [best for strip in (a, b) for best in strip.lists], (i, i, j, j)
        cuts, counts, pending = (
            [getattr(best, name)[part] for best, part in zip(*lists)] for name in ("cut", "count", "pending")
        )
        low = self._low(a, first=True)[i], self._low(b)[j]
        launching.launch_runs(self._kernels, *low, a.half[i], b.half[j], cuts, self._runs, diagonal)
        self._kernels.push_kernel[(1024,)](
            *self._runs,
            a.positions[i],
            b.positions[j],
            *cuts,
            *counts,
            *pending,
            columns[1] - columns[0],
            len(self._runs[1]),
            lists[0][0].width,
            lists[0][1].width,
            int(diagonal),
            RUNS=16,
        )
        return (self._runs[2] <= len(self._runs[1])).int()

    # -- exact distances -----------------------------------------------------------------------------------------------

    def rerank(
        self,
        strip: "CudaStrip",
        strips: "Sequence[CudaStrip]",
        vectors: Part,
        comparison: Comparison,
        list_lengths: tuple[int, int],
        known: tuple[Lists, Lists] | None = None,
    ) -> tuple[Lists, Lists]:
        """The first ``list_lengths`` places of the exact lists of ``strip``, whose candidates were all found in
        ``strips``, merged with those that are ``known``. The positions of each strip ascend.
        """
        with self.guarded():
            near_and_far = [self.in_tiles(best.complete) for best in strip.lists]
            places = self._places(strips)
            exact: list[list[Keys]] = [[], []]
            start = 0
            while start < len(strip.part):
                with self._halving():
                    rows = slice(start, start + self.tile)
                    of_rows = self._exact(strip, strips, places, start, [keys[rows] for keys in near_and_far])
                    on_host = [keys[:, : k + 1].cpu().numpy() for keys, k in zip(of_rows, list_lengths)]
                    for of_relation, of_rows_on_host in zip(exact, on_host):
                        of_relation.append(of_rows_on_host)
                    start = rows.stop
            length = scoring.lengths(strip.part.vectors, comparison.metric, comparison.common_scale)
            lists = []
            for farthest, keys in enumerate(near_and_far):
                worst = keys[:, -1].cpu().numpy() if keys.shape[1] else np.full(len(keys), NONE)
                lower_bound = lower_bound_of(worst, strip.error, length, comparison, bool(farthest))
                of_strip = Lists(np.concatenate(exact[farthest]), lower_bound)
                before = Lists.empty(len(worst), list_lengths[farthest]) if known is None else known[farthest]
                lists.append(before.merged(of_strip))
            return lists[0], lists[1]

    def _places(self, strips: "Sequence[CudaStrip]") -> tuple[Tensor, Tensor]:
        """By position: the number of the strip that holds it, and its row there."""
        size = 1 + max(int(strip.part.positions[-1]) for strip in strips)
        owner, row = (torch.zeros(size, dtype=torch.int32, device=self.device) for _ in range(2))
        for number, strip in enumerate(strips):
            owner[strip.positions.long()] = number
            row[strip.positions.long()] = torch.arange(len(strip.part), dtype=torch.int32, device=self.device)
        return owner, row

    def _exact(
        self,
        strip: "CudaStrip",
        strips: "Sequence[CudaStrip]",
        places: tuple[Tensor, Tensor],
        first: int,
        near_and_far: list[Tensor],
    ) -> list[Tensor]:
        """Exact keys, sorted, for lists of scores of the rows from ``first`` on. ``places``: see `_places`."""
        metric = strip.comparison.metric
        flat = torch.cat([keys.flatten() for keys in near_and_far])
        entry = (flat != NONE).nonzero().flatten()
        position = flat[entry] & _LOW
        owner, order = places[0][position].sort()  # so that the candidates of each strip are together
        entry, column = entry[order], places[1][position[order]].long()
        is_far = entry >= near_and_far[0].numel()
        row = torch.where(
            is_far,
            (entry - near_and_far[0].numel()) // max(1, near_and_far[1].shape[1]),
            entry // max(1, near_and_far[0].shape[1]),
        )
        row += first
        numbers = torch.arange(len(strips) + 1, dtype=torch.int32, device=self.device)
        ends = torch.searchsorted(owner, numbers).tolist()
        sums = torch.empty(len(position), dtype=torch.float64, device=self.device)
        scale, index = strip.scale[row], torch.empty_like(position)
        own = strip.sent()
        for other, start, end in zip(strips, ends, ends[1:]):
            if start < end:
                at = column[start:end]
                self._sum(metric, own, other.sent(), row[start:end], at, sums[start:end])
                scale[start:end] *= other.scale[at]
                index[start:end] = other.index[at]
        bits, doubtful = rounded(metric, sums, scale, strip.comparison.dimensions)
        doubtful_ends = np.searchsorted(doubtful.cpu().numpy(), ends)
        for other, start, end in zip(strips, doubtful_ends, doubtful_ends[1:]):
            if start < end:
                pairs = doubtful[start:end]
                vectors = strip.part.vectors, other.part.vectors
                bits[pairs] = self._in_order(metric, *vectors, row[pairs], column[pairs])
        flat.fill_(NONE)
        flat[entry] = (torch.where(is_far, BITS_MAX - bits, bits) << 32) | index
        exact = flat.split([keys.numel() for keys in near_and_far])
        return [of.view(keys.shape).sort(dim=1).values for of, keys in zip(exact, near_and_far)]

    def _in_order(self, metric: Metric, a: Vectors, b: Vectors, rows: Tensor, columns: Tensor) -> Tensor:
        bits = distances.pairs(metric, a, b, rows.cpu().numpy(), columns.cpu().numpy(), doubt_all=True)
        return torch.from_numpy(bits.astype(np.int64)).to(self.device)

    def _sum(
        self, metric: Metric, a: "StoredVectors", b: "StoredVectors", rows: Tensor, columns: Tensor, sums: Tensor
    ) -> None:
        """Write the sums of products, or of squared differences, of pairs (p,) into ``sums`` (p,) float64."""
        if self._kernels:
            launching.launch_sums(self._kernels, metric, a, b, rows, columns, sums)
            return
        step = max(1, min(self.tile * 64, _CHUNK_BYTES // (8 * a.values.shape[1] + 1)))
        for start in range(0, len(rows), step):
            row, column = rows[start : start + step], columns[start : start + step]
            x = a.values[row].double() - a.shift[row, None]
            y = b.values[column].double() - b.shift[column, None]
            sums[start : start + step] = (x.mul_(y) if metric.angular else x.sub_(y).square_()).sum(dim=1)

    def pairs(self, metric: Metric, a: Vectors, b: Vectors, rows: Indices, columns: Indices) -> Bits:
        """The same as `distances.pairs`."""
        if not len(rows):
            return np.empty(0, dtype=np.uint32)
        with self.guarded():
            return self.in_tiles(lambda tile: self._pairs(metric, a, b, rows, columns))

    def _pairs(self, metric: Metric, a: Vectors, b: Vectors, rows: Indices, columns: Indices) -> Bits:
        left, right = StoredVectors(a, self.device, self.device), StoredVectors(b, self.device, self.device)
        row, column = (torch.from_numpy(np.ascontiguousarray(of)).to(self.device) for of in (rows, columns))
        sums = torch.empty(len(rows), dtype=torch.float64, device=self.device)
        self._sum(metric, left, right, row, column, sums)
        bits, doubtful = rounded(metric, sums, left.scale[row] * right.scale[column], a.values.shape[1])
        if len(doubtful):
            bits[doubtful] = self._in_order(metric, a, b, row[doubtful], column[doubtful])
        return bits.cpu().numpy().astype(np.uint32)

    def best_of(
        self, metric: Metric, rows: Part, strip: "CudaStrip", similar: int, dissimilar: int
    ) -> tuple[Keys, Keys]:
        """The best of ``strip`` for ``rows`` by brute force: see `rerank.brute_force`."""
        counts = similar, dissimilar
        best: list[list[Keys]] = [[np.empty((0, k), np.int64)] for k in counts]
        start = 0
        while start < len(rows):
            with self._halving():
                end = min(len(rows), start + max(1, self.tile // 32))
                near_and_far = [keys.cpu().numpy() for keys in self._best_of(metric, rows[start:end], strip, counts)]
                for of_relation, keys in zip(best, near_and_far):
                    of_relation.append(keys)
                start = end
        near, far = (np.concatenate(of) for of in best)
        return near, far

    def _best_of(self, metric: Metric, rows: Part, strip: "CudaStrip", counts: tuple[int, int]) -> list[Tensor]:
        own = StoredVectors(rows.vectors, self.device, self.device)
        own_rows, own_index = own.rows(slice(None)), torch.from_numpy(rows.index).to(self.device)
        best = [torch.full((len(rows), k), NONE, device=self.device) for k in counts]
        for start in range(0, len(strip.part), self.tile):
            part = slice(start, start + self.tile)
            bits, doubtful = block(metric, own_rows, strip.rows(part))
            if len(doubtful[0]):
                bits[doubtful] = self._in_order(metric, rows.vectors, strip.part.vectors[part], *doubtful)
            itself = own_index[:, None] == strip.index[None, part]
            for farthest, k in enumerate(counts):
                if k:
                    keys = ((BITS_MAX - bits if farthest else bits) << 32) | strip.index[None, part]
                    keys.masked_fill_(itself, NONE)
                    keys = torch.cat([best[farthest], keys], dim=1)
                    best[farthest] = keys.topk(k, dim=1, largest=False, sorted=False).values
        return best


class CudaStrip(StoredVectors):
    """A block while it is compared: its vectors, their copies, and the best candidates of each so far."""

    def __init__(self, backend: Cuda, part: Part, comparison: Comparison, similar: int, dissimilar: int):
        super().__init__(part.vectors, backend.device, backend.home(part.vectors.values.nbytes))
        self.part, self.comparison, self._backend = part, comparison, backend
        self.positions, self.index = (tensor_of(of).to(backend.device) for of in (part.positions, part.index))
        self.counts = torch.zeros((2, len(part)), dtype=torch.int32, device=backend.device)
        """(2, n): entries that are pending, similar and dissimilar."""
        self.lists = [PendingBest(k, counts) for k, counts in zip((similar, dissimilar), self.counts)]
        self.seen = np.zeros(len(part), dtype=np.int64)
        """(n,): for each row the number of vectors that it was compared with."""
        self._met = Extremes()
        self.copies = self._copies()
        self.extremes = Extremes.of(self.copies, comparison.dimensions)
        self.half = tensor_of(self.copies.half).to(backend.device)

    def _copies(self) -> Copies:
        comparison, device = self.comparison, self._backend.device
        n, d = self.values.shape
        error, length = (torch.empty(n, dtype=torch.float64, device=device) for _ in range(2))
        low, step = torch.empty(0), max(1, _CHUNK_BYTES // (8 * d + 1))
        for start in range(0, n, step):
            part = slice(start, start + step)
            exact = self.rows(part).mul_(comparison.common_scale)
            rows = exact.float()
            of_part, rounding = comparison.screen.copied(rows)
            if start == 0:
                home = self._backend.home(n * d * of_part.element_size())
                low = torch.empty((n, d), dtype=of_part.dtype, device=home)
            low[part] = of_part
            length[part] = torch.linalg.vector_norm(exact, dim=1)
            error[part] = torch.linalg.vector_norm(exact.sub_(rows), dim=1) + rounding
        return scoring.measured_copies(low, error.cpu().numpy(), length.cpu().numpy(), comparison.metric)

    @property
    def error(self) -> Values:
        """(n, 2) float32: `scoring.bounds` against all vectors offered so far."""
        return scoring.bounds_against(self.copies, self._met, self.comparison.screen, self.comparison.dimensions)

    def is_full(self, rows: Range) -> bool:
        """Whether the lists of these rows have an entry in every place."""
        return bool(self.seen[slice(*rows)].min(initial=2**62) >= max(best.k for best in self.lists))

    def offer(self, other: "CudaStrip") -> None:
        """Compare with ``other``, and update the lists of both. ``other`` may be this strip itself."""
        with self._backend.guarded():
            self._met, other._met = self._met.joined(other.extremes), other._met.joined(self.extremes)
            self._backend.compare(self, other, (0, len(self.part)), (0, len(other.part)))

    def keys(self) -> tuple[Keys, Keys]:
        """The candidates so far as keys of scores (n, k): similar and dissimilar."""
        with self._backend.guarded():
            near, far = (self._backend.in_tiles(best.complete).cpu().numpy() for best in self.lists)
            return near, far

    def brute_force(self, rows: Part, similar: int, dissimilar: int) -> tuple[Keys, Keys]:
        """Exact keys of the best of this strip's vectors for ``rows``: see `rerank.brute_force`."""
        with self._backend.guarded():
            return self._backend.best_of(self.comparison.metric, rows, self, similar, dissimilar)


def _halved(rows: Range, most: int) -> list[Range]:
    """``rows`` in two halves if they are more than ``most``."""
    start, end = rows
    return [rows] if end - start <= most else [(start, (start + end) // 2), ((start + end) // 2, end)]
