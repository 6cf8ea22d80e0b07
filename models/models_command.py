"""`scanwise models`: what networks there are, what they are, whether they work here, and which is better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import sparse

from models.base import Float32
from models.card import Metric, ModelCard
from models.evaluate import against_thinned, against_truth
from models.inference import TrainedNetwork
from models.pools import neighbours
from models.precision import choose, made_up
from models.rebinned import misfit, rebinned
from models.sources import Source, measured, simulated
from models.tables import comparison, metrics_table, verdict
from models.zoo import SHIPPED, find_model, find_models

_ERROR = 1
_ROWS = 4096
console = Console()
models = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="List, show, check and compare networks.",
)

Folders = Annotated[list[Path] | None, typer.Option("--folder", help="Further folder of ONNX files; repeated.")]


@models.command("list")
def list_models(folder: Folders = None) -> None:
    """List the networks that come with the program and those of --folder."""
    table = Table()
    for column in ("name", "technique", "axis", "kind", "latent", "parameters", "where"):
        table.add_column(column)
    wrong = []
    for path, card in find_models(folder or []):
        if isinstance(card, ModelCard):
            axis, a = card.axis.axis(), card.architecture
            ends = f"{axis.values[0]:.4g} to {axis.values[-1]:.4g} {axis.units}, {axis.size}"
            where = "scanwise" if path.parent == SHIPPED else str(path.parent)
            table.add_row(card.name, card.technique, ends, a.kind, str(a.latent), f"{card.parameters:,}", where)
        else:
            wrong.append(str(card))
    console.print(table)
    for complaint in wrong:
        console.print(f"[red]not usable[/]: {complaint}", soft_wrap=True, highlight=False)


@models.command()
def show(name: Annotated[str, typer.Argument(help="Name or ONNX file.")], folder: Folders = None) -> None:
    """Show a network's card."""
    card = _loaded(name, folder).card
    console.print(card.model_dump_json(indent=2, exclude={"metrics", "latent"}), highlight=False)
    if card.metrics:
        console.print(metrics_table(card))
        console.print("Error over that of PCA:", *verdict(card), sep="\n", highlight=False)


@models.command()
def check(name: Annotated[str, typer.Argument(help="Name or ONNX file.")], folder: Folders = None) -> None:
    """Check that a network is the one of its card, runs here, and how fast; ends with 1 where it does not."""
    network = _loaded(name, folder)
    if network.side > 1:
        console.print(f"{network.card.name}: sees {network.side} x {network.side} positions; read and ready")
        return
    truth, counts = made_up(network.model, network.card, 256, 0)
    found = network.denoise(counts)
    listed = network.denoise(sparse.csr_array(counts))
    scale = float(np.abs(found.spectra).max())
    same = np.allclose(listed.spectra, found.spectra, atol=1e-4 * scale)
    if not (np.isfinite(found.spectra).all() and same and found.spectra.shape == truth.shape):
        raise _end(ValueError(f"{name}: what it computes is not right"))
    choice = choose(network.model, network.card)
    console.print(
        f"{network.card.name}: SHA-256 right, runs on {network.device}; int8 is {choice.speed:.2f} times as fast here "
        f"and costs {100 * (choice.cost - 1):+.2f} % of error: {choice.precision} is used",
        highlight=False,
    )


@models.command()
def compare(
    names: Annotated[list[str], typer.Argument(help="Names or ONNX files.")],
    specimen: Annotated[str | None, typer.Option(help="On the map of a simulated specimen.")] = None,
    scan: Annotated[Path | None, typer.Option(help="On a recording or measured file, thinned in halves.")] = None,
    dose: Annotated[list[float] | None, typer.Option(help="Mean counts of simulated spectra; repeated.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of specimen and counts.")] = 0,
    folder: Folders = None,
) -> None:
    """Compare networks with shrunk PCA on the same counts; on other channels than theirs as the daemon uses them."""
    if (specimen is None) == (scan is None):
        raise _end(ValueError("say either --specimen or --scan"))
    networks = [_loaded(name, folder) for name in names]
    try:
        size = networks[0].n_channels
        source = simulated(specimen, seed=seed, channels=size) if specimen else measured(scan or Path())
        found = [(n.card.name, _judged(n, source, dose or [source.counts], seed)) for n in networks]
    except (ValueError, OSError) as error:
        raise _end(error) from error
    console.print(comparison(f"{source.name}: error in units of counting noise (raw counts: 1)", found))


def _judged(network: TrainedNetwork, source: Source, doses: list[float], seed: int) -> list[Metric]:
    if (why := misfit(network.card, source.technique, source.axis)) is not None:
        raise ValueError(f"{network.card.name} does not fit {source.name!r}: {why}")
    if network.card.misfit(source.technique, source.axis) is not None:
        network = TrainedNetwork(*rebinned(network.model, network.card, source.axis))
    around = neighbours(source.nav_shape, source.spectra.shape[0], network.side)

    def denoised(quanta: NDArray[Any]) -> Float32:
        seen = quanta if network.side == 1 else quanta[np.maximum(around, 0)] * (around >= 0)[:, :, None]
        return network.denoise(seen).spectra

    if source.expected:
        return [against_truth(source.name, denoised, source.spectra, dose, source.axis, seed) for dose in doses]
    dense = source.spectra.toarray() if isinstance(source.spectra, sparse.csr_array) else source.spectra
    return [against_thinned(source.name, denoised, dense, source.axis, source.read_sigma, seed=seed)]


def _loaded(name: str, folder: list[Path] | None) -> TrainedNetwork:
    try:
        return TrainedNetwork.load(find_model(name, folder or []))
    except (ValueError, OSError) as error:
        raise _end(error) from error


def _end(error: Exception) -> typer.Exit:
    typer.echo(f"scanwise models: {error}", err=True)
    return typer.Exit(_ERROR)
