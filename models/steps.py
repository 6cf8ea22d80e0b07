"""Preprocessing in front of any model: crop, rebin, mask, align, subtract, normalise, and the way back.

The order is that of the instrument: spectra are aligned on the sender's channels, cropped and summed, then freed of
dark counts and background, then normalised. Each step keeps what is needed to undo it. Noise stays with the counts
that were measured: a subtraction does not change the variance, a normalisation divides it by the squared scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.align import Aligner
from models.axis import Axis
from models.background import Background, Baseline, PowerLaw
from models.base import Counts, Float32, Float64, SpectralModel, as_dense
from models.layout import make_layout
from models.noise import POISSON, NoiseModel
from models.normalise import ChannelRange, Normalisation, row_scale
from models.preprocess import as_float32, column_sums
from models.visits import compact

BackgroundKind = Literal["none", "power_law", "asls", "arpls", "snip"]


@dataclass(frozen=True)
class StepsConfig:
    """What is done to spectra before a model sees them; nothing by default.

    Attributes
    ----------
    crop : tuple of float, optional
        Range of the axis that the model has, in axis units.
    rebin : int
        Neighbouring channels that are summed into one.
    dead_channels : tuple of int
        The sender's channels that count wrongly.
    align, align_within : float, optional
        Where in axis units a peak belongs (0 for the zero loss), and the largest shift looked for.
    dark : tuple of float
        Counts that every visit has without signal: one number for all channels, or one for each; empty for none.
    background : str
        'power_law', or a baseline: 'asls', 'arpls', 'snip'.
    background_at : 'result' or 'model'
        Whether it is subtracted from what a model made of the counts, which is nearly always better, or before.
    background_window : tuple of float, optional
        Where a power law is fitted, in axis units.
    stiffness, half_window : float, int
        Of baselines (`models.background.Baseline`).
    normalise : str
        'total', 'peak', 'snv' or 'minmax'.
    """

    crop: tuple[float, float] | None = None
    rebin: int = 1
    dead_channels: tuple[int, ...] = ()
    align: float | None = None
    align_within: float = 10.0
    dark: tuple[float, ...] = ()
    background: BackgroundKind = "none"
    background_at: Literal["result", "model"] = "result"
    background_window: tuple[float, float] | None = None
    stiffness: float = 1e5
    half_window: int = 20
    normalise: Normalisation = "none"

    @property
    def is_nothing(self) -> bool:
        """Whether spectra are left as they are."""
        idle = (self.crop, self.align) == (None, None) and not self.dead_channels and not any(self.dark)
        return idle and self.rebin == 1 and (self.background, self.normalise) == ("none", "none")

    def told(self) -> dict[str, str]:
        """Each step that is done, and how it is undone in what the linear engine publishes."""
        subtracted = "added back in denoised spectra and window maps; basis, scores and net maps are without"
        weighed = "undone: the fit weighs spectra by their noise and is the same without"
        steps = {
            "align": (
                self.align is not None,
                "not undone: what is denoised is on the aligned axis; map/shift",
            ),
            "crop": (self.crop is not None, "not undone: what is denoised is NaN outside"),
            "rebin": (self.rebin > 1, "spread over the channels of a sum by the mean spectrum"),
            "dead_channels": (bool(self.dead_channels), "interpolated"),
            "dark": (any(self.dark), subtracted),
            f"background {self.background}": (
                self.background != "none",
                "subtracted from denoised spectra: net maps" if self.background_at == "result" else subtracted,
            ),
            f"normalise {self.normalise}": (self.normalise in {"total", "peak", "snv"}, f"{weighed}; map/scale"),
            "normalise minmax": (self.normalise == "minmax", weighed),
        }
        return {name: how for name, (done, how) in steps.items() if done}


@dataclass(frozen=True)
class Prepared:
    """A block of visits in the model's channels.

    Attributes
    ----------
    counts : (n, m)
        Aligned and summed, with everything that was counted in them: the noise is theirs.
    added : ndarray of float32, (n, M), optional
        What is not signal in them: coefficients of `Steps.shapes`.
    level, scale : ndarray of float64, (n,), optional
        What is taken off the net counts, the same in every channel, and what they are then divided by.
    shift : ndarray of float64, (n,), optional
        Channels of the sender by which the spectra were moved down.
    """

    counts: Counts
    added: Float32 | None = None
    level: Float64 | None = None
    scale: Float64 | None = None
    shift: Float64 | None = None


class Steps:
    """The steps of one series; deterministic in the order of its spectra.

    Parameters
    ----------
    config : StepsConfig
    axis : Axis
        The sender's.
    noise : NoiseModel, optional
        Of the sender's counts, where it is known.

    Raises
    ------
    ValueError
        Where the axis has no room for a step, with a sentence for the operator.
    """

    def __init__(self, config: StepsConfig, axis: Axis, noise: NoiseModel | None = None) -> None:
        self.config, self._axis = config, axis
        self.layout = make_layout(axis, config.crop, config.rebin, config.dead_channels)
        self._aligner: Aligner | None = None
        if config.align is not None:
            self._aligner = Aligner(
                axis, config.align, config.align_within, axis.peak_width_channels(), noise or POISSON
            )
        self._dark = self._dark_of(config.dark)
        found, first = self._background_of(config), config.background_at == "model"
        self._background: Background | None = found if first else None
        self.afterwards: Background | None = None if first else found
        self._range = ChannelRange() if config.normalise == "minmax" else None
        self.shapes = self._all_shapes()
        self._seen: Float64 = np.zeros(axis.size)

    @property
    def moves(self) -> bool:
        """Whether spectra are aligned."""
        return self._aligner is not None

    @property
    def scales(self) -> bool:
        """Whether each spectrum has a scale of its own."""
        return self.config.normalise in {"total", "peak", "snv"}

    @property
    def share(self) -> Float64:
        """Share (D,) of each of the sender's channels in its sum, by all spectra so far."""
        return self.layout.share(self._seen)

    def _dark_of(self, dark: tuple[float, ...]) -> Float32 | None:
        """Dark counts (D,), or None."""
        if not any(dark):
            return None
        if len(dark) not in {1, self._axis.size}:
            raise ValueError(f"dark has {len(dark)} numbers: give one, or one for each of {self._axis.size} channels")
        return np.asarray(np.broadcast_to(np.asarray(dark, dtype=np.float32), self._axis.size))

    def _background_of(self, config: StepsConfig) -> Background | None:
        if config.background == "none":
            return None
        if config.background == "power_law":
            if config.background_window is None:
                raise ValueError("a power law needs background_window, the range before the edge")
            return PowerLaw(self.layout.axis_values(self._axis), config.background_window)
        return Baseline(self.layout.n_modelled, config.background, config.stiffness, config.half_window)

    def _all_shapes(self) -> Float32 | None:
        """Spectra (M, m) that are subtracted with some weight: the dark counts, the background between its knots."""
        shapes = []
        if self._dark is not None:
            shapes.append(self.layout.apply(self._dark[None, :]))
        if self._background is not None:
            shapes.append(self._background.knots.matrix)
        return np.concatenate([as_dense(s) for s in shapes]).astype(np.float32) if shapes else None

    def prepare(self, counts: Counts) -> Prepared:
        """Spectra (n, D) of single visits, any numeric type, left unchanged, as the model takes them."""
        if self.layout.width > 1:
            self._seen += column_sums(as_float32(counts))
        shift = None
        if self._aligner is not None:
            if isinstance(counts, sparse.csr_array) or counts.dtype.kind != "f":
                counts = compact(counts)  # what is mostly empty stays independent counts when it is moved
            shift = self._aligner.shifts(counts)
            counts = self._aligned(self._aligner, counts, shift)
        counts = self.layout.apply(counts)
        added = self._subtracted(counts)
        level = scale = None
        if self.scales:
            level, scale = row_scale(self._net(counts, added), self.config.normalise)
        return Prepared(counts, added, level, scale, shift)

    def _aligned(self, aligner: Aligner, counts: Counts, shift: Float64) -> Counts:
        if self._dark is None or np.ptp(self._dark) == 0:
            return aligner.shifted(counts, shift)
        # Dark counts belong to channels, not to energies: they stay where they are.
        return aligner.shifted(as_dense(counts) - self._dark, shift) + self._dark

    def _subtracted(self, counts: Counts) -> Float32 | None:
        if self.shapes is None:
            return None
        n, known = counts.shape[0], 0
        added = np.zeros((n, self.shapes.shape[0]), dtype=np.float32)
        if self._dark is not None:
            added[:, 0], known = 1.0, 1
        if self._background is not None:
            knots = self._background.knots.at.size
            added[:, known : known + knots] = self._background.find(self._net(counts, added))
        return added

    def _net(self, counts: Counts, added: Float32 | None) -> Float32:
        dense = np.asarray(as_dense(counts), dtype=np.float32)
        return dense if added is None or self.shapes is None else dense - added @ self.shapes

    def values(self, prepared: Prepared) -> Counts:
        """What a model sees of a block (n, m): net counts over their scale."""
        if self.shapes is None and not self.scales and self._range is None:
            return prepared.counts
        net = self._net(prepared.counts, prepared.added)
        if prepared.level is not None and prepared.scale is not None:
            net = ((net - prepared.level[:, None]) / prepared.scale[:, None]).astype(np.float32)
        return net if self._range is None else self._range.apply(net).astype(np.float32)

    def expand(self, spectra: NDArray[Any], outside: float = 0.0) -> Float32:
        """Spectra (n, D) on the sender's axis from the model's (n, m), which may be normalised channel by channel."""
        if self._range is not None:
            spectra = self._range.undo(spectra)
        return self.layout.expand(spectra, self.share, outside)

    def undo(self, spectra: NDArray[Any], prepared: Prepared) -> Float32:
        """Counts (n, D) on the sender's axis, from what a model makes of `values(prepared)`; NaN where it has none.

        Alignment is not undone: the aligned axis is the right one.
        """
        if self._range is not None:
            spectra = self._range.undo(spectra)
        if prepared.level is not None and prepared.scale is not None:
            spectra = spectra * prepared.scale[:, None] + prepared.level[:, None]
        if prepared.added is not None and self.shapes is not None:
            spectra = spectra + prepared.added @ self.shapes
        return self.layout.expand(spectra, self.share, outside=np.nan)


class Preprocessed:
    """Any model of spectra behind steps: a `SpectralModel` of the sender's channels.

    Parameters
    ----------
    steps : Steps
    model : SpectralModel
        Of `steps.layout.n_modelled` channels.
    """

    def __init__(self, steps: Steps, model: SpectralModel) -> None:
        self._steps, self._model = steps, model

    @property
    def n_channels(self) -> int:
        """Channels of the sender, D."""
        return self._steps.layout.n_channels

    @property
    def n_components(self) -> int:
        """Scores of a spectrum, K."""
        return self._model.n_components

    def partial_fit(self, spectra: Counts) -> Preprocessed:
        """Learn from a block of spectra (n, D)."""
        self._model.partial_fit(self._steps.values(self._steps.prepare(spectra)))
        return self

    def transform(self, spectra: Counts) -> Float32:
        """Scores (n, K) of spectra (n, D)."""
        return self._model.transform(self._steps.values(self._steps.prepare(spectra)))

    def reconstruct(self, scores: Float32) -> Float32:
        """Spectra (n, D) on the sender's axis from scores (n, K); normalised and net of background, if steps are."""
        return self._steps.expand(self._model.reconstruct(scores))

    def denoise(self, spectra: Counts) -> Float32:
        """What the model makes of spectra (n, D), in their own counts; NaN in channels that it has not."""
        prepared = self._steps.prepare(spectra)
        scores = self._model.transform(self._steps.values(prepared))
        return self._steps.undo(self._model.reconstruct(scores), prepared)
