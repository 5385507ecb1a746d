"""Pairs that imagededup (https://github.com/idealo/imagededup) finds: run by `groups.py`, in any Python that has it.

    python imagededup_pairs.py FOLDER OUT WEIGHTS.pt2

Writes OUT/<method>.npz: ``images``, the threshold that the method has by default, and of each threshold that was tried
the pairs. ``phash`` is PHash, by Hamming distance. ``cnn`` is CNN with the program in WEIGHTS as its `CustomModel`: the
weights of its own networks come from the internet. Needs imagededup and torch, nothing of ours.
"""

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from imagededup.methods import CNN, PHash
from imagededup.utils import CustomModel
from torchvision import transforms

SIDE, SHORT_SIDE, MEAN, STD = 224, 256, [0.498] * 3, [0.502] * 3
HASH_THRESHOLDS = range(0, 29, 2)
SIMILARITIES = [round(0.99 - 0.01 * step, 2) for step in range(40)]
MOST_PAIRS = 30_000
"""A threshold that gives more is far too loose, and so are all looser ones."""


class Features(torch.nn.Module):
    """The first of the outputs of a program: (n, 3, 224, 224) to (n, d)."""

    def __init__(self, file: str):
        super().__init__()
        program = torch.export.load(file).module()
        # Several times as fast on processors.
        self.program = program.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.program(pictures.contiguous(memory_format=torch.channels_last))[0]
        return features


def model(file: str) -> CustomModel:
    prepared = transforms.Compose(
        [
            transforms.Resize(SHORT_SIDE, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIDE),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    return CustomModel(name="efficientnet-lite0", model=Features(file), transform=prepared)


def write(method: Any, folder: Path, file: Path, option: str, default: float, thresholds: list[float]) -> None:
    """Pairs at the default, which is not passed, and at each of ``thresholds``, from the strictest."""
    start = time.perf_counter()
    encodings = method.encode_images(image_dir=folder, recursive=True)
    images = sorted(encodings)
    number = {image: place for place, image in enumerate(images)}
    results = {f"pairs {default}": pairs(method.find_duplicates(encoding_map=encodings), number)}
    seconds = time.perf_counter() - start
    for threshold in thresholds:
        some = pairs(method.find_duplicates(encoding_map=encodings, **{option: threshold}), number)
        if len(some) > MOST_PAIRS:
            break
        results[f"pairs {threshold}"] = some
    about = json.dumps({"images": images, "default": default, "seconds": seconds})
    np.savez_compressed(file, **{"about": np.array(about), **results})  # type: ignore[arg-type]


def pairs(duplicates: dict[str, list[str]], number: dict[str, int]) -> np.ndarray[Any, Any]:
    both = {tuple(sorted((number[image], number[other]))) for image, others in duplicates.items() for other in others}
    return np.array(sorted(both), dtype=np.int64).reshape(-1, 2)


def main() -> None:
    warnings.simplefilter("ignore")
    folder, out, weights = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    out.mkdir(parents=True, exist_ok=True)
    hashing = PHash(verbose=False)
    write(hashing, folder, out / "phash.npz", "max_distance_threshold", 10, list(HASH_THRESHOLDS))
    cnn = CNN(verbose=False, model_config=model(weights))
    write(cnn, folder, out / "cnn.npz", "min_similarity_threshold", 0.9, SIMILARITIES)


if __name__ == "__main__":
    main()
