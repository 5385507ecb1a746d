"""Small programs of torch.export, as users bring their own encoders."""

from pathlib import Path
from typing import Any

import torch
from torch import nn


class Encoder(nn.Module):
    """(n, 3, side, side) -> (n, 5, side // 2, side // 2)"""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.convolution = nn.Conv2d(3, 5, 3, stride=2, padding=1)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        # As in real networks nothing is negative: averages whose terms cancel have few digits that mean anything.
        features: torch.Tensor = self.convolution(pictures).relu()
        return features


CLASSES = ("red", "green", "blue", "grey")


class Classifying(nn.Module):
    """(n, 3, side, side) -> ``outputs`` in their order: a vector (n, 5), logits (n, 4) for `CLASSES` that follow from
    it, and another value, the features with their places.
    """

    def __init__(self, outputs: tuple[str, ...] = ("vector", "logits"), seed: int = 0) -> None:
        super().__init__()
        self.outputs = outputs
        self.encoder = Encoder(seed)
        self.classifier = nn.Linear(5, len(CLASSES))

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features = self.encoder(pictures)
        vector = features.mean((2, 3))
        values = {"vector": vector, "logits": self.classifier(vector), "other": features}
        return tuple(values[name] for name in self.outputs)


def save(file: Path, side: int, seed: int = 0, batch: int | None = None, module: nn.Module | None = None) -> Path:
    """``module`` (an `Encoder`) as a program for pictures of ``side``. ``batch``: the only number of them it takes."""
    dynamic: Any = None if batch else ({0: torch.export.Dim("batch", min=1, max=64)},)
    example = (torch.zeros(batch or 2, 3, side, side),)
    torch.export.save(torch.export.export((module or Encoder(seed)).eval(), example, dynamic_shapes=dynamic), file)
    return file


class Classifier(nn.Module):
    """(n, 3, side, side) -> the mean of each channel (n, 3), and logits (n, 3): their logarithms. Then the logits of
    another classifier: the same in the order blue, green, red.

    So the classes of a picture are its colours, the strongest first. A picture without one of them has a logit that is
    not finite.
    """

    def forward(self, pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        means = pictures.mean((2, 3))
        return means, means.log(), means.log().flip(1)


def save_classifier(file: Path, side: int) -> Path:
    """`Classifier` as a program for pictures of ``side``."""
    dynamic: Any = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(Classifier().eval(), (torch.ones(2, 3, side, side),), dynamic_shapes=dynamic)
    torch.export.save(program, file)
    return file
