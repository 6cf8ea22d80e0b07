"""What thickness does to spectra: X-rays absorbed on their way out of a film, electrons scattered again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from models.axis import Axis
from models.base import Float64
from models.lines import make_templates, mass_attenuation_cm2_g

_DEPTHS = np.geomspace(0.03, 12.0, 25)
"""Mean optical depths that are tried: below, nothing is seen; above, hardly a photon leaves."""
_THICKNESSES = np.geomspace(0.03, 3.0, 20)
"""Mean numbers of scatterings that are tried: beyond three mean free paths edges are no more seen."""
_FIT_SHARE = 0.1
_FWHM_MN_KA_KEV = 0.13
_FEWEST_LIT, _MOST_OF_MEAN = 1e-3, 5.0
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

    def known_by(self, mean: Float64, thickness: float) -> Self:
        """The law, with what the mean spectrum (D,) of a film of this mean thickness tells of it."""
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

    Each spectrum is absorbed by its own composition, once `known_by` has told what the lines of elements are worth.

    Attributes
    ----------
    share : ndarray, (E,)
        Mean mass fractions of the elements.
    mu : ndarray, (E, D)
        Their mass attenuation over the sine of the take-off angle, cm^2/g; thickness is that times density, g/cm^2.
    lines : ndarray, (D, E)
        Takes spectra to counts in a line of each element; nothing for an element without one on the axis.
    worth : ndarray, (E,), optional
        Mass fraction per count of the line in a spectrum of unit sum, before absorption.
    """

    share: Float64
    mu: Float64
    lines: Float64
    worth: Float64 | None = None
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
        if per_unit is None or axis.values[-1] <= axis.values[0]:
            raise ValueError(f"absorption needs an axis that rises in eV or keV, not {axis.units!r}")
        kev = axis.values * per_unit
        elements = sorted(absorber)
        mu = np.stack([mass_attenuation_cm2_g({e: 1.0}, kev) for e in elements])
        share = np.array([absorber[e] for e in elements])
        return cls(share / share.sum(), mu / np.sin(np.radians(take_off_deg)), _lines(kev, elements))

    def known_by(self, mean: Float64, thickness: float) -> Self:
        """Calibrated by the scan: its mean spectrum (D,) of this mean thickness has the mean composition."""
        inside = np.asarray(mean / _leaving(self.share @ self.mu * thickness))
        counts = (inside @ self.lines) / inside.sum()
        return replace(self, worth=np.divide(self.share, counts, out=np.zeros_like(counts), where=counts > _FEWEST_LIT))

    def moved(self, spectra: NDArray[np.floating], before: float, after: float) -> Float64:
        """Each channel by its share of photons that leave."""
        chi = self._chi(spectra, before)
        return np.asarray(spectra * (_leaving(chi * after) / _leaving(chi * before)))

    def candidates(self, mean: Float64) -> Float64:
        """Such that the channels with counts, weighted by them, have optical depths from nearly none to many."""
        return np.asarray(_DEPTHS * float(mean.sum()) / float(mean @ (self.share @ self.mu)))

    def _chi(self, spectra: NDArray[np.floating], thickness: float) -> Float64:
        """Mass attenuation (n, D) or (D,) by what spectra of this thickness are made of."""
        if self.worth is None:
            return np.asarray(self.share @ self.mu)
        inside = np.asarray(spectra / _leaving(self.share @ self.mu * thickness))
        counts = inside @ self.lines / np.maximum(inside.sum(axis=1, keepdims=True), 1e-300)
        # What has no line is there as on the mean; no element is many times what it is on the mean.
        share = np.where(self.worth > 0, np.clip(counts * self.worth, 0.0, _MOST_OF_MEAN * self.share), self.share)
        return np.asarray(share / np.maximum(share.sum(axis=1, keepdims=True), 1e-300) @ self.mu)


def _lines(kev: Float64, elements: list[str]) -> Float64:
    """Least squares (D, E) for counts in the hardest shell of each element on the axis, above a smooth background."""
    step = float(kev[1] - kev[0])
    made = make_templates(np.append(kev, kev[-1] + step) - step / 2, _FWHM_MN_KA_KEV)
    usable = [k for k, (e, _) in enumerate(made.names) if e in elements and made.photons[k] > 0]
    energy = np.maximum(kev, 0.1)
    background = np.stack([np.where(kev > 0.1, energy**-power, 0.0) for power in (0.0, 1.0, 2.0)])
    shapes = np.concatenate([made.spectra[usable], background])
    solved = np.linalg.pinv(shapes)
    out = np.zeros((kev.size, len(elements)))
    for column, element in enumerate(elements):
        mine = [row for row, k in enumerate(usable) if made.names[k][0] == element]
        if mine:
            # The hardest shell of an element is the one that absorption leaves alone most.
            out[:, column] = solved[:, max(mine, key=lambda row: made.mean_kev[usable[row]])]
    return out


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

    def known_by(self, mean: Float64, thickness: float) -> Self:
        """The same: plasmons are taken as told."""
        return self

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
