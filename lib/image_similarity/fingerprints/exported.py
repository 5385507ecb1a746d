"""An encoder of one's own, as a program that ``torch.export`` wrote: CLIP, DINO, an auto-encoder, a metric-learning
model.

Write one with::

    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(encoder.eval(), (torch.zeros(2, 3, 224, 224),), dynamic_shapes=({0: batch},))
    torch.export.save(program, "encoder.pt2")

A program is code: loading one can do whatever its author wanted. Use those you trust, and pin them by their sha256.
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
from image_similarity.fingerprints.spec import FingerprintError, FingerprintSpec
from image_similarity.imaging.framing import Framing


@dataclass(frozen=True)
class Program(FingerprintSpec):
    """A program from float32 pictures (n, 3, side, side) to a tensor (n, ...)."""

    uses_torch = True

    normalisation: Normalisation
    pooling: Pooling
    precision: str
    program_sha256: str

    def load(self, file: str | None, device: str) -> Inference:
        """``file``: the program."""
        if file is None:
            raise ValueError("a program needs its file")
        program = _load(file)
        batch = _input_shape(program)[0]
        fixed = int(batch) if isinstance(batch, int) else None
        return Inference(
            program.module(), self.framing, self.normalisation, self.pooling, self.precision, device, fixed
        )


def prepare(
    file: Path,
    framing: Framing,
    normalisation: Normalisation,
    pooling: str,
    precision: str = "float32",
    source: str = "given",
) -> Program:
    """Check by running it on grey that the program in ``file`` takes such pictures and answers with finite numbers.

    ``FingerprintError`` tells what is wrong. Of several outputs the first counts. ``source`` names the program in
    messages."""
    try:
        program = _load(str(file))
    except Exception:  # zip, json and torch raise as they please on what is not theirs
        reader = f"torch.export.load (torch {torch.__version__})"
        raise FingerprintError(f"weights {source}: {file} is no program that {reader} takes") from None
    shape = _input_shape(program)
    wanted = (3, framing.crop, framing.crop)
    if len(shape) != 4 or any(isinstance(has, int) and has != wants for has, wants in zip(shape[1:], wanted)):
        raise FingerprintError(
            f"weights {source}: the program takes {_described(shape)}, not (n, 3, {framing.crop}, {framing.crop})"
        )
    axes = _axes(program, shape, framing.crop, source) if pooling != "none" else ()
    with open(file, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    described = Program(framing, normalisation, Pooling(pooling, axes), precision, digest)
    grey = np.full((2, framing.crop, framing.crop, 3), 128, np.uint8)
    try:
        vectors = described.load(str(file), "cpu")(grey)
    except Exception as error:  # whatever the program's operators say
        raise FingerprintError(
            f"weights {source}: the program fails on a grey picture in {precision}: {_first_line(error)}"
        ) from None
    if len(vectors) != 2 or not np.isfinite(vectors).all():
        raise FingerprintError(
            f"weights {source}: the program answers 2 grey pictures with {vectors.shape}, or values not finite"
        )
    return described


def _load(file: str) -> Any:
    """The program; what torch says about it on the way is not printed: about buffers that are read only, and pages if
    it fails."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open(file, "rb") as opened:  # by its name torch takes only some endings
                return torch.export.load(opened)
    finally:
        logging.disable(before)


def _input_shape(program: Any) -> tuple[Any, ...]:
    """Of the one input: whole numbers, or symbols where any number is taken."""
    users = set(program.graph_signature.user_inputs)
    inputs = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in users]
    return tuple(inputs[0].meta["val"].shape) if len(inputs) == 1 else ()


def _axes(program: Any, shape: tuple[Any, ...], side: int, source: str) -> tuple[int, ...]:
    batch = shape[0] if isinstance(shape[0], int) else 2
    with torch.inference_mode():
        output = tensor_of(program.module()(torch.zeros(batch, 3, side, side)))
    if output.dim() not in USUAL_AXES:
        raise FingerprintError(
            f"weights {source}: pooling is for outputs with places; the program's is {tuple(output.shape)}"
        )
    return USUAL_AXES[output.dim()]


def _described(shape: tuple[Any, ...]) -> str:
    return (
        f"({', '.join(str(size) if isinstance(size, int) else 'n' for size in shape)})" if shape else "something else"
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
