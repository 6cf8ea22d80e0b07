"""What thickness does to spectra: X-rays absorbed on their way out of a film, electrons scattered again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from models.axis import Axis
from models.base import Float64
from models.lines import mass_attenuation_cm2_g

_DEPTHS = np.geomspace(0.03, 12.0, 25)
"""Mean optical depths that are tried: below, nothing is seen; above, hardly a photon leaves."""
_THICKNESSES = np.geomspace(0.03, 3.0, 20)
"""Mean numbers of scatterings that are tried: beyond three mean free paths edges are no more seen."""
_FIT_SHARE = 0.1
_WIDTHS, _PLASMONS = 10.0, 4.0


class Thickness(Protocol):
    """Takes spectra from one thickness to another; what it does is linear in the spectra."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def units(self) -> str:
        """Of the thickness."""
        ...

    def moved(self, spectra: NDArray[np.floating], before: float, after: float) -> Float64:
        """Spectra (n, D) of a film `before` thick as one `after` thick would give them."""
        ...

    def candidates(self, mean: Float64) -> Float64:
        """Mean thicknesses (c,), rising, that may be tried for a scan with this mean spectrum (D,)."""
        ...


@dataclass(frozen=True)
class Absorption:
    """X-rays made evenly over the depth of a film, (1 - exp(-chi t)) / (chi t) of which leave it.

    Attributes
    ----------
    chi : ndarray, (D,)
        Mass attenuation over the sine of the take-off angle, cm^2/g; thickness is density times thickness, g/cm^2.
    """

    chi: Float64
    name = "absorption"
    units = "g/cm2"

    @classmethod
    def on(cls, axis: Axis, absorber: Mapping[str, float], take_off_deg: float) -> Self:
        """Absorption by mass fractions of elements (any scale), on an axis in eV or keV.

        Raises
        ------
        ValueError
            Where the axis has no energies, or an element is not known.
        """
        per_unit = {"ev": 1e-3, "kev": 1.0}.get(axis.units.strip().lower())
        if per_unit is None:
            raise ValueError(f"absorption needs an axis in eV or keV, not {axis.units!r}")
        mu = mass_attenuation_cm2_g(absorber, axis.values * per_unit)
        return cls(mu / np.sin(np.radians(take_off_deg)))

    def moved(self, spectra: NDArray[np.floating], before: float, after: float) -> Float64:
        """Each channel by its share of photons that leave."""
        return np.asarray(spectra * (_leaving(self.chi * after) / _leaving(self.chi * before)))

    def candidates(self, mean: Float64) -> Float64:
        """Such that the channels with counts, weighted by them, have optical depths from nearly none to many."""
        return np.asarray(_DEPTHS * float(mean.sum()) / float(mean @ self.chi))


def _leaving(depth: Float64) -> Float64:
    safe = np.maximum(depth, 1e-8)
    return np.where(depth < 1e-8, 1.0 - depth / 2, -np.expm1(-safe) / safe)


@dataclass(frozen=True)
class PluralScattering:
    """Electrons that lose energy to plasmons, a Poisson number of times with the thickness in mean free paths.

    A film thicker by dt gives the spectrum of the thinner one, convolved with exp(dt (S - 1)), S one valence loss
    (Egerton, eq. 4.8): edges and the background under them alike.

    Attributes
    ----------
    loss : ndarray, (L,)
        Probability of one loss, by channels, of unit sum.
    values : ndarray, (D,)
        Of the axis, evenly spaced and rising, above the zero loss. What lies below its first channel is continued as a
        power law.
    """

    loss: Float64
    values: Float64
    name = "plural_scattering"
    units = "mean free paths"

    @classmethod
    def on(cls, axis: Axis, plasmon_ev: float, plasmon_width_ev: float) -> Self:
        """Drude losses (Egerton, eq. 3.43) of a plasmon.

        Raises
        ------
        ValueError
            Where the axis does not rise evenly in eV, has the zero loss, or a loss is less than a channel.
        """
        steps = np.diff(axis.values)
        if axis.units.strip().lower() != "ev" or axis.size < 3 or not np.allclose(steps, steps[0]) or steps[0] <= 0:
            raise ValueError("plural scattering needs an axis that rises evenly in eV")
        if axis.values[0] <= plasmon_ev:
            raise ValueError(f"plural scattering is corrected in core losses; the axis begins at {axis.values[0]:g} eV")
        losses = np.arange(0.0, _PLASMONS * plasmon_ev + _WIDTHS * plasmon_width_ev, float(steps[0]))
        bottom = (losses**2 - plasmon_ev**2) ** 2 + (losses * plasmon_width_ev) ** 2
        shape = losses * plasmon_width_ev / bottom
        if losses.size < 3 or not shape.sum() > 0:
            raise ValueError(f"a plasmon of {plasmon_ev:g} eV is not seen in channels of {steps[0]:g} eV")
        return cls(shape / shape.sum(), axis.values)

    def moved(self, spectra: NDArray[np.floating], before: float, after: float) -> Float64:
        """Convolve, or deconvolve where it gets thinner; only as far as noise is amplified by exp of that."""
        whole = np.concatenate([self._below(spectra), spectra], axis=1)
        n = 1 << int(np.ceil(np.log2(whole.shape[1] + 4 * self.loss.size)))
        turn = np.exp((after - before) * (np.fft.rfft(self.loss, n) - 1.0))
        out = np.fft.irfft(np.fft.rfft(whole, n) * turn, n)
        return np.asarray(out[:, whole.shape[1] - spectra.shape[1] : whole.shape[1]])

    def candidates(self, mean: Float64) -> Float64:
        """From a few electrons scattered to nearly all."""
        return _THICKNESSES

    def _below(self, spectra: NDArray[np.floating]) -> Float64:
        """What lies below the axis, as far as it is scattered onto it, (n, 4 L)."""
        step = float(self.values[1] - self.values[0])
        below = self.values[0] - step * np.arange(4 * self.loss.size, 0, -1)
        first = max(4, round(_FIT_SHARE * self.values.size))
        mean = np.maximum(spectra[:, :first].mean(axis=0), 1e-12)
        if not spectra[:, :first].any():
            return np.zeros((len(spectra), below.size))
        near = np.log(self.values[:first])
        power = float(np.clip(np.polyfit(near, np.log(mean), 1, w=np.sqrt(mean))[0], -6.0, 0.0))
        shape = (np.maximum(below, 0.5 * self.values[0]) / self.values[0]) ** power
        at_start = spectra[:, :first].sum(axis=1) / ((self.values[:first] / self.values[0]) ** power).sum()
        return np.asarray(np.outer(at_start, shape))
