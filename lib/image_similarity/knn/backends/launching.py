"""Whether Triton's kernels work on a device, and how they are launched. Without them torch's operations do the same."""

from typing import Any

import torch

from image_similarity.knn.backends.device_distances import StoredVectors
from image_similarity.knn.distances import Metric

Tensor = torch.Tensor


def kernels_for(device: torch.device) -> tuple[Any, str]:
    """The module of kernels if they work here; else None, and why. They need Triton, a C compiler and their GPU."""
    if device.type != "cuda":
        return None, "this is no GPU"
    try:
        kernels = imported()
        works = all(_multiplies(kernels, dtype, device) for dtype in (torch.bfloat16, torch.float32))
        return (kernels, "") if works else (None, "they multiply wrongly")
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # it raises errors of many kinds: torch's operations do the same
        return None, " ".join(f"{type(error).__name__}: {error}".split())[:_REASON]


_REASON = 200  # characters


def _multiplies(kernels: Any, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel gives the product of small integers, which all precisions hold."""
    a, b = (torch.randint(-8, 9, (kernels.RUN, 64), device=device).to(dtype) for _ in range(2))
    zeros = torch.zeros(kernels.RUN, device=device)
    runs = torch.empty((kernels.RUN, kernels.RUN), device=device), zeros.int(), torch.zeros_like(zeros[:1]).int()
    launch_runs(kernels, a, b, zeros, zeros, [zeros - 1e6] * 4, runs, False)
    product = torch.empty_like(runs[0])
    product[runs[1].long()] = runs[0]
    return torch.equal(product.cpu(), a.cpu().float() @ b.cpu().float().T)


def imported() -> Any:
    from image_similarity.knn.backends import kernels

    return kernels


_LONG = 1024
"""Dimensions above which the product takes so long that a larger block is faster, though it leaves no room for a second
one on the same multiprocessor."""
BLOCKS: dict[bool, dict[str, int]] = {
    False: dict(ROWS=128, COLUMNS=128, BAND=8, num_warps=4, num_stages=3),
    True: dict(ROWS=128, COLUMNS=256, BAND=8, num_warps=8, num_stages=3),
}
"""Whether the vectors are long -> the block that a program multiplies. Measured on an H100."""
_STEP_BYTES = 128


def launch_runs(
    kernels: Any, a: Tensor, b: Tensor, half_a: Tensor, half_b: Tensor, cuts: list[Tensor], runs: Any, diagonal: bool
) -> None:
    block, step = BLOCKS[a.shape[1] > _LONG], _STEP_BYTES // a.element_size()
    programs = -(-len(a) // block["ROWS"]) * -(-len(b) // block["COLUMNS"])
    kernels.runs_kernel[(programs,)](
        a,
        b,
        half_a,
        half_b,
        *cuts,
        *runs,
        len(a),
        len(b),
        a.shape[1],
        len(runs[1]),
        DIAGONAL=diagonal,
        WHOLE_STEPS=a.shape[1] % step == 0,
        STEP=step,
        **block,
    )


def launch_sums(
    kernels: Any, metric: Metric, a: StoredVectors, b: StoredVectors, rows: Tensor, columns: Tensor, sums: Tensor
) -> None:
    kernels.sums_kernel[(-(-len(rows) // 8),)](
        a.values,
        a.shift,
        b.values,
        b.shift,
        rows,
        columns,
        sums,
        len(rows),
        a.values.shape[1],
        ANGULAR=metric.angular,
        PAIRS=8,
        STEP=128,
    )
