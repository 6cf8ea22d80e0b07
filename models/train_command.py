"""`scanwise train`: train a network on simulated specimens, recorded scans, or one after the other."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from models.augment import Augmentation
from models.sources import Source, measured, simulated
from models.tables import metrics_table

if TYPE_CHECKING:
    from models.recipe import Sources

DATA, NETWORK, TRAINING, CHANGES = "Data", "Network", "Training", "How spectra are changed"
_ERROR, _USAGE = 1, 2
_HELD_OUT_SHARE = 4
console = Console()


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


def train(
    out: Annotated[Path, typer.Argument(help="ONNX file to write; its card is written beside it.")],
    specimen: Annotated[
        list[str] | None, typer.Option(help="Simulated specimen, by name or TOML file; repeated.", rich_help_panel=DATA)
    ] = None,
    scan: Annotated[
        list[Path] | None, typer.Option(help="Recording or measured file; repeated.", rich_help_panel=DATA)
    ] = None,
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="Scan to judge by; absent: every fifth line of the others.", rich_help_panel=DATA),
    ] = None,
    variants: Annotated[
        int, typer.Option(min=0, help="Specimens like each named one; 0: its map alone.", rich_help_panel=DATA)
    ] = 64,
    channels: Annotated[
        int | None, typer.Option(min=2, help="Channels of simulated spectra.", rich_help_panel=DATA)
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Network to go on with (fine-tuning).", rich_help_panel=DATA)
    ] = None,
    kind: Annotated[KindOption, typer.Option(help="Architecture.", rich_help_panel=NETWORK)] = KindOption.HOURGLASS,
    hidden: Annotated[
        str, typer.Option(help="Widths down to the latent space.", rich_help_panel=NETWORK)
    ] = "512,128,32",
    latent: Annotated[int, typer.Option(min=1, help="Coordinates of the latent space.", rich_help_panel=NETWORK)] = 8,
    side: Annotated[int, typer.Option(help="3 or 5 for a spatial network.", rich_help_panel=NETWORK)] = 1,
    calibration: Annotated[
        bool, typer.Option("--calibration", help="With a layer that learns shift and gain.", rich_help_panel=NETWORK)
    ] = False,
    loss: Annotated[LossOption, typer.Option(help="Loss.", rich_help_panel=TRAINING)] = LossOption.POISSON,
    target: Annotated[
        TargetOption | None,
        typer.Option(help="Absent: truth of simulated spectra, thinned counts of others.", rich_help_panel=TRAINING),
    ] = None,
    noise: Annotated[
        NoiseOption, typer.Option(help="Noise beside that of the counts.", rich_help_panel=TRAINING)
    ] = NoiseOption.NONE,
    beta: Annotated[float, typer.Option(min=0.0, help="Of a variational network.", rich_help_panel=TRAINING)] = 1.0,
    steps: Annotated[int, typer.Option(min=1, help="Batches.", rich_help_panel=TRAINING)] = 1500,
    batch: Annotated[int, typer.Option(min=1, help="Spectra in a batch.", rich_help_panel=TRAINING)] = 256,
    rate: Annotated[float, typer.Option(min=0.0, help="Highest learning rate.", rich_help_panel=TRAINING)] = 5e-3,
    patience: Annotated[
        int, typer.Option(min=0, help="Looks at the held-out loss without progress.", rich_help_panel=TRAINING)
    ] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same network.", rich_help_panel=TRAINING)] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Processor cores.", rich_help_panel=TRAINING)] = 1,
    dose: Annotated[
        tuple[float, float] | None, typer.Option(help="Least and most counts.", rich_help_panel=CHANGES)
    ] = None,
    shift: Annotated[float, typer.Option(min=0.0, help="Channels, either way.", rich_help_panel=CHANGES)] = 0.0,
    gain: Annotated[float, typer.Option(min=0.0, help="Relative, either way.", rich_help_panel=CHANGES)] = 0.0,
    broadening: Annotated[float, typer.Option(min=0.0, help="Channels, sigma.", rich_help_panel=CHANGES)] = 0.0,
) -> None:
    """Train a network that denoises spectra, and export it to ONNX with its model card."""
    try:
        # Slow to import, and only here.
        from models.recipe import Recipe, cook
        from models.train import TrainConfig

        config = TrainConfig(
            steps=steps, batch=batch, learning_rate=rate, loss=loss.value, corruption=noise.value, beta=beta,
            patience=patience, seed=seed, threads=threads,
        )  # fmt: skip
        widths = tuple(int(w) for w in hidden.split(","))
        recipe = Recipe(
            kind.value, widths, latent, side, calibration, dose, None if target is None else target.value,
            augmentation=Augmentation(shift, gain, broadening), training=config, start=start,
        )  # fmt: skip
        with _bar() as bar:
            sources = _sources(specimen or [], scan or [], held_out or [], variants, channels, seed, bar)
            task = bar.add_task("training", total=steps)

            def progress(done: int, planned: int, found: float) -> None:
                bar.update(task, completed=done, description=f"training, held-out loss {found:.4f}")

            card = cook(out.stem, sources, recipe, out, progress, bar.console.print)
    except ModuleNotFoundError as error:
        text = f"scanwise train needs scanwise[train] (there is no package {error.name!r})"
        typer.echo(f"{text}: pip install 'scanwise[train]'", err=True)
        raise typer.Exit(_USAGE) from error
    except (ValueError, OSError) as error:
        typer.echo(f"scanwise train: {error}", err=True)
        raise typer.Exit(_ERROR) from error
    console.print(metrics_table(card))
    console.print(f"{out}: {card.parameters:,} parameters; its card is {out.with_suffix('.json')}", highlight=False)


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def _sources(
    specimens: list[str],
    scans: list[Path],
    held_out: list[Path],
    variants: int,
    channels: int | None,
    seed: int,
    bar: Progress,
) -> Sources:
    """Return all spectra: variants of a specimen to train on, others of them held out, its map to be judged on."""
    from models.recipe import Sources

    training: list[Source] = [measured(path) for path in scans]
    held = [measured(path) for path in held_out]
    judged = []
    for name in specimens:
        task = bar.add_task(f"simulating {name}", total=variants or None)

        def progress(done: int, planned: int, task: int = task) -> None:
            bar.update(task, completed=done, total=planned)  # type: ignore[arg-type]

        keys = {"channels": channels, "progress": progress}
        few = max(1, variants // _HELD_OUT_SHARE) if variants else 0
        training.append(simulated(name, seed=seed, variants=variants, **keys))
        held.append(simulated(name, seed=seed + 1, variants=few, **keys))
        judged.append(simulated(name, seed=seed + 2, channels=channels))
        bar.update(task, completed=1, total=1)
    return Sources(training, held, judged)
