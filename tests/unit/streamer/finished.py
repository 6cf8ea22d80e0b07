"""Finished series for tests: real counts, a real decomposition, written as the daemon writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_CHANNELS = 256
WINDOW = slice(95, 106)


def counts(nav_shape: tuple[int, ...], dose: float, seed: int = 1) -> NDArray[np.uint16]:
    """Return Poisson counts (n, D) of two phases, a gradient and one rare position."""
    rng = np.random.default_rng(seed)
    channel = np.arange(N_CHANNELS)

    def line(at: float, height: float) -> NDArray[np.float64]:
        return np.asarray(height * np.exp(-0.5 * ((channel - at) / 3.0) ** 2))

    members = np.stack([line(100, 3) + line(160, 1) + 0.3, line(60, 2) + line(180, 2) + 0.3])
    members /= members.sum(axis=1, keepdims=True)
    n = int(np.prod(nav_shape))
    share = np.clip(np.sin(np.arange(n) / n * 7) * 0.5 + 0.5, 0, 1)
    expected = dose * np.stack([share, 1 - share], axis=1) @ members
    expected[n // 3] += line(220, dose / 20)
    return rng.poisson(expected).astype(np.uint16)


def write(
    folder: Path,
    nav_shape: tuple[int, ...] = (20, 30),
    *,
    dose: float = 150.0,
    unmeasured: int = 0,
    positions: NDArray[np.float64] | None = None,
    nav_axes: list[dict[str, Any]] | None = None,
    books: dict[str, Any] | None = None,
) -> Path:
    """Write ``final.npz`` of a series whose last `unmeasured` positions were not reached."""
    x = counts(nav_shape, dose).astype(float)
    n = len(x)
    mean = x.mean(axis=0)
    eigenvalues, vectors = np.linalg.eigh((x - mean).T @ (x - mean) / n)
    eigenvalues, rank = eigenvalues[::-1], 2
    eigenspectra = vectors.T[::-1][:rank]
    scores = (x - mean) @ eigenspectra.T
    denoised = mean + scores @ eigenspectra
    reached = np.arange(n) < n - unmeasured

    def on_map(values: NDArray[Any]) -> NDArray[np.float32]:
        values = np.where(reached.reshape(-1, *[1] * (values.ndim - 1)), values, np.nan)
        return values.reshape(nav_shape + values.shape[1:]).astype(np.float32)

    residual = ((x - denoised) ** 2 / np.maximum(denoised, 0.1)).max(axis=1)
    arrays: dict[str, Any] = {
        "map/counts": on_map(x.sum(axis=1)),
        "map/scores": on_map(scores),
        "map/anomaly": on_map(residual),
        "map/dwell": on_map(np.full(n, 0.004)),
        "map/quality": on_map(np.where(np.arange(n) % 50 == 0, 0.0, np.where(np.arange(n) % 7 == 0, 0.5, 1.0))),
        "map/window/Fe K": on_map(denoised[:, WINDOW].sum(axis=1)),
        "map/raw/Fe K": on_map(x[:, WINDOW].sum(axis=1)),
        "basis/mean": mean.astype("f4"),
        "basis/eigenspectra": eigenspectra.astype("f4"),
        "basis/eigenvalues": eigenvalues[:40].astype("f4"),
        "axis/values": 0.05 * np.arange(N_CHANNELS),
    }
    sent = n - unmeasured
    told = {"n_sent": sent, "received": sent, "processed": sent, "lost": {}, "rejected": {}, "duplicates": 0,
            "exit_status": "success"}  # fmt: skip
    axis = {"name": "energy", "units": "keV", "size": N_CHANNELS, "offset": 0.0, "scale": 0.05}
    header = {"series": "made-up", "technique": "eds", "nav_shape": list(nav_shape), "axis": axis}
    if nav_axes is not None:
        header["nav_axes"] = nav_axes
    if positions is not None:
        arrays["positions"] = positions
    issued = {"decision": "made-up/0", "action": "stop", "mode": "enforce", "reason": "enough", "evidence": {}}
    meta = {
        "header": header,
        "books": told | (books or {}),
        "rank": rank,
        "model": 7,
        "noise_edge": float(eigenvalues[2] * 1.02),
        "timings": {"latency_p50_ms": 1.25, "latency_p99_ms": 4.5},
        "decisions": [issued, issued | {"outcome": "accepted", "answer": {"ok": True}}],
        "status": {
            "counts_per_spectrum": dose,
            "ranks": {"edge": 2, "elbow": 2, "variance_95": 90, "parallel": 2},
            "live_error": {"share_of_raw": 0.02, "relative": 0.1, "by_scores": [0.5, 0.3, 0.1]},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "final.npz", meta=np.array(json.dumps(meta)), **arrays)
    return folder
