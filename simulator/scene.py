"""What an instrument has before it: a specimen whose counts are drawn, behind one small protocol."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from simulator.axis import Axis
from simulator.cosmic import cosmic_rays, with_rays
from simulator.detector import Counting, Detector
from simulator.effects import Effects, Weather
from simulator.sample import Specimen
from streamer.wire import Events

Spectra = NDArray[Any] | Events


class Scene(Protocol):
    """Something that can be measured position by position."""

    nav_shape: tuple[int, ...]
    axis: Axis

    def header(self) -> dict[str, Any]:
        """Return the optional keys of the series' header that the scene knows."""
        ...

    def positions(self) -> NDArray[np.float64] | None:
        """Return coordinates f8[n, d] where the positions are no grid."""
        ...

    def measure(
        self, positions: NDArray[np.uint32], passes: NDArray[np.int64], dwell_s: NDArray[np.float64]
    ) -> Spectra:
        """Return the counts of n visits: (n, D), or events."""
        ...


class SimulatedScene:
    """Draws the counts of a specimen.

    Parameters
    ----------
    specimen : Specimen
    counts : float
        Mean counts of a visit of `dwell_s`.
    dwell_s : float
        The dwell that `counts` refers to.
    seed : int
        Of the counts; the specimen has its own.
    detector : Detector, optional
        Counting by default.
    list_mode : bool
        Events instead of spectra.
    effects : Effects, optional
        What changes while the scan runs.

    Raises
    ------
    ValueError
        Where list mode is asked of a detector that does not count, or together with cosmic rays.
    """

    def __init__(
        self,
        specimen: Specimen,
        *,
        counts: float,
        dwell_s: float,
        seed: int,
        detector: Detector | None = None,
        list_mode: bool = False,
        effects: Effects | None = None,
    ) -> None:
        self.specimen = specimen
        self.nav_shape: tuple[int, ...] = specimen.nav_shape
        self.axis = specimen.axis
        self.detector = detector or Counting()
        if list_mode and not isinstance(self.detector, Counting):
            raise ValueError("list mode needs a counting detector")
        self._list_mode = list_mode
        self.effects = effects or Effects()
        if list_mode and self.effects.cosmic_per_s:
            raise ValueError("cosmic rays hit cameras: list mode is for detectors that count photons one by one")
        self._weather = Weather(self.effects, specimen, seed)
        self._dose_per_s = counts / dwell_s
        self._rng = np.random.Generator(np.random.Philox(seed))
        # Of their own: switching rays on leaves every other count as it was.
        self._rays_rng = np.random.Generator(np.random.Philox([seed, 1]))

    def header(self) -> dict[str, Any]:
        """Return technique, navigation axes, noise and the specimen's name."""
        axes = [{"name": n, "units": "nm", "offset": 0.0, "scale": self.specimen.step_nm} for n in "yx"]
        head: dict[str, Any] = {"technique": self.specimen.technique, "nav_axes": axes}
        noise = self.detector.noise()
        if noise is not None:
            head["noise"] = noise
        return head | {"metadata": {"specimen": self.specimen.name, "title": self.specimen.title}}

    def positions(self) -> NDArray[np.float64] | None:
        """Return None: the map is a grid."""
        return None

    def measure(
        self, positions: NDArray[np.uint32], passes: NDArray[np.int64], dwell_s: NDArray[np.float64]
    ) -> Spectra:
        """Draw n visits."""
        rates = self._weather.rates(positions, dwell_s, self._dose_per_s)
        spectra = self.detector.draw(self._rng, rates, self._weather.emitters, self._list_mode)
        if isinstance(spectra, Events) or not self.effects.cosmic_per_s:
            return spectra
        effects, n_channels = self.effects, self.axis.size
        rays = cosmic_rays(self._rays_rng, dwell_s, n_channels, effects.cosmic_per_s, effects.cosmic_counts)
        return with_rays(spectra, rays)
