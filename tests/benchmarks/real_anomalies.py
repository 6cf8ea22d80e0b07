"""Anomalies of real maps: a dark camera has none, defects are named, a feature of a few pixels is found and stays.

`python -m tests.benchmarks.real_anomalies [--check] [--data FOLDER]` sends real maps (of ../shared/data, where that
is) through the whole pipeline line by line, with the noise estimated and default settings, and looks at the flags and
groups at the end. With ``--check`` it exits with 1 where the dark camera has more flags than the configured rate and
its counting error allow, fewer than nine tenths of the spikes that one sees in a plot of the luminescence map are
named as cosmic rays or hot pixels, or the feature of the photoemission map is not proposed, not whole, or more than a
hundredth of the map.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.config import PipelineConfig
from streamer.events import Publish
from streamer.pipeline import Pipeline
from streamer.wire import encode_header, encode_image, encode_series_end
from streamer.wire.items import Arrived, Idle, Item, Tick

DATA = Path(__file__).parents[3] / "shared" / "data"
IDLE, MS = 60, 1_000_000
FEATURE = frozenset({(34, 15), (34, 16), (34, 17), (35, 15), (35, 16)})
"""Where the third component of a batch PCA of the photoemission map is strongest."""
SPIKES = frozenset({30, 54, 88, 103, 135, 140, 158, 159, 169, 212, 222})
"""Positions of the luminescence map with channels that stand 12 robust standard deviations over their neighbours."""


@dataclass
class Seen:
    """Flags (P,) as they were last told, how many positions were flagged at once, and the groups at the end."""

    shape: tuple[int, int]
    flag: NDArray[np.uint8]
    at_once: int = 0
    groups: dict[int, dict[str, Any]] = field(default_factory=dict)


def seen(path: Path, technique: str) -> Seen:
    """Send a map through the pipeline."""
    with np.load(path) as file:
        data = file["data"]
        axis = {"name": str(file["axis_name"]), "units": str(file["axis_units"]), "size": int(data.shape[2])}
        axis["values"] = [float(v) for v in file["axis"]]
    ny, nx = data.shape[:2]
    found, pipeline, t_ns = Seen((ny, nx), np.zeros(ny * nx, dtype=np.uint8)), Pipeline(PipelineConfig()), 0
    messages = [encode_header("map", (ny, nx), axis, technique=technique)]
    messages += [encode_image("map", y + 1, y * nx, data[y]) for y in range(ny)]
    for parts in [*messages, encode_series_end("map", ny + 1, ny * nx)]:
        t_ns += 20 * MS
        items: list[Item] = [Arrived(t_ns, parts, "127.0.0.1"), Tick(t_ns), *[Idle(t_ns)] * IDLE]
        for item in items:
            for event in pipeline.feed(item):
                if isinstance(event, Publish):
                    note(found, event)
    return found


def note(found: Seen, event: Publish) -> None:
    """Take what a result tells."""
    result = event.result
    if result.topic == "result":
        found.flag[result.arrays["index"]] = result.arrays["flag"]
        found.at_once += int(event.n_spectra > 0) * int(np.count_nonzero(result.arrays["flag"] & 1))
    elif result.topic == "anomaly" and result.head["group"] is not None:
        found.groups[result.head["group"]] = dict(result.head)


def dark(found: Seen) -> bool:
    """Whether flags are as many as chance makes."""
    n, rate = found.flag.size, PipelineConfig().anomaly.false_alarm
    flagged, most = np.count_nonzero(found.flag & 1), rate * n + 2.0 * np.sqrt(rate * n)
    print(f"    {found.at_once} of {n} flagged at once, {flagged} at the end, {len(found.groups)} groups")
    return bool(found.at_once <= most and flagged == 0)


def luminescence(found: Seen) -> bool:
    """Whether spikes are named."""
    named = {p for g in found.groups.values() if g["kind"] in {"cosmic ray", "hot pixel"} for p in g["index"]}
    kinds = sorted((g["kind"], g["n"]) for g in found.groups.values())
    print(f"    {len(SPIKES & named)} of {len(SPIKES)} spikes named, {len(named - SPIKES)} more; groups {kinds}")
    return len(SPIKES & named) >= 0.9 * len(SPIKES)


def photoemission(found: Seen) -> bool:
    """Whether the feature is proposed at the end, whole, and not much more than it."""
    proposed = [g for g in found.groups.values() if g["state"] == "proposed"]
    places = [{divmod(p, found.shape[1]) for p in g["index"]} for g in proposed]
    whole = [place for place in places if len(FEATURE & place) >= len(FEATURE) - 1]
    print(f"    groups {[(g['state'], g['n'], g['text']) for g in found.groups.values()]}")
    flagged = {divmod(int(p), found.shape[1]) for p in np.flatnonzero(found.flag & 1)}
    print(
        f"    {len(flagged)} of {found.flag.size} flagged at the end, {len(FEATURE & flagged)} of them in the feature"
    )
    return len(whole) == 1 and len(whole[0]) <= 0.01 * found.flag.size and len(FEATURE & flagged) >= len(FEATURE) - 1


CASES: dict[str, tuple[str, Callable[[Seen], bool]]] = {
    "eels_velox_dark_16x20": ("eels", dark),
    "cl_quantum_emitters_16x16": ("other", luminescence),
    "xps_nano_antares_51x41": ("xps", photoemission),
}


def main() -> int:
    """Print what was found; with --check, 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the maps")
    options = parser.parse_args()
    missed = False
    for name, (technique, judge) in CASES.items():
        path = options.data / f"{name}.npz"
        if not path.exists():
            print(f"{name}: not here")
            continue
        print(name, flush=True)
        good = judge(seen(path, technique))
        missed |= not good
        print("    " + ("as it should be" if good else "MISSED"), flush=True)
    return int(options.check and missed)


if __name__ == "__main__":
    sys.exit(main())
