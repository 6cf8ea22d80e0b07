"""Phases do not depend on the basis that scores are in, nor on the order in which positions came."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from models.linear import LinearEngine
from models.phases import Phases
from tests.unit.models.phase_scenes import scanned, stripes


def turn_basis(engine: LinearEngine, seed: int) -> None:
    """Publish the same model with components turned among themselves, as any new version may."""
    scores = engine.score_map
    old = scores.published
    assert old is not None
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((old.basis.rank, old.basis.rank)))
    basis = replace(old.basis, eigenspectra=(turn @ old.eigenspectra).astype(np.float32))
    shrinkage = replace(old.shrinkage, centre=turn @ old.shrinkage.centre, axes=turn @ old.shrinkage.axes)
    projector = (old.projector @ turn.T).astype(np.float32)
    scores.reexpress(old, projector)
    mean_score = (turn @ old.mean_score).astype(np.float32)
    scores.published = replace(old, basis=basis, projector=projector, shrinkage=shrinkage, mean_score=mean_score)


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([40.0, 300.0]), st.integers(0, 1000))
def test_labels_and_confidence_are_stable_under_rotations(dose: float, seed: int) -> None:
    scene = stripes(3, side=18, mixing=0.4)
    engine, phases = scanned(scene, dose, seed=seed % 3)
    relabel(phases)
    label, confidence = phases.label.copy(), phases.confidence.copy()
    _, before = phases.spectra()
    turn_basis(engine, seed)
    relabel(phases)
    np.testing.assert_array_equal(phases.label, label)
    np.testing.assert_allclose(phases.confidence, confidence, atol=2e-3)
    _, after = phases.spectra()
    np.testing.assert_allclose(after, before, atol=1e-4)


def relabel(phases: Phases) -> None:
    """Give every position a label anew, by the mixture as it is and its own spectrum alone."""
    everywhere = np.arange(phases.label.size)
    phases.label[:] = -1
    phases._label(everywhere)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000))
def test_the_order_of_arrival_does_not_matter(seed: int) -> None:
    scene = stripes(3, side=18, mixing=0.4)
    _, one = scanned(scene, 60.0)
    _, other = scanned(scene, 60.0, order=np.random.default_rng(seed).permutation(18 * 18))
    assert len(one.infos) == len(other.infos) == 3
    assert adjusted_rand_score(one.label, other.label) > 0.97
