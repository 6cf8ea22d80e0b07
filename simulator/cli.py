"""`scanwise simulate` and `scanwise replay`: the instrument's panel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from simulator import panel
from simulator.detector import Counting, Detector, Integrating
from simulator.effects import Effects
from simulator.faults import Faults, parse_switches
from simulator.files import Recorded, read
from simulator.panel import DETECTOR, SCAN
from simulator.playback import is_recording
from simulator.points import random_points
from simulator.raster import Index, scan_order, sparse_order
from simulator.references import write_library
from simulator.replay import FileScene
from simulator.run import Job, Recording, console, errors, report, run, series_name, speed_of, words
from simulator.sample import Specimen, load_specimen, specimen_names
from simulator.scene import Scene
from simulator.schedule import Plan
from simulator.server import Link
from simulator.store import Scenes


def simulate(
    specimen: panel.SpecimenName = "exercise",
    shape: panel.Shape = None,
    region: panel.Region = None,
    points: panel.Points = None,
    share: panel.Share = None,
    passes: panel.Passes = 4,
    pieces: panel.Pieces = 1,
    dwell: panel.Dwell = 0.001,
    rate: panel.Rate = None,
    order: panel.OrderOption = panel.ScanOrder.RASTER,
    actions: panel.Actions = panel.ALL_ACTIONS,
    obeys_at: panel.ObeysAtOption = panel.ObeysAt.POINT,
    dose_limit: panel.DoseLimit = None,
    deadline_ms: panel.Deadline = None,
    seed: panel.Seed = 0,
    series: panel.Series = None,
    counts: panel.Counts = None,
    channels: panel.Channels = None,
    block: panel.Block = 64,
    list_mode: panel.ListMode = False,
    crc: panel.Crc = False,
    detector: panel.DetectorSwitches = None,
    effect: panel.EffectSwitches = None,
    fault: panel.FaultSwitches = None,
    calibrated_at: panel.CalibratedAt = None,
    preload: panel.Preload = False,
    truth: panel.Truth = None,
    save: panel.Save = None,
    plot: panel.Plot = None,
    library: panel.Library = None,
    data: panel.Data = panel.DATA,
    pattern: panel.PatternOption = panel.Pattern.PUB,
    bind: panel.Bind = True,
    replay: panel.Replay = panel.REPLAY,
    control: panel.Control = panel.CONTROL,
    obey_advice: panel.ObeyAdvice = False,
    wait_subscriber: panel.WaitSubscriber = 2.0,
    linger: panel.Linger = 0.0,
) -> None:
    """Simulate an instrument that scans a specimen and sends its spectra."""
    with errors():
        faults, effects, camera = _switches(fault, effect, detector)
        if _only_shown(specimen, plot, library, seed, shape, channels, counts):
            return
        sample = load_specimen(specimen, seed=seed, shape=shape, channels=channels)
        dose = sample.counts if counts is None else counts
        where, positions = _places(sample, points, region, order, seed)
        if share is not None:
            positions = positions[np.isin(positions, sparse_order(sample.nav_shape, share, seed=seed))]
        scenes = Scenes(sample, dose, dwell, seed + 1, camera, list_mode, effects, save, where)
        if truth is not None:
            sample.save(truth, dose, where)
        plan = Plan(positions, passes, dwell, dose_limit, words(actions), obeys_at.value, pieces=pieces)
        _describe(sample, sample.nav_shape if where is None else where.shape, dose, passes)
        link = Link(data, pattern.value, bind, replay, control, obey_advice, wait_subscriber, linger)
        name = series or series_name(sample.name)
        job = Job(scenes.make, plan, name, block, crc, deadline_ms, calibrated_at, preload, faults, seed + 2)
        report(run(job, link, speed_of(rate, dwell)))
        scenes.save()


def _only_shown(
    specimen: str,
    plot: Path | None,
    library: Path | None,
    seed: int,
    shape: tuple[int, int] | None,
    channels: int | None,
    counts: float | None,
) -> bool:
    """Show or write what is asked for of specimens; False where a scan is asked for."""
    if specimen == "list":
        console.print("\n".join(specimen_names()))
    elif plot is not None or specimen == "all":
        _draw(specimen, plot, seed, shape, channels, counts)
    elif library is not None:
        _write_library(specimen, library, channels)
    else:
        return False
    return True


def _switches(
    fault: list[str] | None, effect: list[str] | None, detector: list[str] | None
) -> tuple[Faults, Effects, Detector]:
    camera = parse_switches(detector, Integrating) if detector else Counting()
    return parse_switches(fault or [], Faults), parse_switches(effect or [], Effects), camera


def _places(
    sample: Specimen,
    points: int | None,
    region: tuple[int, int, int, int] | None,
    order: panel.ScanOrder,
    seed: int,
) -> tuple[Index | None, Index]:
    """Return where a list of points lies (None for the map), and the order of a pass."""
    if points is not None and region is not None:
        raise ValueError("--points and --region exclude each other: a list of points is no part of a map")
    where = None if points is None else random_points(sample, points, seed)
    nav_shape = sample.nav_shape if where is None else where.shape
    return where, scan_order(nav_shape, order.value, region=region, seed=seed)


def _write_library(specimen: str, folder: Path, channels: int | None) -> None:
    written = write_library(specimen, folder, channels)
    console.print(f"{written} phases are in {folder / 'library.toml'}", highlight=False)


def _draw(
    name: str, path: Path | None, seed: int, shape: tuple[int, int] | None, channels: int | None, counts: float | None
) -> None:
    if path is None:
        raise ValueError("'all' specimens can only be drawn: say --plot FILE.png")
    # Slow to import, and no scan needs it.
    from simulator.plot import check_picture, draw_sheet, draw_specimen

    check_picture(path)

    if name == "all":
        draw_sheet([load_specimen(n, seed=seed) for n in specimen_names()], path, seed)
        return
    sample = load_specimen(name, seed=seed, shape=shape, channels=channels)
    draw_specimen(sample, path, sample.counts if counts is None else counts, seed)


def replay(
    file: Annotated[Path, typer.Argument(help="Anything RosettaSciIO reads, .npz, or a recording.")],
    passes: Annotated[
        int | None, typer.Option(min=1, help="Absent: as many as the file has frames.", rich_help_panel=SCAN)
    ] = None,
    dwell: Annotated[
        float | None, typer.Option(min=1e-7, help="Absent: what the file says.", rich_help_panel=SCAN)
    ] = None,
    rate: panel.Rate = None,
    order: panel.OrderOption = panel.ScanOrder.RASTER,
    actions: panel.Actions = "stop,pause",
    obeys_at: panel.ObeysAtOption = panel.ObeysAt.POINT,
    deadline_ms: panel.Deadline = None,
    seed: panel.Seed = 0,
    series: panel.Series = None,
    counts: Annotated[
        float | None, typer.Option(min=0.0, help="Thin to these mean counts.", rich_help_panel=DETECTOR)
    ] = None,
    block: panel.Block = 64,
    list_mode: panel.ListMode = False,
    crc: panel.Crc = False,
    fault: panel.FaultSwitches = None,
    preload: panel.Preload = False,
    data: panel.Data = panel.DATA,
    pattern: panel.PatternOption = panel.Pattern.PUB,
    bind: panel.Bind = True,
    replay: panel.Replay = panel.REPLAY,
    control: panel.Control = panel.CONTROL,
    obey_advice: panel.ObeyAdvice = False,
    wait_subscriber: panel.WaitSubscriber = 2.0,
    linger: panel.Linger = 0.0,
) -> None:
    """Play a measured file, or a recording of the daemon, as if it were being measured now."""
    link = Link(data, pattern.value, bind, replay, control, obey_advice, wait_subscriber, linger)
    name = series or series_name(file.stem)
    with errors():
        faults = parse_switches(fault or [], Faults)
        if is_recording(file):
            if rate:
                raise ValueError("a recording is played at its own pace, or with --rate 0 as fast as it is taken")
            speed = float("inf") if rate == 0 else 1.0
            report(run(Recording(file, name, faults=faults, seed=seed), link, speed))
            return
        recorded = read(file)

        def scene() -> Scene:
            return FileScene(recorded, counts=counts, seed=seed, list_mode=list_mode)

        dwell_s, positions = dwell or recorded.dwell_s or 0.001, scan_order(recorded.nav_shape, order.value, seed=seed)
        plan = Plan(
            positions[recorded.measured()[positions]],
            passes=passes or recorded.frames,
            dwell_s=dwell_s,
            actions=words(actions),
            obeys_at=obeys_at.value,
        )
        _describe_file(recorded, plan)
        job = Job(scene, plan, name, block, crc, deadline_ms, preload=preload, faults=faults, seed=seed)
        report(run(job, link, speed_of(rate, dwell_s)))


def _describe(sample: Specimen, nav_shape: tuple[int, ...], counts: float, passes: int) -> None:
    shape = " x ".join(map(str, nav_shape))
    console.print(f"[bold]{sample.name}[/]: {sample.title}")
    console.print(
        f"{sample.technique}, {shape} positions, {sample.axis.size} channels, {passes} passes of "
        f"{counts:g} counts, phases {', '.join(sample.phases)}; {len(sample.rare_positions())} rare positions",
        highlight=False,
    )


def _describe_file(recorded: Recorded, plan: Plan) -> None:
    shape = " x ".join(map(str, recorded.nav_shape))
    left_out = int(np.prod(recorded.nav_shape)) - len(plan.order)
    console.print(f"[bold]{recorded.title}[/]", highlight=False)
    console.print(
        f"{recorded.technique}, {shape} positions, {recorded.axis.size} channels, {plan.passes} passes of "
        f"{recorded.frames} frames, {recorded.mean_counts():.4g} counts in a spectrum",
        highlight=False,
    )
    if left_out:
        console.print(f"{left_out} positions are left out: not all of their values are numbers", highlight=False)
