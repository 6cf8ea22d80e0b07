"""What it saves to keep K scores of a spectrum instead of its D channels, and what it costs."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamer.run_data import Run


def compression(run: Run) -> dict[str, Any] | None:
    """Return for each number of scores what is saved and the relative error; None where no error was estimated.

    Scores are kept for every measured position, their eigenspectra and the mean once. Errors are those of denoised
    spectra against the truth (``live_error`` of the status); eigenspectra of rare positions are not among the scores.

    Returns
    -------
    dict
        `channels`, `positions`; `steps`, a list of {`scores`, `factor` numbers before over after, `saved` share of
        numbers, `relative_error`}; `text`, a sentence about the last of them.
    """
    error = (run.meta.get("status") or {}).get("live_error")
    measured = int(np.isfinite(run.maps["counts"]).sum()) if "counts" in run.maps else 0
    channels = len(run.basis["mean"]) if run.basis else 0
    if not error or not measured or not channels:
        return None
    steps = [_step(k, e, measured, channels) for k, e in enumerate(error["by_scores"])]
    last = steps[-1]
    kept = f"{last['scores']} score{'' if last['scores'] == 1 else 's'}"
    text = (
        f"{kept} instead of {channels:,} channels save {last['saved']:.1%} of the numbers (factor {last['factor']:.3g})"
        f" at a relative error {_in_words(last['relative_error'])}"
    )
    return {"channels": channels, "positions": measured, "steps": steps, "text": text}


def _in_words(relative_error: float) -> str:
    """An error is measured on thinned counts: chance may bring it down to nothing, which it never is."""
    return f"of {relative_error:.2g}" if relative_error > 0 else "too small to be told from noise"


def _step(scores: int, relative_error: float, positions: int, channels: int) -> dict[str, Any]:
    before = positions * channels
    after = positions * scores + (scores + 1) * channels
    saved = 1.0 - after / before
    return {"scores": scores, "factor": before / after, "saved": saved, "relative_error": relative_error}
