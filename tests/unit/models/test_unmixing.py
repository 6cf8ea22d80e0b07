"""Unmixing of small scenes: end-members where they are, abundances with errors that hold, bent mixtures recognised."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse, stats
from scipy.optimize import linear_sum_assignment

from models.base import done
from models.endmembers import abundance_grid
from models.linear import LinearEngine
from models.linearity import Bend, bends
from models.mixture import fit_mixtures, share_errors
from models.noise import POISSON, NoiseModel
from models.phases import Phases
from models.share_fit import ShareFit, pooled_channels
from models.unmixing import EndMembers, Unmixing
from tests.unit.models.phase_scenes import WIDTH, D, PhaseScene, rest, spectra, stripes
from tests.unit.models.scenes import Float


def unmixed(
    scene: PhaseScene, dose: float, *, seed: int = 0, finish: bool = True, noise: NoiseModel = POISSON
) -> tuple[LinearEngine, Unmixing]:
    """Scan a scene with idle time after each block, and close it."""
    counts: Float = scene.counts(dose, seed).astype(np.float64)
    if not noise.is_poisson:
        rng = np.random.default_rng(seed + 1)
        counts = noise.gain * counts + noise.offset + rng.normal(0.0, noise.read_sigma, counts.shape)
    engine = LinearEngine(len(counts), D, noise=noise)
    phases = Phases(engine, WIDTH, scene.shape)
    unmixing = Unmixing(engine, phases)
    for first in range(0, len(counts), 128):
        index = np.arange(first, min(first + 128, len(counts)), dtype=np.uint32)
        engine.process(index, counts[index])
        engine.promote()
        rest(engine, phases, 40)
        for _ in range(40):
            if unmixing.wants_work:
                unmixing.work()
    while phases.wants_work or unmixing.wants_work:
        (phases if phases.wants_work else unmixing).work()
    if finish:
        engine.finish()
        phases.finish()
        unmixing.finish()
    return engine, unmixing


def matched(unmixing: Unmixing, true: Float) -> tuple[EndMembers, list[str]]:
    """The end-members, and their labels in the order of the true spectra."""
    found = unmixing.end_members
    assert found is not None
    unlike = np.abs(true[:, None] - found.spectra[None]).sum(axis=2)
    rows, columns = linear_sum_assignment(unlike)
    assert rows.tolist() == list(range(len(true)))
    return found, [found.labels[c] for c in columns]


def mixed_stripes(n: int = 3) -> PhaseScene:
    """Stripes of which a third is mixed."""
    return stripes(n, mixing=1.5)


@pytest.mark.parametrize("finish", [False, True])
def test_phases_are_end_members_and_abundances_are_as_good_as_with_the_true_ones(finish: bool) -> None:
    scene = stripes(3, mixing=0.6)
    _, unmixing = unmixed(scene, 60.0, finish=finish)
    found, labels = matched(unmixing, scene.spectra)
    assert found.labels == ("0", "1", "2")
    everywhere = np.arange(len(scene.truth))
    shares, errors = unmixing.abundances(everywhere, labels)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, atol=1e-5)
    assert shares.min() >= 0.0
    assert (errors > 0).all()
    fit = fit_mixtures(scene.counts(60.0), scene.spectra).amounts
    best = fit / fit.sum(axis=1, keepdims=True)
    rms, least = (float(np.sqrt(((a - scene.abundance) ** 2).mean())) for a in (shares, best))
    # While the scan runs, by scores, which are weighted for the mean spectrum; at the end by the counts themselves.
    assert rms < least * (1.02 if finish else 1.5)


@pytest.mark.parametrize("finish", [False, True])
def test_the_errors_of_abundances_are_theirs(finish: bool) -> None:
    scene = mixed_stripes()
    _, unmixing = unmixed(scene, 200.0, finish=finish)
    _, labels = matched(unmixing, scene.spectra)
    shares, errors = unmixing.abundances(np.arange(len(scene.truth)), labels)
    inside = (scene.abundance > 0.2) & (scene.abundance < 0.8)
    deviation = (shares - scene.abundance)[inside] / errors[inside]
    assert float(np.sqrt((deviation**2).mean())) == pytest.approx(1.0, abs=0.15)


def test_a_gradient_is_one_phase_and_a_mixture_of_its_ends() -> None:
    x = np.arange(1296) % 36 / 35
    scene = PhaseScene((36, 36), np.stack([1.0 - x, x], axis=1), np.ones(1296), spectra(2))
    _, unmixing = unmixed(scene, 200.0)
    found, labels = matched(unmixing, scene.spectra)
    assert all(label.startswith("end") for label in found.labels)
    assert found.phases == (None, None)
    shares, _ = unmixing.abundances(np.arange(1296), labels)
    fit = fit_mixtures(scene.counts(200.0), scene.spectra).amounts
    best = fit / fit.sum(axis=1, keepdims=True)
    rms, least = (float(np.sqrt(((a - scene.abundance) ** 2).mean())) for a in (shares, best))
    assert rms < 1.15 * least


def ternary(side: int = 48) -> PhaseScene:
    """Gradients across and along, the lines first seen of two end-members alone, and hardly a position pure."""
    down, across = (v.ravel() / (side - 1) for v in np.mgrid[:side, :side])
    third = 0.7 * down
    second = 0.9 * across * (1.0 - third)
    share = np.stack([1.0 - second - third, second, third], axis=1)
    # Alloys, all with the lines of all.
    alloys = 0.5 * spectra(3) + 0.5 * spectra(3).mean(axis=0)
    return PhaseScene((side, side), share, np.ones(side * side), alloys)


@pytest.mark.parametrize(("dose", "most"), [(100.0, 0.95), (400.0, 1.1)])
def test_ends_of_gradients_in_both_directions_are_corners_though_hardly_a_position_is_pure(
    dose: float, most: float
) -> None:
    scene = ternary()
    _, unmixing = unmixed(scene, dose)
    found, labels = matched(unmixing, scene.spectra)
    assert found.labels == ("end0", "end1", "end2")
    shares, errors = unmixing.abundances(np.arange(len(scene.truth)), labels)
    deviation = (shares - scene.abundance) / errors
    assert float(np.sqrt((deviation**2).mean())) == pytest.approx(1.0, abs=0.15)
    fit = fit_mixtures(scene.counts(dose), scene.spectra).amounts
    best = fit / fit.sum(axis=1, keepdims=True)
    rms, least = (float(np.sqrt(((a - scene.abundance) ** 2).mean())) for a in (shares, best))
    # Few counts: better than the likeliest abundances by the true end-members, which know nothing of other positions.
    assert rms < most * least


def test_a_phase_that_is_a_mixture_of_others_is_no_end_member() -> None:
    x = np.arange(1296) % 36
    share = np.select([x < 12, x < 24], [0.0, 0.45], 1.0)
    scene = PhaseScene((36, 36), np.stack([1 - share, share], axis=1), np.ones(1296), spectra(2))
    _, unmixing = unmixed(scene, 300.0)
    _, labels = matched(unmixing, scene.spectra)
    shares, _ = unmixing.abundances(np.flatnonzero((x > 13) & (x < 22)), labels)
    assert shares.mean(axis=0).tolist() == pytest.approx([0.55, 0.45], abs=0.02)


def test_one_phase_has_nothing_to_unmix_and_unmeasured_positions_no_abundance() -> None:
    one = PhaseScene((36, 36), np.ones((1296, 1)), np.ones(1296), spectra(1))
    _, unmixing = unmixed(one, 60.0)
    assert unmixing.end_members is None
    assert unmixing.summary() is None
    scene = stripes(2)
    counts = scene.counts(60.0)
    engine = LinearEngine(len(counts), D, noise=POISSON)
    phases = Phases(engine, WIDTH, scene.shape)
    unmixing = Unmixing(engine, phases)
    engine.process(np.arange(1000, dtype=np.uint32), counts[:1000])
    engine.promote()
    while phases.wants_work or unmixing.wants_work:
        (phases if phases.wants_work else unmixing).work()
    shares, errors = unmixing.abundances(np.arange(1296), unmixing.labels)
    assert np.isfinite(shares[:1000]).all()
    assert np.isnan(shares[1000:]).all()
    assert np.isnan(errors[1000:]).all()


def test_noise_that_is_not_poisson_has_errors_that_hold_too() -> None:
    scene, noise = mixed_stripes(2), NoiseModel("poisson_gaussian", 4.0, 20.0, 6.0)
    _, unmixing = unmixed(scene, 800.0, noise=noise)
    _, labels = matched(unmixing, scene.spectra)
    shares, errors = unmixing.abundances(np.arange(len(scene.truth)), labels)
    inside = (scene.abundance > 0.2) & (scene.abundance < 0.8)
    deviation = (shares - scene.abundance)[inside] / errors[inside]
    assert float(np.sqrt((deviation**2).mean())) == pytest.approx(1.0, abs=0.2)


def test_the_same_scan_gives_the_same_abundances_bit_for_bit() -> None:
    scene = stripes(3, mixing=0.6)
    (_, one), (_, other) = (unmixed(scene, 40.0) for _ in range(2))
    for a, b in zip(*(u.abundances(np.arange(1296), u.labels) for u in (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sums_of_channels_tell_what_channels_tell() -> None:
    true = spectra(3)
    group = pooled_channels(true)
    assert group.max() + 1 < D / 2
    counts = np.random.default_rng(0).poisson(300 * np.array([0.5, 0.2, 0.3]) @ true, (400, D))
    whole = fit_mixtures(counts, true)
    for given in (counts, sparse.csr_array(counts)):
        shares, errors = ShareFit(true).fit(given, POISSON, np.ones(400))
        exact = whole.amounts / whole.amounts.sum(axis=1, keepdims=True)
        # A part in a hundred of the information is given up: a tenth of an error.
        assert float(np.sqrt(((shares - exact) ** 2).mean())) < 0.15 * float(errors.mean())
        np.testing.assert_allclose(errors, share_errors(whole.amounts, whole.covariance), rtol=0.05)
    alike = pooled_channels(np.stack([true[0], true[0]]))
    assert alike.max() == 0


def test_an_empty_position_has_no_share() -> None:
    counts = np.zeros((2, D))
    counts[1] = 50 * spectra(2)[0]
    shares, errors = ShareFit(spectra(2)).fit(counts, POISSON, np.ones(2))
    assert np.isnan(shares[0]).all()
    assert np.isnan(errors[0]).all()
    assert shares[1].tolist() == pytest.approx([1.0, 0.0], abs=1e-3)


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_the_grid_of_abundances_is_one_of_a_simplex_with_its_corners(n: int) -> None:
    grid, _ = abundance_grid(n)
    assert 10 <= len(grid) <= 128
    np.testing.assert_allclose(grid.sum(axis=1), 1.0)
    assert (grid.min() >= 0.0) & ((grid == 1.0).sum() == n)
    assert len(np.unique(grid, axis=0)) == len(grid)


def bent(seed: int, bend: float, n: int = 1500) -> list[Bend]:
    """Residuals of a scan with pure and mixed positions, some of them of something else, and noise as it is."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet([0.3, 0.3, 0.3], n)
    exposure = rng.uniform(20, 200, n)
    residual = rng.normal(size=(n, 2)) / np.sqrt(exposure)[:, None] * (0.8 + 0.5 * shares[:, :1])
    residual += 0.02 * shares[:, :1] + bend * (shares[:, 0] * shares[:, 1])[:, None]
    residual[:12] += 3.0
    return done(bends(shares, residual, exposure))


def test_linear_mixtures_are_not_called_bent_more_often_than_by_chance() -> None:
    p = np.array([[b.p_value for b in bent(seed, 0.0)] for seed in range(60)])
    assert p.shape == (60, 3)
    assert stats.kstest(p.ravel(), "uniform").pvalue > 0.01


def test_bent_mixtures_are_recognised_with_their_pair() -> None:
    for seed in range(5):
        found = {b.pair: b for b in bent(seed, 0.5)}
        assert found[0, 1].p_value < 1e-6
        assert found[0, 1].coefficients.tolist() == pytest.approx([0.5, 0.5], abs=0.25)
        assert min(found[0, 2].p_value, found[1, 2].p_value) > 1e-4


def bends_seen(scene: PhaseScene, expected: Float) -> list[Bend]:
    """What a scan of a scene whose counts are expected to be these says of its pairs."""
    counts = np.random.default_rng(3).poisson(expected)
    engine = LinearEngine(len(counts), D, noise=POISSON)
    phases = Phases(engine, WIDTH, scene.shape)
    unmixing = Unmixing(engine, phases)
    engine.process(np.arange(len(counts), dtype=np.uint32), counts)
    engine.promote()
    engine.finish()
    phases.finish()
    unmixing.finish()
    assert unmixing.end_members is not None
    return unmixing.bends


def test_absorption_in_mixtures_is_seen_in_a_scan() -> None:
    scene = mixed_stripes(2)
    channel = np.arange(D)
    # Each phase has a line that the other absorbs.
    product = scene.abundance[:, :1] * scene.abundance[:, 1:]
    absorbed = 1.0 - 2.4 * product * np.exp(-0.5 * ((channel - 35) / 4.0) ** 2)
    expected = 600.0 * (scene.abundance @ scene.spectra)
    for factor, recognised in ((1.0, False), (absorbed, True)):
        assert any(b.p_value < 1e-4 for b in bends_seen(scene, expected * factor)) == recognised


def plural(single: Float, thickness: float) -> Float:
    """Spectra (n, D) after inelastic scattering once, twice, ... in a film so many mean free paths thick."""
    through = np.expm1(thickness * np.fft.rfft(single, 4 * D, axis=1)) * np.exp(-thickness)
    return np.maximum(np.fft.irfft(through, 4 * D, axis=1)[:, :D], 0.0)


def test_plural_scattering_in_mixtures_is_seen_in_a_scan() -> None:
    scene = mixed_stripes(2)
    # One electron loses energy to both materials of a mixed column.
    thick = plural(scene.abundance @ scene.spectra, 2.0)
    apart = scene.abundance @ plural(scene.spectra, 2.0)
    for expected, recognised in ((apart, False), (thick, True)):
        assert any(b.p_value < 1e-4 for b in bends_seen(scene, 3000.0 * expected)) == recognised
