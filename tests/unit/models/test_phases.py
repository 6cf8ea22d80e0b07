"""Phases of small scenes: found, mapped with a probability that holds, and kept apart from everything else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from models.base import done
from models.composition import CompositionSpace
from models.linear import LinearEngine
from models.neighbours import patches
from models.noise import POISSON
from models.phase_likelihood import GaussLikelihood
from models.phase_mixture import Cloud, Mixture, Sample, excess, whitening
from models.phases import UNSEEN, Phases
from simulator.sample import Specimen, load_specimen
from tests.unit.models.phase_scenes import WIDTH, D, PhaseScene, rest, scanned, spectra, stripes


def test_the_noise_of_compositions_is_known() -> None:
    scene = stripes()
    engine, _ = scanned(scene, 60.0)
    published = engine.score_map.published
    assert published is not None
    shrinkage = replace(published.shrinkage, pull=np.ones_like(published.shrinkage.pull))
    space = CompositionSpace.of_basis(published.eigenspectra, published.projector, shrinkage)
    rng = np.random.default_rng(0)
    for true in spectra():
        counts = rng.poisson(40.0 * true, (20_000, D)).astype(np.float32)
        total = counts.sum(axis=1, dtype=np.float64)
        z = space.coordinates(counts @ published.projector, total)
        y = (z - z.mean(axis=0)) @ whitening(space.noise(z.mean(axis=0))).T * np.sqrt(total)[:, None]
        np.testing.assert_allclose(np.cov(y.T), np.eye(space.n_axes), atol=0.08)


@pytest.mark.parametrize(("dose", "least"), [(15.0, 0.9), (50.0, 0.98), (400.0, 0.98)])
def test_phases_are_found_and_mapped(dose: float, least: float) -> None:
    scene = stripes(3, mixing=0.4)
    _, phases = scanned(scene, dose)
    assert len(phases.infos) == 3
    assert adjusted_rand_score(scene.truth, phases.label) > least
    right = np.zeros(len(scene.truth), dtype=bool)
    for info in phases.infos:
        mine = phases.label == info.id
        right |= mine & (scene.truth == np.bincount(scene.truth[mine]).argmax())
    assert float(phases.confidence.mean()) == pytest.approx(right.mean(), abs=0.02)


def test_brightness_makes_no_phases_and_faint_positions_none_either() -> None:
    rng = np.random.default_rng(1)
    bright = np.exp(rng.normal(0.0, 1.2, 1296))
    scene = replace(stripes(2), brightness=bright)
    _, phases = scanned(scene, 40.0)
    assert len(phases.infos) == 2
    sure = bright > 1
    assert adjusted_rand_score(scene.truth[sure], phases.label[sure]) > 0.97
    faint = bright < 0.15
    assert float(np.nanmean(phases.confidence[faint])) < float(phases.confidence[sure].mean()) - 0.003


@pytest.mark.parametrize("seed", [0, 1])
def test_grains_are_told_apart_at_ten_counts(seed: int) -> None:
    ore = load_specimen("sulfide_ore", seed=seed, shape=(40, 40), channels=512)
    truth = ore.abundances.argmax(axis=1)
    counts = np.random.default_rng(3).poisson(10.0 * ore.abundances @ ore.endmembers).astype(np.uint16)
    engine = LinearEngine(1600, 512, noise=POISSON)
    for first in range(0, 1600, 64):
        engine.process(np.arange(first, first + 64, dtype=np.uint32), counts[first : first + 64])
    engine.finish()
    phases = Phases(engine, WIDTH, (40, 40))
    phases.finish()
    scores = engine.scores_at(np.arange(1600))
    reference = KMeans(5, n_init=5, random_state=0).fit_predict(scores)
    found = adjusted_rand_score(truth, phases.label)
    assert found > max(0.7, adjusted_rand_score(truth, reference) + 0.2)


@pytest.mark.parametrize("dose", [60.0, 400.0])
def test_a_gradient_is_one_phase(dose: float) -> None:
    x = np.arange(1296) % 36 / 35
    scene = PhaseScene((36, 36), np.stack([0.75 - 0.5 * x, 0.25 + 0.5 * x], axis=1), np.ones(1296), spectra(2))
    _, phases = scanned(scene, dose)
    assert [p.n_positions for p in phases.infos] == [1296]


@pytest.mark.parametrize("seed", [0, 1])
def test_near_grains_are_told_apart_but_no_gradient_of_the_same_compositions(seed: int) -> None:
    """Single spectra of each lie evenly between the ends; only what is around a position tells grains from the rest."""
    far = spectra(2)
    near = np.stack([far[0], 0.7 * far[0] + 0.3 * far[1]])
    row, column = np.divmod(np.arange(2304), 48)
    grain = ((row // 12 + column // 12) % 2).astype(np.float64)
    scattered = np.random.default_rng(5).permutation(grain)
    for share, n_phases in ((grain, 2), (column / 47, 1), (scattered, 1)):
        scene = PhaseScene((48, 48), np.stack([1 - share, share], axis=1), np.ones(2304), near)
        _, phases = scanned(scene, 30.0, seed=seed)
        assert len(phases.infos) == n_phases


def test_patches_end_where_the_grid_does() -> None:
    near, owner = patches(np.array([0, 5]), (3, 4))
    assert [sorted(near[owner == k].tolist()) for k in (0, 1)] == [[0, 1, 4, 5], [0, 1, 2, 4, 5, 6, 8, 9, 10]]


def phases_of(specimen: Specimen, mean: NDArray[np.float64], passes: int, rng: np.random.Generator) -> Phases:
    """Phases of a whole scan with these mean counts (P, D) in each pass."""
    n, n_channels = mean.shape
    engine = LinearEngine(n, n_channels, noise=POISSON)
    phases = Phases(engine, 4.0, specimen.nav_shape)
    for _ in range(passes):
        engine.process(np.arange(n, dtype=np.uint32), rng.poisson(mean).astype(np.uint16))
        engine.promote()
    engine.finish()
    phases.finish()
    return phases


@pytest.mark.parametrize("counts", [100.0, 2000.0])
def test_phases_are_the_corners_where_nearly_everything_is_mixed(counts: float) -> None:
    specimen = load_specimen("exercise", seed=3, shape=(20, 20), channels=256)
    phases = phases_of(specimen, counts * specimen.expected(), 10, np.random.default_rng(3))
    truth = specimen.phase_map().ravel()
    assert len(phases.infos) == 3
    assert adjusted_rand_score(truth, phases.label) > 0.95
    wrong = 1.0 - sum(np.bincount(truth[phases.label == p.id]).max() for p in phases.infos) / truth.size
    assert float(phases.doubt.mean()) == pytest.approx(wrong, abs=0.03)


def test_mixtures_that_are_denser_in_one_place_are_no_phase() -> None:
    """What an adaptive scan ends with: most counts where it is mixed, and little of one thing in much of the other."""
    specimen = load_specimen("exercise", seed=0, shape=(36, 36), channels=256)
    share = specimen.abundances / specimen.abundances.sum(axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    dose = np.where(share.max(axis=1) < 0.97, 26.0, 8.0) * (1.0 + 0.25 * rng.normal(size=1296)).clip(0.3)
    assert len(phases_of(specimen, dose[:, None] * specimen.expected(), 5, rng).infos) == 3


def test_mixtures_of_three_phases_are_evenly_spread_over_their_triangle() -> None:
    pairs = np.zeros((4, 3, 3))
    pairs[-1] = noise = np.array([[1.0, 0.2, 0.0], [0.2, 0.8, 0.0], [0.0, 0.0, 1.0]])
    space = CompositionSpace(np.zeros(3), np.eye(3)[:, :2], 0.0, pairs, np.zeros(3), np.eye(3))
    corners = np.array([[0.0, 0.0], [10.0, 1.0], [2.0, 8.0]])
    clouds = tuple(Cloud.of(corner, np.zeros((2, 2)), space.noise(corner)) for corner in corners)
    far = Cloud.of(corners.mean(axis=0), 400.0 * np.eye(2), noise[:2, :2])
    mixture = Mixture(clouds, np.full(3, 0.3), {}, far, 0.1)
    densities = done(GaussLikelihood(space).of(mixture))
    rng = np.random.default_rng(0)
    share = rng.dirichlet([1, 1, 1], 4000)
    for exposure in (9.0, 400.0):
        z = share @ corners + rng.multivariate_normal([0, 0], noise[:2, :2] / exposure, 4000)
        found = densities(Sample(z, np.full(4000, exposure), np.ones(4000), np.full(4000, -1)))
        # Half of what is neither pure nor of a pair; area of the triangle 39.
        inside = share.min(axis=1) > 0.2
        np.testing.assert_allclose(found.rest[inside], np.log(0.5 / 39.0), atol=0.2)
        assert found.third is not None
        dominant = found.third[:, inside] / found.third[:, inside].sum(axis=0)
        right = dominant.argmax(axis=0) == share[inside].argmax(axis=1)
        assert float(dominant.max(axis=0).mean()) == pytest.approx(right.mean(), abs=0.03)
    hidden = densities(Sample(z, np.full(4000, 0.1), np.ones(4000), np.full(4000, -1)))
    assert hidden.third is not None
    assert not hidden.third.any()


def test_a_column_of_mixed_positions_along_an_interface_is_no_phase_but_a_layer_is() -> None:
    x = np.arange(1296) % 36
    for width, n_phases in ((1, 2), (4, 3)):
        share = np.where(x < 18, 0.0, 1.0)
        share[(x >= 18) & (x < 18 + width)] = 0.4
        scene = PhaseScene((36, 36), np.stack([1 - share, share], axis=1), np.ones(1296), spectra(2))
        _, phases = scanned(scene, 600.0)
        assert len(phases.infos) == n_phases
        if width == 1:
            assert float(np.median(phases.mixed[x == 18])) > 0.9
            assert float(np.median(phases.mixed[(x < 16) | (x > 20)])) < 0.1


@pytest.mark.parametrize("width", [0.6, 2.0])
def test_columns_of_an_interface_are_no_phases_where_counts_tell_each_of_them_apart(width: float) -> None:
    """Columns beside such a column are mixed from other shares: that they look like it does not make it a layer."""
    share = 1.0 / (1.0 + np.exp((np.arange(1296) % 36 - 18.2) / width))
    scene = PhaseScene((36, 36), np.stack([share, 1.0 - share], axis=1), np.ones(1296), spectra(2))
    _, phases = scanned(scene, 16_000.0)
    assert len(phases.infos) == 2


def test_numbers_stay_while_phases_come_into_sight() -> None:
    scene = stripes(4)
    counts = scene.counts(120.0)
    order = np.argsort(np.arange(1296) % 36, kind="stable")
    engine = LinearEngine(1296, D, noise=POISSON)
    phases = Phases(engine, WIDTH, scene.shape)
    seen: dict[int, int] = {}
    for first in range(0, 1296, 81):
        index = order[first : first + 81]
        engine.process(index.astype(np.uint32), counts[index])
        engine.promote()
        rest(engine, phases, 3000)
        measured = engine.visits > 0
        assert np.array_equal(phases.label == UNSEEN, ~measured)
        for info in phases.infos:
            mine = phases.label == info.id
            most = int(np.bincount(scene.truth[mine]).argmax())
            if info.n_positions > 30:
                assert seen.setdefault(info.id, most) == most
    assert sorted(seen.values()) == [0, 1, 2, 3]


def test_a_rare_phase_is_not_lost_in_the_sample() -> None:
    scene = stripes(2, side=72)
    abundance = np.zeros((5184, 3))
    abundance[:, :2] = scene.abundance
    rare = np.array([500, 501, 572, 573, 3000, 3001, 3072, 3073, 3144, 3145, 4000, 4001, 4072, 4073])
    abundance[rare] = [0, 0, 1]
    _, phases = scanned(PhaseScene(scene.shape, abundance, np.ones(5184), spectra(3)), 150.0)
    sizes = {p.id: p.n_positions for p in phases.infos}
    assert sorted(sizes.values())[0] == rare.size
    assert len(np.unique(phases.label[rare])) == 1


def test_a_seeded_phase_keeps_its_name_and_positions_and_others_join() -> None:
    scene = stripes(3)
    n = 1296
    engine = LinearEngine(n, D, noise=POISSON)
    phases = Phases(engine, WIDTH, scene.shape)
    counts = scene.counts(100.0)
    with pytest.raises(ValueError, match="none of its positions"):
        phases.seed("nothing", np.array([3]))
    half = np.arange(n // 2)
    engine.process(half.astype(np.uint32), counts[half])
    engine.promote()
    rest(engine, phases, 3000)
    mine = half[scene.truth[half] == 2][:5]
    number = phases.seed("carbide", mine)
    assert (phases.label[mine] == number).all()
    later = np.arange(n // 2, n)
    engine.process(later.astype(np.uint32), counts[later])
    engine.promote()
    rest(engine, phases, 3000)
    engine.finish()
    phases.finish()
    assert phases.name(number) == "carbide"
    assert (phases.label[mine] == number).all()
    assert (phases.confidence[mine] == 1).all()
    other = np.flatnonzero(scene.truth == 2)
    assert float((phases.label[other] == number).mean()) > 0.95
    assert float((phases.label[scene.truth != 2] == number).mean()) < 0.02


def test_phases_have_spectra_and_empty_positions_no_phase() -> None:
    scene = stripes(3)
    bright = np.ones(1296)
    bright[100:110] = 0
    _, phases = scanned(replace(scene, brightness=bright), 200.0)
    assert (phases.label[100:110] == UNSEEN).all()
    ids, found = phases.spectra()
    assert found.shape == (3, D)
    for number, spectrum in zip(ids, found, strict=True):
        true = scene.spectra[np.bincount(scene.truth[phases.label == number]).argmax()]
        assert float(np.abs(spectrum - true).sum()) < 0.05


def test_one_component_is_one_phase_and_nothing_is_none() -> None:
    engine, phases = scanned(stripes(1), 30.0)
    assert [p.n_positions for p in phases.infos] == [engine.n_positions]
    empty = LinearEngine(10, D, noise=POISSON)
    idle = Phases(empty, WIDTH, (2, 5))
    assert not idle.wants_work
    idle.finish()
    assert idle.infos == []


def test_labels_say_nothing_until_phases_were_looked_for_in_what_there_is() -> None:
    scene = stripes(3)
    counts, first, rest_of_it = scene.counts(150.0), np.arange(432), np.arange(432, 1296)
    engine = LinearEngine(1296, D, noise=POISSON)
    phases = Phases(engine, WIDTH, scene.shape)
    engine.process(first.astype(np.uint32), counts[first])
    engine.promote()
    looked = []
    while phases.found is None:
        looked.append(phases.has_looked)
        phases.work()
    # Found, but labels are still those of everything as one phase.
    assert not any(looked)
    assert (phases.label[first] == 0).all()
    assert not phases.doubt[first].any()
    assert phases.outdated(first).all()
    rest(engine, phases, 3000)
    assert not phases.outdated(first).any()
    looked = [phases.has_looked]
    engine.process(rest_of_it.astype(np.uint32), counts[rest_of_it])
    looked.append(phases.has_looked)
    rest(engine, phases, 3000)
    assert [*looked, phases.has_looked] == [True, False, True]


def test_one_component_needs_no_looking_for_phases() -> None:
    engine, phases = scanned(stripes(1), 30.0)
    assert phases.found is None
    assert phases.has_looked
    assert not phases.outdated(np.arange(engine.n_positions)).any()


def test_replaced_counts_get_another_label() -> None:
    scene = stripes(3)
    engine, phases = scanned(scene, 150.0)
    first, last = (np.flatnonzero(scene.truth == k)[:5] for k in (0, 2))
    was = phases.label[first].copy()
    engine.process(first.astype(np.uint32), scene.counts(150.0, seed=3)[last], replace=True)
    rest(engine, phases, 3000)
    assert (was != phases.label[last]).all()
    assert (phases.label[first] == phases.label[last]).all()


def test_what_another_engine_saw_is_labelled_too() -> None:
    scene = stripes(3)
    counts, halves = scene.counts(150.0), np.array_split(np.arange(1296), 2)
    engines = [LinearEngine(1296, D, noise=POISSON) for _ in halves]
    for engine, half in zip(engines, halves, strict=True):
        engine.process(half.astype(np.uint32), counts[half])
        engine.promote()
    phases = Phases(engines[0], WIDTH, scene.shape)
    rest(engines[0], phases, 3000)
    assert (phases.label[halves[1]] == UNSEEN).all()
    engines[0].merge(engines[1].arrays())
    engines[0].promote()
    rest(engines[0], phases, 6000)
    assert adjusted_rand_score(scene.truth, phases.label) > 0.97


def test_a_cloud_that_nobody_is_in_has_no_spread_to_split() -> None:
    values, vectors, doubt = excess(np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    assert not values.any()
    assert np.array_equal(vectors, np.eye(3))
    assert doubt == np.inf


NEAR_ALLOYS = """
title = "Three near alloys"
technique = "eds"
shape = [64, 64]
counts = 200
layout = [{ kind = "grains", phases = ["m", "n", "o"], count = 20, mixing_px = 0.7 }]
phases = [
    { name = "m", atomic = { Fe = 0.7, Ni = 0.3 } },
    { name = "n", atomic = { Fe = 0.6, Ni = 0.4 } },
    { name = "o", atomic = { Fe = 0.7, Ni = 0.15, Co = 0.15 } },
]
axis = { start = -0.2, stop = 20.28, channels = 1024 }
"""


def test_phases_that_single_spectra_blur_are_found_among_sums_of_neighbours(tmp_path: Path) -> None:
    """No step of one phase at a time leads to the third."""
    (tmp_path / "near.toml").write_text(NEAR_ALLOYS)
    specimen = load_specimen(str(tmp_path / "near.toml"), seed=2)
    counts = np.random.default_rng(102).poisson(200 * specimen.expected()).astype(np.uint16)
    engine = LinearEngine(4096, 1024, noise=POISSON)
    for first in range(0, 4096, 256):
        engine.process(np.arange(first, first + 256, dtype=np.uint32), counts[first : first + 256])
    engine.finish()
    found = []
    for shape in (None, (64, 64)):
        phases = Phases(engine, 12.0, shape)
        phases.finish()
        found.append(len(phases.infos))
    assert found == [2, 3]
