"""A list of points instead of a map: an operator who measures here and there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.raster import Index
from simulator.sample import Specimen
from simulator.scene import SimulatedScene, Spectra


def random_points(specimen: Specimen, n: int, seed: int) -> Index:
    """Return n different flat positions of a specimen, u4[n], in the order in which they are listed.

    Raises
    ------
    ValueError
        Where the specimen has fewer positions.
    """
    if n > specimen.n_positions:
        raise ValueError(f"{n} points were asked for, {specimen.name} has {specimen.n_positions} positions")
    # A stream of its own: the same seed also draws counts and the order of a scan.
    rng = np.random.Generator(np.random.Philox([seed, 2]))
    return rng.permutation(specimen.n_positions)[:n].astype(np.uint32)


class PointScene:
    """Shows some positions of a simulated specimen as a list of points with coordinates.

    Parameters
    ----------
    scene : SimulatedScene
    where : u4[n]
        Flat positions of the specimen's map; point k of the list lies at `where[k]`.
    """

    def __init__(self, scene: SimulatedScene, where: Index) -> None:
        self._scene, self._where = scene, where
        self.nav_shape: tuple[int, ...] = (len(where),)
        self.axis = scene.axis

    def header(self) -> dict[str, Any]:
        """Return what the scene says; grid axes do not describe points, but their units do."""
        head = self._scene.header()
        axes = head.pop("nav_axes")
        head["metadata"] = head["metadata"] | {
            "positions_names": [a["name"] for a in axes],
            "positions_units": axes[0]["units"],
        }
        return head

    def positions(self) -> NDArray[np.float64] | None:
        """Return the coordinates (y, x) of the points, f8[n, 2], in nm."""
        specimen = self._scene.specimen
        at = np.column_stack(np.unravel_index(self._where, specimen.nav_shape))
        return np.asarray(at * specimen.step_nm, dtype=np.float64)

    def measure(
        self, positions: NDArray[np.uint32], passes: NDArray[np.int64], dwell_s: NDArray[np.float64]
    ) -> Spectra:
        """Draw n visits of points."""
        return self._scene.measure(self._where[positions], passes, dwell_s)
