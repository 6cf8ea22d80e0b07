"""Specimens: their truth, their looks at any size, and what is refused."""

from __future__ import annotations

from importlib.resources import files
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


@pytest.mark.parametrize("name", specimen_names())
def test_the_truth_is_kept_factored(name: str) -> None:
    """Abundances and end-members: nowhere is there an array of positions times channels."""
    specimen = load_specimen(name)
    n, d = specimen.n_positions, specimen.axis.size
    largest = max(np.size(v) for v in [*specimen.truth(1.0).values(), *vars(specimen).values()] if hasattr(v, "shape"))
    assert largest <= len(specimen.phases) * max(n, d)


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


def test_an_unknown_name_lists_the_known_ones_and_what_may_have_been_meant() -> None:
    with pytest.raises(ValueError, match=r"no specimen 'cheese': there are core_shell, .*exercise"):
        load_specimen("cheese")
    with pytest.raises(ValueError, match=r"did you mean exercise\?"):
        load_specimen("excercise")


@pytest.mark.parametrize(
    ("name", "wrong", "right", "said"),
    [
        ("exercise", "technique", "technique =", "line 2"),
        ("exercise", "Xx = 0.88", "Fe = 0.88", "unknown element"),
        ("exercise", "Fe = -0.88", "Fe = 0.88", r"phase ferrite: atomic.Fe: Input should be greater than 0"),
        (
            "exercise",
            "mass = { Fe = 1.0 }\natomic = { Fe = 0.88,",
            "atomic = { Fe = 0.88,",
            "either 'atomic' or 'mass'",
        ),
        ("exercise", "densty = 7.8", "density_g_cm3 = 7.8", "phase ferrite: densty is unknown here"),
        ("exercise", "", "counts = 200", "counts is missing"),
        ("exercise", 'technique = "nmr"', 'technique = "eds"', "no technique 'nmr': there are eds"),
        ("exercise", "start = 30.0", "start = -0.2", "photon energies rises"),
        ("exercise", "start = 20.28", "start = -0.2", "axis: an axis that begins and ends at 20.28"),
        ("exercise", "beam_kv = 200.0", "beam_kev = 200.0", "beam_kv is unknown here"),
        ("exercise", "beam_kev = 0.05", "beam_kev = 200.0", "nothing of it is seen"),
        ("exercise", "current_na = 500.0", "current_na = 0.5", "lower the current"),
        ("exercise", 'within = "ferite"', 'within = "ferrite"', "no phase 'ferite'"),
        ("exercise", "weights = [0.5, 0.3]", "weights = [0.5, 0.3, 0.2]", "3 phases need as many weights"),
        ("exercise", "pixels = [4, 1]", "pixels = [1, 4]", "the fewest come first"),
        ("exercise", 'name = "ferrite"', 'name = "oxide"', "two phases have one name"),
        ("tungsten_flakes", 'level = "N9"', 'level = "N7"', "W has no level N9: there are K, L1"),
        ("steel_phases", 'centring = "Q"', 'centring = "I"', "'P', 'I', 'F' or 'C'"),
        ("steel_phases", "stop = 210.0", "stop = 110.0", "between 0 and 180 degrees"),
        ("fe_oxidation", 'edge = "L9"', 'edge = "L3"', "Fe has no edge L9: there are K, L1"),
        ("polymer_blend", "radius = [0.14, 0.05]", "radius = [0.05, 0.14]", "the smallest comes first"),
    ],
)
def test_mistakes_in_a_file_are_named_in_a_line(tmp_path: Path, name: str, wrong: str, right: str, said: str) -> None:
    text = files("simulator.specimens").joinpath(f"{name}.toml").read_text("utf-8")
    assert right in text
    (tmp_path / "mine.toml").write_text(text.replace(right, wrong, 1))
    with pytest.raises(ValueError, match=said) as found:
        load_specimen(str(tmp_path / "mine.toml"), shape=(5, 5), channels=64)
    assert "mine" in str(found.value)
    assert "\n" not in str(found.value)


def test_a_file_that_is_no_text_and_a_map_without_positions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"mine.toml: no text"):
        load_specimen(str(tmp_path / "mine.toml"))
    with pytest.raises(ValueError, match="0 x 4 positions"):
        load_specimen("exercise", shape=(0, 4))


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
