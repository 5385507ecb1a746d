"""The precisions that a GPU's tensor cores multiply fast: how values are rounded to them, and what a product loses."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from image_similarity.knn.scoring import Screen

Tensor = torch.Tensor


def _rounded_to_tf32(rows: Tensor) -> tuple[Tensor, Tensor]:
    """float32 values of which the last 13 bits are 0: rounded to nearest, ties to even. Tensor cores would cut them."""
    bits: Tensor = rows.view(torch.int32)
    bits = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF
    low: Tensor = bits.view(torch.float32)
    return low, _distance(rows, low)


def _rounded_to_bfloat16(rows: Tensor) -> tuple[Tensor, Tensor]:
    low = rows.to(torch.bfloat16)
    return low, _distance(rows, low.float())


def _distance(rows: Tensor, low: Tensor) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm(rows - low, dim=1, dtype=torch.float64)
    return distance


def product(a: Tensor, b: Tensor, buffer: Any = None) -> Tensor:
    """The product in float32."""
    if not a.is_cuda:
        return a.float() @ b.float().T
    if a.dtype == torch.float32:
        with tf32():
            return a @ b.T
    try:
        return torch.mm(a, b.T, out_dtype=torch.float32)
    except TypeError:  # before torch 2.8
        with tf32():  # which holds bfloat16 exactly
            return a.float() @ b.float().T


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Products of float32 matrices use TF32. (torch has two names for this setting, and forbids to mix them.)"""
    settings = torch.backends.cuda.matmul
    name, value = ("fp32_precision", "tf32") if hasattr(settings, "fp32_precision") else ("allow_tf32", True)
    before = getattr(settings, name)
    setattr(settings, name, value)
    try:
        yield
    finally:
        setattr(settings, name, before)


# Tensor cores multiply exactly and add in float32, but cut where others round. A sum of b products and the sum so far
# are aligned to the largest of them: each term loses less than 2**-23 of it, and the result as much again. d products
# in blocks of b >= 4 lose less than (d + 2 d / b) 2**-23 <= 3 d 2**-24, relative to the lengths. 4 leaves something
# over. (Fasi, Higham, Mikaitis, Pranesh: Numerical behavior of NVIDIA tensor cores, 2021.) The product is not rounded
# at the end.
_LOST_BY_ADDING = 4 * 2.0**-24
TF32 = Screen("tf32", _rounded_to_tf32, product, _LOST_BY_ADDING, 0.0, 0.5, 4)
BFLOAT16 = Screen("bfloat16", _rounded_to_bfloat16, product, _LOST_BY_ADDING, 0.0, 1.0, 2)
SCREENS = {screen.name: screen for screen in (BFLOAT16, TF32)}
