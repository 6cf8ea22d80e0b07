"""Specimens: their truth, their looks at any size, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulator.sample import load_specimen, specimen_names

SMALL = (24, 24)


@pytest.mark.parametrize("name", specimen_names())
def test_every_specimen_is_normalised_and_complete(name: str) -> None:
    specimen = load_specimen(name, seed=3, shape=SMALL)
    assert specimen.abundances.shape == (24 * 24, len(specimen.phases))
    assert specimen.endmembers.shape == (len(specimen.phases), specimen.axis.size)
    assert np.all(specimen.endmembers >= 0)
    assert np.all(specimen.abundances >= 0)
    assert specimen.expected().sum(axis=1).mean() == pytest.approx(1.0)
    present = specimen.abundances.max(axis=0) > 0.02
    assert present.all(), [n for n, p in zip(specimen.phases, present, strict=True) if not p]


def test_the_exercise_is_the_lectures() -> None:
    specimen = load_specimen("exercise", seed=0)
    assert specimen.nav_shape == (100, 100)
    assert specimen.axis.size == 1024
    assert len(specimen.phases) - len(specimen.unexpected) == 3
    assert 1 <= len(specimen.rare_positions()) <= 12


def test_the_large_map_has_six_phases_and_stays_factored() -> None:
    specimen = load_specimen("map512", seed=0)
    assert specimen.nav_shape == (512, 512)
    assert specimen.axis.size == 2048
    assert len(specimen.phases) - len(specimen.unexpected) == 6
    assert specimen.abundances.nbytes + specimen.endmembers.nbytes < 32e6


def test_same_seed_same_specimen() -> None:
    one, same, other = (load_specimen("exercise", seed=s, shape=SMALL) for s in (5, 5, 6))
    np.testing.assert_array_equal(one.abundances, same.abundances)
    np.testing.assert_array_equal(one.endmembers, same.endmembers)
    assert np.any(one.abundances != other.abundances)


def test_rare_positions_are_where_the_unexpected_phase_is() -> None:
    specimen = load_specimen("exercise", seed=1)
    k = specimen.phases.index("unknown")
    rare = specimen.rare_positions()
    assert np.all(specimen.phase_map().reshape(-1)[rare] == k)
    others = np.delete(np.arange(specimen.n_positions), rare)
    assert np.all(specimen.abundances[others, k] < 0.05)


def test_truth_can_be_saved_and_is_what_was_simulated(tmp_path: Path) -> None:
    specimen = load_specimen("exercise", seed=1, shape=SMALL)
    specimen.save(tmp_path / "truth.npz", counts=150.0)
    with np.load(tmp_path / "truth.npz", allow_pickle=False) as truth:
        np.testing.assert_allclose(truth["abundances"] @ truth["endmembers"], 150.0 * specimen.expected())
        assert list(truth["names"]) == list(specimen.phases)
        np.testing.assert_array_equal(truth["rare"], specimen.rare_positions())
        np.testing.assert_array_equal(truth["axis"], specimen.axis.values)


def write(tmp_path: Path, layout: str, phases: str = "") -> str:
    path = tmp_path / "mine.toml"
    path.write_text(
        'title = "mine"\ntechnique = "eds"\nshape = [8, 10]\ncounts = 10\n'
        "[axis]\nstart = 0.0\nstop = 10.0\nchannels = 100\n"
        '[[phases]]\nname = "a"\natomic = { Fe = 1.0 }\n'
        f'[[phases]]\nname = "b"\natomic = {{ Al = 1.0 }}\nthickness_nm = 30\n{phases}' + layout
    )
    return str(path)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    layout = (
        '[[layout]]\nkind = "fill"\nphase = "a"\n'
        '[[layout]]\nkind = "gradient"\nphase = "b"\nfirst = 0.0\nlast = 1.0\n'
        '[[layout]]\nkind = "wedge"\nfirst = 1.0\nlast = 3.0\n'
    )
    specimen = load_specimen(write(tmp_path, layout))
    maps = specimen.abundances.reshape(8, 10, 2)
    share = maps[..., 1] / maps.sum(axis=-1)
    np.testing.assert_allclose(share[0], (np.arange(10) + 0.5) / 10, atol=1e-9)
    # Dead time takes more from the thick end, so the wedge is a little flatter than 3 to 1.
    thickness = maps.sum(axis=-1)[:, 0]
    assert 2.3 < thickness[-1] / thickness[0] < 2.75


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ('[[layout]]\nkind = "fill"\nphase = "c"\n', "no phase 'c'"),
        ('[[layout]]\nkind = "gradient"\nphase = "a"\n', "must cover the whole map"),
        ('[[layout]]\nkind = "fill"\nphase = "a"\ncolour = "red"\n', "colour"),
        ('[[layout]]\nkind = "stripes"\nphase = "a"\n', "stripes"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong(tmp_path: Path, layout: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load_specimen(write(tmp_path, layout))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="exercise"):
        load_specimen("cheese")


BULK = (
    '[conditions]\ngeometry = "bulk"\nbeam_kev = 20.0\nsolid_angle_sr = 0.03\n[[layout]]\nkind = "fill"\nphase = "a"\n'
)


def test_a_bulk_has_no_thickness(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="phase b: a bulk has no thickness"):
        load_specimen(write(tmp_path, BULK))


def test_the_ore_is_a_bulk_with_traces() -> None:
    specimen = load_specimen("sulfide_ore", seed=0, shape=SMALL)
    galena = specimen.endmembers[specimen.phases.index("galena")]
    energies = specimen.axis.values
    # In a film 200 keV electrons would excite Pb K and make as much of Pb L as of M; 20 keV in a bulk make little.
    ratio = galena[np.abs(energies - 10.55) < 0.2].sum() / galena[np.abs(energies - 2.34) < 0.2].sum()
    assert 0.01 < ratio < 0.2
    # Beyond the beam only pairs that pile up are recorded.
    assert galena[energies > 20.1].max() < 0.02 * galena[np.abs(energies - 15) < 0.2].max()
    sphalerite = specimen.endmembers[specimen.phases.index("sphalerite")]
    line, beside = np.abs(energies - 3.13) < 0.06, np.abs(energies - 2.85) < 0.06
    assert 1.0 < sphalerite[line].mean() / sphalerite[beside].mean() < 1.3, "half a per cent of cadmium"
