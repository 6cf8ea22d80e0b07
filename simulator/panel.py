"""The options of the instrument's panel that both commands have."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

SCAN, DETECTOR, NETWORK, RECORD = "Scan", "Detector", "Network", "Truth"
FAULTS = "What goes wrong"


class Pattern(StrEnum):
    """Kind of data socket."""

    PUB = "pub"
    PUSH = "push"


class ScanOrder(StrEnum):
    """Order of the positions of a pass."""

    RASTER = "raster"
    SERPENTINE = "serpentine"
    RANDOM = "random"


class ObeysAt(StrEnum):
    """Where a stop, a visit or a pause takes effect."""

    POINT = "point"
    LINE = "line"
    SECTION = "section"


Passes = Annotated[int, typer.Option(min=1, help="Times that the whole map is scanned.", rich_help_panel=SCAN)]
Dwell = Annotated[float, typer.Option(min=1e-7, help="Seconds at each position and pass.", rich_help_panel=SCAN)]
Rate = Annotated[
    float | None,
    typer.Option(min=0.0, help="Spectra a second; 0: as fast as possible; absent: by dwell.", rich_help_panel=SCAN),
]
OrderOption = Annotated[ScanOrder, typer.Option("--order", help="Order of the positions.", rich_help_panel=SCAN)]
Actions = Annotated[
    str,
    typer.Option(
        help="Decisions that can be obeyed, comma-separated: stop, dwell, visit, extend, pause, recalibrate.",
        rich_help_panel=SCAN,
    ),
]
ObeysAtOption = Annotated[
    ObeysAt, typer.Option("--obeys-at", help="Where a stop, visit or pause takes effect.", rich_help_panel=SCAN)
]
DoseLimit = Annotated[
    float | None, typer.Option(min=1e-7, help="Most seconds that a position may get in all.", rich_help_panel=SCAN)
]
Deadline = Annotated[
    float | None, typer.Option(help="Milliseconds for which a decision is of use.", rich_help_panel=SCAN)
]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same bytes.", rich_help_panel=SCAN)]
Series = Annotated[str | None, typer.Option(help="Name of the series.", rich_help_panel=SCAN)]
Block = Annotated[int, typer.Option(min=1, help="Spectra in a message.", rich_help_panel=DETECTOR)]
ListMode = Annotated[bool, typer.Option("--list-mode", help="Send events.", rich_help_panel=DETECTOR)]
Crc = Annotated[bool, typer.Option("--crc", help="Add checksums.", rich_help_panel=DETECTOR)]
Data = Annotated[str, typer.Option(help="Data socket.", rich_help_panel=NETWORK)]
PatternOption = Annotated[Pattern, typer.Option("--pattern", help="Kind of socket.", rich_help_panel=NETWORK)]
Bind = Annotated[bool, typer.Option("--bind/--connect", help="Bind or connect it.", rich_help_panel=NETWORK)]
Replay = Annotated[str, typer.Option(help="Replay service; empty for none.", rich_help_panel=NETWORK)]
Control = Annotated[str, typer.Option(help="The daemon's control socket; empty for none.", rich_help_panel=NETWORK)]
ObeyAdvice = Annotated[bool, typer.Option("--obey-advice", help="Act on advice as on orders.", rich_help_panel=NETWORK)]
WaitSubscriber = Annotated[
    float, typer.Option(min=0.0, help="Seconds to wait for a listener before starting.", rich_help_panel=NETWORK)
]
Linger = Annotated[
    float, typer.Option(min=0.0, help="Seconds to serve replay after the end, at least.", rich_help_panel=NETWORK)
]

ALL_ACTIONS = "stop,dwell,visit,extend,pause"
DATA, REPLAY, CONTROL = "tcp://127.0.0.1:5555", "tcp://127.0.0.1:5558", "tcp://127.0.0.1:5557"
FaultSwitches = Annotated[
    list[str] | None,
    typer.Option(
        "--fault",
        help="NAME=VALUE, repeated: shares of messages drop, double, reorder, cut, corrupt, wrong_dtype, not_a_number, "
        "negative, huge; no_end, restart, two_series; clock_jump_s, stall_s.",
        rich_help_panel=FAULTS,
    ),
]
EffectSwitches = Annotated[
    list[str] | None,
    typer.Option(
        "--effect",
        help="NAME=VALUE, repeated: shift_per_s, gain_per_s, stage_y_per_s, stage_x_per_s; damage_s with damaged and "
        "damaged_into; contamination_per_s with contaminant; segment_fails_s, segment_share; dwell_changes_s, "
        "dwell_factor; charging_per_s with charging_decay_s, charging_positions, charging_shift; "
        "bleach_s; cosmic_per_s, cosmic_counts; dead=3,4, hot=7, hot_per_s.",
        rich_help_panel=FAULTS,
    ),
]
CalibratedAt = Annotated[
    int | None,
    typer.Option(min=1, help="The axis is known only with this message.", rich_help_panel=FAULTS),
]
DetectorSwitches = Annotated[
    list[str] | None,
    typer.Option(
        "--detector",
        help="NAME=VALUE, repeated: gain, offset, read_sigma, excess, announced; absent: counts one by one.",
        rich_help_panel=DETECTOR,
    ),
]
Preload = Annotated[
    bool, typer.Option("--preload", help="Draw everything before sending anything.", rich_help_panel=NETWORK)
]

SpecimenName = Annotated[
    str, typer.Option(help="Name, or TOML file; 'list' shows the names, 'all' with --plot draws them.")
]
Shape = Annotated[tuple[int, int] | None, typer.Option(help="NY NX of the map.", rich_help_panel=SCAN)]
Region = Annotated[
    tuple[int, int, int, int] | None,
    typer.Option(help="Y0 X0 NY NX of the map: scan only this part of it.", rich_help_panel=SCAN),
]
Points = Annotated[
    int | None,
    typer.Option(min=1, help="Scan so many random positions as a list of points, not the map.", rich_help_panel=SCAN),
]
Pieces = Annotated[
    int,
    typer.Option(min=1, help="Read each visit out so many times, so that it can be extended.", rich_help_panel=SCAN),
]
Share = Annotated[
    float | None,
    typer.Option(
        min=0.0, max=1.0, help="Plan only this share of the positions, spread at random.", rich_help_panel=SCAN
    ),
]
Counts = Annotated[float | None, typer.Option(min=0.0, help="Mean counts of a visit.", rich_help_panel=DETECTOR)]
Channels = Annotated[int | None, typer.Option(min=1, help="Channels over the same range.", rich_help_panel=DETECTOR)]
Truth = Annotated[Path | None, typer.Option(help="Write the truth to this .npz.", rich_help_panel=RECORD)]
Save = Annotated[
    Path | None, typer.Option(help="Write scan and truth to this .zspy (zarr, for HyperSpy).", rich_help_panel=RECORD)
]
Library = Annotated[
    Path | None,
    typer.Option(help="Only write the expected phases as a library to this folder.", rich_help_panel=RECORD),
]
Plot = Annotated[
    Path | None, typer.Option(help="Only draw the specimen ('all': every one) to this .png.", rich_help_panel=RECORD)
]
