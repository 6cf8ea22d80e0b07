"""Which of many tests are discoveries, so that few of those are false."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from models.base import Float64


def discoveries(p_value: Float64, rate: float) -> NDArray[np.bool_]:
    """Tests (n,) that may be called positive, so that on average at most `rate` of those are false.

    Benjamini and Hochberg (J. R. Stat. Soc. B 57 (1995) 289); with p-values from one pool of draws it holds as well
    (Bates et al., Ann. Stat. 51 (2023) 149). Where there is no p-value there is no discovery.
    """
    found = np.zeros(p_value.size, dtype=np.bool_)
    tested = np.flatnonzero(np.isfinite(p_value))
    if tested.size:
        found[tested] = false_discovery_control(p_value[tested], method="bh") <= rate
    return found
