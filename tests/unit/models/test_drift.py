"""Drift of the energy axis: filters blind to composition, nothing seen where nothing is, shift told from gain."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from models.axis import Axis
from models.calibration import Calibration
from models.drift import Drift, DriftMonitor
from models.drift_feed import DriftFeed
from models.drift_filters import DriftFilters, Readings
from models.drift_history import DriftHistory, against_composition
from models.linear import LinearEngine
from models.noise import POISSON, NoiseModel
from tests.unit.models.scenes import peak

D, STEP = 512, 0.02
AXIS = Axis("Energy", "keV", D, 0.1, STEP)
LINES = ((20, 240, 270), (40, 300, 330), (30, 180, 350))
Float = NDArray[np.float64]


def phase_spectra(calibration: Calibration | None = None) -> Float:
    """Three phases with three lines each (sigma 55 eV) on a falling background, each of unit sum, as recorded."""
    calibration = calibration or Calibration()
    at = (calibration.true(AXIS.values) - AXIS.offset) / STEP
    spectra = []
    for lines in LINES:
        shape = np.exp(-at / 150) + 0.03
        for k, line in enumerate(lines):
            shape = shape + (30.0, 20.0, 15.0)[k] * np.exp(-0.5 * ((at - line) / 2.75) ** 2)
        spectra.append(shape)
    stacked = np.stack(spectra)
    return np.asarray(stacked / stacked.sum(axis=1, keepdims=True))


@dataclass
class Stream:
    """Segments of 64 spectra of 200 counts; the phases come one after another, and again, in grains of 10 segments."""

    seed: int
    basis: Float
    noise: NoiseModel = POISSON
    counts: float = 64 * 200.0
    learnt: float = 1e6

    def shares(self, number: int) -> Float:
        mix = np.full(3, 0.05)
        mix[number // 10 % 3] += 0.85
        return mix

    def segment(self, number: int, spectra: Float) -> Float:
        rng = np.random.default_rng([self.seed, number])
        mean = self.counts * self.shares(number) @ spectra
        if self.noise.is_poisson:
            return rng.poisson(mean).astype(np.float64)
        variance = 64 * self.noise.read_sigma**2 + self.noise.gain * mean
        return np.asarray(64 * self.noise.offset + mean + rng.normal(0, np.sqrt(variance)))

    def monitor(self) -> DriftMonitor:
        monitor = DriftMonitor(AXIS, self.noise)
        total = sum(self.segment(k, phase_spectra()) for k in range(40))
        monitor.rebase(self.basis, np.asarray(total), 40 * 64, self.learnt * np.eye(len(self.basis)))
        return monitor


def watched(stream: Stream, n: int, jump: int, change: Calibration) -> list[tuple[int, Drift]]:
    """Drift told after each segment, of a stream whose calibration jumps at segment `jump`."""
    monitor, before, after = stream.monitor(), phase_spectra(), phase_spectra(change)
    told = []
    for number in range(n):
        drift = monitor.add(stream.segment(number, after if number >= jump else before), 64)
        if drift is not None:
            told.append((number, drift))
    return told


def filters_of(noise: NoiseModel = POISSON) -> DriftFilters:
    return DriftFilters.build(phase_spectra(), 1e6 * phase_spectra().mean(axis=0), 5000.0, AXIS, noise)


def test_no_mixture_of_phases_looks_like_drift() -> None:
    mixtures = np.random.default_rng(0).dirichlet(np.ones(3), 20) @ phase_spectra()
    readings = Readings.of(filters_of().columns(1e5 * mixtures, np.full(20, 500.0)))
    error = np.sqrt(np.diagonal(readings.covariance, axis1=1, axis2=2))
    assert np.all(np.abs(readings.filtered) < 1e-6 * error)
    assert readings.scores == pytest.approx(1e5 * mixtures @ np.linalg.pinv(phase_spectra()), abs=1.0)


@pytest.mark.parametrize("change", [Calibration(1e-3, 0.0), Calibration(0.0, 2e-4), Calibration(-2e-3, 3e-4)])
def test_response_is_what_a_small_change_does(change: Calibration) -> None:
    moved = np.array([0.5, 0.3, 0.2]) @ phase_spectra(change) / (1 + change.gain)
    readings = Readings.of(filters_of().columns(1e5 * moved[None], np.array([500.0])))
    told = np.linalg.solve(readings.response[0], readings.filtered[0])
    assert told[0] == pytest.approx(change.shift, rel=0.06, abs=6e-5)
    assert told[1] == pytest.approx(change.gain, rel=0.06, abs=6e-6)


@pytest.mark.parametrize("noise", [POISSON, NoiseModel("poisson_gaussian", 2.5, 0.4, 0.2)])
def test_covariance_is_that_of_the_draws(noise: NoiseModel) -> None:
    stream = Stream(1, phase_spectra(), noise)
    drawn = np.stack([stream.segment(30 * k, phase_spectra()) for k in range(1500)])
    basis = np.vstack([phase_spectra(), np.ones(D)]) if noise.offset else phase_spectra()
    filters = DriftFilters.build(basis, drawn.sum(axis=0), 64.0 * len(drawn), AXIS, noise)
    readings = Readings.of(filters.columns(drawn, np.full(len(drawn), 64.0)))
    found, told = np.cov(readings.filtered.T), readings.covariance.mean(axis=0)
    assert np.linalg.solve(told, found) == pytest.approx(np.eye(2), abs=0.15)


def test_nothing_is_found_where_nothing_changes() -> None:
    for seed in range(4):
        assert watched(Stream(seed, phase_spectra()), 300, 999, Calibration()) == []


@pytest.mark.parametrize(
    ("kind", "change"),
    [("shift", Calibration(2e-3, 0.0)), ("shift", Calibration(-4e-3, 0.0)), ("gain", Calibration(0.0, 8e-4))],
)
def test_changes_are_found_and_told_apart(kind: str, change: Calibration) -> None:
    for seed in range(3):
        told = watched(Stream(seed, phase_spectra()), 200, 60, change)
        assert 60 <= told[0][0] <= 90
        last = told[-1][1]
        assert last.kind == kind
        assert abs(last.shift - change.shift) < 4 * last.shift_error
        assert abs(last.gain - change.gain) < 4 * last.gain_error
        # A few per cent of a change are lost to the curvature of peaks that is not followed.
        assert last.calibration.shift == pytest.approx(change.shift, rel=0.15)
        assert last.calibration.gain == pytest.approx(change.gain, rel=0.15)


def test_both_at_once_are_told_as_both() -> None:
    last = watched(Stream(0, phase_spectra()), 240, 60, Calibration(-4e-3, 6e-4))[-1][1]
    assert last.kind == "both"
    assert abs(last.shift + 4e-3) < 4 * last.shift_error + 4e-4


def test_counts_with_gain_offset_and_read_noise() -> None:
    noise = NoiseModel("poisson_gaussian", 2.0, 10.0, 3.0)
    basis = np.vstack([phase_spectra(), np.ones(D)])
    assert watched(Stream(0, basis, noise, 64 * 2000.0), 200, 999, Calibration()) == []
    told = watched(Stream(1, basis, noise, 64 * 2000.0), 120, 60, Calibration(3e-3, 0.0))
    assert told[0][0] < 80
    assert abs(told[-1][1].shift - 3e-3) < 4 * told[-1][1].shift_error


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_a_phase_that_the_model_does_not_know_is_no_drift(share: float) -> None:
    """A phase with a line on the flank of one of the first's comes in at segment 50, little or much of it."""
    flank = phase_spectra()[0] + 0.05 * peak(D, 243, 2.75)
    stream = Stream(3, phase_spectra()[:2])
    monitor = stream.monitor()
    for number in range(150):
        mix = phase_spectra()[number // 5 % 2]
        if number >= 50:
            mix = (1 - share) * mix + share * flank / flank.sum()
        draw = np.random.default_rng([3, number]).poisson(stream.counts * mix)
        assert monitor.add(draw.astype(np.float64), 64) is None


def test_drift_is_found_although_a_phase_comes_that_the_model_does_not_know() -> None:
    """Its lines, far from the others', say nothing of drift; those of the known phases tell it as without the phase."""
    before, after = phase_spectra(), phase_spectra(Calibration(1e-3, 0.0))
    stranger = peak(D, 120, 2.75) + peak(D, 430, 2.75)
    stranger /= stranger.sum()
    delays = []
    for share in (0.0, 0.05):
        for seed in range(5):
            stream = Stream(seed, before)
            monitor = stream.monitor()
            for number in range(140):
                new = share * stream.counts * stranger if number >= 60 else np.zeros(D)
                segment = stream.segment(number, after if number >= 60 else before)
                drift = monitor.add(segment + np.random.default_rng([7, seed, number]).poisson(new), 64)
                if drift is not None:
                    delays.append(number - 60)
                    assert drift.shift == pytest.approx(1e-3, abs=4 * drift.shift_error)
                    break
    known, unknown = delays[:5], delays[5:]
    assert min(delays) >= 0
    assert len(unknown) == 5
    assert np.median(unknown) <= np.median(known) + 4


def test_a_badly_known_phase_is_no_drift() -> None:
    """An eigenspectrum that was learnt from few counts errs, also towards what a shift would do."""
    rng = np.random.default_rng(0)
    alarms, naive = 0, 0
    for seed in range(6):
        basis = phase_spectra()
        basis[2] = rng.poisson(3000 * basis[2]) / 3000
        learnt = np.diag([1e9, 1e9, 3000.0])
        history = DriftHistory(D)
        filters = DriftFilters.build(basis, 1e6 * phase_spectra().mean(axis=0), 5000.0, AXIS, POISSON)
        history.reread(filters, learnt)
        for number in range(40):
            mix = phase_spectra()[number % 2] if number < 30 else phase_spectra()[2]
            draw = np.random.default_rng([seed, number]).poisson(12800 * mix)
            history.add(draw.astype(float), 64, np.zeros(2))
        naive += history.best_split(np.array([30]))[1] > 30
        contrast = history.contrast(0, 30)
        assert contrast is not None
        alarms += contrast.statistic > 30
    assert naive >= 3
    assert alarms == 0


def test_a_basis_that_explains_hardly_any_of_the_counts_tells_no_drift() -> None:
    """In a vacuum the model may have one line of many: what it expects of the others' noise is next to nothing."""
    line, rest = peak(D, 60, 2.75), phase_spectra()[1]
    for seed in range(3):
        rng = np.random.default_rng(seed)
        monitor = DriftMonitor(AXIS, POISSON)
        total = np.zeros(D)
        for _ in range(60):
            draw = rng.poisson(20 * (0.02 * line / line.sum() + 0.98 * rest)).astype(float)
            total += draw
            monitor.rebase((line - 0.5 * peak(D, 68, 2.75))[None, :], total, 64.0)
            assert monitor.add(draw, 64) is None


def test_contrasts_have_the_errors_that_they_state() -> None:
    """Chi-squared of two degrees of freedom, whether the model is known by a prior or only from earlier segments."""
    filters, stream = filters_of(), Stream(5, phase_spectra())
    rows = np.stack([stream.segment(k, phase_spectra()) for k in range(1200)])
    columns = filters.columns(rows, np.full(len(rows), 64.0))
    for learnt in (np.zeros((3, 3)), 1e7 * np.eye(3)):
        found = []
        for first in range(0, 1200, 40):
            before, after = (
                Readings.of(columns[first : first + 30]),
                Readings.of(columns[first + 30 : first + 40].sum(0)),
            )
            found.append(against_composition(before, after, learnt).statistic)
        assert np.mean(found) == pytest.approx(2.0, abs=3 * 2 / np.sqrt(len(found)))


def test_memory_is_bounded_and_nothing_is_lost() -> None:
    stream, history = Stream(0, phase_spectra()), DriftHistory(D)
    history.reread(filters_of(), np.zeros((3, 3)))
    total = np.zeros(D)
    for number in range(700):
        segment = stream.segment(number, phase_spectra())
        total += segment
        history.add(segment, 64, np.zeros(2))
        if number == 300:
            history.begin_era(history.size - 5)
            era_n = history.n_spectra(0, history.era)
    assert history.size <= 192
    assert history.n_spectra(0, history.era) == era_n
    assert history.n_spectra(0, history.size) == 64 * 700
    assert np.array_equal(history._spectra[: history.size].sum(axis=0), total)


def test_a_correction_that_was_taken_out_is_not_found_again() -> None:
    change = Calibration(2e-3, 0.0)
    stream = Stream(2, phase_spectra())
    monitor, before, after = stream.monitor(), phase_spectra(), phase_spectra(change)
    told = []
    for number in range(260):
        known = monitor.calibration
        # What is left when `known` has been taken out of what was recorded.
        left = Calibration(change.shift - known.shift, change.gain - known.gain)
        spectra = before if number < 60 else after if known.is_nominal else phase_spectra(left)
        drift = monitor.add(stream.segment(number, spectra), 64, known)
        if drift is not None:
            told.append(drift)
    assert all(d.calibration.shift == pytest.approx(2e-3, rel=0.3) for d in told)
    assert monitor.calibration.shift == pytest.approx(2e-3, rel=0.1)


def test_the_same_stream_gives_the_same_bits() -> None:
    one, two = (watched(Stream(0, phase_spectra()), 120, 60, Calibration(1e-3, 0.0)) for _ in range(2))
    assert one == two


def test_sums_that_were_made_anew_are_no_spectra_that_came() -> None:
    """The feed looks at differences of what was learnt: sums over fewer spectra would count as less than none."""
    engine = LinearEngine(1000, D, noise=POISSON, axis=AXIS)
    feed, rng = DriftFeed(engine, AXIS), np.random.default_rng(0)
    for first in range(0, 1000, 100):
        index = np.arange(first, first + 100, dtype=np.uint32)
        mean = 200.0 * phase_spectra()[first // 100 % 3]
        engine.process(index, rng.poisson(mean, (100, D)).astype(np.uint16))
        engine.promote()
        if first == 500:
            known = engine._learner.learnt()
            engine._learner.know(replace(known, total=0.9 * known.total))
        feed.look(Calibration())
    assert feed._monitor is not None
    history = feed._monitor._history
    seen = history._spectra[: history.size]
    assert seen.sum(axis=1) == pytest.approx(200.0 * history._n[: history.size], rel=0.1)
