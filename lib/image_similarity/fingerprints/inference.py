"""Runs a torch module on pictures, batch by batch on one device."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from image_similarity.imaging.framing import Framing

TF32 = "tf32"
DTYPES = {"float32": torch.float32, TF32: torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)

BATCH_BYTES = 10_000_000
"""Bytes of float32 pixels in a batch on a CPU: 16 pictures of 224 x 224. Larger batches need more memory, and are not
faster on a CPU."""
MOST_ON_CPU = 64  # pictures in a batch
LARGEST_BATCH = 1024  # pictures in a batch on a GPU
_MIN_SPEEDUP = 1.05  # of doubling a batch


@dataclass(frozen=True)
class Normalisation:
    """The normalisation of pixels: (pixel / ``scale`` - ``mean``) / ``std``, for pixels from 0 to 255."""

    mean: tuple[float, ...]
    """For each channel, in the module's order of channels."""
    std: tuple[float, ...]
    """For each channel, in the module's order of channels."""
    bgr: bool = False
    """Whether the order of channels is reversed first, from RGB to BGR."""
    scale: float = 255.0
    """Pixels are divided by this first."""


USUAL_AXES = {4: (2, 3), 3: (1,)}
"""Number of axes -> the spatial ones: of an output (batch, channels, height, width), and (batch, tokens, values)."""

CAFFE = Normalisation(CAFFE_MEAN_BGR, (1.0, 1.0, 1.0), bgr=True, scale=1.0)


@dataclass(frozen=True)
class Pooling:
    """The reduction of an output with spatial axes to one vector for each picture.

    The names of the fields are part of `FingerprintSpec.key`.
    """

    how: str
    """``none`` (all values, one after the other), ``average`` or ``max``."""
    axes: tuple[int, ...] = ()
    """The spatial axes of the output, where axis 0 is the batch's. Empty if the output has no spatial axes."""

    def __call__(self, output: torch.Tensor) -> torch.Tensor:
        """(n, ...) -> (n, d)"""
        if self.how != "none" and self.axes:
            output = output.mean(self.axes) if self.how == "average" else output.amax(self.axes)
        return output.flatten(1)


class Inference:
    """(n, side, side, 3) uint8 -> (n, d) float32 by ``module``, which must be in evaluation mode.

    ``module`` may return several values: the first is pooled to the vector. ``head`` takes all of them and gives the
    logits (n, c). Without it there is no `with_logits`.
    ``fixed``: the only batch size that the module takes, None if it takes any. ``batch``: the batch size of others;
    None for one that suits many pictures, which is found by trial on a GPU. If memory runs out, the batch size is
    halved, and the work goes on.
    """

    def __init__(
        self,
        module: nn.Module,
        framing: Framing,
        normalisation: Normalisation,
        pooling: Pooling,
        precision: str = "float32",
        device: str = "cpu",
        fixed: int | None = None,
        batch: int | None = None,
        head: nn.Module | None = None,
    ):
        self.framing, self._pooling, self._fixed = framing, pooling, fixed
        self._device, self._dtype = torch.device(device), DTYPES[precision]
        self._rounds_float32 = precision == TF32
        self._on_gpu = self._device.type == "cuda"
        self._module = self._placed(module)
        self._head = None if head is None else self._placed(head)
        self._normalisation = normalisation
        self._mean = torch.tensor(normalisation.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(normalisation.std, device=self._device).view(1, 3, 1, 1)
        self.batch = fixed or batch or max(1, min(MOST_ON_CPU, BATCH_BYTES // (3 * framing.crop**2 * 4)))
        if self._on_gpu and fixed is None and batch is None:
            self.batch = self._best_batch()

    def _placed(self, module: nn.Module) -> nn.Module:
        """``module`` on the device, in the precision and layout of the arithmetic."""
        # On a CPU the whole module is cast once: VGG16 in bfloat16 has 2.0 times the speed of float32. With autocast,
        # which casts parameters in every batch, it has 1.85 times. On a GPU, autocast keeps operations in float32 that
        # would overflow in float16.
        module = module.to(self._device) if self._on_gpu else module.to(self._dtype)
        # Channels last is the faster layout for convolutions, on CPUs (1.2 to 1.6 times, measured) and on GPUs.
        return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Vectors of ``images`` (n, side, side, 3) uint8, n >= 1."""
        return self._in_batches(images, logits=False)[0]

    def with_logits(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Vectors and logits of ``images`` in one pass, see `spec.WithLogits`."""
        if self._head is None:
            raise ValueError("this fingerprint was loaded without its classifier")
        vectors, logits = self._in_batches(images, logits=True)
        return vectors, logits

    def _in_batches(self, images: NDArray[np.uint8], logits: bool) -> tuple[NDArray[np.float32], ...]:
        outputs: list[tuple[torch.Tensor, ...]] = []
        done = 0
        while done < len(images):
            part = images[done : done + self.batch]
            try:
                outputs.append(self._computed(part, logits))
            except torch.OutOfMemoryError:
                if self.batch == 1 or self._fixed is not None:
                    raise
                self._halve_the_batch()
                continue
            done += len(part)
        # Only this line waits for a GPU. In the loop the CPU prepares the next part while the GPU works.
        return tuple(torch.cat(parts).float().cpu().numpy() for parts in zip(*outputs))

    def _halve_the_batch(self) -> None:
        self.batch //= 2
        if self._on_gpu:
            torch.cuda.empty_cache()

    def _computed(self, images: NDArray[np.uint8], logits: bool = False) -> tuple[torch.Tensor, ...]:
        """The vectors of one batch, and its logits if asked for."""
        # On a CPU the order of sums, and so their last bits, depends on the number of pictures. With full batches a
        # picture's vector is the same on every executor, whatever other pictures are in the batch.
        batch_size = self._fixed or (0 if self._on_gpu else self.batch)
        if len(images) < batch_size:
            padded = np.concatenate([images, np.zeros((batch_size - len(images), *images.shape[1:]), np.uint8)])
            return tuple(output[: len(images)] for output in self._computed(padded, logits))
        with (
            _float32(self._rounds_float32),
            torch.inference_mode(),
            torch.autocast(self._device.type, self._dtype, enabled=self._on_gpu and self._is_low),
        ):
            output = self._module(self.normalised(images))
            vectors = self._pooling(tensor_of(output))
            if not logits or self._head is None:
                return (vectors,)
            vectors = vectors.clone()  # the head's first operation may overwrite its input
            return vectors, self._head(*output)

    @property
    def _is_low(self) -> bool:
        return self._dtype != torch.float32

    def normalised(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """(n, side, side, 3) uint8 -> (n, 3, side, side) in the module's precision, channels last in memory."""
        pixels = torch.from_numpy(images)
        if self._on_gpu:
            pixels = pixels.pin_memory().to(self._device, non_blocking=True)  # bytes are a quarter of float32's traffic
        batch = pixels.permute(0, 3, 1, 2).float()
        if self._normalisation.bgr:
            batch = batch.flip(1)
        batch = (batch / self._normalisation.scale - self._mean) / self._std
        dtype = torch.float32 if self._on_gpu else self._dtype  # autocast casts by itself
        return batch.to(dtype).contiguous(memory_format=torch.channels_last)

    def _best_batch(self) -> int:
        """The batch size for a GPU. It is doubled while this makes the GPU faster and memory suffices."""
        best, best_rate, batch = self.batch, 0.0, self.batch
        side = self.framing.crop
        while batch <= LARGEST_BATCH:
            try:
                rate = self._rate(np.zeros((batch, side, side, 3), np.uint8))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                break
            if rate < _MIN_SPEEDUP * best_rate:
                break
            best, best_rate, batch = batch, rate, 2 * batch
        return best

    def _rate(self, images: NDArray[np.uint8]) -> float:
        """Pictures per second of a second run on ``images``; the first run is not counted."""
        for _ in range(2):
            start = time.perf_counter()
            self._computed(images)[0].cpu()
        return len(images) / (time.perf_counter() - start)


@contextmanager
def _float32(rounded: bool) -> Iterator[None]:
    """How a GPU multiplies float32: as such, or ``rounded`` to 10 bits (TF32), several times as fast.

    By default torch rounds what goes into convolutions, and nothing else. It has two names for this setting, and
    forbids to mix them. Settings are as before afterwards.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    new = hasattr(cudnn, "conv")
    name, value = ("fp32_precision", "tf32" if rounded else "ieee") if new else ("allow_tf32", rounded)
    places = [cudnn.conv, cudnn.rnn, matmul] if new else [cudnn, matmul]  # type: ignore[attr-defined]
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, value)
        yield
    finally:
        for place, setting in zip(places, before):
            setattr(place, name, setting)


def tensor_of(output: Any) -> torch.Tensor:
    """The tensor in ``output``: ``output`` itself, or the first value of a list, tuple or mapping, however nested.

    ``TypeError`` if there is none.
    """
    while isinstance(output, (list, tuple, Mapping)) and len(output):
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    if not isinstance(output, torch.Tensor):
        raise TypeError(
            f"a module must return a tensor (or several, of which the first counts), not {type(output).__name__}"
        )
    return output
