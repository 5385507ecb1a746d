"""pynndescent: what is refused before it is imported. What it finds is tested by ``make test-long``."""

import numpy as np
import pytest

from image_similarity.knn.nndescent import Descent


def test_more_threads_than_there_are() -> None:
    with pytest.raises(ValueError, match="approximate.threads is 4000, but numba has"):
        Descent(np.zeros((600, 4), dtype=np.float32), 5, True, 0, 4000)
