"""How the process gets memory from the system."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 128 << 20
_MOST_MAPPED_BYTES: Final = 32 << 20
"""The most that the C library of GNU allows."""


def keep_freed_memory() -> bool:
    """Let the C library use freed memory again instead of giving it back; False where it cannot be told so.

    Arrays of a batch are some MiB each. By default each is mapped anew and given back when it is freed, and the
    system clears every page of it at the first touch: a quarter of the worker's time where data come fast.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _MOST_MAPPED_BYTES) and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES))
