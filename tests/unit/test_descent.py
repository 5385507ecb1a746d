"""pynndescent itself is tested with the jobs; here what is asked of it."""

import numpy as np
import pytest

from image_similarity.kernels.descent import Descent


def test_more_threads_than_there_are() -> None:
    with pytest.raises(ValueError, match="approximate.threads is 4000, but numba has"):
        Descent(np.zeros((600, 4), dtype=np.float32), 5, True, 0, 4000)
