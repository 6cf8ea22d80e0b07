"""The model card: what a network is, what it was trained on and how well, written beside its ONNX file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.axis import Axis
from models.noise import NoiseModel

Kind = Literal["hourglass", "residual", "convolutional", "variational", "nonnegative", "spatial", "topographic"]
Size = Annotated[int, Field(ge=1)]
NORMALISATION = {
    "root": "square root of quanta over the square root of their mean in the spectrum",
    "share": "quanta over their mean in the spectrum and the square root of the mean spectrum",
}
CARD = ".json"
_SHORTEST = 2


class _Part(BaseModel):
    """A part of the card: unknown keys are errors, what is written is read back alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Architecture(_Part):
    """A network's shape.

    Attributes
    ----------
    kind : str
        hourglass (dense, also the denoising one: that is a matter of training), residual (shrunk PCA and what a dense
        network adds to it), convolutional, variational, nonnegative (decoder weights are end-members), spatial (sees
        the neighbourhood of a position), topographic (a grid of spectra on a curved sheet).
    n_channels : int
        Channels of a spectrum, D.
    hidden : tuple of int
        Widths between spectrum and latent space, mirrored in the decoder; channels of the three convolutions where it
        is convolutional, nodes along each latent coordinate where it is topographic.
    latent : int
        Coordinates of the latent space, K; end-members where it is nonnegative.
    side : int
        3 or 5 positions along each side of a spatial network's neighbourhood, else 1.
    calibration : bool
        Whether a layer with a learnable shift and gain takes spectra to the axis of the training data.
    """

    kind: Kind = "hourglass"
    n_channels: Annotated[int, Field(ge=_SHORTEST)]
    hidden: tuple[Size, ...] = (512, 128, 32)
    latent: Size = 8
    side: Literal[1, 3, 5] = 1
    calibration: bool = False

    @property
    def scaling(self) -> Literal["root", "share"]:
        """Of counts before the first layer: sqrt(counts D / total), or counts D / total."""
        return "share" if self.kind in {"residual", "topographic"} else "root"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.side > 1) != (self.kind == "spatial"):
            raise ValueError(f"a {self.kind} network cannot have a neighbourhood of side {self.side}")
        if not self.hidden or (self.kind == "convolutional" and len(self.hidden) != 3):
            raise ValueError("hidden needs at least one width, and three where the network is convolutional")
        return self


class AxisCard(_Part):
    """The axis of the training data, as on the wire: offset and scale, or values."""

    name: str = ""
    units: str = ""
    size: Size
    offset: float = 0.0
    scale: float = 1.0
    values: tuple[float, ...] | None = None

    @classmethod
    def of(cls, axis: Axis) -> AxisCard:
        """Make it from an axis."""
        uniform = {"offset": axis.offset, "scale": axis.scale} if axis.listed is None else {"values": axis.listed}
        return cls(name=axis.name, units=axis.units, size=axis.size, **uniform)

    def axis(self) -> Axis:
        """Return it as an axis."""
        return Axis(self.name, self.units, self.size, self.offset, self.scale, self.values)


class NoiseCard(_Part):
    """The noise of the training data; a network sees quanta, (counts - offset) / gain."""

    kind: Literal["poisson", "poisson_gaussian"] = "poisson"
    gain: Annotated[float, Field(gt=0)] = 1.0
    offset: float = 0.0
    read_sigma: Annotated[float, Field(ge=0)] = 0.0

    @classmethod
    def of(cls, noise: NoiseModel) -> NoiseCard:
        """Make it from a noise model; one without gain (no counting in it) has 1."""
        return cls(kind=noise.kind, gain=noise.gain or 1.0, offset=noise.offset, read_sigma=noise.read_sigma)


class Metric(_Part):
    """Mean squared error of held-out spectra in units of counting noise, 1 being raw counts.

    `pca` is shrunk Poisson-scaled PCA of the same counts, fitted on all of them as the daemon does at the end of a
    scan; `line` and `line_pca` are errors of the sum over the strongest line, in units of its own counting noise.
    `against` says whether the truth was known or the error was found from thinned halves.
    """

    data: str
    counts: float
    against: Literal["truth", "thinned"]
    network: float
    pca: float
    line: float | None = None
    line_pca: float | None = None


class LatentCard(_Part):
    """Where training data lie in the latent space.

    `distance` is the 99.9th percentile of the Mahalanobis distance of held-out spectra to (mean, covariance).
    """

    mean: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    distance: float


class ModelCard(_Part):
    """All that is known of a network.

    Attributes
    ----------
    counts : (float, float)
        Quanta in a spectrum for which it was trained.
    data : list of map
        Where its training spectra are from.
    training : map
        Settings, steps, seconds, threads, versions.
    parameters : int
        Learnable numbers.
    sha256 : str
        Of the ONNX file.
    """

    name: str
    technique: Literal["eds", "eels", "xrd", "xps", "raman", "other"]
    architecture: Architecture
    axis: AxisCard
    units: Literal["counts"] = "counts"
    noise: NoiseCard = NoiseCard()
    normalisation: str = NORMALISATION["root"]
    counts: tuple[float, float]
    data: tuple[dict[str, Any], ...] = ()
    training: dict[str, Any] = {}
    metrics: tuple[Metric, ...] = ()
    latent: LatentCard
    parameters: Size
    sha256: str = ""

    def misfit(self, technique: str, axis: Axis, tolerance: float = 0.5) -> str | None:
        """Return why the network does not fit a series, None where it does.

        Parameters
        ----------
        tolerance : float
            Most channels by which an axis value may lie elsewhere than in training.
        """
        if technique != self.technique:
            return f"it is for {self.technique}, the series is {technique}"
        if axis.size != self.axis.size:
            return f"it has {self.axis.size} channels, the series {axis.size}"
        if axis.units.strip().lower() != self.axis.units.strip().lower():
            return f"its axis is in {self.axis.units!r}, the series' in {axis.units!r}"
        own = self.axis.axis().values
        step = float(np.abs(np.diff(own)).mean()) if axis.size > 1 else 1.0
        off = float(np.abs(axis.values - own).max()) / step
        return f"its axis is off by {off:.3g} channels" if off > tolerance else None


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_card(card: ModelCard, onnx: Path) -> Path:
    """Write a card beside the ONNX file it describes, with the file's hash; return its path."""
    path = onnx.with_suffix(CARD)
    path.write_text(card.model_copy(update={"sha256": file_hash(onnx)}).model_dump_json(indent=2) + "\n", "utf-8")
    return path


def read_card(onnx: Path) -> ModelCard:
    """Read the card of an ONNX file, and check that the file is the one it describes.

    Raises
    ------
    ValueError
        Where there is no card, it cannot be read, or the file is another one.
    """
    path = onnx.with_suffix(CARD)
    try:
        card = ModelCard.model_validate_json(path.read_bytes())
        found = file_hash(onnx)
    except FileNotFoundError as error:
        raise ValueError(f"{onnx}: there is no {Path(error.filename).name}") from error
    except ValidationError as error:
        raise ValueError(f"{path} is no model card: {error}") from error
    if found != card.sha256:
        raise ValueError(f"{onnx} is not the file that its card describes (SHA-256 {found[:12]}...)")
    return card
