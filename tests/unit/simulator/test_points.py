"""A simulated list of points, on the bytes that are sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulator.detector import Counting
from simulator.effects import Effects
from simulator.instrument import Instrument
from simulator.points import PointScene, random_points
from simulator.raster import scan_order
from simulator.sample import Specimen, load_specimen
from simulator.scene import SimulatedScene
from simulator.schedule import Plan
from simulator.store import Scenes
from streamer.wire import Block, Header, Part, decode

N, PASSES, COUNTS = 7, 60, 400.0


@pytest.fixture(scope="module")
def specimen() -> Specimen:
    return load_specimen("exercise", seed=1, shape=(9, 11), channels=64)


def sent(specimen: Specimen, seed: int) -> list[list[Part]]:
    scene = SimulatedScene(specimen, counts=COUNTS, dwell_s=0.001, seed=5)
    plan = Plan(scan_order((N,)), passes=PASSES, dwell_s=0.001)
    machine = Instrument(PointScene(scene, random_points(specimen, N, seed)), plan, series="s", block=4)
    return [o.parts for o in machine.step(float("inf"))]


def test_the_points_differ_and_follow_their_seed(specimen: Specimen) -> None:
    where = random_points(specimen, N, 1)
    assert len(set(where.tolist())) == N
    np.testing.assert_array_equal(where, random_points(specimen, N, 1))
    assert set(where.tolist()) != set(random_points(specimen, N, 2).tolist())
    assert sorted(random_points(specimen, 99, 1).tolist()) == list(range(99))
    with pytest.raises(ValueError, match="100 points were asked for"):
        random_points(specimen, 100, 1)


def test_the_header_has_the_coordinates_of_the_points_and_the_blocks_their_spectra(specimen: Specimen) -> None:
    header, *others = (decode(parts) for parts in sent(specimen, 3))
    assert isinstance(header, Header)
    assert (header.map.nav_shape, header.map.positions, header.map.nav_axes) == ([N], True, None)
    assert header.map.metadata is not None
    assert header.map.metadata["positions_units"] == "nm"
    where = random_points(specimen, N, 3)
    assert header.positions is not None
    assert header.positions.shape == (N, 2)
    np.testing.assert_array_equal(header.positions, np.stack(np.divmod(where, 11), axis=1) * specimen.step_nm)
    found = np.zeros((N, 64))
    for block in others:
        if isinstance(block, Block):
            np.add.at(found, (block.map.frame + np.arange(block.n)) % N, np.asarray(block.counts, dtype=float))
    # Chi-square against the spectra that the specimen has there, within five standard deviations.
    expected = PASSES * COUNTS * specimen.expected(where)
    enough = expected > 10
    squares = ((found - expected) ** 2 / np.where(enough, expected, 1))[enough]
    assert abs(squares.sum() - squares.size) < 5 * np.sqrt(2 * squares.size)


def test_the_same_seed_gives_the_same_bytes(specimen: Specimen) -> None:
    first, again, other = ([bytes(p) for parts in sent(specimen, s) for p in parts] for s in (3, 3, 4))
    assert first == again
    assert first != other


def test_the_truth_says_which_positions_the_points_are(specimen: Specimen, tmp_path: Path) -> None:
    where = random_points(specimen, N, 3)
    specimen.save(tmp_path / "truth.npz", COUNTS, where)
    with np.load(tmp_path / "truth.npz") as saved:
        np.testing.assert_array_equal(saved["points"], where)
        assert len(saved["abundances"]) == 99


def test_a_list_of_points_is_not_saved_as_a_map(specimen: Specimen, tmp_path: Path) -> None:
    where = random_points(specimen, N, 3)
    with pytest.raises(ValueError, match="list of points"):
        Scenes(specimen, 1.0, 0.001, 0, Counting(), False, Effects(), tmp_path / "a.zspy", where)
