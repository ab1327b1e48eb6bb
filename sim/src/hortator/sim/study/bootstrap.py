"""How sure a mean over seeds is: the percentile bootstrap.

Seeds are the independent repetitions of a study (requests of one run are not independent of each other), so
whole seeds are drawn, with replacement. With five seeds the interval is rough and a little too short; it says
whether a difference is more than a difference between draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NUM_DRAWS = 2000
CONFIDENCE = 0.95


def interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """Lower and upper end of the 95 % interval of the mean.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to draw from")
    array = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    means = array[rng.integers(0, len(array), size=(NUM_DRAWS, len(array)))].mean(axis=1)
    tail = 50.0 * (1.0 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return float(low), float(high)
