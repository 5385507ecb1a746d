"""The user's own encoder, as a program that ``torch.export`` wrote: CLIP, DINO, an auto-encoder, a metric-learning
model.

Write a program with::

    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(encoder.eval(), (torch.zeros(2, 3, 224, 224),), dynamic_shapes=({0: batch},))
    torch.export.save(program, "encoder.pt2")

A program may return several tensors. One of them is the vector, another may be logits, from which images are tagged.

A program is code, and loading it can do whatever its author wanted. Use programs you trust, and pin them by their
sha256.
"""

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from image_similarity.fingerprints.inference import USUAL_AXES, Inference, Normalisation, Pooling, tensor_of
from image_similarity.fingerprints.spec import FingerprintError, FingerprintSpec, Parameters, refuse_logits
from image_similarity.imaging.framing import Framing

VECTOR, LOGITS, OTHER = "vector", "logits", "other"
"""What an output of a program is."""


@dataclass(frozen=True)
class Program(FingerprintSpec):
    """A program: float32 pictures (n, 3, side, side) -> tensors (n, ...)."""

    normalisation: Normalisation
    pooling: Pooling
    precision: str
    program_sha256: str
    outputs: tuple[str, ...] = (VECTOR,)
    """What its outputs are, in their order. Of these, only the place of the vector is part of the key."""
    classes: int | None = None
    """The number of logits of a picture; None if no output is logits. No part of the key."""

    @property
    def uses_torch(self) -> bool:
        return True

    def _determining(self) -> dict[str, Any]:
        values = super()._determining()
        del values["outputs"], values["classes"]
        place = self.outputs.index(VECTOR)
        return {**values, "vector": place} if place else values

    def load(
        self, file: str | Parameters | None, device: str, batch: int | None = None, logits: bool = False
    ) -> Inference:
        """``file``: path of the program."""
        if not isinstance(file, str):
            raise ValueError("a program needs its file")
        if logits and LOGITS not in self.outputs:
            refuse_logits(self)
        program = _load(file)
        size = _input_shape(program)[0]
        return Inference(
            _Chosen(program.module(), self.outputs),
            self.framing,
            self.normalisation,
            self.pooling,
            self.precision,
            device,
            fixed=int(size) if isinstance(size, int) else None,
            batch=batch,
            head=_Second() if logits else None,
        )


class _Chosen(nn.Module):
    """A program's vector alone; or its vector and its logits, in this order."""

    def __init__(self, module: nn.Module, outputs: tuple[str, ...]):
        super().__init__()
        self.module = module
        self._places = [outputs.index(name) for name in (VECTOR, LOGITS) if name in outputs]

    def forward(self, pictures: torch.Tensor) -> Any:
        output = self.module(pictures)
        if self._places == [0]:
            return output  # of which the first tensor counts
        tensors = list(tensors_of(output))
        return tuple(tensors[place] for place in self._places)


class _Second(nn.Module):
    """A head that has nothing to compute: the logits are the second value."""

    def forward(self, vector: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return logits


def tensors_of(output: Any) -> Iterator[torch.Tensor]:
    """The tensors in ``output``, which may be lists, tuples and mappings, however nested, in their order."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, (list, tuple, Mapping)):
        for value in output.values() if isinstance(output, Mapping) else output:
            yield from tensors_of(value)


def prepare(
    file: Path,
    framing: Framing,
    normalisation: Normalisation,
    pooling: str,
    precision: str = "float32",
    source: str = "given",
    outputs: tuple[str, ...] = (VECTOR,),
) -> Program:
    """The spec of the program in ``file``. The program is run on grey pictures, and must return finite numbers.

    Raises ``FingerprintError`` if the program cannot be loaded, takes other pictures, fails, cannot be pooled, or does
    not return ``outputs``. It may return more. ``source`` names the program in messages.
    """
    program = _loaded(file, source)
    shape = _input_shape(program)
    expected = (3, framing.crop, framing.crop)
    if len(shape) != 4 or any(isinstance(size, int) and size != side for size, side in zip(shape[1:], expected)):
        raise FingerprintError(
            f"weights {source}: the program takes {_shape_text(shape)}, not (n, 3, {framing.crop}, {framing.crop})"
        )
    classes = _class_count(program, outputs, source)
    axes = _axes(program, outputs, shape, framing.crop, source) if pooling != "none" else ()
    spec = Program(framing, normalisation, Pooling(pooling, axes), precision, sha256_of(file), outputs, classes)
    grey = np.full((2, framing.crop, framing.crop, 3), 128, np.uint8)
    try:
        loaded = spec.load(str(file), "cpu", logits=LOGITS in outputs)
        vectors, logits = loaded.with_logits(grey) if LOGITS in outputs else (loaded(grey), None)
    except Exception as error:  # the program's operators may raise anything
        raise FingerprintError(
            f"weights {source}: the program fails on a grey picture in {precision}: {_first_line(error)}"
        ) from None
    if len(vectors) != 2 or not np.isfinite(vectors).all():
        raise FingerprintError(
            f"weights {source}: the program answers 2 grey pictures with {vectors.shape}, or values not finite"
        )
    if logits is not None and not np.isfinite(logits).all():
        raise FingerprintError(f"weights {source}: the program's logits for a grey picture are not finite")
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


def _class_count(program: Any, outputs: tuple[str, ...], source: str) -> int | None:
    """The number of logits of a picture; None if no output is logits. Does not run the program.

    ``FingerprintError`` if the program returns fewer values than ``outputs``, or logits of another shape.
    """
    shapes = _output_shapes(program)
    if len(shapes) < len(outputs):
        returned = "one output" if len(shapes) == 1 else f"{len(shapes)} outputs"
        raise FingerprintError(
            f"weights {source}: the program returns {returned}, but outputs names {len(outputs)}: {', '.join(outputs)}"
        )
    if LOGITS not in outputs:
        return None
    logits = shapes[outputs.index(LOGITS)]
    if len(logits) != 2 or not isinstance(logits[1], int):
        raise FingerprintError(
            f"weights {source}: the program's logits are {_shape_text(logits)}, not (n, classes). Its outputs are "
            f"{', '.join(map(_shape_text, shapes))}: outputs must name them in this order"
        )
    return logits[1]


def _output_shapes(program: Any) -> list[tuple[Any, ...]]:
    """Shapes of the tensors that the program returns, in the order of `tensors_of`."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    returned = [values.get(name) for name in program.graph_signature.user_outputs if isinstance(name, str)]
    return [tuple(value.shape) for value in returned if isinstance(value, torch.Tensor)]


def _axes(program: Any, outputs: tuple[str, ...], shape: tuple[Any, ...], side: int, source: str) -> tuple[int, ...]:
    """The spatial axes of the program's vector. ``FingerprintError`` if it has none."""
    batch = shape[0] if isinstance(shape[0], int) else 2
    with torch.inference_mode():
        output = tensor_of(_Chosen(program.module(), outputs)(torch.zeros(batch, 3, side, side)))
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
