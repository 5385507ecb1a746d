"""Damaged files of every format: each is a picture or a failure with a known reason, never an error of another kind."""

import io
from collections import Counter

import numpy as np
import pytest

from image_similarity.errors import Unreadable
from image_similarity.imaging import decoding
from mutations import mutations
from tools import samples

LIMIT = 4_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "JPEG2000", "AVIF")


@pytest.fixture(scope="module")
def originals() -> list[bytes]:
    files = []
    for seed, kind in enumerate(FORMATS):
        picture = samples.FAMILIES["tree"](np.random.default_rng(seed), (160, 120)).convert("RGB")
        out = io.BytesIO()
        picture.convert("P" if kind == "GIF" else "RGB").save(out, kind)
        files.append(out.getvalue())
    return files


@pytest.mark.parametrize("seed", range(4))
def test_every_damaged_file_is_a_picture_or_a_failure(originals: list[bytes], seed: int) -> None:
    reasons: Counter[str] = Counter()
    decoding.prepare_process(LIMIT)
    with decoding.quiet_decoders():
        for content in mutations(originals, 125, seed):
            try:
                picture = decoding.decode(content, LIMIT, at_least=512 if seed % 2 else None)
                assert (
                    picture.pixels.ndim == 3
                    and picture.pixels.shape[2] == 3
                    and picture.width * picture.height <= LIMIT
                )
                reasons["none"] += 1
            except Unreadable as error:
                assert "\n" not in error.detail
                reasons[error.reason] += 1
    assert set(reasons) <= {"none", *decoding.UNREADABLE_REASONS} and sum(reasons.values()) == 125
    assert reasons["truncated"] > 5 and reasons["none"] > 5, reasons
