"""Phases on a line: mixtures of the outer ones look like mixtures of either with the one between them."""

from __future__ import annotations

from dataclasses import replace

from models.base import Pieces
from models.phase_growth import Fit, between, settled
from models.phase_mixture import Likelihood, Sample

_STEPS = 8


def chained(fit: Fit, sample: Sample, likelihood: Likelihood) -> Pieces[Fit]:
    """Without mixtures of two phases where a third lies on the way, if mixtures with that are the better model.

    Which of them takes a spectrum is up to chance, and what is mostly of the third may be called by one of the others.
    """
    for c in range(len(fit.mixture.phases)):
        ends, bridges = between(fit.mixture, c), fit.mixture.bridges.copy()
        if ends is None or ends not in bridges:
            continue
        share = 0.5 * bridges.pop(ends)
        for end in ends:
            pair = (min(c, end), max(c, end))
            bridges[pair] = bridges.get(pair, 0.0) + share
        tried = yield from settled(replace(fit.mixture, bridges=bridges), sample, likelihood, _STEPS)
        fit = tried if tried.value > fit.value else fit
    return fit
