"""What a library says of the spectra of one scan: names for mean spectra, and maps at its end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.axis import Axis
from models.base import Counts, Float64
from models.classify import NONE, Classification, Classifier
from models.fractions import FractionModel
from models.identify import Identification, Identifier
from models.library import Library
from models.mixture import equivalent_counts, fit_mixtures
from models.noise import POISSON, NoiseModel


@dataclass(frozen=True)
class Named:
    """What one spectrum is: the phase that it is most of (None for none of the library), how sure, and in words."""

    name: str | None
    probability: float
    words: str


class KnownPhases:
    """A library made ready for one scan: classification, shares in an edge, or diffraction, as the library asks.

    Parameters
    ----------
    library : Library
    axis : Axis
    technique : str
        Of the scan.

    Raises
    ------
    ValueError
        Where the library is of another technique, or does not fit the axis.
    """

    def __init__(self, library: Library, axis: Axis, technique: str) -> None:
        if library.technique != technique:
            raise ValueError(f"the library is of {library.technique}, the scan of {technique}")
        self.names = library.names
        self._classifier: Classifier | None = None
        self._fractions: FractionModel | None = None
        self._identifier: Identifier | None = None
        if any(r.kind == "lines" for r in library.references):
            self._identifier = Identifier(library, axis.values)
        elif library.onset is not None:
            if len(self.names) < len(library.references):
                raise ValueError("shares in an edge need one reference of each name")
            spectra = library.on_axis(axis.values, axis.units)
            self._fractions = FractionModel.of_edges(axis.values, spectra, library.onset)
        else:
            self._classifier = Classifier(library, axis.values, axis.units, axis.peak_width_channels())

    def name(self, spectra: Counts, noise: NoiseModel = POISSON, visits: NDArray[Any] | float = 1.0) -> list[Named]:
        """Name summed or mean spectra (n, D) in counts, such as those of phases."""
        counts, pedestal = equivalent_counts(spectra, noise, visits)
        if self._identifier is not None:
            return [_diffraction(self._identifier.identify(x, float(p))) for x, p in zip(counts, pedestal, strict=True)]
        if self._fractions is not None:
            found = self._fractions.estimate(counts, pedestal)
            return [self._shares(*each) for each in zip(found.shares, found.errors, found.misfit, strict=True)]
        return self._classes(self._classifier.classify(spectra, noise, visits)) if self._classifier else []

    def _shares(self, shares: Float64, errors: Float64, misfit: float) -> Named:
        if not np.isfinite(shares).all():
            return Named(None, 0.0, "no edge")
        pairs = zip(self.names, shares, errors, strict=True)
        words = ", ".join(f"{n} {100 * s:.0f} ± {100 * e:.0f} %" for n, s, e in pairs)
        more = f"; misfit {misfit:.1f} sigma" if misfit > 5 else ""
        return Named(self.names[int(np.argmax(shares))], float(shares.max()), words + more)

    def _classes(self, found: Classification) -> list[Named]:
        named = []
        for label, probabilities, p, mixed in zip(
            found.labels.tolist(), found.probabilities, found.p_value.tolist(), found.mixed.tolist(), strict=True
        ):
            if label == NONE:
                named.append(Named(None, 0.0, f"none of the library (p {p:.1g})"))
                continue
            parts = [f"{n} {100 * s:.0f} %" for n, s in zip(self.names, probabilities, strict=True) if s > 0.01]
            words = "mixed: " + ", ".join(parts) if mixed else self.names[label]
            named.append(Named(self.names[label], float(probabilities[label]), words))
        return named

    def maps(
        self, blocks: Iterator[tuple[NDArray[np.int64], Float64]], total: Float64, size: int, noise: NoiseModel,
        visits: NDArray[Any],
    ) -> dict[str, Float64]:  # fmt: skip
        """Maps (P,) by name, NaN where nothing was measured.

        Parameters
        ----------
        blocks : iterator of (index i8[n], counts f8[n, D])
        total : f8[D]
            Summed counts of all positions.
        size : int
            Number of positions, P.
        visits : (P,)

        Returns
        -------
        `known` (index of a name, -1 for none of them) and `known_probability`; or `share/<name>` of each name, with
        `share_error/<name>`.
        """
        shapes = self._diffraction_shapes(total, noise, float(visits.sum()))
        out: dict[str, Float64] = {}
        for index, counts in blocks:
            for name, values in self._block(counts, noise, visits[index], shapes):
                out.setdefault(name, np.full(size, np.nan))[index] = values
        return out

    def _diffraction_shapes(self, total: Float64, noise: NoiseModel, visits: float) -> tuple[list[str], Float64]:
        """Pattern of each phase as the whole scan has it, and the background."""
        if self._identifier is None:
            return [], np.zeros((0, total.size))
        counts, pedestal = equivalent_counts(total[None], noise, visits)
        return self._identifier.patterns(counts[0], float(pedestal[0]))

    def _block(
        self, counts: Float64, noise: NoiseModel, visits: NDArray[Any], shapes: tuple[list[str], Float64]
    ) -> Iterator[tuple[str, Float64]]:
        if self._classifier is not None:
            found = self._classifier.classify(counts, noise, visits)
            yield "known", found.labels.astype(np.float64)
            yield "known_probability", np.where(found.labels == NONE, np.nan, found.probabilities.max(axis=1))
            return
        plain, pedestal = equivalent_counts(counts, noise, visits)
        if self._fractions is not None:
            shares = self._fractions.estimate(plain, pedestal)
            names, values, errors = list(self.names), shares.shares, shares.errors
        else:
            names, columns = shapes
            if not names:
                return
            fit = fit_mixtures(plain, columns, pedestal)
            of_phases = columns[: len(names)].sum(axis=1)
            whole = np.maximum((fit.amounts[:, : len(names)] * of_phases).sum(axis=1, keepdims=True), 1e-9)
            values, errors = (a[:, : len(names)] * of_phases / whole for a in (fit.amounts, fit.errors))
        for k, name in enumerate(names):
            yield f"share/{name}", values[:, k]
            yield f"share_error/{name}", errors[:, k]


def _diffraction(found: Identification) -> Named:
    if not found.phases:
        return Named(None, 0.0, found.words())
    main = found.phases[0]
    # Evidence is the log odds against its absence.
    return Named(main.name, float(1 / (1 + np.exp(-min(main.evidence, 700.0)))), found.words())
