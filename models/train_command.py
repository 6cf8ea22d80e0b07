"""`scanwise train`: train a network on simulated specimens, recorded scans, or one after the other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from models.augment import Augmentation
from models.sources import Source, measured, simulated
from models.tables import metrics_table
from models.train_options import (
    Batch,
    Beta,
    Broadening,
    Calibration,
    Channels,
    Dose,
    Gain,
    HeldOut,
    Hidden,
    Kind,
    KindOption,
    Latent,
    Loss,
    LossOption,
    Noise,
    NoiseOption,
    OutFile,
    Patience,
    Rate,
    Scan,
    Seed,
    Shift,
    Side,
    Specimen,
    Start,
    Steps,
    Target,
    Threads,
    Variants,
)

if TYPE_CHECKING:
    from models.card import ModelCard
    from models.recipe import Recipe, Sources

_ERROR, _USAGE = 1, 2
_HELD_OUT_SHARE = 4
console = Console()


def train(
    out: OutFile,
    specimen: Specimen = None,
    scan: Scan = None,
    held_out: HeldOut = None,
    variants: Variants = 64,
    channels: Channels = None,
    start: Start = None,
    kind: Kind = KindOption.HOURGLASS,
    hidden: Hidden = "512,128,32",
    latent: Latent = 8,
    side: Side = 1,
    calibration: Calibration = False,
    loss: Loss = LossOption.POISSON,
    target: Target = None,
    noise: Noise = NoiseOption.NONE,
    beta: Beta = 1.0,
    steps: Steps = 1500,
    batch: Batch = 256,
    rate: Rate = 0.005,
    patience: Patience = 10,
    seed: Seed = 0,
    threads: Threads = 1,
    dose: Dose = None,
    shift: Shift = 0.0,
    gain: Gain = 0.0,
    broadening: Broadening = 0.0,
) -> None:
    """Train a network that denoises spectra, and export it to ONNX with its model card."""
    try:
        # Slow to import, and only here.
        from models.recipe import Recipe
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
        known = partial(_sources, specimen or [], scan or [], held_out or [], variants, channels, seed)
        card = _trained(out, recipe, known)
    except ModuleNotFoundError as error:
        text = f"scanwise train needs scanwise[train] (there is no package {error.name!r})"
        typer.echo(f"{text}: pip install 'scanwise[train]'", err=True)
        raise typer.Exit(_USAGE) from error
    except (ValueError, OSError) as error:
        typer.echo(f"scanwise train: {error}", err=True)
        raise typer.Exit(_ERROR) from error
    console.print(metrics_table(card))
    console.print(f"{out}: {card.parameters:,} parameters; its card is {out.with_suffix('.json')}", highlight=False)


def _trained(out: Path, recipe: Recipe, sources: Callable[[Progress], Sources]) -> ModelCard:
    """Gather spectra, train and export, with a bar for each."""
    from models.recipe import cook

    with _bar() as bar:
        known = sources(bar)
        task = bar.add_task("training", total=recipe.training.steps)

        def progress(done: int, planned: int, found: float) -> None:
            bar.update(task, completed=done, description=f"training, held-out loss {found:.4f}")

        return cook(out.stem, known, recipe, out, progress, bar.console.print)


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
