"""Sets of natural numbers as sorted ranges: frames and message numbers seen."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class IntervalSet:
    """A set of integers held as disjoint, sorted, half-open ranges.

    Streams come nearly in order, so there are few ranges and adding at the end is the common case.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def __contains__(self, value: int) -> bool:
        at = bisect_right(self._starts, value) - 1
        return at >= 0 and value < self._stops[at]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._stops, strict=True))

    @property
    def stop(self) -> int:
        """One more than the largest number, 0 when empty."""
        return self._stops[-1] if self._stops else 0

    def covered(self, start: int, stop: int) -> int:
        """Count the numbers of [start, stop) that are in the set."""
        n = 0
        at = max(bisect_right(self._starts, start) - 1, 0)
        while at < len(self._starts) and self._starts[at] < stop:
            n += max(0, min(stop, self._stops[at]) - max(start, self._starts[at]))
            at += 1
        return n

    def add(self, start: int, stop: int) -> int:
        """Add [start, stop); return how many of its numbers are new."""
        if start >= stop:
            return 0
        if self._stops and start == self._stops[-1]:
            self._stops[-1] = stop
            self._n += stop - start
            return stop - start
        new = stop - start - self.covered(start, stop)
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]
        self._n += new
        return new

    def missing(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of [start, stop) that are not in the set."""
        at = max(bisect_right(self._starts, start) - 1, 0)
        for i in range(at, len(self._starts)):
            if self._starts[i] >= stop:
                break
            if self._starts[i] > start:
                yield start, self._starts[i]
            start = max(start, self._stops[i])
        if start < stop:
            yield start, stop
