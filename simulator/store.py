"""Saves a scan with its truth as a zarr store in HyperSpy's layout (ZSpy)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.axis import Axis
from simulator.detector import Detector
from simulator.effects import Effects
from simulator.points import PointScene
from simulator.raster import Index
from simulator.sample import Specimen
from simulator.scene import Scene, SimulatedScene, Spectra
from streamer.wire import Events


class KeptScene:
    """A scene that keeps what was measured of it, summed over visits.

    The sum lies densely in memory: 4 bytes for each position and channel.

    Parameters
    ----------
    scene : Scene
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.nav_shape: tuple[int, ...] = scene.nav_shape
        self.axis: Axis = scene.axis
        n = int(np.prod(scene.nav_shape))
        self.dwell_s = np.zeros(n)
        self._sums: NDArray[Any] | None = None

    def header(self) -> dict[str, Any]:
        """Return what the scene says."""
        return self._scene.header()

    def positions(self) -> NDArray[np.float64] | None:
        """Return what the scene says."""
        return self._scene.positions()

    def measure(
        self, positions: NDArray[np.uint32], passes: NDArray[np.int64], dwell_s: NDArray[np.float64]
    ) -> Spectra:
        """Measure the scene, and add what came of it."""
        spectra = self._scene.measure(positions, passes, dwell_s)
        np.add.at(self.dwell_s, positions, dwell_s)
        if isinstance(spectra, Events):
            sums = self._with_room(np.uint32)
            rows = np.repeat(positions, np.diff(spectra.offsets))
            np.add.at(sums, (rows, spectra.channels), 1)
        else:
            sums = self._with_room(np.float32 if spectra.dtype.kind == "f" else np.uint32)
            np.add.at(sums, positions, spectra.astype(sums.dtype))
        return spectra

    def counts(self) -> NDArray[Any]:
        """Return the sums so far, uint32 or float32 (*nav_shape, D)."""
        return self._with_room(np.uint32).reshape(*self.nav_shape, self.axis.size)

    def _with_room(self, dtype: type[np.generic]) -> NDArray[Any]:
        if self._sums is None:
            self._sums = np.zeros((len(self.dwell_s), self.axis.size), dtype=dtype)
        return self._sums


@dataclass
class Scenes:
    """Makes the scene of a specimen anew for every sender, and keeps the last if it is to be saved.

    Parameters
    ----------
    specimen : Specimen
    counts, dwell_s, seed, detector, list_mode, effects
        As for `SimulatedScene`.
    save_to : Path, optional
        Where the last scene is to be saved.
    where : u4[n], optional
        Positions that are measured as a list of points; absent: the map.

    Raises
    ------
    ValueError, OSError
        As `check_path`, and where a list of points is to be saved.
    """

    specimen: Specimen
    counts: float
    dwell_s: float
    seed: int
    detector: Detector
    list_mode: bool
    effects: Effects
    save_to: Path | None = None
    where: Index | None = None
    _kept: KeptScene | None = None

    def __post_init__(self) -> None:
        if self.save_to is None:
            return
        if self.where is not None:
            raise ValueError(f"{self.save_to}: only a map can be saved, not a list of points")
        check_path(self.save_to)

    def make(self) -> Scene:
        """Return the scene from its beginning."""
        drawn = SimulatedScene(
            self.specimen, counts=self.counts, dwell_s=self.dwell_s, seed=self.seed,
            detector=self.detector, list_mode=self.list_mode, effects=self.effects,
        )  # fmt: skip
        made = drawn if self.where is None else PointScene(drawn, self.where)
        if self.save_to is None:
            return made
        self._kept = KeptScene(made)
        return self._kept

    def save(self) -> None:
        """Write what was measured of the last scene that was made, if it is to be saved.

        Raises
        ------
        ValueError
            Where nothing was kept.
        """
        if self.save_to is None:
            return
        if self._kept is None:
            raise ValueError("nothing was measured")
        save_scan(self.save_to, self._kept, self.specimen, self.counts)


def check_path(path: Path) -> None:
    """Raise ValueError where HyperSpy would not know the store by its name, OSError where there is no such folder."""
    if path.suffix != ".zspy":
        raise ValueError(f"{path}: HyperSpy opens zarr stores that are named *.zspy")
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"no folder {path.absolute().parent}")


def save_scan(path: Path, scene: KeptScene, specimen: Specimen, counts: float) -> None:
    """Write what was measured, with the specimen's truth as ``original_metadata.truth``.

    Parameters
    ----------
    path : Path
        The store, a folder that HyperSpy knows by its ending ``.zspy``.
    scene : KeptScene
    specimen : Specimen
    counts : float
        Mean counts of a visit of the planned dwell; end-members are saved at this dose.

    Raises
    ------
    ValueError
        Where the path ends otherwise.
    OSError
        Where it cannot be written.
    """
    check_path(path)
    # Slow to import, and seldom needed.
    from rsciio.zspy import file_writer

    truth = {name: _plain(value) for name, value in specimen.truth(counts).items()}
    truth["dwell_s"] = scene.dwell_s.reshape(scene.nav_shape)
    signal = {
        "data": scene.counts(),
        "axes": _axes(specimen),
        "metadata": _metadata(specimen),
        "original_metadata": {"truth": truth},
        "attributes": {"_lazy": False},
        "package_info": {"package": "", "package_version": ""},
        "learning_results": {},
        "models": {},
    }
    with warnings.catch_warnings():
        # The library's own way of writing, which zarr 2 announces will go with zarr 3.
        warnings.simplefilter("ignore")
        file_writer(str(path), signal, show_progressbar=False)


def _metadata(specimen: Specimen) -> dict[str, Any]:
    conditions = dict(specimen.metadata)
    signal = {"signal_type": conditions.pop("signal_type", ""), "quantity": "Counts"}
    return {"General": {"title": specimen.name, "notes": specimen.title}, "Signal": signal, **conditions}


def _plain(value: NDArray[Any]) -> Any:
    """Return numbers and words as such: the layout has arrays only for arrays of numbers."""
    return value.tolist() if value.ndim == 0 or value.dtype.kind == "U" else value


def _axes(specimen: Specimen) -> list[dict[str, Any]]:
    axis = specimen.axis
    spectral = (axis.name, axis.units, float(axis.values[0]), axis.scale, axis.size, False)
    maps = [(n, "nm", 0.0, specimen.step_nm, s, True) for n, s in zip("yx", specimen.nav_shape, strict=True)]
    keys = ("name", "units", "offset", "scale", "size", "navigate")
    return [{**dict(zip(keys, a, strict=True)), "index_in_array": i} for i, a in enumerate([*maps, spectral])]
