"""Freed memory is used again: the system has few pages to clear."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from streamer.heap import keep_freed_memory

if "keep" in sys.argv and not keep_freed_memory():
    sys.exit(3)
for rounds in (10, 100):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        arrays = [np.ones(1 << 20) for _ in range(3)]
        del arrays
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def faults(*arguments: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        pytest.skip("the C library cannot be told so")
    return int(done.stdout)


def test_arrays_that_are_freed_are_not_given_back() -> None:
    assert faults("keep") < 100 < faults()
