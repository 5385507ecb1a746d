"""The user's own encoder, as a program that ``torch.export`` wrote: CLIP, DINO, an auto-encoder, a metric-learning
model.

Write a program with::

    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(encoder.eval(), (torch.zeros(2, 3, 224, 224),), dynamic_shapes=({0: batch},))
    torch.export.save(program, "encoder.pt2")

A program is code, and loading it can do whatever its author wanted. Use programs you trust, and pin them by their
sha256.
"""

import hashlib
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from image_similarity.fingerprints.inference import USUAL_AXES, Inference, Normalisation, Pooling, tensor_of
from image_similarity.fingerprints.spec import FingerprintError, FingerprintSpec, Parameters
from image_similarity.imaging.framing import Framing


@dataclass(frozen=True)
class Program(FingerprintSpec):
    """A program: float32 pictures (n, 3, side, side) -> a tensor (n, ...)."""

    normalisation: Normalisation
    pooling: Pooling
    precision: str
    program_sha256: str

    @property
    def uses_torch(self) -> bool:
        return True

    def load(self, file: str | Parameters | None, device: str, batch: int | None = None) -> Inference:
        """``file``: path of the program."""
        if not isinstance(file, str):
            raise ValueError("a program needs its file")
        program = _load(file)
        size = _input_shape(program)[0]
        fixed = int(size) if isinstance(size, int) else None
        return Inference(
            program.module(), self.framing, self.normalisation, self.pooling, self.precision, device, fixed, batch
        )


def prepare(
    file: Path,
    framing: Framing,
    normalisation: Normalisation,
    pooling: str,
    precision: str = "float32",
    source: str = "given",
) -> Program:
    """The spec of the program in ``file``. The program is run on grey pictures, and must return finite numbers.

    Raises ``FingerprintError`` if the program cannot be loaded, takes other pictures, fails, or cannot be pooled. If
    the program has several outputs, the first one is used. ``source`` names the program in messages.
    """
    program = _loaded(file, source)
    shape = _input_shape(program)
    expected = (3, framing.crop, framing.crop)
    if len(shape) != 4 or any(isinstance(size, int) and size != side for size, side in zip(shape[1:], expected)):
        raise FingerprintError(
            f"weights {source}: the program takes {_shape_text(shape)}, not (n, 3, {framing.crop}, {framing.crop})"
        )
    axes = _axes(program, shape, framing.crop, source) if pooling != "none" else ()
    spec = Program(framing, normalisation, Pooling(pooling, axes), precision, sha256_of(file))
    grey = np.full((2, framing.crop, framing.crop, 3), 128, np.uint8)
    try:
        vectors = spec.load(str(file), "cpu")(grey)
    except Exception as error:  # the program's operators may raise anything
        raise FingerprintError(
            f"weights {source}: the program fails on a grey picture in {precision}: {_first_line(error)}"
        ) from None
    if len(vectors) != 2 or not np.isfinite(vectors).all():
        raise FingerprintError(
            f"weights {source}: the program answers 2 grey pictures with {vectors.shape}, or values not finite"
        )
    return spec


def sha256_of(file: Path) -> str:
    """The hash of a program, which is part of its spec."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def input_side(file: Path, source: str = "given") -> int:
    """The side of the square pictures that the program in ``file`` takes. If it takes any, that of its example input.

    ``FingerprintError`` if it is no program, or says no size.
    """
    program = _loaded(file, source)
    shape = _input_shape(program)
    examples = (program.example_inputs or ((),))[0]
    if len(shape) == 4 and not isinstance(shape[2], int) and examples:
        shape = (*shape[:2], *examples[0].shape[2:])
    if len(shape) != 4 or not isinstance(shape[2], int) or shape[2] != shape[3]:
        raise FingerprintError(
            f"weights {source}: the program takes {_shape_text(shape)}, which says no size of pictures: set input_size"
        )
    return int(shape[2])


def _loaded(file: Path, source: str) -> Any:
    try:
        return _load(str(file))
    except Exception:  # zip, json and torch raise many kinds of errors about other files
        reader = f"torch.export.load (torch {torch.__version__})"
        raise FingerprintError(f"weights {source}: {file} is no program that {reader} takes") from None


def _load(file: str) -> Any:
    """The program. torch's warnings about read-only buffers, and its pages of log if it fails, are not printed."""
    disabled_level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open(file, "rb") as opened:  # given a name, torch accepts only some endings
                return torch.export.load(opened)
    finally:
        logging.disable(disabled_level)


def _input_shape(program: Any) -> tuple[Any, ...]:
    """Shape of the only input; () if there is not exactly one. A size is an int, or a symbol if it may vary."""
    users = set(program.graph_signature.user_inputs)
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in users]
    return tuple(inputs[0].meta["val"].shape) if len(inputs) == 1 else ()


def _axes(program: Any, shape: tuple[Any, ...], side: int, source: str) -> tuple[int, ...]:
    """The spatial axes of the program's output. ``FingerprintError`` if it has none."""
    batch = shape[0] if isinstance(shape[0], int) else 2
    with torch.inference_mode():
        output = tensor_of(program.module()(torch.zeros(batch, 3, side, side)))
    if output.dim() not in USUAL_AXES:
        raise FingerprintError(
            f"weights {source}: pooling is for outputs with places; the program's is {tuple(output.shape)}"
        )
    return USUAL_AXES[output.dim()]


def _shape_text(shape: tuple[Any, ...]) -> str:
    return (
        f"({', '.join(str(size) if isinstance(size, int) else 'n' for size in shape)})" if shape else "something else"
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
