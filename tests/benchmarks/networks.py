"""Networks as one worker has them: length of vectors, pictures a second on one core, and memory.

    .venv/bin/python tests/benchmarks/networks.py [--images 48] [--squeezenet WEIGHTS]

Each runs in a process of its own, with one thread, on pixels that are decoded already. Memory is what the process holds
at most, torch included (some 0.35 GB of it); parameters in float32 are mapped from a file and shared by the workers of
a machine.
"""

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from image_similarity.fingerprints import colour_histogram, exported, hog, networks
from image_similarity.fingerprints.inference import Normalisation
from image_similarity.fingerprints.spec import FingerprintSpec
from image_similarity.imaging.framing import Framing

LAYERS = {
    "vgg16": ("fc2", "none"),
    "resnet18": ("avgpool", "none"),
    "squeezenet1_1": ("features", "average"),
    "mobilenet_v3_small": ("avgpool", "none"),
    "efficientnet_b0": ("avgpool", "none"),
    "vit_b_16": ("encoder.ln", "average"),
}
CLASSICAL = ("colour-histogram", "hog")


def prepared(name: str, precision: str, folder: Path, squeezenet: str | None) -> tuple[FingerprintSpec, str | None]:
    """The fingerprint ``name``, and its file in ``folder``."""
    if name == "colour-histogram":
        return colour_histogram.described("hsv", (16, 4, 4), True), None
    if name == "hog":
        return hog.described(128, 9, 16, 2, True), None
    if name == "exported encoder":
        return _encoder(folder / "encoder.pt2", precision)
    layer, pooling = LAYERS[name]
    trained = squeezenet if name == "squeezenet1_1" else None
    state = torch.load(trained, weights_only=True) if trained else networks.untrained_state(name, 0)
    made = networks.prepare(name, layer, state, pooling, "caffe" if trained else "torchvision", precision)
    made.save(folder / "state.pt")
    return made.network, str(folder / "state.pt")


def _encoder(file: Path, precision: str) -> tuple[FingerprintSpec, str]:
    """ResNet-18 without its classifier, as a program that knows nothing of torchvision."""
    from torchvision.models import get_model

    model = get_model("resnet18", weights=None).eval()
    model.fc = torch.nn.Identity()
    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.export.save(torch.export.export(model, (torch.zeros(2, 3, 224, 224),), dynamic_shapes=({0: batch},)), file)
    normalisation = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return exported.prepare(file, Framing(256, 224), normalisation, "none", precision), str(file)


def measure(name: str, precision: str, images: int, squeezenet: str | None) -> None:
    """In a process of its own: print what was measured, as JSON."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "--prepare", name, precision, folder, squeezenet or ""], check=True)
        described, file = _read(Path(folder))
        kernel = described.load(file, "cpu")
        side = described.framing.crop
        pixels = np.random.default_rng(0).integers(0, 256, (images, side, side, 3), dtype=np.uint8)
        kernel(pixels[: kernel.batch])
        start = time.perf_counter()
        vectors = kernel(pixels)
        rate = images / (time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"length": vectors.shape[1], "rate": rate, "mib": peak}))


def _read(folder: Path) -> tuple[FingerprintSpec, str | None]:
    described, file = pickle.loads((folder / "described").read_bytes())  # written by this program a moment ago
    return described, file


def _prepare(name: str, precision: str, folder: str, squeezenet: str) -> None:
    (Path(folder) / "described").write_bytes(pickle.dumps(prepared(name, precision, Path(folder), squeezenet or None)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--squeezenet", help="trained weights of squeezenet1_1, Caffe's")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prepare:
        _prepare(*arguments.prepare)
        return 0
    if arguments.measure:
        name, precision = arguments.measure
        measure(name, precision, arguments.images, arguments.squeezenet)
        return 0
    print("| network | layer | values | images/s | in bfloat16 | MiB | in bfloat16 |\n|---|---|--:|--:|--:|--:|--:|")
    for name in (*LAYERS, "exported encoder", *CLASSICAL):
        precisions = ("float32",) if name in CLASSICAL else ("float32", "bfloat16")
        found = [_measured(name, precision, arguments) for precision in precisions]
        low = [f"{found[1]['rate']:.1f}", f"{found[1]['mib']:,.0f}"] if len(found) == 2 else ["", ""]
        layer = ", ".join(part for part in LAYERS.get(name, ("",)) if part != "none")
        full = found[0]
        row = [name, layer, f"{full['length']:,}", f"{full['rate']:.1f}", low[0], f"{full['mib']:,.0f}", low[1]]
        print(f"| {' | '.join(row)} |", flush=True)
    return 0


def _measured(name: str, precision: str, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--images", str(arguments.images), "--measure", name, precision]
    command += ["--squeezenet", arguments.squeezenet] if arguments.squeezenet else []
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.exit(main())
