"""What each preprocessing step does to the error of the denoised map, on simulated specimens.

Run `python -m tests.benchmarks.preprocessing [--check] [--quick]`. Error is the mean squared deviation of denoised
spectra from the truth in units of the noise variance, over the channels that both runs have; a shifted spectrum's truth
is shifted too where it is not aligned. A ratio below 1 says that the step helps. Geometric means over seeds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from models.align import interpolated
from models.axis import Axis
from models.base import as_dense
from models.linear import LinearEngine
from models.linear_config import LinearConfig
from models.noise import POISSON, NoiseModel
from models.normalise import Normalisation
from models.prepared import PreparedEngine, make_engine
from models.steps import BackgroundKind, Steps, StepsConfig
from simulator.sample import Specimen, load_specimen

Float = NDArray[np.float64]
BLOCK = 100
PASSES = 2
CAMERA = NoiseModel("poisson_gaussian", gain=2.0, offset=100.0, read_sigma=4.0)


@dataclass(frozen=True)
class Scan:
    """Expected counts of one visit as the detector sees them (P, D), what is wanted of them, and how they are noisy."""

    axis: Axis
    expected: Float
    wanted: Float
    noise: NoiseModel = POISSON
    mean_shift: float = 0.0

    def visit(self, seed: int) -> NDArray[Any]:
        """Counts of one pass."""
        rng = np.random.default_rng(seed)
        if self.noise.is_poisson:
            return rng.poisson(self.expected).astype(np.uint32)
        quanta = rng.poisson(np.maximum(self.expected - self.noise.offset, 0.0) / self.noise.gain)
        read = self.noise.read_sigma * rng.standard_normal(quanta.shape)
        return (self.noise.gain * quanta + self.noise.offset + read).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A step on a specimen: how the scan is made from a seed, what is configured, and what ratio is promised."""

    technique: str
    name: str
    scan: Callable[[int], Scan]
    steps: StepsConfig
    most: float
    window: tuple[float, float] | None = None
    skipped: tuple[int, ...] = ()
    net: tuple[float, float] | None = None


@dataclass(frozen=True)
class Outcome:
    """What one engine made of a scan."""

    error: float
    rank: int
    microseconds: float
    engine: LinearEngine


def measured(
    scan: Scan, steps: StepsConfig, seed: int, wanted: Float, window: slice, skipped: tuple[int, ...]
) -> Outcome:
    """Run the engine over all passes and compare with what is wanted."""
    n, d = scan.expected.shape
    engine = make_engine(n, LinearConfig(), scan.noise, scan.axis, steps)
    spent = 0.0
    for number in range(PASSES):
        visit = scan.visit(1000 * seed + number)
        start = time.perf_counter()
        for first in range(0, n, BLOCK):
            engine.process(np.arange(first, min(first + BLOCK, n), dtype=np.uint32), visit[first : first + BLOCK])
            if first % (4 * BLOCK) == 0:
                engine.promote()
        spent += time.perf_counter() - start
    basis = engine.finish()
    variance = np.maximum(
        scan.noise.variance(scan.expected.mean(axis=0)), 1e-3 * scan.noise.variance(scan.expected).mean()
    )
    channels = np.setdiff1d(np.arange(d)[window], skipped)
    found = engine.denoise(np.arange(n)) / PASSES
    if isinstance(engine, PreparedEngine) and "shift" in engine.step_maps():
        # Where an axis begins is a matter of calibration: only what differs between spectra is an error here.
        offset = np.mean(engine.step_maps()["shift"]) / scan.axis.scale - scan.mean_shift
        wanted = interpolated(wanted, np.full(n, offset)).astype(np.float64)
    error = float((PASSES * (found - wanted)[:, channels] ** 2 / variance[channels]).sum(axis=1).mean())
    return Outcome(error, int((basis.eigenvalues > basis.noise_edge).sum()), spent / (n * PASSES) * 1e6, engine)


def compared(case: Case, seed: int) -> tuple[Outcome, Outcome]:
    """The engine without and with the step."""
    scan = case.scan(seed)
    window = slice(None) if case.window is None else slice(*scan.axis.channel_range(*case.window))
    aligned = scan.wanted if case.steps.align is not None else scan.expected
    plain = measured(scan, StepsConfig(), seed, scan.expected, window, case.skipped)
    return plain, measured(scan, case.steps, seed, aligned, window, case.skipped)


def axis_of(specimen: Specimen) -> Axis:
    """The specimen's axis as the models take it."""
    values = specimen.axis.values
    return Axis("axis", specimen.axis.units, values.size, float(values[0]), float(values[1] - values[0]))


def plain_scan(name: str, counts: float, noise: NoiseModel = POISSON) -> Callable[[int], Scan]:
    """The specimen as it is."""

    def make(seed: int) -> Scan:
        specimen = load_specimen(name, seed=seed, shape=SHAPE)
        expected = counts * specimen.expected() + noise.offset
        return Scan(axis_of(specimen), expected, expected, noise)

    return make


def moved_scan(
    name: str, counts: float, sigma: float, drift: float = 0.0, only: str | None = None
) -> Callable[[int], Scan]:
    """The specimen with a spectrum axis that jitters from spectrum to spectrum and drifts over the map, in channels.

    `only` positions where this phase has most of the counts, if given.
    """

    def make(seed: int) -> Scan:
        specimen = load_specimen(name, seed=seed, shape=SHAPE)
        wanted = counts * specimen.expected()
        if only is not None:
            wanted = wanted[specimen.phase_map().ravel() == specimen.phases.index(only)]
        n, d = wanted.shape
        shift = np.random.default_rng(seed).normal(0.0, sigma, n) + np.linspace(0.0, drift, n)
        # Through the running integral: what a detector counts between two energies.
        ends, edges = np.concatenate([np.zeros((n, 1)), np.cumsum(wanted, axis=1)], axis=1), np.arange(d + 1)
        places = np.clip(edges - shift[:, None], 0, d)
        moved = np.stack([np.diff(CubicSpline(edges, row)(at)) for row, at in zip(ends, places, strict=True)])
        moved = np.maximum(moved, 0.0)
        return Scan(axis_of(specimen), moved, wanted, mean_shift=float(shift.mean()))

    return make


def broken_scan(name: str, counts: float, dead: tuple[int, ...], hot: tuple[int, ...]) -> Callable[[int], Scan]:
    """The specimen through a detector with dead channels, and others that flicker."""

    def make(seed: int) -> Scan:
        specimen = load_specimen(name, seed=seed, shape=SHAPE)
        expected = counts * specimen.expected()
        expected[:, dead] = 0.0
        expected[:, hot] += counts * np.random.default_rng(seed).gamma(0.5, 0.2, (len(expected), len(hot)))
        return Scan(axis_of(specimen), expected, expected)

    return make


def glowing_scan(counts: float) -> Callable[[int], Scan]:
    """The polymer blend, where besides a fluorescence of changing colour lies under every spectrum."""

    def make(seed: int) -> Scan:
        specimen = load_specimen("polymer_blend", seed=seed, shape=SHAPE)
        rng = np.random.default_rng(seed)
        x = np.linspace(0.0, 1.0, specimen.axis.size)
        centre, width = (
            rng.uniform(0.2, 0.9, (specimen.n_positions, 1)),
            rng.uniform(0.3, 0.6, (specimen.n_positions, 1)),
        )
        glow = rng.gamma(2.0, 0.5, (specimen.n_positions, 1)) * np.exp(-0.5 * ((x - centre) / width) ** 2)
        glow *= counts / x.size
        expected = CAMERA.gain * (counts * specimen.expected() + glow) + CAMERA.offset
        return Scan(axis_of(specimen), expected, expected, CAMERA)

    return make


SHAPE = (40, 40)
SCALES: tuple[Normalisation, ...] = ("total", "peak", "snv", "minmax")
BASELINES: tuple[BackgroundKind, ...] = ("asls", "arpls", "snip")


def cases() -> list[Case]:
    """Every step on at least one specimen; the promised ratio is what `--check` holds it to."""
    hot, dead = (300, 301, 520), (200, 201)
    steel = plain_scan("fe_cr_ni", 60.0)
    drifting_steel = moved_scan("fe_cr_ni", 1200.0, 0.0, 4.0)
    oxides = plain_scan("fe_oxidation", 20000.0)
    bright_steel = plain_scan("fe_cr_ni", 1200.0)
    by_iron = StepsConfig(align=6.4, align_within=0.2)
    by_zero_loss = StepsConfig(align=0.0, align_within=3.0)
    by_ferrite = StepsConfig(align=44.68, align_within=0.6)
    before_iron = StepsConfig(background="power_law", background_window=(600.0, 700.0))
    camera = plain_scan("polymer_blend", 50000.0, CAMERA)
    glow = glowing_scan(50000.0)
    lines, losses, any_ratio = (0.5, 10.0), (2.0, 60.0), float("inf")
    band, reflection = (990.0, 1012.0), (44.2, 45.2)
    under_glow = StepsConfig(dark=(100.0,), half_window=40)
    xrd_snip = StepsConfig(background="snip", half_window=40)
    return [
        Case("EDS", "crop to 0.4 .. 9 keV", steel, StepsConfig(crop=(0.4, 9.0)), 1.05, (0.4, 9.0)),
        Case("EDS", "rebin 2", steel, StepsConfig(rebin=2), 1.05),
        Case("EDS", "rebin 2, dose 20 times", bright_steel, StepsConfig(rebin=2), 1.05),
        Case(
            "EDS", "mask dead and flickering channels", broken_scan("fe_cr_ni", 60.0, dead, hot),
            StepsConfig(dead_channels=hot + dead), 0.85, None, hot + dead,
        ),
        Case("EDS", "mask channels that are well", steel, StepsConfig(dead_channels=hot), 1.02, None, hot),
        Case("EDS", "align by Fe K: drift of 4 channels", drifting_steel, by_iron, 0.9, lines),
        Case("EDS", "align by Fe K: no drift", bright_steel, by_iron, 1.05, lines),
        *(Case("EDS", f"normalise {k}", steel, StepsConfig(normalise=k), 1.0) for k in SCALES),
        Case(
            "EELS", "align by zero loss: jitter of 1.5 channels", moved_scan("low_loss", 100000.0, 1.5),
            by_zero_loss, 0.5, losses,
        ),
        Case("EELS", "align by zero loss: no jitter", plain_scan("low_loss", 100000.0), by_zero_loss, 1.05, losses),
        *background_cases("EELS", before_iron, "power law under Fe L", oxides, (705.0, 725.0)),
        Case("Raman", "dark (camera offset)", camera, StepsConfig(dark=(100.0,)), 1.02),
        *(
            case
            for k in BASELINES
            for case in background_cases("Raman", replace(under_glow, background=k), k, glow, band)
        ),
        *background_cases("XRD", xrd_snip, "snip", plain_scan("steel_phases", 20000.0), reflection),
        Case(
            "XRD", "align by a ferrite line: jitter of 1 channel",
            moved_scan("steel_phases", 20000.0, 1.0, only="ferrite"), by_ferrite, 0.7,
        ),
        Case(
            "XRD", "the same where not every position has it", moved_scan("steel_phases", 20000.0, 1.0),
            by_ferrite, any_ratio,
        ),
        Case(
            "XPS", "align by the highest peak, which is chemistry", plain_scan("tungsten_flakes", 30000.0),
            StepsConfig(align=35.8, align_within=2.0), any_ratio,
        ),
    ]  # fmt: skip


def background_cases(
    technique: str, steps: StepsConfig, name: str, scan: Callable[[int], Scan], net: tuple[float, float]
) -> list[Case]:
    """A background subtracted from denoised spectra, which must cost nothing, and before the model."""
    return [
        Case(technique, f"{name}, from what is denoised", scan, steps, 1.02, net=net),
        Case(
            technique, f"{name}, before the model", scan, replace(steps, background_at="model"), float("inf"), net=net
        ),
    ]


def net_errors(case: Case, seed: int, stepped: Outcome, window: tuple[float, float]) -> tuple[float, float]:
    """Relative error of the net map of a window: subtracted from raw spectra, and the engine's."""
    scan = case.scan(seed)
    first, stop = scan.axis.channel_range(*window)

    def net(spectra: NDArray[Any]) -> Float:
        steps = Steps(replace(case.steps, background_at="model"), scan.axis)
        found = as_dense(steps.values(steps.prepare(spectra)))
        return np.asarray(found[:, first:stop].sum(axis=1), dtype=np.float64)

    true = net(scan.expected)
    raw = np.sum([scan.visit(1000 * seed + number).astype(np.float64) for number in range(PASSES)], axis=0) / PASSES
    assert isinstance(stepped.engine, PreparedEngine)
    ours = stepped.engine.net_window((first, stop)) / PASSES
    raw_error, our_error = (float(np.sqrt(np.mean((f - true) ** 2)) / np.abs(true).mean()) for f in (net(raw), ours))
    return raw_error, our_error


def main() -> int:
    """Print the table; with --check, 1 where a promised ratio is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--only", default="", help="only steps with this in their name")
    options = parser.parse_args()
    seeds = (1,) if options.quick else (1, 2, 3)
    missed = False
    print(f"{'technique, step':62s} {'rank':>9s} {'error':>15s} {'ratio':>6s} {'at most':>7s} {'us/spectrum':>13s}")
    for case in cases():
        if options.only not in f"{case.technique} {case.name}":
            continue
        pairs = [compared(case, seed) for seed in seeds]
        ratio = float(np.exp(np.mean([np.log(b.error / a.error) for a, b in pairs])))
        plain, stepped = pairs[0]
        bad = ratio > case.most * 1.0001
        missed |= bad
        print(
            f"{case.technique + ', ' + case.name:62s} {plain.rank:4d}>{stepped.rank:3d} "
            f"{plain.error:7.2f}>{stepped.error:7.2f} {ratio:6.3f} {case.most:7.2f} "
            f"{plain.microseconds:5.0f}>{stepped.microseconds:6.0f} {'MISSED' if bad else ''}",
            flush=True,
        )
        if case.net is not None:
            raw, ours = net_errors(case, seeds[0], stepped, case.net)
            print(f"    net map {case.net[0]:g} to {case.net[1]:g}: error {ours:.3f}, of raw spectra {raw:.3f}")
    return int(options.check and missed)


if __name__ == "__main__":
    sys.exit(main())
