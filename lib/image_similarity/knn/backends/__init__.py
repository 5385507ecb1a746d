"""Where vectors are compared: on the processor (``cpu``), or on a GPU (``cuda``, with ``kernels``).

A backend owns product and selection together, so that no product leaves its device. Who calls it decides where the
calls happen: the tasks of Spark, or `image_similarity.knn.engine` in one process. All backends give the same exact
distances to the last bit, and so the same lists.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from image_similarity.knn.backends.cpu import Cpu
from image_similarity.knn.candidates import Keys, Lists
from image_similarity.knn.distances import Bits, Indices, Metric, Values, Vectors
from image_similarity.knn.rerank import Part
from image_similarity.knn.scoring import SCREENS, Comparison, Screen


class Strip(Protocol):
    """A block while it is compared: its vectors on the device, and the best candidates of each so far."""

    @property
    def part(self) -> Part: ...

    @property
    def error(self) -> Values:
        """(n, 2) float32: `scoring.bounds` against all vectors offered so far."""
        ...

    def offer(self, other: Any) -> None:
        """Compare with ``other``, and update the lists of both. ``other`` may be this strip itself."""
        ...

    def keys(self) -> tuple[Keys, Keys]:
        """The candidates so far as keys of scores (n, any), unsorted: similar and dissimilar."""
        ...

    def brute_force(self, rows: Part, similar: int, dissimilar: int) -> tuple[Keys, Keys]:
        """Exact keys of the best of this strip's vectors for ``rows``: see `rerank.brute_force`."""
        ...


class Backend(Protocol):
    """A device that compares."""

    @property
    def kind(self) -> str:
        """``cpu`` or ``cuda``: what decides the precisions, see `screens_of`."""
        ...

    @property
    def screens(self) -> Sequence[Screen]:
        """The precisions of scores that are worth a try, fastest first."""
        ...

    @property
    def block_rows(self) -> int:
        """Vectors in a strip that keep the device busy."""
        ...

    def strip(self, part: Part, comparison: Comparison, similar: int, dissimilar: int) -> Any:
        """A `Strip` that keeps ``similar`` and ``dissimilar`` candidates for each row."""
        ...

    def rerank(
        self,
        strip: Any,
        strips: Any,
        vectors: Part,
        comparison: Comparison,
        list_lengths: tuple[int, int],
        known: tuple[Lists, Lists] | None = None,
    ) -> tuple[Lists, Lists]:
        """Exact lists, sorted, of the candidates of ``strip``, which were all found in ``strips``.

        They are merged with those that are ``known``. At least the first ``list_lengths`` places, similar and
        dissimilar. ``vectors``: of all strips, by position.
        """
        ...

    def pairs(self, metric: Metric, a: Vectors, b: Vectors, rows: Indices, columns: Indices) -> Bits:
        """The same as `distances.pairs`."""
        ...


def on(device: str) -> Backend:
    """The backend for ``device``, as torch names it: ``cpu`` or ``cuda:0``. Only a GPU needs torch, whose import takes
    seconds.
    """
    if device == "cpu":
        return Cpu()
    from image_similarity.knn.backends.cuda import Cuda

    return Cuda(device)


_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def may_have_a_gpu() -> bool:
    """Whether a driver of GPUs is loaded on this machine. It is no proof of one, but needs no torch."""
    return any(Path(driver).exists() for driver in _DRIVERS)


def screens_of(kind: str) -> dict[str, Screen]:
    """The precisions of a kind of backend by their names."""
    if kind == Cpu.kind:
        return SCREENS
    from image_similarity.knn.backends import tensor_cores

    return tensor_cores.SCREENS
