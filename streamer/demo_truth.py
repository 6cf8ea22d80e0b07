"""How far a map is from the truth that only a simulator knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from streamer.placed import join
from streamer.run_data import Run
from streamer.scan import Scan
from streamer.wire import Block, Header, Message, WireError, decode
from streamer.wire.items import Arrived
from streamer.wire.journal import read_records

Floats = NDArray[np.float64]


_FEWEST_COUNTS = 30.0
"""Channels with fewer counts in the whole map say nothing: one count there would outweigh all others."""


@dataclass(frozen=True)
class Truth:
    """What was under the beam; expected counts of one visit are ``abundances @ endmembers``.

    Parameters
    ----------
    abundances : f8[n, M]
    endmembers : f8[M, D]
    rare : int[r]
        Positions of phases that nobody expects.
    """

    abundances: Floats
    endmembers: Floats
    rare: NDArray[np.intp]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file that a simulator's ``--truth`` writes.

        Raises
        ------
        OSError, KeyError
            Where it cannot be read or is another file.
        """
        with np.load(path, allow_pickle=False) as file:
            rare = file["rare"] if "rare" in file.files else np.empty(0, np.intp)
            return cls(file["abundances"], file["endmembers"], rare)

    def expected(self, visits: NDArray[Any]) -> Floats:
        """Return expected counts f8[n, D] after `visits` visits of each position."""
        return np.asarray(visits[:, None] * (self.abundances @ self.endmembers))


@dataclass(frozen=True)
class Error:
    """Mean squared error in units of Poisson noise: 1 is what counting alone makes.

    Parameters
    ----------
    what : str
        Of what, in words.
    raw, denoised : float
    network : float, optional
        With a network's word where it has one.
    """

    what: str
    raw: float
    denoised: float
    network: float | None = None

    @property
    def dose_factor(self) -> float:
        """How many times the dose would bring the raw data to the error of the denoised ones."""
        return self.raw / self.denoised if self.denoised > 0 else float("inf")


def compare(run: Run, truth: Truth, raw: NDArray[Any], windows: Mapping[str, tuple[float, float]]) -> list[Error]:
    """Compare a finished series with the truth.

    Parameters
    ----------
    run : Run
    truth : Truth
    raw : (n, D)
        All counts that were received, by position.
    windows : map of (lo, hi)
        In axis units, by name.

    Returns
    -------
    list of Error
        Of whole spectra, over channels with 30 expected counts or more, weighted by the Poisson variance
        (rank-one: total of the spectrum times the mean spectrum, Keenan & Kotula 2004); of the rare
        positions alone; of the sum over each window.
    """
    visits = _visits(run)
    seen = visits > 0
    expected = truth.expected(visits)[seen]
    denoised = denoised_spectra(run)[seen]
    raw = np.asarray(raw, dtype=float)[seen]
    errors = [_weighted("whole spectra", expected, raw, denoised)]
    rare = np.isin(np.flatnonzero(seen), truth.rare)
    if rare.any():
        errors.append(_weighted(f"whole spectra, {rare.sum()} rare positions", expected, raw, denoised, rows=rare))
    for label, (lo, hi) in windows.items():
        inside = (run.axis >= lo) & (run.axis <= hi)
        errors.append(_window(label, inside, expected, raw, denoised, _of_network(run, label, seen)))
    return errors


def _of_network(run: Run, label: str, seen: NDArray[np.bool_]) -> Floats | None:
    """Return a network's sums f8[n] over a window, NaN where it says nothing; None where it never does."""
    sums = run.maps.get(f"network/{label}")
    if sums is None or np.isnan(sums).all():
        return None
    return np.asarray(sums.ravel()[seen], dtype=float)


def denoised_spectra(run: Run) -> Floats:
    """Return mean + scores @ eigenspectra, f8[n, D] (protocol.md, 2, `basis`)."""
    eigenspectra = np.asarray(run.basis["eigenspectra"], dtype=float)
    scores = run.maps["scores"].reshape(-1, len(eigenspectra)).astype(float)
    return np.asarray(run.basis["mean"] + scores @ eigenspectra)


def _visits(run: Run) -> Floats:
    """Return how many dwells each position got."""
    dwell_s = np.nan_to_num(run.maps["dwell"].ravel().astype(float))
    return np.asarray(np.round(dwell_s / float(run.header["dwell_s"]), 6))


def _weighted(
    what: str, expected: Floats, raw: Floats, denoised: Floats, rows: NDArray[np.bool_] | None = None
) -> Error:
    mean = expected.sum(axis=0) / expected.sum()
    use = expected.sum(axis=0) >= _FEWEST_COUNTS
    variance = expected.sum(axis=1, keepdims=True) * mean[use]
    if rows is not None:
        variance, expected, raw, denoised = variance[rows], expected[rows], raw[rows], denoised[rows]
    # Where rows are few, their own expected variance makes raw 1 on average; of all rows the weights do.
    norm = float((expected[:, use] / variance).mean())
    return Error(
        what, *(float(((x[:, use] - expected[:, use]) ** 2 / variance).mean() / norm) for x in (raw, denoised))
    )


def _window(
    what: str, use: NDArray[np.bool_], expected: Floats, raw: Floats, denoised: Floats, network: Floats | None
) -> Error:
    true, summed, clean = (x[:, use].sum(axis=1) for x in (expected, raw, denoised))
    told = [summed, clean] if network is None else [summed, clean, np.where(np.isnan(network), clean, network)]
    return Error(f"window {what}", *(float(((x - true) ** 2).mean() / true.mean()) for x in told))


def raw_counts(journal: Path) -> NDArray[np.uint32]:
    """Add up the counts of a recording by position, u4[n, D]; each spectrum once, as the daemon places it.

    Raises
    ------
    OSError
        Where it cannot be read.
    ValueError
        Where it has no header.
    """
    scan: Scan | None = None
    total = np.empty((0, 0), np.uint32)
    for record, _ in read_records(memoryview(journal.read_bytes())):
        message = _message(record)
        if isinstance(message, Header) and scan is None:
            scan = Scan(message)
            total = np.zeros((scan.n_positions, scan.n_channels), np.uint32)
        elif isinstance(message, Block) and scan is not None:
            placed = scan.place(message, 0)
            if placed is not None:
                index, counts, _ = join([placed], scan.n_channels)
                dense = counts.toarray() if issparse(counts) else counts
                np.add.at(total, index, dense.astype(np.uint32))
    if scan is None:
        raise ValueError(f"{journal} has no header")
    return total


def _message(record: object) -> Message | None:
    if not isinstance(record, Arrived):
        return None
    try:
        return decode(record.parts)
    except WireError:
        return None  # the daemon dropped it, too
