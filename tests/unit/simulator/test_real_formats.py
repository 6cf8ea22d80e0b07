"""Files that real instruments wrote, as their programs write them, against RosettaSciIO and against other copies.

They are test data of HyperSpy 1.7.6 (GPL-3) and come with its wheel: ``pip download --no-deps hyperspy==1.7.6``, then
name the wheel in ``SCANWISE_HYPERSPY_WHEEL``. Without it these tests are skipped.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from simulator.files import Recorded, read
from simulator.instrument import Instrument
from simulator.raster import scan_order
from simulator.replay import FileScene
from simulator.schedule import Plan
from streamer.wire import Block, decode
from tests.unit.simulator.test_peak_to_background import line_to_continuum, simulated

INSIDE = "hyperspy/tests/io/"
PASSES = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of HyperSpy's test data, Velox files unpacked."""
    wheel = os.environ.get("SCANWISE_HYPERSPY_WHEEL")
    if wheel is None:
        pytest.skip("SCANWISE_HYPERSPY_WHEEL does not name the wheel of hyperspy 1.7.6")
    where = tmp_path_factory.mktemp("hyperspy")
    with zipfile.ZipFile(wheel) as archive:
        wanted = ("bruker_data/", "emd_files/", "FEI_old/", "sur_data/", "ripple_files/", "JEOL_files/InvalidFrame/")
        members = [n for n in archive.namelist() if n.startswith(tuple(INSIDE + w for w in wanted))]
        archive.extractall(where, members)
    files = where / INSIDE
    with zipfile.ZipFile(files / "emd_files" / "fei_emd_files.zip") as archive:
        archive.extractall(files / "velox")
    return files


@pytest.mark.parametrize(
    ("name", "technique", "frames", "nav_shape", "channels", "units"),
    [
        ("velox/fei_SI_SuperX-HAADF_20frames_10x50.emd", "eds", 20, (50, 10), 4096, "keV"),
        ("velox/fei_SI_EDS-HAADF-4detectors_2frames.emd", "eds", 2, (16, 16), 4096, "keV"),
        ("velox/fei_emd_si.emd", "eds", 5, (16, 16), 4096, "keV"),
        ("bruker_data/bcf_v2_50x50px.bcf", "eds", 1, (50, 50), 2048, "keV"),
        ("bruker_data/test_TEM.bcf", "eds", 1, (64, 64), 2048, "keV"),
        ("bruker_data/over16bit.bcf", "eds", 1, (3, 4), 4096, "keV"),
        ("JEOL_files/InvalidFrame/Sample/00_Dummy-Data/Dummy-Data_0000015.pts", "eds", 1, (64, 64), 4096, "keV"),
        ("FEI_old/16x16-spectrum_image-5x5x1024_1.ser", "other", 1, (5, 5), 1024, "eV"),
        ("FEI_old/16x16-line_profile_horizontal_10x1024_1.ser", "other", 1, (10,), 1024, "eV"),
        ("sur_data/test_spectral_map.sur", "other", 1, (12, 10), 310, "mm"),
        ("ripple_files/test_ripple_sdim-1_ndim-2_uint16.rpl", "eels", 1, (2, 3), 4, "eV"),
    ],
)
def test_a_file_is_played_position_by_position(
    folder: Path, name: str, technique: str, frames: int, nav_shape: tuple[int, ...], channels: int, units: str
) -> None:
    recorded = read(folder / name)
    assert (recorded.technique, recorded.frames, recorded.nav_shape) == (technique, frames, nav_shape)
    assert (recorded.axis.size, recorded.axis.units) == (channels, units)
    assert np.all(np.diff(recorded.axis.values) > 0)
    np.testing.assert_array_equal(played(recorded), dense(recorded)[: PASSES * int(np.prod(nav_shape))])


def played(recorded: Recorded) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return what is sent of the first passes, f8[passes * n, D]."""
    plan = Plan(scan_order(recorded.nav_shape), passes=min(PASSES, recorded.frames))
    machine = Instrument(FileScene(recorded), plan, series="s", block=100)
    blocks = [m for m in map(decode, (o.parts for o in machine.step(float("inf")))) if isinstance(m, Block)]
    return np.concatenate([np.asarray(b.counts, dtype=np.float64) for b in blocks])


def dense(recorded: Recorded) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    counts = recorded.counts.toarray() if recorded.is_sparse else recorded.counts
    return np.asarray(counts, dtype=np.float64)


def test_velox_streams_hold_what_hyperspy_read_out_of_them(folder: Path) -> None:
    recorded = read(folder / "velox" / "fei_emd_si.emd")
    theirs = np.load(folder / "velox" / "fei_emd_si.npy")
    summed = dense(recorded).reshape(recorded.frames, 16, 16, 4096).sum(axis=0)
    np.testing.assert_array_equal(summed, theirs.reshape(summed.shape))


def test_velox_streams_hold_what_rosettasciio_reads_out_of_them(folder: Path) -> None:
    pytest.importorskip("sparse", reason="RosettaSciIO reads event streams only with sparse")
    from rsciio.emd import file_reader

    path = folder / "velox" / "fei_SI_EDS-HAADF-4detectors_2frames.emd"
    recorded = read(path)
    spectra = [s for s in file_reader(str(path), sum_frames=False) if s["data"].ndim == 4]
    assert len(spectra) == 1
    np.testing.assert_array_equal(dense(recorded), spectra[0]["data"].reshape(-1, 4096))


@pytest.mark.parametrize(
    ("name", "copy"),
    [
        ("velox/fei_SI_SuperX-HAADF_20frames_10x50.emd", "eds_fei_superx_20frames_50x10"),
        ("bruker_data/bcf_v2_50x50px.bcf", "eds_bruker_sem_50x50"),
    ],
)
def test_a_file_holds_what_another_copy_of_it_holds(folder: Path, shared_data: Path, name: str, copy: str) -> None:
    ours, theirs = read(folder / name), read(shared_data / f"{copy}.npz")
    np.testing.assert_array_equal(dense(ours), dense(theirs))
    np.testing.assert_allclose(ours.axis.values, theirs.axis.values, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bruker_data/bruker_nano.spx", "only data of 4096 values"),
        ("velox/fei_emd_image.emd", "only data of 512 x 512 values"),
        ("velox/fei_emd_spectrum.emd", "only data of 4096 values"),
        ("bruker_data/Nope.bcf", "not SFS container"),
        (
            "JEOL_files/InvalidFrame/Sample/00_Dummy-Data/Dummy-Data_0000007.pts",
            "only data of 0 x 64 x 64 x 4096 values",
        ),
    ],
)
def test_what_is_no_spectrum_image_is_refused_in_a_sentence(folder: Path, name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(folder / name)


@pytest.mark.parametrize("window_kev", [(4.5, 6.0), (14.5, 15.5)])
def test_a_line_of_gold_stands_out_of_the_continuum_as_simulated(folder: Path, window_kev: tuple[float, float]) -> None:
    """A map that was not used to choose the continuum of holder and column."""
    recorded = read(folder / "velox" / "fei_SI_EDS-HAADF-4detectors_2frames.emd")
    summed = np.asarray(recorded.counts.sum(axis=0), dtype=np.float64).reshape(-1)
    real = line_to_continuum(summed, recorded.axis, 9.71, window_kev)
    found, alone = simulated({"Au": 0.5, "Pd": 0.25, "Si": 0.25}, 9.71, window_kev)
    assert found == pytest.approx(real, rel=0.25)
    assert alone > 1.9 * real
