"""Spectra for those who train networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from simulator.sample import load_specimen, specimen_names
from simulator.training import measured, simulated, vary
from streamer.wire import Part, encode_events, encode_header, encode_image, encode_series_end
from streamer.wire.items import Arrived, Tick
from streamer.wire.journal import Opened, pack_record

AXIS = {"name": "Energy", "units": "keV", "size": 32, "offset": 0.0, "scale": 0.1}


def test_a_specimens_map_is_its_truth() -> None:
    found = simulated("tungsten_flakes", seed=3)
    specimen = load_specimen("tungsten_flakes", seed=3)
    assert np.array_equal(found["spectra"], specimen.expected())
    assert found["nav_shape"] == specimen.nav_shape
    assert (found["technique"], found["expected"], found["counts"]) == ("xps", True, specimen.counts)
    assert found["axis"] == specimen.axis.to_map()


@pytest.mark.parametrize("name", specimen_names())
def test_every_specimen_has_variants_that_differ_and_are_the_same_for_a_seed(name: str) -> None:
    found = simulated(name, seed=1, variants=2, channels=128)
    spectra = found["spectra"]
    half = len(spectra) // 2
    assert spectra.shape[1] == 128
    assert np.isfinite(spectra).all()
    assert (spectra >= 0).all()
    np.testing.assert_allclose(spectra.sum(axis=1), 1.0)
    assert np.abs(spectra[:half] - spectra[half:]).max() > 1e-4
    assert np.array_equal(simulated(name, seed=1, variants=2, channels=128)["spectra"], spectra)
    assert not np.array_equal(simulated(name, seed=2, variants=2, channels=128)["spectra"], spectra)
    assert found["nav_shape"] is None


def test_the_map_of_a_specimen_like_it_has_other_spectra_that_shift_from_place_to_place() -> None:
    found = simulated("tungsten_flakes", seed=3, varied=True)
    assert found["nav_shape"] == (50, 50)
    assert found["spectra"].sum(axis=1).mean() == pytest.approx(1.0)
    assert np.array_equal(found["spectra"], simulated("tungsten_flakes", seed=3, varied=True)["spectra"])
    peaks = np.argmax(found["spectra"], axis=1)
    # Two phases: without a shift there would be two places, or three where they mix.
    assert len(np.unique(peaks)) > 6


def test_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    simulated("tungsten_flakes", variants=3, progress=lambda *said: told.append(said))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_numbers_vary_by_what_they_are() -> None:
    rng = np.random.default_rng(0)
    phase = {
        "name": "a", "atomic": {"Fe": 0.5, "O": 0.5}, "thickness_nm": 40.0, "strain": 0.0, "lattice_a": [3.0, 3.0, 4.0],
        "white_lines": [{"energy_ev": 700.0, "edge": "L3"}], "centring": "F",
    }  # fmt: skip
    many = [vary(phase, rng) for _ in range(300)]
    assert {v["name"] for v in many} == {"a"}
    assert {v["centring"] for v in many} == {"F"}
    assert np.std([np.log(v["thickness_nm"]) for v in many]) == pytest.approx(0.5, rel=0.15)
    assert np.std([v["strain"] for v in many]) == pytest.approx(0.003, rel=0.15)
    assert np.std([v["white_lines"][0]["energy_ev"] for v in many]) == pytest.approx(0.5, rel=0.15)
    assert all(v["lattice_a"][2] / v["lattice_a"][0] == pytest.approx(4 / 3) for v in many)
    assert phase["thickness_nm"] == 40.0


def test_frames_of_a_file_are_summed(tmp_path: Path) -> None:
    path = tmp_path / "frames.npz"
    rows: dict[str, Any] = {"frame": [0, 1, 1], "y": [0, 0, 1], "x": [1, 1, 0], "ch": [5, 5, 7], "count": [200, 100, 3]}
    np.savez(path, **rows, shape=[2, 2, 2, 32], axis=np.arange(32.0))
    found = measured(path)
    assert sparse.issparse(found["spectra"])
    dense = found["spectra"].toarray()
    assert (dense[1, 5], dense[2, 7], dense.sum()) == (300, 3, 303)
    assert found["counts"] == pytest.approx(303 / 4)


def journal(path: Path, *messages: Sequence[Part]) -> Path:
    """A recording of these messages."""
    opened = Opened({"series": "s", "opened_ns": 1})
    items = [Arrived(10 + i, list(parts)) for i, parts in enumerate(messages)]
    with path.open("wb") as file:
        file.writelines(pack_record(opened))
        for item in items:
            file.writelines(pack_record(item))
            file.writelines(pack_record(Tick(item.t_ns)))
    return path


def test_a_recording_is_summed_position_by_position(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (6, 32)).astype(np.uint16)
    first, second = encode_image("s", 1, 0, counts[:3]), encode_image("s", 2, 3, counts[3:], index=1)
    spoilt = [first[0], b"short"]
    path = journal(
        tmp_path / "a.swj", encode_header("s", [2, 2], AXIS, technique="eds", noise={"model": "poisson"}),
        second, spoilt, first, first, encode_series_end("s", 4, 6),
    )  # fmt: skip
    found = measured(path)
    expected = np.zeros((4, 32))
    np.add.at(expected, [0, 1, 2, 1, 2, 3], counts)
    assert np.array_equal(found["spectra"], expected)
    assert found["noise"]["model"] == "poisson"
    assert (found["technique"], found["nav_shape"]) == ("eds", (2, 2))
    assert found["counts"] == pytest.approx(expected.sum() / 4)


def test_a_recording_in_list_mode_stays_sparse(tmp_path: Path) -> None:
    channels = np.array([3, 3, 9, 0], dtype=np.uint16)
    events = encode_events("s", 1, 0, np.array([0, 2, 4], np.uint32), channels, 32)
    found = measured(journal(tmp_path / "a.swj", encode_header("s", [1, 2], AXIS), events))
    assert sparse.issparse(found["spectra"])
    assert found["spectra"].toarray()[:, [0, 3, 9]].tolist() == [[0, 2, 0], [1, 0, 1]]
    assert found["noise"] is None


def test_a_recording_without_spectra_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no spectra"):
        measured(journal(tmp_path / "a.swj", encode_header("s", [1, 2], AXIS)))
