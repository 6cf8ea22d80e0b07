"""What daemons in this process need before a test counts seconds."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def _compiled(compiled_kernels: None) -> None:
    """No daemon of a test compiles while the test waits for it."""
