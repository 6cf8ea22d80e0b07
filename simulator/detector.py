"""What detectors make of expected counts: photons counted one by one, or charge integrated and read out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamer.wire import Events

Floats = NDArray[np.float64]


class Emitters:
    """End-members f8[M, D], not negative, with the tables from which single counts are drawn."""

    def __init__(self, endmembers: Floats) -> None:
        self.spectra = endmembers
        self.sums = endmembers.sum(axis=1)
        self._keep, self._other = _alias_tables(endmembers)

    def draw_channels(self, rng: np.random.Generator, members: NDArray[np.int64]) -> NDArray[Any]:
        """Draw the channel of each count from its end-member."""
        n_channels = self.spectra.shape[1]
        place = rng.random(len(members)) * n_channels
        channel = place.astype(np.int64)
        at = channel + members * n_channels
        drawn = np.where(place - channel < self._keep[at], channel, self._other[at])
        channels: NDArray[Any] = drawn.astype(np.uint16 if n_channels <= 1 << 16 else np.uint32)
        return channels


def _alias_tables(endmembers: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Return flat tables (M * D) for drawing from each row at one look-up (Walker's alias method).

    Vose, IEEE Trans. Softw. Eng. 17 (1991) 972: channel d is kept with probability keep[d], else other[d] is
    taken.
    """
    n_members, n_channels = endmembers.shape
    keep = np.ones((n_members, n_channels))
    other = np.tile(np.arange(n_channels), (n_members, 1))
    for k, row in enumerate(endmembers):
        if row.sum() <= 0:
            continue
        share = (row * (n_channels / row.sum())).tolist()
        small = [d for d, s in enumerate(share) if s < 1]
        large = [d for d, s in enumerate(share) if s >= 1]
        while small and large:
            low, high = small.pop(), large[-1]
            keep[k, low], other[k, low] = share[low], high
            share[high] -= 1 - share[low]
            if share[high] < 1:
                small.append(large.pop())
        # What is left in either list differs from 1 by rounding only.
    return keep.reshape(-1), other.reshape(-1)


class Detector(Protocol):
    """Draws spectra of expected counts abundances f8[n, M] @ end-members f8[M, D]."""

    def noise(self) -> dict[str, Any] | None:
        """Return what the header says of the noise, None where the instrument does not tell."""
        ...

    def draw(
        self, rng: np.random.Generator, abundances: Floats, emitters: Emitters, list_mode: bool
    ) -> NDArray[Any] | Events:
        """Draw n spectra."""
        ...


def draw_events(rng: np.random.Generator, abundances: Floats, emitters: Emitters) -> Events:
    """Draw Poisson spectra count by count, in the order of arrival.

    The number of counts of a position is Poisson, each count's end-member is drawn by share and its channel from
    that end-member: together exactly Poisson in every channel.

    Parameters
    ----------
    abundances : f8[n, M]
    emitters : Emitters
        Expected counts at abundance 1.
    """
    signal = abundances * emitters.sums
    total = signal.sum(axis=1)
    counts = rng.poisson(total)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    spectrum = np.repeat(np.arange(len(counts)), counts)
    members = np.zeros(len(spectrum), dtype=np.int64)
    if len(emitters.sums) > 1:
        shares = np.cumsum(signal, axis=1) / np.where(total > 0, total, 1.0)[:, None]
        coin = rng.random(len(spectrum))
        for k in range(len(emitters.sums) - 1):
            members += coin >= shares[spectrum, k]
    return Events(offsets, emitters.draw_channels(rng, members))


def dense(events: Events, n_channels: int) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """Sum events into spectra, uint16[n, D] (uint32 where a channel holds more than 65,535)."""
    n = len(events.offsets) - 1
    spectrum = np.repeat(np.arange(n), np.diff(events.offsets))
    flat = np.bincount(spectrum * n_channels + events.channels, minlength=n * n_channels)
    return counts_dtype(flat.reshape(n, n_channels))


def counts_dtype(counts: NDArray[Any]) -> NDArray[np.uint16] | NDArray[np.uint32]:
    """Return counts as uint16 where they fit, else as uint32."""
    if counts.size and counts.max() > np.iinfo(np.uint16).max:
        return counts.astype(np.uint32)
    return counts.astype(np.uint16)


@dataclass(frozen=True)
class Counting:
    """Photons or electrons counted one by one: Poisson."""

    def noise(self) -> dict[str, Any] | None:
        """Return the Poisson model."""
        return {"model": "poisson"}

    def draw(
        self, rng: np.random.Generator, abundances: Floats, emitters: Emitters, list_mode: bool
    ) -> NDArray[Any] | Events:
        """Draw events, or spectra of uint16; the cheaper way where counts are fewer than channels."""
        n_channels = emitters.spectra.shape[1]
        if list_mode:
            return draw_events(rng, abundances, emitters)
        if float((abundances @ emitters.sums).mean()) < 0.5 * n_channels:
            return dense(draw_events(rng, abundances, emitters), n_channels)
        return counts_dtype(rng.poisson(abundances @ emitters.spectra))


@dataclass(frozen=True)
class Integrating:
    """Charge integrated and read out: gain x Poisson, multiplied noise, an offset and read noise.

    Parameters
    ----------
    gain : float
        Counts for each quantum.
    offset : float
        Counts without light.
    read_sigma : float
        Read noise in counts.
    excess : float
        Variance that multiplication adds, as a multiple of the Poisson one: 0 for a plain camera, 1 for an
        electron-multiplying one at high gain (Robbins & Hadwen, IEEE Trans. Electron Devices 50 (2003) 1227).
    announced : bool
        Whether the header tells the noise.
    """

    gain: float = 1.0
    offset: float = 0.0
    read_sigma: float = 0.0
    excess: float = 0.0
    announced: bool = True

    def noise(self) -> dict[str, Any] | None:
        """Return the Poisson-Gaussian model: var = gain (1 + excess) (mean - offset) + read_sigma^2."""
        if not self.announced:
            return None
        gain = self.gain * (1 + self.excess)
        return {"model": "poisson_gaussian", "gain": gain, "offset": self.offset, "read_sigma": self.read_sigma}

    def draw(
        self, rng: np.random.Generator, abundances: Floats, emitters: Emitters, list_mode: bool
    ) -> NDArray[Any] | Events:
        """Draw spectra of float32."""
        quanta = rng.poisson(abundances @ emitters.spectra).astype(np.float64)
        if self.excess > 0:
            # A gamma variate of shape q/excess and scale excess has mean q and variance q x excess.
            quanta = np.where(quanta > 0, rng.gamma(np.maximum(quanta, 1e-9) / self.excess, self.excess), 0.0)
        counts = self.gain * quanta + self.offset
        if self.read_sigma > 0:
            counts += self.read_sigma * rng.standard_normal(counts.shape)
        return counts.astype(np.float32)
