"""Preprocessing steps: each does what it says to counts and noise, and is undone in what is published."""

from typing import Any

import numpy as np
import pytest
from scipy import sparse

from models.align import interpolated
from models.axis import Axis
from models.base import as_dense
from models.checks import check_model
from models.layout import make_layout
from models.noise import POISSON, NoiseModel
from models.pca import StreamingPCA
from models.steps import Preprocessed, Steps, StepsConfig
from tests.unit.models.scenes import peak

AXIS = Axis("Energy", "eV", 200, -10.0, 0.5)


def spectra(n: int = 40, seed: int = 0, level: float = 20.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(level * (0.2 + peak(200, 60, 4) + peak(200, 140, 6)), (n, 200)).astype(np.uint16)


@pytest.mark.parametrize("as_csr", [False, True])
def test_crop_rebin_and_mask_sum_counts(as_csr: bool) -> None:
    layout = make_layout(AXIS, crop=(0.0, 50.0), rebin=3, dead=[25, 60, 199])
    counts = spectra()
    found = layout.apply(sparse.csr_array(counts) if as_csr else counts)
    dense = as_dense(found)
    kept = counts[:, 20:121].astype(int)
    kept[:, [5, 40]] = 0
    whole = np.add.reduceat(kept, np.arange(0, 101, 3), axis=1)
    assert np.array_equal(dense, whole)
    assert dense.dtype.kind == "u"
    assert found.shape[1] == layout.n_modelled == 34


def test_layout_only_views_where_nothing_is_summed() -> None:
    counts = spectra()
    assert make_layout(AXIS).apply(counts) is counts
    assert np.shares_memory(make_layout(AXIS, crop=(0.0, 50.0)).apply(counts), counts)


def test_what_was_summed_is_spread_by_the_mean_and_dead_channels_are_interpolated() -> None:
    truth = np.linspace(1.0, 3.0, 200)[None, :]
    layout = make_layout(AXIS, crop=(0.0, 50.0), rebin=4, dead=[30, 31])
    mean = truth[0].copy()
    mean[30:32] = 0.0
    back = layout.expand(layout.apply(truth), layout.share(mean), outside=np.nan)
    np.testing.assert_allclose(back[0, 20:121], truth[0, 20:121], rtol=1e-6)
    assert np.isnan(back[0, :20]).all()
    assert np.isnan(back[0, 121:]).all()
    assert layout.ranges(np.array([[0, 1], [2, 3]])).tolist() == [[20, 24], [28, 30]]


def test_noise_of_sums() -> None:
    rng = np.random.default_rng(0)
    noise = NoiseModel("poisson_gaussian", gain=2.0, offset=50.0, read_sigma=5.0)
    counts = 2.0 * rng.poisson(30.0, (4000, 200)) + 50.0 + 5.0 * rng.standard_normal((4000, 200))
    layout = make_layout(AXIS, rebin=4)
    summed = layout.apply(counts)
    expected = layout.noise(noise).variance(summed.mean(axis=0))
    assert summed.var(axis=0).mean() == pytest.approx(expected.mean(), rel=0.03)
    assert layout.noise(POISSON) == POISSON


def test_nothing_left_is_said() -> None:
    with pytest.raises(ValueError, match=r"leave nothing of the axis from -10 to 89\.5 eV"):
        make_layout(AXIS, crop=(200.0, 300.0))


def shifted_peaks(shift: np.ndarray, level: float, seed: int = 0) -> np.ndarray:
    expected = np.stack(
        [0.002 * level + level * peak(200, 20.0 + s, 2.0) + 0.1 * level * peak(200, 120.0 + s, 5.0) for s in shift]
    )
    return np.asarray(np.random.default_rng(seed).poisson(expected))


def test_alignment_finds_shifts_to_the_noise() -> None:
    shift = np.random.default_rng(1).uniform(-3.0, 3.0, 400)
    steps = Steps(StepsConfig(align=0.0, align_within=5.0), AXIS)
    for level in (200.0, 5000.0):
        prepared = steps.prepare(shifted_peaks(shift, level).astype(np.uint16))
        assert prepared.shift is not None
        # A centroid of n counts of width 2 channels is known to 2 / sqrt(n); the peak has 5 level counts.
        assert np.std(prepared.shift - shift) < 1.5 * 2.0 / np.sqrt(5.0 * level) + 0.02
        aligned = np.asarray(prepared.counts)
        centre = (aligned[:, 10:31] @ np.arange(10, 31)) / aligned[:, 10:31].sum(axis=1)
        assert abs(np.median(centre) - 20.0) < 0.1


def test_few_counts_are_aligned_together() -> None:
    drift = np.linspace(0.0, 3.0, 4000)
    steps = Steps(StepsConfig(align=0.0, align_within=5.0), AXIS)
    counts = shifted_peaks(drift, 2.0)
    found = np.concatenate([steps.prepare(counts[i : i + 37].astype(np.uint16)).shift for i in range(0, 4000, 37)])
    assert np.abs(found[200:] - drift[200:]).mean() < 0.25


def test_moved_list_mode_counts_stay_poisson() -> None:
    counts = sparse.csr_array(np.random.default_rng(0).poisson(0.05, (20000, 200)).astype(np.float32))
    steps = Steps(StepsConfig(align=0.0, align_within=5.0), AXIS)
    assert steps._aligner is not None
    moved = steps._aligner.shifted(counts, np.full(20000, 1.37))
    inner = as_dense(moved)[:, 10:190]
    assert np.array_equal(inner, np.rint(inner))
    assert inner.var() / inner.mean() == pytest.approx(1.0, abs=0.01)
    neighbours = np.mean((inner[:, 1:] - inner.mean()) * (inner[:, :-1] - inner.mean())) / inner.var()
    assert abs(neighbours) < 0.005


def test_interpolation_shifts_and_does_not_broaden() -> None:
    shift = np.linspace(-2.0, 2.0, 41)
    moved = interpolated(np.stack([peak(200, 100.0 + s, 3.0) for s in shift]), shift)
    channels = np.arange(200)
    centre = moved @ channels / moved.sum(axis=1)
    width2 = [(m @ (channels - c) ** 2) / m.sum() for m, c in zip(moved, centre, strict=True)]
    np.testing.assert_allclose(centre, 100.0, atol=1e-4)
    np.testing.assert_allclose(width2, 9.0, atol=0.01)


def power_law_counts(n: int, level: float) -> tuple[np.ndarray, np.ndarray, Axis]:
    axis = Axis("Loss", "eV", 300, 400.0, 1.0)
    rng = np.random.default_rng(0)
    amplitude, exponent = rng.uniform(0.5, 2.0, n), rng.uniform(2.5, 3.5, n)
    truth = level * amplitude[:, None] * (axis.values / 400.0) ** -exponent[:, None]
    edge = np.where(axis.values >= 530, 0.2 * level * (axis.values / 530.0) ** -3.0, 0.0)
    return np.asarray(rng.poisson(truth + edge)), truth, axis


def test_power_law_is_found_and_added_back_exactly() -> None:
    counts, truth, axis = power_law_counts(200, 2000.0)
    steps = Steps(StepsConfig(background="power_law", background_at="model", background_window=(410.0, 525.0)), axis)
    prepared = steps.prepare(counts.astype(np.uint32))
    net = np.asarray(steps.values(prepared))
    background = counts - net
    behind = slice(130, 300)
    assert np.abs(background[:, behind].sum(axis=1) / truth[:, behind].sum(axis=1) - 1.0).mean() < 0.02
    assert np.abs(background[:, :10]).max() == 0.0
    np.testing.assert_allclose(steps.undo(net, prepared), counts, atol=1e-2)


def test_power_law_of_few_counts_borrows_the_exponent() -> None:
    counts, truth, axis = power_law_counts(400, 1.0)
    steps = Steps(StepsConfig(background="power_law", background_at="model", background_window=(410.0, 525.0)), axis)
    background = counts - np.asarray(steps.values(steps.prepare(counts.astype(np.uint32))))
    ratio = background[:, 130:].sum(axis=1) / truth[:, 130:].sum(axis=1)
    assert abs(np.mean(ratio) - 1.0) < 0.05
    assert np.std(ratio) < 0.4


@pytest.mark.parametrize("kind", ["asls", "arpls", "snip"])
def test_baselines_follow_a_hump_under_peaks(kind: Any) -> None:
    axis = Axis("Shift", "cm-1", 600, 300.0, 3.0)
    hump = 400.0 * peak(600, 350.0, 160.0)
    truth = hump + 300.0 * (peak(600, 200, 3) + peak(600, 420, 4))
    counts = np.random.default_rng(0).poisson(truth, (4, 600))
    steps = Steps(StepsConfig(background=kind, background_at="model", half_window=25), axis)
    prepared = steps.prepare(counts.astype(np.uint16))
    background = counts - np.asarray(steps.values(prepared))
    away = np.abs(background.mean(axis=0) - hump)[20:-20]
    assert away.max() < 60.0
    np.testing.assert_allclose(steps.undo(np.asarray(steps.values(prepared)), prepared), counts, atol=1e-2)


@pytest.mark.parametrize(
    ("kind", "of"),
    [("total", lambda y: y.sum(axis=1)), ("peak", lambda y: y.max(axis=1)), ("snv", lambda y: y.std(axis=1))],
)
def test_normalised_spectra_have_unit_scale_and_come_back(kind: Any, of: Any) -> None:
    steps = Steps(StepsConfig(normalise=kind), AXIS)
    counts = spectra()
    prepared = steps.prepare(counts)
    values = np.asarray(steps.values(prepared))
    np.testing.assert_allclose(of(values), 1.0, rtol=1e-4)
    if kind == "snv":
        np.testing.assert_allclose(values.mean(axis=1), 0.0, atol=1e-5)
    np.testing.assert_allclose(steps.undo(values, prepared), counts, atol=1e-2)


def test_minmax_takes_channels_to_the_range_of_the_first_spectra() -> None:
    steps = Steps(StepsConfig(normalise="minmax"), AXIS)
    counts = spectra()
    values = np.asarray(steps.values(steps.prepare(counts)))
    varied = np.ptp(counts, axis=0) > 0
    np.testing.assert_allclose(values[:, varied].max(axis=0), 1.0)
    np.testing.assert_allclose(values[:, varied].min(axis=0), 0.0)
    np.testing.assert_allclose(steps.undo(values, steps.prepare(counts)), counts, atol=1e-3)


def test_dark_counts_stay_with_their_channels_when_spectra_move() -> None:
    dark = np.random.default_rng(3).uniform(90.0, 110.0, 200)
    shift = np.full(50, 2.0)
    counts = shifted_peaks(shift, 3000.0) + dark
    steps = Steps(StepsConfig(align=0.0, align_within=5.0, dark=tuple(dark)), AXIS)
    net = np.asarray(steps.values(steps.prepare(counts.astype(np.float32)))).mean(axis=0)
    still = shifted_peaks(np.zeros(50), 3000.0).mean(axis=0)
    assert np.abs(net[40:100] - still[40:100]).max() < 2.5
    assert np.argmax(net) == 20


def test_a_step_without_room_is_said() -> None:
    with pytest.raises(ValueError, match="has no room for a peak at 700"):
        Steps(StepsConfig(align=700.0), AXIS)
    with pytest.raises(ValueError, match="dark has 3 numbers: give one, or one for each of 200 channels"):
        Steps(StepsConfig(dark=(1.0, 2.0, 3.0)), AXIS)
    with pytest.raises(ValueError, match="no power law can be fitted"):
        Steps(StepsConfig(background="power_law", background_at="model", background_window=(-5.0, 40.0)), AXIS)


def test_any_model_behind_steps_is_a_spectral_model() -> None:
    def make(n_channels: int) -> Preprocessed:
        axis = Axis("channel", "", n_channels)
        config = StepsConfig(crop=(0.0, n_channels - 1.0), rebin=2, dead_channels=(1,))
        steps = Steps(config, axis)
        return Preprocessed(steps, StreamingPCA(steps.layout.n_modelled, 2))

    check_model(make)


def test_steps_are_deterministic_and_leave_the_callers_array() -> None:
    config = StepsConfig(
        align=20.0,
        align_within=5.0,
        crop=(0.0, 80.0),
        rebin=2,
        background="snip",
        background_at="model",
        normalise="total",
    )
    counts = spectra(level=0.3)
    counts.flags.writeable = False
    first, second = (Steps(config, AXIS) for _ in range(2))
    for _ in range(3):
        a, b = (np.asarray(s.values(s.prepare(counts))) for s in (first, second))
        assert np.array_equal(a, b)
