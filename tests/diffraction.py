"""Diffraction patterns of mixtures with known truth, and how a program without nuisances identifies them."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from models.library import Library, read_library
from simulator.axis import Axis
from simulator.physics.xrd import amorphous, pattern
from simulator.references import write_library
from simulator.sample import describe
from simulator.techniques.xrd import XrdConditions, XrdPhase

Array = NDArray[np.float64]
CANDIDATES = str(Path(__file__).parent / "candidates.toml")
AXES = ((0, 0, 1), (1, 1, 0), (1, 1, 1))
BACKGROUND = 0.3


@lru_cache(maxsize=1)
def phases() -> dict[str, XrdPhase]:
    """Return the candidates by name."""
    return {p["name"]: XrdPhase.model_validate(p) for p in describe(CANDIDATES).phases}


@lru_cache(maxsize=1)
def axis() -> Axis:
    """Return the axis they are measured on."""
    ends = describe(CANDIDATES).axis
    return Axis.linear("Two theta", "deg", ends.start, ends.stop, ends.channels)


@lru_cache(maxsize=1)
def library() -> Library:
    """Return their library, by way of its files."""
    with tempfile.TemporaryDirectory() as folder:
        write_library(CANDIDATES, Path(folder))
        return read_library(Path(folder))


@dataclass(frozen=True)
class Mixture:
    """Phases with their shares of the crystalline counts; all of them textured and strained alike."""

    names: tuple[str, ...]
    shares: tuple[float, ...]
    texture: float = 1.0
    strain: float = 0.0
    glass: float = 0.0

    def expected(self, seed: int) -> Array:
        """Return expected counts of unit sum; the seed says which way each phase is strained and textured."""
        rng, total = np.random.default_rng(seed), np.zeros(axis().size)
        for name, share in zip(self.names, self.shares, strict=True):
            strain = self.strain * float(rng.choice([-1.0, 1.0]))
            changes = {"strain": strain, "texture": self.texture, "texture_axis": AXES[int(rng.integers(3))]}
            crystal = phases()[name].model_copy(update=changes).crystal()
            assert crystal is not None
            conditions = XrdConditions()
            lines = pattern(crystal, axis().values, conditions.wavelength_a, conditions.caglioti, conditions.eta)
            total += share * lines / lines.sum()
        hump = amorphous(axis().values, 45.0, 7.0)
        total += self.glass * hump / hump.sum()
        air = np.exp(-axis().values / 40.0)
        return np.asarray((1 - BACKGROUND) * total / total.sum() + BACKGROUND * air / air.sum())


@lru_cache(maxsize=1)
def _untouched() -> tuple[tuple[str, ...], Array]:
    """Reference patterns of unit sum, and two backgrounds."""
    rows = [Mixture((name,), (1.0,)).expected(0) - BACKGROUND * _air() for name in phases()]
    return tuple(phases()), np.stack([r / r.sum() for r in rows] + [_air(), np.full(axis().size, 1 / axis().size)])


def _air() -> Array:
    air = np.exp(-axis().values / 40.0)
    return np.asarray(air / air.sum())


def by_least_squares(counts: NDArray[np.int64], least_share: float = 0.05) -> set[str]:
    """Phases with at least a share of the counts in a non-negative least-squares fit of the reference patterns."""
    names, rows = _untouched()
    weight = 1 / np.sqrt(np.maximum(counts, 1.0))
    amounts, _ = nnls((rows * weight).T, counts * weight)
    crystalline = amounts[: len(names)]
    return {name for name, amount in zip(names, crystalline, strict=True) if amount > least_share * crystalline.sum()}
