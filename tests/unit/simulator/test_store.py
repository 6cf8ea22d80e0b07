"""What is saved of a scan, read back by the library that HyperSpy reads it with."""

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
