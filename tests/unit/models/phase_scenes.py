"""Small scenes of phases with known truth, and a scan of them without a daemon."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.linear import LinearEngine
from models.noise import POISSON
from models.phases import Phases
from tests.unit.models.scenes import Float, peak

D, WIDTH = 128, 4.0
LINES = ((20, 60), (35, 60), (20, 90), (75, 105))


def spectra(n: int = 3) -> Float:
    """Spectra (n, D) of unit sum, each with two lines on a background."""
    lines = [0.15 + 6 * peak(D, a, 2.0) + 4 * peak(D, b, 2.0) for a, b in LINES[:n]]
    return np.stack([s / s.sum() for s in lines])


@dataclass(frozen=True)
class PhaseScene:
    """Abundances (P, C) of unit sum on a grid, brightness (P,), spectra (C, D)."""

    shape: tuple[int, int]
    abundance: Float
    brightness: Float
    spectra: Float

    @property
    def truth(self) -> NDArray[np.int64]:
        """Phase with most counts, (P,)."""
        return np.asarray(self.abundance.argmax(axis=1))

    def counts(self, dose: float, seed: int = 0) -> NDArray[np.uint16]:
        """Counts of one pass, `dose` a position at unit brightness."""
        expected = dose * self.brightness[:, None] * (self.abundance @ self.spectra)
        return np.random.default_rng(seed).poisson(expected).astype(np.uint16)


def stripes(n: int = 3, side: int = 36, mixing: float = 0.0) -> PhaseScene:
    """Vertical stripes of equal width; `mixing` blurs their borders over so many positions."""
    x = np.arange(side * side) % side + 0.5
    centres = (np.arange(n) + 0.5) * side / n
    inside = np.stack([_box(x - c, side / n, mixing) for c in centres], axis=1)
    return PhaseScene((side, side), inside / inside.sum(axis=1, keepdims=True), np.ones(side * side), spectra(n))


def _box(x: Float, width: float, blur: float) -> Float:
    if blur == 0:
        return (np.abs(x) < width / 2).astype(np.float64)
    return 1.0 / (1.0 + np.exp((np.abs(x) - width / 2) / blur)) + 1e-9


def scanned(
    scene: PhaseScene, dose: float, *, order: NDArray[np.int64] | None = None, seed: int = 0, idle: int = 40
) -> tuple[LinearEngine, Phases]:
    """Scan a scene position by position, with some idle time after each block, and close it."""
    n = len(scene.truth)
    engine = LinearEngine(n, D, noise=POISSON)
    phases = Phases(engine, WIDTH, scene.shape)
    counts, order = scene.counts(dose, seed), np.arange(n) if order is None else order
    for first in range(0, n, 128):
        index = order[first : first + 128]
        engine.process(index.astype(np.uint32), counts[index])
        engine.promote()
        rest(engine, phases, idle)
    engine.finish()
    phases.finish()
    return engine, phases


def rest(engine: LinearEngine, phases: Phases, pieces: int) -> None:
    """Give both so many pieces of idle time."""
    for _ in range(pieces):
        if engine.wants_background:
            engine.background()
        elif phases.wants_work:
            phases.work()
