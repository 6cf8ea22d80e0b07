"""What is saved of a scan, opened in HyperSpy and by the library that it reads it with."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulator.detector import Counting, Integrating
from simulator.effects import Effects
from simulator.sample import load_specimen
from simulator.store import Scenes, check_path
from streamer.wire import Events


def read_back(path: Path) -> dict[str, Any]:
    with warnings.catch_warnings():
        # zarr 2 announces what zarr 3 will no longer have, which RosettaSciIO uses.
        warnings.simplefilter("ignore")
        from rsciio.zspy import file_reader

        (signal,) = file_reader(str(path))
    return dict(signal)


@pytest.mark.parametrize("list_mode", [False, True])
def test_the_store_holds_what_was_measured_and_the_truth(tmp_path: Path, list_mode: bool) -> None:
    specimen = load_specimen("exercise", shape=(5, 6), channels=64)
    scenes = Scenes(specimen, 80.0, 0.001, 4, Counting(), list_mode, Effects(), tmp_path / "scan.zspy")
    scene = scenes.make()
    expected = np.zeros((30, 64))
    visited = np.array([3, 4, 4, 29], dtype=np.uint32)
    for _ in range(3):
        spectra = scene.measure(visited, np.zeros(4, dtype=np.int64), np.full(4, 0.001))
        if isinstance(spectra, Events):
            rows = np.repeat(visited, np.diff(spectra.offsets))
            np.add.at(expected, (rows, spectra.channels), 1)
        else:
            np.add.at(expected, visited, spectra)
    scenes.save()
    signal = read_back(tmp_path / "scan.zspy")
    np.testing.assert_array_equal(signal["data"], expected.reshape(5, 6, 64))
    assert signal["data"].dtype == np.uint32
    assert [a["name"] for a in signal["axes"]] == ["y", "x", "Energy"]
    assert [a["navigate"] for a in signal["axes"]] == [True, True, False]
    energy = signal["axes"][2]
    assert (energy["units"], energy["size"]) == ("keV", 64)
    assert energy["offset"] + energy["scale"] * 63 == pytest.approx(specimen.axis.values[-1])
    assert signal["metadata"]["Signal"]["signal_type"] == "EDS_TEM"
    truth = signal["original_metadata"]["truth"]
    np.testing.assert_allclose(truth["abundances"] @ truth["endmembers"], 80 * specimen.expected())
    assert list(truth["names"]) == list(specimen.phases)
    assert truth["dwell_s"].sum() == pytest.approx(0.012)
    assert truth["dwell_s"][0, 4] == pytest.approx(0.006)


@pytest.mark.parametrize(
    ("name", "kind", "axis", "instrument"),
    [
        ("exercise", "EDSTEMSpectrum", ("Energy", "keV"), {"TEM.Detector.EDS.elevation_angle": 20.0}),
        ("sulfide_ore", "EDSSEMSpectrum", ("Energy", "keV"), {"SEM.beam_energy": 20.0}),
        ("fe_oxidation", "EELSSpectrum", ("Energy loss", "eV"), {"TEM.Detector.EELS.collection_angle": 20.0}),
        ("steel_phases", "Signal1D", ("Two theta", "deg"), {}),
        ("tungsten_flakes", "Signal1D", ("Binding energy", "eV"), {}),
        ("polymer_blend", "Signal1D", ("Raman shift", "1/cm"), {}),
    ],
)  # fmt: skip
def test_hyperspy_opens_it_with_its_axes_units_and_data(
    tmp_path: Path, exspy: Any, name: str, kind: str, axis: tuple[str, str], instrument: dict[str, float]
) -> None:
    """exspy brings HyperSpy's signals for EDS and EELS."""
    import hyperspy.api as hs

    specimen = load_specimen(name, shape=(3, 4))
    scenes = Scenes(specimen, 500.0, 0.002, 4, Counting(), False, Effects(), tmp_path / "scan.zspy")
    spectra = scenes.make().measure(np.arange(12, dtype=np.uint32), np.zeros(12, np.int64), np.full(12, 0.002))
    scenes.save()
    with warnings.catch_warnings():
        # zarr 2, as in `read_back`.
        warnings.simplefilter("ignore")
        signal = hs.load(str(tmp_path / "scan.zspy"))
    assert type(signal).__name__ == kind
    np.testing.assert_array_equal(signal.data.reshape(12, -1), spectra)
    x, y = signal.axes_manager.navigation_axes
    assert [(a.name, a.units, a.scale, a.size) for a in (y, x)] == [
        ("y", "nm", specimen.step_nm, 3), ("x", "nm", specimen.step_nm, 4)
    ]  # fmt: skip
    (spectral,) = signal.axes_manager.signal_axes
    assert (spectral.name, spectral.units) == axis
    np.testing.assert_allclose(spectral.axis, specimen.axis.values)
    assert signal.metadata.General.title == name
    for key, value in instrument.items():
        assert signal.metadata.get_item(f"Acquisition_instrument.{key}") == value
    truth = signal.original_metadata.truth
    np.testing.assert_allclose(truth.abundances @ truth.endmembers, 500 * specimen.expected())
    np.testing.assert_allclose(truth.dwell_s, 0.002)


def test_values_of_an_integrating_detector_are_kept_as_they_are(tmp_path: Path) -> None:
    specimen = load_specimen("tungsten_flakes", shape=(4, 4))
    detector = Integrating(gain=2.0, offset=10.0, read_sigma=3.0)
    scenes = Scenes(specimen, 3000.0, 0.001, 4, detector, False, Effects(), tmp_path / "scan.zspy")
    spectra = scenes.make().measure(np.arange(16, dtype=np.uint32), np.zeros(16, np.int64), np.full(16, 0.001))
    scenes.save()
    signal = read_back(tmp_path / "scan.zspy")
    np.testing.assert_array_equal(signal["data"].reshape(16, -1), spectra)
    assert signal["axes"][2]["name"] == "Binding energy"


def test_a_path_that_cannot_be_saved_to_is_refused_before_the_scan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zspy"):
        check_path(tmp_path / "scan.zip")
    with pytest.raises(FileNotFoundError, match="no folder"):
        check_path(tmp_path / "missing" / "scan.zspy")
