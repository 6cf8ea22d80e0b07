"""Options of `scanwise train`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DATA, NETWORK, TRAINING, CHANGES = "Data", "Network", "Training", "How spectra are changed"


class KindOption(StrEnum):
    """Architectures."""

    HOURGLASS = "hourglass"
    RESIDUAL = "residual"
    CONVOLUTIONAL = "convolutional"
    VARIATIONAL = "variational"
    NONNEGATIVE = "nonnegative"
    SPATIAL = "spatial"
    TOPOGRAPHIC = "topographic"


class LossOption(StrEnum):
    """Losses."""

    POISSON = "poisson"
    MSE = "mse"
    ANGLE = "angle"


class TargetOption(StrEnum):
    """What a network learns to say."""

    TRUTH = "truth"
    THINNED = "thinned"
    SAME = "same"


class NoiseOption(StrEnum):
    """Noise beside that of the counts."""

    NONE = "none"
    GAUSSIAN = "gaussian"
    POISSON = "poisson"
    MASKING = "masking"


OutFile = Annotated[Path, typer.Argument(help="ONNX file to write; its card is written beside it.")]
Specimen = Annotated[
    list[str] | None, typer.Option(help="Simulated specimen, by name or TOML file; repeated.", rich_help_panel=DATA)
]
Scan = Annotated[list[Path] | None, typer.Option(help="Recording or measured file; repeated.", rich_help_panel=DATA)]
HeldOut = Annotated[
    list[Path] | None,
    typer.Option(help="Scan to judge by; absent: every fifth line of the others.", rich_help_panel=DATA),
]
Variants = Annotated[
    int, typer.Option(min=0, help="Specimens like each named one; 0: its map alone.", rich_help_panel=DATA)
]
Channels = Annotated[int | None, typer.Option(min=2, help="Channels of simulated spectra.", rich_help_panel=DATA)]
Start = Annotated[
    Path | None, typer.Option("--from", help="Network to go on with (fine-tuning).", rich_help_panel=DATA)
]
Kind = Annotated[KindOption, typer.Option(help="Architecture.", rich_help_panel=NETWORK)]
Hidden = Annotated[str, typer.Option(help="Widths down to the latent space.", rich_help_panel=NETWORK)]
Latent = Annotated[int, typer.Option(min=1, help="Coordinates of the latent space.", rich_help_panel=NETWORK)]
Side = Annotated[int, typer.Option(help="3 or 5 for a spatial network.", rich_help_panel=NETWORK)]
Calibration = Annotated[
    bool, typer.Option("--calibration", help="With a layer that learns shift and gain.", rich_help_panel=NETWORK)
]
Loss = Annotated[LossOption, typer.Option(help="Loss.", rich_help_panel=TRAINING)]
Target = Annotated[
    TargetOption | None,
    typer.Option(help="Absent: truth of simulated spectra, thinned counts of others.", rich_help_panel=TRAINING),
]
Noise = Annotated[NoiseOption, typer.Option(help="Noise beside that of the counts.", rich_help_panel=TRAINING)]
Beta = Annotated[float, typer.Option(min=0.0, help="Of a variational network.", rich_help_panel=TRAINING)]
Steps = Annotated[int, typer.Option(min=1, help="Batches.", rich_help_panel=TRAINING)]
Batch = Annotated[int, typer.Option(min=1, help="Spectra in a batch.", rich_help_panel=TRAINING)]
Rate = Annotated[float, typer.Option(min=0.0, help="Highest learning rate.", rich_help_panel=TRAINING)]
Patience = Annotated[
    int, typer.Option(min=0, help="Looks at the held-out loss without progress.", rich_help_panel=TRAINING)
]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same network.", rich_help_panel=TRAINING)]
Threads = Annotated[int, typer.Option(min=1, help="Processor cores.", rich_help_panel=TRAINING)]
Dose = Annotated[tuple[float, float] | None, typer.Option(help="Least and most counts.", rich_help_panel=CHANGES)]
Shift = Annotated[float, typer.Option(min=0.0, help="Channels, either way.", rich_help_panel=CHANGES)]
Gain = Annotated[float, typer.Option(min=0.0, help="Relative, either way.", rich_help_panel=CHANGES)]
Broadening = Annotated[float, typer.Option(min=0.0, help="Channels, sigma.", rich_help_panel=CHANGES)]
