"""Settings of the linear engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearConfig:
    """Settings of the linear engine.

    Attributes
    ----------
    max_rank : int
        Most components that are published; 8 more are tracked.
    batch, min_batch : int
        Spectra that one update of the model takes where there is no idle time, and the fewest that idle time is used
        for.
    false_alarm : float
        A spectrum is flagged where chance gives an anomaly score as high as its own no more often than this.
    store_limit_bytes : int
        Memory for accumulated counts.
    bright_clip : float
        Spectra with more than this many times the typical exposure have their weight in the fit clipped.
    move_tolerance : float
        Variance (noise is 1) outside the published span from which on a component counts as moved.
    forget : float
        What the model has learnt counts this much at each new pass; 1 forgets nothing.
    reset_on_change : bool
        Start anew when positions no longer look as they did.
    """

    max_rank: int = 24
    batch: int = 1024
    min_batch: int = 32
    false_alarm: float = 2e-4
    store_limit_bytes: int = 4 << 30
    bright_clip: float = 8.0
    move_tolerance: float = 0.1
    forget: float = 1.0
    reset_on_change: bool = False
