"""Lines and levels against published tables, and elements named in simulated and real EDS spectra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.candidates import Feature, candidates, label_peaks
from models.elements import find_elements
from models.lines import core_levels, emission_lines, fwhm_kev, make_templates
from simulator.sample import load_specimen

# X-ray Data Booklet (LBNL, 2009), table 1-2, keV; Kb1 of Cr and Mn, the others alpha 1 or the weighted doublet.
PUBLISHED = [
    ("C", "Ka", 0.277), ("O", "Ka", 0.525), ("Al", "Ka", 1.487), ("Si", "Ka", 1.740), ("S", "Ka", 2.308),
    ("Ti", "Ka", 4.509), ("Cr", "Ka", 5.412), ("Cr", "Kb", 5.947), ("Mn", "Kb", 6.490), ("Fe", "Ka", 6.399),
    ("Cu", "Ka", 8.041), ("Mo", "La", 2.293), ("Ag", "La", 2.984), ("Ag", "Lb", 3.151), ("Ba", "La", 4.466),
    ("W", "La", 8.397), ("Au", "Ma", 2.123), ("Au", "La", 9.712), ("Pb", "Lb", 12.614), ("Pb", "Ma", 2.346),
]  # fmt: skip


@pytest.mark.parametrize(("element", "label", "kev"), PUBLISHED)
def test_energies_are_those_of_the_data_booklet(element: str, label: str, kev: float) -> None:
    (line,) = [line for line in emission_lines(element) if line.label == label]
    assert line.kev == pytest.approx(kev, abs=0.04 if label == "Ma" else 1.2e-3 * kev + 1e-3)


def test_edges_are_those_of_the_eels_atlas() -> None:
    """Ahn & Krivanek, EELS Atlas: onsets in eV."""
    atlas = {
        ("O", "K"): 532,
        ("Fe", "L3"): 708,
        ("Cr", "L3"): 575,
        ("Ti", "L3"): 456,
        ("C", "K"): 284,
        ("Ce", "M5"): 883,
    }
    for (element, shell), ev in atlas.items():
        (level,) = [lev for lev in core_levels(element) if lev.shell == shell]
        assert level.ev == pytest.approx(ev, abs=3)
        assert level.yields_edge


def test_resolution_is_the_rated_one_at_manganese_and_better_below() -> None:
    assert fwhm_kev(5.8951, 0.130) == pytest.approx(0.130)
    # Goldstein et al. (2018): a 129 eV detector has about 65 eV at C Ka and 162 eV at Ge Ka.
    assert fwhm_kev(0.277, 0.130) == pytest.approx(0.065, abs=0.012)
    assert fwhm_kev(9.87, 0.130) == pytest.approx(0.159, abs=0.006)


def test_templates_have_unit_area_and_an_escape_peak() -> None:
    templates = make_templates(np.linspace(0.2, 20.0, 1981), 0.130)
    iron = templates.spectra[templates.names.index(("Fe", "K"))]
    assert iron.sum() == pytest.approx(1.0, abs=0.01)
    centres = 0.5 * (np.linspace(0.2, 20.0, 1981)[1:] + np.linspace(0.2, 20.0, 1981)[:-1])
    escape = iron[np.abs(centres - (6.40 - 1.74)) < 0.1].sum()
    # Reed & Ware (1972): 0.35 % of Fe Ka.
    assert escape == pytest.approx(0.88 * 0.0035, rel=0.25)


@pytest.mark.parametrize(
    ("window", "first"),
    [((5.35, 5.48), "Cr Ka 5.412 keV"), ((1.43, 1.55), "Al Ka 1.486 keV"), ((8.0, 8.1), "Cu Ka 8.040 keV")],
)
def test_a_window_alone_names_the_nearest_strong_line(window: tuple[float, float], first: str) -> None:
    said = candidates("eds", *window, "keV")
    assert said[0] == first
    assert candidates("eds", 1e3 * window[0], 1e3 * window[1], "eV") == said


def test_an_overlap_is_said_and_a_minor_line_names_its_partner() -> None:
    assert {s.split()[0] for s in candidates("eds", 2.25, 2.38, "keV")} == {"S", "Mo", "Pb"}
    assert "V Kb 5.428 keV (with V Ka 4.950 keV)" in candidates("eds", 5.35, 5.48, "keV")


def test_other_techniques() -> None:
    assert candidates("eels", 705, 712, "eV") == ["Fe L3 edge 706.8 eV"]
    assert candidates("eels", 528, 536, "eV")[0] == "O K edge 532 eV"
    # Analysers count binding energies downwards from zero, some with a minus.
    assert candidates("xps", -33.5, -31.0, "eV")[0] == "W 4f7/2 31.4 eV"
    assert candidates("xrd", 40.0, 41.0, "deg") == []
    assert candidates("raman", 500.0, 520.0, "cm-1") == []


def test_partners_tell_sulfur_from_molybdenum_and_lead() -> None:
    """The three lie within one peak's width at 2.3 keV; each brings other lines."""
    values = -0.2 + 0.02 * np.arange(1024, dtype=np.float64)
    edges = np.concatenate([values - 0.01, values[-1:] + 0.01])
    templates = make_templates(np.maximum(edges, 1e-3 * np.arange(edges.size)), 0.130)
    rng = np.random.default_rng(5)
    continuum = np.where(values > 0.3, 300.0 / np.maximum(values, 0.3) / 150.0, 0.0)
    for element, shells in (("S", "K"), ("Mo", "KL"), ("Pb", "LM")):
        # Equal photons of each shell on the axis: inside what any beam gives.
        lines = sum(templates.spectra[templates.names.index((element, shell))] for shell in shells)
        counts = rng.poisson(400 * lines + continuum)
        said = candidates("eds", 2.2, 2.45, "keV", Feature(values, counts, continuum))
        assert said[0].startswith(f"{element} "), (element, said)


COMPOSITIONS = {
    "exercise": [{"Fe", "Cr"}, {"Ni", "Cr", "Fe", "Mo"}, {"Al", "O", "Ti"}, {"Cu", "S", "Pb"}],
    "core_shell": [{"C", "Cu"}, {"Au"}, {"Ag"}, {"Au"}],
    "map512": [{"Fe", "Cr", "Ni"}, {"Ni", "Al", "Ti"}, {"Ti", "Al", "V"}, {"Si", "O", "Fe", "Mg"}, {"Cu", "Zn"}],
}


@pytest.mark.parametrize("name", list(COMPOSITIONS))
def test_elements_of_simulated_phases_at_10000_counts(name: str) -> None:
    """All but traces are found, over two draws, and next to nothing else."""
    specimen = load_specimen(name, shape=(8, 8))
    rng = np.random.default_rng(11)
    false = 0
    for endmember, truth in zip(specimen.endmembers, COMPOSITIONS[name], strict=False):
        for _ in range(2):
            found = set(find_elements(specimen.axis.values, rng.poisson(10000 * endmember / endmember.sum())).elements)
            assert truth <= found
            traces = {"Mn", "O", "Pd", "Cu", "Na", "K", "Ca", "Si", "C", "Cr", "Ni", "Mo"}
            false += len(found - truth - traces)
    assert false <= 1


def summed(file: Path) -> tuple[NDArray[np.float64], NDArray[Any]]:
    with np.load(file) as f:
        if "data" in f:
            return f["axis"], f["data"].reshape(-1, f["data"].shape[-1]).sum(axis=0, dtype=np.int64)
        return f["axis"], np.bincount(f["ch"], weights=f["count"], minlength=f["axis"].size)


@pytest.mark.parametrize(
    ("file", "sure", "possible"),
    [
        # Aluminium beside silver on a copper holder; a nickel superalloy; iron sulfide on a copper grid.
        ("eds_bruker_sem_50x50", {"Al", "Ag", "Cu", "C", "O"}, {"Ti", "Si"}),
        ("eds_fei_superx_20frames_50x10", {"Ni", "Cr", "Fe", "Nb", "Mo", "Ti", "Al"}, {"Cu", "Si", "O", "C", "Zr"}),
        ("eds_jeol_14frames_512x512", {"Fe", "S", "Cu", "C", "O"}, {"Ca", "Cr", "Si", "Zn", "Zr", "P"}),
    ],
)
def test_elements_of_real_maps(shared_data: Path, file: str, sure: set[str], possible: set[str]) -> None:
    values, counts = summed(shared_data / f"{file}.npz")
    fit = find_elements(values, counts)
    assert sure <= set(fit.elements) <= sure | possible
    # The calibration of these files is right to some eV, and so is what is found for it.
    assert abs(fit.offset_kev) < 0.01
    assert abs(fit.gain - 1) < 3e-3
    labels = {label.text: label.value for label in label_peaks("eds", values, "keV", counts)}
    main = max(fit.lines, key=lambda line: line.counts)
    assert labels[f"{main.element} {main.label}"] == pytest.approx(main.kev)


def test_edges_of_an_oxide_are_labelled_where_they_begin() -> None:
    specimen = load_specimen("fe_oxidation", shape=(16, 16))
    summed_counts = 2000 * specimen.expected().sum(axis=0)
    labels = label_peaks("eels", specimen.axis.values, "eV", summed_counts)
    assert [label.text for label in labels] == ["O K", "Fe L3"]
    assert labels[0].value == pytest.approx(532, abs=5)
    assert labels[1].value == pytest.approx(707.5, abs=4)


def test_nothing_is_labelled_in_a_continuum() -> None:
    values = 0.01 * np.arange(2048, dtype=np.float64)
    counts = np.random.default_rng(2).poisson(200.0 / (1 + values))
    assert label_peaks("eds", values, "keV", counts) == []
    losses = 300.0 + 0.5 * np.arange(1024, dtype=np.float64)
    assert label_peaks("eels", losses, "eV", np.random.default_rng(3).poisson(1e13 * losses**-3.0)) == []
