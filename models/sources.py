"""Spectra to train on, from whoever provides them by the entry-point group ``scanwise.spectra``.

A provider gives arrays and maps as on the wire; the simulator is one, and this package knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final

import numpy as np
from scipy import sparse

from models.axis import Axis
from models.noise import NoiseModel, estimate_noise
from models.thinning import to_quanta

GROUP: Final = "scanwise.spectra"


@dataclass(frozen=True, eq=False)
class Source:
    """Spectra of one map, or a library of them.

    Attributes
    ----------
    spectra : (n, D)
        Expected ones in any unit, or quanta; dense or CSR.
    expected : bool
    counts : float
        Mean quanta in a spectrum (of a visit, where expected).
    nav_shape : tuple of int, optional
        Where they are a map.
    group : int, optional
        So many rows after one another belong to one specimen.
    """

    name: str
    title: str
    technique: str
    axis: Axis
    spectra: Any
    expected: bool
    counts: float
    noise: NoiseModel
    nav_shape: tuple[int, ...] | None = None
    group: int | None = None

    @property
    def read_sigma(self) -> float:
        """Read noise in quanta."""
        return 0.0 if self.noise.is_poisson else self.noise.read_sigma / self.noise.gain


def simulated(name: str, **options: Any) -> Source:
    """Return expected spectra of a specimen; options as the provider has them.

    They are seed, variants, varied, channels and progress.

    Raises
    ------
    ValueError
        Where there is no such specimen, or nobody who could provide it.
    """
    return _source(_provider("simulated")(name, **options), NoiseModel())


def measured(path: Path) -> Source:
    """Return the quanta of a recording or file, its noise estimated where the header did not tell it.

    Raises
    ------
    ValueError, OSError
        Where the file cannot be read, or nobody could.
    """
    found = _provider("measured")(path)
    said = found.get("noise")
    spectra = found["spectra"]
    noise = estimate_noise(sparse.csr_array(spectra) if sparse.issparse(spectra) else spectra)
    if said is not None:
        noise = NoiseModel(said["model"], said["gain"], said["offset"], said["read_sigma"])
    return _source({**found, "spectra": to_quanta(spectra, noise)}, noise)


def _provider(name: str) -> Any:
    for point in entry_points(group=GROUP, name=name):
        return point.load()
    raise ValueError(f"nothing here provides {name} spectra: pip install 'scanwise[simulator]'")


def _source(found: Mapping[str, Any], noise: NoiseModel) -> Source:
    spectra = found["spectra"]
    spectra = sparse.csr_array(spectra) if sparse.issparse(spectra) else np.asarray(spectra)
    counts = found["counts"] if found["expected"] else float(spectra.sum(dtype=np.float64)) / spectra.shape[0]
    shape = found["nav_shape"]
    said = (found["name"], found["title"], found["technique"], as_axis(found["axis"]))
    shape = None if shape is None else tuple(shape)
    return Source(*said, spectra, found["expected"], counts, noise, shape, found.get("group"))


def as_axis(said: Mapping[str, Any]) -> Axis:
    """Return an axis from its map on the wire; listed values that are uniform become offset and scale."""
    values = said.get("values")
    name, units = str(said.get("name", "")), str(said.get("units", ""))
    if values is None:
        return Axis(name, units, int(said["size"]), float(said.get("offset", 0.0)), float(said["scale"]))
    listed = np.asarray(values, dtype=np.float64)
    step = (listed[-1] - listed[0]) / max(listed.size - 1, 1)
    if step and np.allclose(listed, listed[0] + step * np.arange(listed.size), atol=1e-6 * abs(step), rtol=0.0):
        return Axis(name, units, listed.size, float(listed[0]), float(step))
    return Axis(name, units, listed.size, listed=tuple(listed.tolist()))
