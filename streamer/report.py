"""The report of a finished series: pictures and numbers from what its folder keeps.

``python -m streamer.report FOLDER`` reads ``final.npz`` and writes PNG files and ``numbers.json`` beside it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from streamer.alike import k_means
from streamer.compression import compression
from streamer.run_data import Run
from streamer.spectrum_files import write_end_members

NUMBERS: Final = "numbers.json"
UMAP_PICTURE: Final = "umap.png"


def make_report(folder: Path) -> dict[str, Any]:
    """Draw and write the report of a series into its own folder.

    Parameters
    ----------
    folder : Path
        With ``final.npz``.

    Returns
    -------
    dict
        What ``numbers.json`` says.

    Raises
    ------
    OSError
        Where files cannot be read or written.
    ValueError
        Where ``final.npz`` is no such file.
    """
    from streamer.plots import draw_report

    run = Run.load(folder)
    pictures = draw_report(run.as_drawn(), folder)
    files = write_end_members(run, folder)
    said: dict[str, Any] = _finite(numbers(run) | {"pictures": pictures, "files": files})
    (folder / NUMBERS).write_text(json.dumps(said, indent=2, allow_nan=False) + "\n", "utf-8")
    return said


def add_umap(folder: Path) -> str:
    """Draw scores in a plane beside the report of a folder, and return the file's name; that takes half a minute.

    Raises
    ------
    ValueError
        Where it cannot be done, with a sentence for the operator.
    """
    import matplotlib as mpl

    from streamer.plot_umap import embedded, umap_figure
    from streamer.plots import STYLE

    run = Run.load(folder)
    try:
        figure = umap_figure(run, *embedded(run))
    except ImportError as error:
        raise ValueError("UMAP is an extra: pip install 'scanwise[umap]'") from error
    with mpl.rc_context(STYLE):
        figure.savefig(folder / UMAP_PICTURE)
    return UMAP_PICTURE


def numbers(run: Run) -> dict[str, Any]:
    """Return what can be said of a run in numbers: books, model, errors, timings, decisions, each map's range."""
    timings, status = run.meta.get("timings") or {}, run.meta.get("status") or {}
    return {
        "series": run.series,
        "technique": run.header.get("technique"),
        "nav_shape": list(run.nav_shape),
        "n_channels": int(run.axis.size),
        "books": dict(run.books),
        "balanced": run.balanced,
        "model": run.meta.get("model"),
        "rank": run.meta.get("rank"),
        "noise_edge": run.meta.get("noise_edge"),
        "ranks": status.get("ranks") or {},
        "live_error": status.get("live_error"),
        "compression": compression(run),
        "k_means": k_means(run),
        "unmixing": run.meta.get("endmembers"),
        "timings": timings,
        "decisions": run.decisions,
        "maps": {name: _range(values) for name, values in run.maps.items()},
    }


def _finite(value: Any) -> Any:
    """Return `value` with None for what JSON has no number for."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _range(values: np.ndarray[Any, Any]) -> dict[str, Any]:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return {"measured": 0}
    low, middle, high = (float(f(finite)) for f in (np.min, np.median, np.max))
    return {"measured": int(finite.size), "min": low, "median": middle, "max": high}


def report_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished series, with its final.npz.")],
    umap: Annotated[bool, typer.Option("--umap", help="Draw scores in a plane, too; takes half a minute.")] = False,
) -> None:
    """Draw the report of a finished series: maps, scores, scree, eigenspectra, numbers."""
    try:
        said = make_report(folder)
    except (OSError, ValueError) as error:
        typer.echo(f"scanwise report: {error}", err=True)
        raise typer.Exit(1) from error
    for name in [*said["pictures"], *said["files"], NUMBERS]:
        typer.echo(str(folder / name))
    if said["compression"]:
        typer.echo(said["compression"]["text"])
    if umap:
        try:
            typer.echo(str(folder / add_umap(folder)))
        except ValueError as error:
            typer.echo(f"scanwise report: no {UMAP_PICTURE}: {error}", err=True)


def main() -> None:
    """Run ``python -m streamer.report``."""
    typer.run(report_command)


if __name__ == "__main__":
    main()
