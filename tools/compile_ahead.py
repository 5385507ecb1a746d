"""Compiles what numba compiles at its first use, so that nobody's first job waits for it: ``make`` calls it once.

A small collection goes through the pipeline, and is searched, by a fingerprint that needs neither weights nor torch.
What is compiled lies beside the library, for all jobs to come. Whatever goes wrong here only means that the first job
compiles.
"""

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import image_similarity
from image_similarity.jobs import run_pipeline, search_images
from image_similarity.jobs.command_line import main

PICTURES = 80
_DECLARED = '[fingerprints.colours]\nkind = "colour-histogram"\n'


def compile_all() -> int:
    """The exit code of the pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        random = np.random.default_rng(0)
        for number in range(PICTURES):
            blocks = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            picture = Image.fromarray(blocks).resize((96, 96), Image.Resampling.BICUBIC)
            picture.save(pictures / f"{number}.png")
            if number % 8 == 0:  # a copy, so that there are groups
                picture.crop((4, 4, 92, 92)).save(pictures / f"{number}-cropped.png")
        settings = Path(folder) / "settings.toml"
        settings.write_text(_DECLARED)
        arguments = ["--images", str(pictures), "--warehouse", f"{folder}/warehouse", "--config", str(settings)]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = main(run_pipeline, [*arguments, "--fingerprint", "colours"])
            return code or search(Path(folder), pictures)


def search(folder: Path, pictures: Path) -> int:
    """Search the collection in ``folder`` for one picture, and for all ``pictures``. The exit code of the latter."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")  # nobody else asks this collection
    image_similarity.open(str(folder / "warehouse")).search(pictures / "0.png", fingerprint="colours")
    searched = ["--warehouse", str(folder / "warehouse"), "--images", str(pictures), "--queries", "all"]
    return main(search_images, [*searched, "--fingerprint", "colours", "--config", str(folder / "settings.toml")])


if __name__ == "__main__":
    sys.exit(compile_all())
