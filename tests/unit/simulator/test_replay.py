"""Real and made-up files as the instrument."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from simulator.files import read
from simulator.instrument import Instrument
from simulator.playback import Playback, is_recording
from simulator.raster import scan_order
from simulator.replay import FileScene
from simulator.schedule import Decision, Plan
from streamer.wire import Block, Events, Header, SeriesEnd, decode, encode_heartbeat
from streamer.wire.items import Arrived
from streamer.wire.journal import Opened, pack_record

FOREVER = float("inf")


@pytest.fixture
def counts() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).poisson(3.0, (3, 4, 5, 16)).astype(np.uint16)


@pytest.fixture
def dense_file(tmp_path: Path, counts: np.ndarray[Any, Any]) -> Path:
    meta = {"technique": "EDS", "dwell_s": 0.02, "nav_axes": [{"name": "y", "scale": 2.0}, {"name": "x", "scale": 2.0}]}
    path = tmp_path / "dense.npz"
    np.savez(path, data=counts[0], axis=np.arange(16) * 0.5, axis_units="keV", meta=json.dumps(meta))
    return path


@pytest.fixture
def frames_file(tmp_path: Path, counts: np.ndarray[Any, Any]) -> Path:
    frame, y, x, ch = np.nonzero(counts)
    path = tmp_path / "frames.npz"
    np.savez(
        path, frame=frame, y=y, x=x, ch=ch, count=counts[frame, y, x, ch], shape=counts.shape, axis=np.arange(16.0)
    )
    return path


def replayed(scene: FileScene, passes: int, block: int = 7) -> Iterator[Block]:
    machine = Instrument(scene, Plan(scan_order(scene.nav_shape), passes=passes), series="s", block=block)
    for sent in machine.step(FOREVER):
        message = decode(sent.parts)
        if isinstance(message, Block):
            yield message


def summed(scene: FileScene, passes: int) -> np.ndarray[Any, Any]:
    """Put the blocks where the protocol says they belong."""
    n = int(np.prod(scene.nav_shape))
    total = np.zeros((passes, n, scene.axis.size), np.uint32)
    for block in replayed(scene, passes):
        frames = block.map.frame + np.arange(block.n)
        if isinstance(block.counts, Events):
            row = np.repeat(frames, np.diff(block.counts.offsets))
            np.add.at(total, (row // n, row % n, block.counts.channels), 1)
        else:
            total[frames // n, frames % n] += block.counts
    return total


def test_a_dense_file_comes_out_exactly(dense_file: Path, counts: np.ndarray[Any, Any]) -> None:
    recorded = read(dense_file)
    assert (recorded.technique, recorded.dwell_s, recorded.nav_shape) == ("eds", 0.02, (4, 5))
    assert [a["scale"] for a in recorded.nav_axes] == [2.0, 2.0]
    np.testing.assert_array_equal(summed(FileScene(recorded), 1)[0].reshape(4, 5, 16), counts[0])


@pytest.mark.parametrize("list_mode", [False, True])
def test_frames_come_out_as_passes_exactly(frames_file: Path, counts: np.ndarray[Any, Any], list_mode: bool) -> None:
    recorded = read(frames_file)
    assert recorded.frames == 3
    scene = FileScene(recorded, list_mode=list_mode)
    np.testing.assert_array_equal(summed(scene, 3).reshape(counts.shape), counts)


def test_thinning_is_binomial_and_unbiased(frames_file: Path, counts: np.ndarray[Any, Any]) -> None:
    recorded = read(frames_file)
    wanted = 0.3 * recorded.mean_counts()
    draws = [summed(FileScene(recorded, counts=wanted, seed=s), 3) for s in range(40)]
    total = counts.sum()
    sums = np.array([d.sum() for d in draws])
    assert abs(sums.mean() - 0.3 * total) < 5 * np.sqrt(total * 0.3 * 0.7 / 40)
    assert np.all(np.max(draws, axis=0) <= counts.reshape(3, 20, 16))
    bright = counts.reshape(3, 20, 16) == counts.max()
    kept = np.concatenate([d[bright] for d in draws])
    assert kept.var() == pytest.approx(counts.max() * 0.3 * 0.7, rel=5 * np.sqrt(2 / len(kept)))


def test_thinning_what_are_no_counts_or_to_more_than_there_are_is_refused(tmp_path: Path, dense_file: Path) -> None:
    path = tmp_path / "analogue.npz"
    np.savez(path, data=np.linspace(-1, 1, 60, dtype="f4").reshape(2, 3, 10), axis=np.arange(10.0))
    with pytest.raises(ValueError, match="measured values"):
        FileScene(read(path), counts=1.0)
    with pytest.raises(ValueError, match="counts were asked for"):
        FileScene(read(dense_file), counts=1e6)


def test_points_with_coordinates_are_positions(tmp_path: Path) -> None:
    path = tmp_path / "points.npz"
    where = np.random.default_rng(0).random((6, 2))
    np.savez(path, data=np.ones((6, 10), "f4"), axis=np.arange(10.0) ** 2, pos=where)
    recorded = read(path)
    machine = Instrument(FileScene(recorded), Plan(scan_order(recorded.nav_shape)), series="s")
    header = decode(machine.step(FOREVER)[0].parts)
    assert isinstance(header, Header)
    assert header.map.nav_shape == [6]
    assert header.positions is not None
    np.testing.assert_array_equal(header.positions, where)
    np.testing.assert_array_equal(header.map.axis.array(), np.arange(10.0) ** 2)


def write_hspy(path: Path, data: np.ndarray[Any, Any], kind: dict[str, str], *, navigate: bool = True) -> None:
    from rsciio import hspy

    axes = [
        {"name": n, "units": u, "size": s, "offset": 0.0, "scale": 0.5, "navigate": nav, "index_in_array": i}
        for i, (n, u, s, nav) in enumerate([("y", "nm", 4, True), ("x", "nm", 5, True), ("E", "keV", 16, False)])
    ]
    signal = {
        "data": data, "axes": axes, "original_metadata": {}, "learning_results": {},
        "metadata": {"Signal": kind, "General": {"title": "t"}},
        "package_info": {}, "tmp_parameters": {}, "models": {}, "attributes": {"_lazy": False},
    }  # fmt: skip
    hspy.file_writer(str(path), signal)
    if not navigate:
        with h5py.File(path, "r+") as file:
            for k in range(3):
                del file[f"Experiments/t/axis-{k}"].attrs["navigate"]


def test_a_hyperspy_file_is_read_by_rosettasciio(tmp_path: Path, counts: np.ndarray[Any, Any]) -> None:
    write_hspy(tmp_path / "a.hspy", counts[0], {"signal_type": "EDS_TEM"})
    recorded = read(tmp_path / "a.hspy")
    assert (recorded.technique, recorded.nav_shape, recorded.axis.scale) == ("eds", (4, 5), 0.5)
    np.testing.assert_array_equal(summed(FileScene(recorded), 1)[0].reshape(4, 5, 16), counts[0])


def test_axes_that_do_not_say_what_they_are(tmp_path: Path, counts: np.ndarray[Any, Any]) -> None:
    """Old files of HyperSpy say it for the whole; Bruker's say it of their spectra, and not of images beside them."""
    write_hspy(tmp_path / "old.hspy", counts[0], {"signal_type": "EDS_SEM", "record_by": "spectrum"}, navigate=False)
    recorded = read(tmp_path / "old.hspy")
    assert (recorded.technique, recorded.nav_shape, recorded.axis.scale) == ("eds", (4, 5), 0.5)
    np.testing.assert_array_equal(summed(FileScene(recorded), 1)[0].reshape(4, 5, 16), counts[0])
    write_hspy(tmp_path / "images.hspy", counts[0], {"signal_type": ""}, navigate=False)
    with pytest.raises(ValueError, match="only data of 4 x 5 x 16 values"):
        read(tmp_path / "images.hspy")


def test_positions_without_numbers_are_not_measured(tmp_path: Path) -> None:
    data = np.ones((2, 3, 10), "f4")
    data[1, 0, 4] = np.nan
    np.savez(tmp_path / "holes.npz", data=data, axis=np.arange(10.0))
    assert read(tmp_path / "holes.npz").measured().tolist() == [True, True, True, False, True, True]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"no")
    with pytest.raises(ValueError, match="no reader"):
        read(tmp_path / "a.docx")
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "b.hspy")
    (tmp_path / "d.npz").write_bytes(b"PK no")
    with pytest.raises(ValueError, match=r"d.npz is no .npz file"):
        read(tmp_path / "d.npz")
    np.savez(tmp_path / "c.npz", data=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="needs 'axis'"):
        read(tmp_path / "c.npz")


REAL = {
    "cl_quantum_emitters_16x16": ("other", (16, 16), 1336, "nm"),
    "eds_bruker_sem_50x50": ("eds", (50, 50), 2048, "keV"),
    "eds_fei_superx_20frames_50x10": ("eds", (50, 10), 4096, "keV"),
    "eds_jeol_14frames_512x512": ("eds", (512, 512), 4096, "keV"),
    "eels_velox_dark_16x20": ("eels", (16, 20), 2048, "eV"),
    "sim_nion_usim_eels_20x20": ("eels", (20, 20), 512, "eV"),
    "xps_nano_antares_51x41": ("xps", (51, 41), 95, "eV"),
    "xrd_fegapd_points_278": ("xrd", (278,), 551, "deg"),
}


def test_every_real_file_that_there_is_has_its_line_here(shared_data: Path) -> None:
    assert {p.stem for p in shared_data.glob("*.npz")} == set(REAL)


@pytest.mark.parametrize("name", REAL)
def test_a_real_file_comes_out_exactly(shared_data: Path, name: str) -> None:
    """The first two frames: all of it would take a minute, and what is big is sent as events."""
    recorded = read(shared_data / f"{name}.npz")
    assert (recorded.technique, recorded.nav_shape, recorded.axis.size, recorded.axis.units) == REAL[name]
    frames, n, big = min(recorded.frames, 2), int(np.prod(recorded.nav_shape)), recorded.nav_shape == (512, 512)
    scene = FileScene(recorded, list_mode=big)
    found = list(replayed(scene, frames, block=4096 if big else 256))
    if big:
        counted = np.zeros(recorded.axis.size)
        per_spectrum = []
        for block in found:
            assert isinstance(block.counts, Events)
            per_spectrum.append(np.diff(block.counts.offsets))
            counted += np.bincount(block.counts.channels, minlength=recorded.axis.size)
        part = recorded.counts[: frames * n]
        np.testing.assert_array_equal(np.concatenate(per_spectrum), part.sum(axis=1))
        np.testing.assert_array_equal(counted, part.sum(axis=0))
        return
    got = np.concatenate([np.asarray(b.counts, dtype=np.float64) for b in found])
    want = recorded.counts[: frames * n]
    np.testing.assert_array_equal(got, want.toarray() if recorded.is_sparse else want)


# -- recordings of the daemon --------------------------------------------------------------------------------


def recording(tmp_path: Path, scene: FileScene) -> Path:
    machine = Instrument(scene, Plan(scan_order(scene.nav_shape)), series="old", block=6)
    path = tmp_path / "old.swj"
    with path.open("wb") as file:
        file.writelines(pack_record(Opened(series="old")))
        for k, sent in enumerate(machine.step(FOREVER)):
            file.writelines(pack_record(Arrived(10**18 + k * 10**7, sent.parts)))
        file.writelines(pack_record(Arrived(2 * 10**18, [b"junk"])))
    return path


def test_a_recording_is_played_back_under_another_name(tmp_path: Path, dense_file: Path) -> None:
    scene = FileScene(read(dense_file))
    path = recording(tmp_path, scene)
    assert is_recording(path)
    assert not is_recording(dense_file)
    playback = Playback(path, series="new", replay="tcp://127.0.0.1:1")
    assert playback.expected == 20
    sent = playback.step(0.015)
    assert len(sent) == 2
    assert playback.due_s == pytest.approx(0.005)
    assert playback.obey(Decision("stop")) == (False, "a recording cannot stop")
    sent += playback.step(FOREVER)
    assert playback.finished
    assert sent[-1].parts == [b"junk"]
    read_back = [decode(o.parts) for o in sent[:-1]]
    assert {m.map.series for m in read_back} == {"new"}
    header, last = read_back[0], read_back[-1]
    assert isinstance(header, Header)
    assert isinstance(last, SeriesEnd)
    assert header.map.replay == "tcp://127.0.0.1:1"
    got = np.concatenate([np.asarray(m.counts) for m in read_back if isinstance(m, Block)])
    np.testing.assert_array_equal(got, scene.recorded.counts)
    assert (playback.n_sent, playback.n_messages) == (20, 6)


def test_what_came_by_replay_is_played_back_at_its_place(tmp_path: Path, dense_file: Path) -> None:
    scene = FileScene(read(dense_file))
    machine = Instrument(scene, Plan(scan_order(scene.nav_shape)), series="old", block=6)
    sent = machine.step(FOREVER)
    path = tmp_path / "rescued.swj"
    beat = encode_heartbeat("old", sent[2].msg_number)
    with path.open("wb") as file:
        file.writelines(pack_record(Opened(series="old")))
        # The third message was lost; a heartbeat bears its number; it came by replay after the end, and once more.
        for k, parts in enumerate([*(o.parts for o in (*sent[:2], *sent[3:])), beat]):
            file.writelines(pack_record(Arrived(10**18 + k * 10**7, parts)))
        for _ in range(2):
            file.writelines(pack_record(Arrived(2 * 10**18, sent[2].parts, "", True)))
    playback = Playback(path, series="new")
    assert playback.expected == 20
    again = [decode(o.parts) for o in playback.step(FOREVER)]
    got = np.concatenate([np.asarray(m.counts) for m in again if isinstance(m, Block)])
    np.testing.assert_array_equal(got, scene.recorded.counts)
    assert isinstance(again[-1], SeriesEnd)
