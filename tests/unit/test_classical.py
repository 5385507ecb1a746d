"""Colour histograms, oriented gradients and principal components."""

import numpy as np
import pytest
from numpy.typing import NDArray

from image_similarity.fingerprints import colour_histogram, hog, pca


def one_colour(*colours: tuple[int, int, int], side: int = colour_histogram.SIDE) -> NDArray[np.uint8]:
    return np.stack([np.full((side, side, 3), colour, np.uint8) for colour in colours])


@pytest.mark.parametrize("space", ["hsv", "lab"])
def test_a_histogram_counts_each_pixel_once(space: str) -> None:
    kernel = colour_histogram.described(space, (16, 4, 4), True).load(None, "cpu")
    noise = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    vectors = kernel(np.concatenate([noise, one_colour((255, 0, 0), (0, 0, 0), (255, 255, 255))]))
    assert vectors.shape == (6, 256) and vectors.dtype == np.float32
    np.testing.assert_allclose((vectors**2).sum(axis=1), 1, rtol=1e-6)
    assert (vectors[3:].max(axis=1) == 1).all(), "one colour is in one bin"
    assert len(set(vectors[3:].argmax(axis=1))) == 3


def test_hsv_bins_are_where_they_should_be() -> None:
    kernel = colour_histogram.described("hsv", (6, 2, 2), True).load(None, "cpu")
    red, green, blue = kernel(one_colour((255, 0, 0), (0, 255, 0), (0, 0, 255))).argmax(axis=1)
    assert (red, green, blue) == (0 * 4 + 3, 2 * 4 + 3, 4 * 4 + 3)


def test_places_do_not_count_for_histograms_but_for_gradients() -> None:
    image = np.zeros((1, 128, 128, 3), np.uint8)
    image[:, :, :40] = (255, 128, 0)
    both = np.concatenate([image, image[:, :, ::-1]])
    colours = colour_histogram.described("hsv", (8, 4, 4), True).load(None, "cpu")(both)
    edges = hog.described(128, 9, 16, 2, True).load(None, "cpu")(both)
    np.testing.assert_array_equal(colours[0], colours[1])
    assert edges[0] @ edges[1] < 0.5 * (edges[0] @ edges[0])


def test_gradients_have_the_length_that_they_say_and_zeros_for_no_edges() -> None:
    described = hog.described(64, 8, 8, 3, True)
    vectors = described.load(None, "cpu")(one_colour((9, 9, 9), side=64))
    assert (
        vectors.shape == (1, described.dimensions) == (1, 36 * 9 * 8)
        and vectors.dtype == np.float32
        and not vectors.any()
    )
    with pytest.raises(ValueError, match="does not fit"):
        hog.described(16, 8, 8, 3, True)


def test_keys_tell_them_apart() -> None:
    keys = {
        colour_histogram.described("hsv", (16, 4, 4), True).key,
        colour_histogram.described("lab", (16, 4, 4), True).key,
        colour_histogram.described("hsv", (4, 16, 4), True).key,
        colour_histogram.described("hsv", (16, 4, 4), False).key,
        hog.described(128, 9, 16, 2, True).key,
        hog.described(128, 9, 32, 2, True).key,
    }
    assert len(keys) == 6 and colour_histogram.described("hsv", (16, 4, 4), True).key in keys


def test_components_hold_the_variance_and_do_not_depend_on_company() -> None:
    random = np.random.default_rng(1)
    vectors = (random.normal(size=(300, 3)) @ random.normal(size=(3, 40)) + 7).astype(np.float32)
    vectors += random.normal(scale=1e-3, size=vectors.shape).astype(np.float32)
    fitted = pca.fit(vectors, 3, seed=0)
    assert fitted.explained_variance.sum() > 0.9999 and (np.diff(fitted.explained_variance) < 0).all()
    projected = fitted(vectors)
    assert projected.shape == (300, 3) and projected.dtype == np.float32
    np.testing.assert_allclose(projected @ fitted.components + fitted.mean, vectors, atol=0.02)
    np.testing.assert_array_equal(fitted(vectors[17:18])[0], projected[17])
    assert pca.fit(vectors, 3, seed=0).sha256 == fitted.sha256 != pca.fit(vectors, 2, seed=0).sha256
    with pytest.raises(ValueError, match="4 components"):
        pca.fit(vectors[:3], 4, seed=0)
