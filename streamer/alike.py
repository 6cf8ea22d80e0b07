"""Which positions of a finished run are alike, by means everybody knows: K-means, as a reference for the phases."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq

from streamer.run_data import Run

_LEARNT_FROM: Final = 20_000
_STARTS: Final = 10


def made_of(run: Run) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Positions (n,) of a run that have scores, and those (n, K) at equal brightness, so that thickness tells nothing.

    The mean spectrum has scores, too: with them, scores over counts are what a spectrum is made of.
    """
    counts = run.maps["counts"].ravel().astype(np.float64)
    # Without components there are no scores, and no -1 says how many positions have none.
    scores = run.maps["scores"].reshape(counts.size, run.maps["scores"].shape[-1]).astype(np.float64)
    usable = np.flatnonzero(np.isfinite(scores).all(axis=1) & (counts > 0))
    spectra, mean = (np.nan_to_num(np.asarray(run.basis[k], dtype=np.float64)) for k in ("eigenspectra", "mean"))
    middle = np.linalg.lstsq(spectra.T, mean, rcond=None)[0]
    brightness = counts[usable, None] / max(float(np.median(counts[usable])), 1e-300) if usable.size else 1.0
    return usable, (scores[usable] + middle) / brightness


def k_means(run: Run) -> dict[str, Any] | None:
    """K-means of a run's scores, told the number of phases: how far the phase map agrees with it (adjusted Rand index).

    None where there are no two phases to compare.
    """
    if "phase" not in run.maps or "scores" not in run.maps or not run.basis:
        return None
    positions, rows = made_of(run)
    label = run.maps["phase"].ravel()[positions]
    rows, label = rows[label >= 0], label[label >= 0]
    k = np.unique(label).size
    if k < 2 or rows.shape[1] < 1:
        return None
    some = rows[:: -(-len(rows) // _LEARNT_FROM)]
    centres = [kmeans2(some, k, minit="++", seed=start, missing="warn")[0] for start in range(_STARTS)]
    best = min(centres, key=lambda c: float((vq(some, c)[1] ** 2).sum()))
    return {"k": int(k), "adjusted_rand": adjusted_rand(label, vq(rows, best)[0])}


def adjusted_rand(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Agreement of two labellings of the same things, 1 if they are the same and 0 by chance (Hubert & Arabie 1985)."""
    _, a = np.unique(one, return_inverse=True)
    _, b = np.unique(other, return_inverse=True)
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1.0)
    both, rows, columns = (float((n * (n - 1) / 2).sum()) for n in (table, table.sum(axis=1), table.sum(axis=0)))
    chance = rows * columns / (a.size * (a.size - 1) / 2)
    most = (rows + columns) / 2
    return 1.0 if most == chance else (both - chance) / (most - chance)
