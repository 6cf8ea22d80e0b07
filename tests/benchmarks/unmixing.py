"""Abundances and end-members found live, beside scikit-learn's NMF and MiniBatchNMF and HyperSpy's ORNMF.

Run `python -m tests.benchmarks.unmixing [--check] [--only SPECIMEN] [--dose COUNTS] [--seed N] [--others NAME,...]
[--thick]`.
Simulated specimens with known truth. The others get all counts at once, and the number of end-members, which is not
told here. Each of theirs is run on counts with the loss of counts (Kullback-Leibler), or on counts scaled for Poisson
noise (Keenan and Kotula), whichever it has. Errors: root-mean-square of the abundances (shares of counts; matched to
the truth by the end-members) and mean angle of the end-members in degrees.

A true end-member that is a mixture of others but for a tenth (an intermetallic in a thin specimen) is counted as that
mixture, for no linear method can tell. Positions with more than 5 % of an unexpected phase that is none are left out.
--thick scans grains on thick wedges instead, whose spectra change with thickness, and compares linear unmixing with
that corrected for thickness, and with a fit that is told the true spectra and thickness (`oracle`). With --check the
corrected error may not be larger than the linear one, and where that is twice the oracle's must be nearer the oracle's.

With --check no error may be larger than that of the best of the others (but for 2 %, and a tenth of a degree).
HyperSpy is optional: pip install 'scanwise[bench]'.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, nnls
from sklearn.decomposition import NMF, MiniBatchNMF
from sklearn.exceptions import ConvergenceWarning

from models.axis import Axis
from models.corrected import Corrected, Correction
from models.linear import LinearEngine
from models.noise import POISSON
from models.phases import Phases
from models.thickness import Thickness
from models.unmixing import Unmixing
from simulator.sample import Specimen, load_specimen
from tests.benchmarks import _thick

Array = NDArray[np.float64]
Counts = NDArray[np.uint16]
SPECIMENS: dict[str, tuple[int, int] | None] = {
    "exercise": None,
    "fe_cr_ni": None,
    "diffusion_couple": None,
    "steel_phases": None,
}
DOSES, SEEDS = (50.0, 200.0), (0, 1)
BLOCK, IDLE_PIECES, PROMOTE_BLOCKS = 256, 150, 8
FOLDED, LEFT_OUT, STEPS = 0.1, 0.05, 200
SLACK, SLACK_DEG = 1.02, 0.1


@dataclass(frozen=True)
class Truth:
    """What can be found: shares (P, M) and spectra (M, D) of unit sum, and which positions are judged (P,)."""

    shares: Array
    spectra: Array
    judged: NDArray[np.bool_]

    @classmethod
    def of(cls, specimen: Specimen) -> Truth:
        """Truth of a specimen, with end-members that are mixtures counted as such."""
        area = specimen.endmembers.sum(axis=1)
        spectra, amounts = specimen.endmembers / area[:, None], specimen.abundances * area
        shares = amounts / np.maximum(amounts.sum(axis=1, keepdims=True), 1e-300)
        expected = [k for k, name in enumerate(specimen.phases) if name not in specimen.unexpected]
        weight = 1.0 / np.sqrt(spectra.mean(axis=0) + 1e-9)
        judged = np.ones(len(shares), dtype=np.bool_)
        kept = shares[:, expected].copy()
        for k in sorted(set(range(len(spectra))) - set(expected)):
            parts, left = nnls((spectra[expected] * weight).T, spectra[k] * weight)
            if left < FOLDED * np.linalg.norm(spectra[k] * weight):
                kept += shares[:, [k]] * parts / parts.sum()
            else:
                judged &= shares[:, k] <= LEFT_OUT
        return cls(kept, spectra[expected], judged)

    def errors(self, shares: Array, spectra: Array) -> tuple[float, float]:
        """Error of abundances (P, L) and mean angle of end-members (L, D); one that is not found is off entirely."""
        unit, true = (s / np.linalg.norm(s, axis=1, keepdims=True) for s in (spectra, self.spectra))
        angle = np.degrees(np.arccos(np.clip(true @ unit.T, 0.0, 1.0)))
        rows, columns = linear_sum_assignment(angle)
        found = np.zeros_like(self.shares)
        found[:, rows] = np.nan_to_num(shares)[:, columns]
        angles = np.full(len(true), 90.0)
        angles[rows] = angle[rows, columns]
        return float(np.sqrt(((found - self.shares)[self.judged] ** 2).mean())), float(angles.mean())


def axis_of(specimen: Specimen) -> Axis:
    """Its axis as the models take it."""
    values = specimen.axis.values
    return Axis(specimen.axis.name, specimen.axis.units, values.size, values[0], values[1] - values[0])


def live(
    counts: Counts, axis: Axis, nav_shape: tuple[int, int], law: Thickness | None = None
) -> tuple[Array, Array, float]:
    """Scan with idle time between blocks, and close the series; shares, end-members, and seconds that it took."""
    d, width = counts.shape[1], axis.peak_width_channels()
    engine = LinearEngine(len(counts), d, noise=POISSON, axis=axis)
    phases = Phases(engine, width, nav_shape)
    correction = None if law is None else Correction(law, width, nav_shape)
    unmixing, spent_s = Unmixing(engine, phases, correction), 0.0
    for number, first in enumerate(range(0, len(counts), BLOCK)):
        block = counts[first : first + BLOCK]
        engine.process(np.arange(first, first + len(block), dtype=np.uint32), block)
        if number % PROMOTE_BLOCKS == PROMOTE_BLOCKS - 1:
            engine.promote()
        for _ in range(IDLE_PIECES):
            if engine.wants_background:
                engine.background()
                continue
            start = time.perf_counter()
            if phases.wants_work:
                phases.work()
            elif unmixing.wants_work:
                unmixing.work()
            spent_s += time.perf_counter() - start
    engine.finish()
    start = time.perf_counter()
    phases.finish()
    unmixing.finish()
    spent_s += time.perf_counter() - start
    found = unmixing.end_members
    if found is None:
        return np.zeros((len(counts), 0)), np.zeros((0, d)), spent_s
    shares, _ = unmixing.abundances(np.arange(len(counts)), list(found.labels))
    return shares.astype(np.float64), found.spectra, spent_s


def _unit(weights: Array, spectra: Array) -> tuple[Array, Array]:
    """Shares (P, M) and spectra of unit sum from any factorisation."""
    area = np.maximum(spectra.sum(axis=1), 1e-300)
    amounts = np.maximum(weights, 0.0) * area
    return amounts / np.maximum(amounts.sum(axis=1, keepdims=True), 1e-300), spectra / area[:, None]


def _scaled(counts: Counts) -> tuple[Array, Array, Array]:
    """Counts scaled for Poisson noise, and what rows (P, 1) and channels (D,) were divided by."""
    row = np.sqrt(np.maximum(counts.sum(axis=1, keepdims=True, dtype=np.float64), 1.0))
    mean = counts.sum(axis=0, dtype=np.float64)
    channel = np.sqrt(np.maximum(mean / mean.sum(), 1e-9))
    return counts / (row * channel), row, channel


def nmf(counts: Counts, m: int) -> tuple[Array, Array]:
    """Scikit-learn's NMF under the likelihood of counts."""
    model = NMF(m, init="nndsvda", solver="mu", beta_loss="kullback-leibler", max_iter=STEPS, random_state=0)
    return _unit(model.fit_transform(counts.astype(np.float32)), model.components_)


def nmf_scaled(counts: Counts, m: int) -> tuple[Array, Array]:
    """Scikit-learn's NMF by least squares of scaled counts."""
    scaled, row, channel = _scaled(counts)
    model = NMF(m, init="nndsvda", max_iter=STEPS, random_state=0)
    return _unit(model.fit_transform(scaled) * row, model.components_ * channel)


def mini_batch_nmf(counts: Counts, m: int) -> tuple[Array, Array]:
    """Scikit-learn's MiniBatchNMF under the likelihood of counts."""
    model = MiniBatchNMF(m, batch_size=BLOCK, beta_loss="kullback-leibler", max_iter=STEPS, random_state=0)
    return _unit(model.fit_transform(counts.astype(np.float32)), model.components_)


def ornmf(counts: Counts, m: int) -> tuple[Array, Array]:
    """HyperSpy's ORNMF of scaled counts, as its `decomposition` does with `normalize_poissonian_noise`."""
    # HyperSpy is optional, and slow to import.
    from hyperspy.learn._ornmf import ORNMF

    scaled, row, channel = _scaled(counts)
    model = ORNMF(m, random_state=0)
    model.partial_fit(scaled.copy(), batch_size=BLOCK)
    weights = np.concatenate([model.transform(scaled[first : first + BLOCK]) for first in range(0, len(scaled), BLOCK)])
    return _unit(np.asarray(weights, dtype=np.float64) * row, np.asarray(model.components_) * channel)


OTHERS: dict[str, Callable[[Counts, int], tuple[Array, Array]]] = {
    "NMF": nmf,
    "NMF scaled": nmf_scaled,
    "MiniBatchNMF": mini_batch_nmf,
    "ORNMF": ornmf,
}


def compare(name: str, dose: float, seed: int, others: list[str], missed: list[str]) -> None:
    """Print the figures of one scan."""
    specimen = load_specimen(name, seed=seed, shape=SPECIMENS[name])
    counts = np.random.default_rng(seed + 100).poisson(dose * specimen.expected()).astype(np.uint16)
    truth = Truth.of(specimen)
    shares, spectra, spent_s = live(counts, axis_of(specimen), specimen.nav_shape)
    ours = truth.errors(shares, spectra)
    words, found = [f"live {ours[0]:.4f} {ours[1]:5.2f} deg {spent_s:4.1f} s ({len(spectra)} end-members)"], []
    for other in others:
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            result = OTHERS[other](counts, len(truth.spectra))
        seconds = time.perf_counter() - start
        found.append(truth.errors(*result))
        words.append(f"{other} {found[-1][0]:.4f} {found[-1][1]:5.2f} {seconds:4.1f} s")
    best = min(e[0] for e in found), min(e[1] for e in found)
    ok = ours[0] <= SLACK * best[0] and ours[1] <= best[1] + SLACK_DEG
    print(f"{name:16s} {dose:4.0f} counts, seed {seed}: {'; '.join(words)} {'' if ok else 'MISSED'}", flush=True)
    if not ok:
        missed.append(f"{name} {dose:g} {seed}")


def thick(name: str, doses: list[float] | None, seeds: list[int], missed: list[str]) -> None:
    """Print the figures of one wedge, linear and corrected."""
    made, usual = _thick.SCENES[name]
    scene, shape = made(), (_thick.SIDE, _thick.SIDE)
    for dose in doses or usual:
        for seed in seeds:
            wedge = _thick.wedge(scene, seed)
            counts = np.random.default_rng(seed + 100).poisson(dose * wedge.expected).astype(np.uint16)
            truth = Truth(wedge.shares, wedge.spectra, np.ones(len(counts), dtype=np.bool_))
            known = Corrected(
                wedge.law, wedge.spectra, (True,) * len(wedge.spectra), float(wedge.thickness.mean()), wedge.thickness
            )
            visits = np.ones(len(counts), dtype=np.int64)
            oracle, _ = truth.errors(known.fit(counts, POISSON, visits, wedge.thickness)[0], wedge.spectra)
            (linear, linear_deg), (ours, deg) = (
                truth.errors(*live(counts, wedge.axis, shape, law)[:2]) for law in (None, wedge.law)
            )
            ok = ours <= SLACK * linear and (linear < 2 * oracle or ours - oracle <= 0.5 * (linear - oracle))
            print(
                f"thick {name:12s} {dose:5.0f} counts, seed {seed}: linear {linear:.4f} {linear_deg:5.2f} deg; "
                f"corrected {ours:.4f} {deg:5.2f} (ratio {ours / linear:.2f}); oracle {oracle:.4f} "
                f"{'' if ok else 'MISSED'}",
                flush=True,
            )
            if not ok:
                missed.append(f"thick {name} {dose:g} {seed}")


def main() -> int:
    """Print all figures; with --check, 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--thick", action="store_true", help="thick wedges instead")
    parser.add_argument("--only", choices=[*SPECIMENS, *_thick.SCENES], help="one specimen")
    parser.add_argument("--dose", type=float, help="one dose, in counts a position")
    parser.add_argument("--seed", type=int, help="one seed")
    parser.add_argument("--others", default=",".join(OTHERS), help="those to compare with; ORNMF takes a minute a scan")
    options = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    others = options.others.split(",")
    if "ORNMF" in others and importlib.util.find_spec("hyperspy") is None:
        print("HyperSpy is not installed, so ORNMF is left out: pip install 'scanwise[bench]'")
        others.remove("ORNMF")
    missed: list[str] = []
    doses = None if options.dose is None else [options.dose]
    seeds = list(SEEDS) if options.seed is None else [options.seed]
    if options.thick:
        for name in _thick.SCENES if options.only is None else [options.only]:
            thick(name, doses, seeds, missed)
        return int(options.check and bool(missed))
    for name in SPECIMENS if options.only is None else [options.only]:
        for dose in doses or DOSES:
            for seed in seeds:
                compare(name, dose, seed, others, missed)
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
