"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

# Before numpy is imported: two BLAS pools on two cores make small products ten times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real spectrum images beside the repository; people outside do not have it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder ../shared/data with real spectrum images is not here")
    return SHARED_DATA
