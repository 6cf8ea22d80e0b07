"""What decisions save, and what they miss: simulated instrument and pipeline in one loop.

Run `python -m tests.benchmarks.closed_loop [--check] [--seeds N] [--known N] [--stops N] [--large N] [--sockets N]
[--first-seed S] [--seconds S] [--results FILE] [--draw FILE.png]`. Maps are small (40 x 40, 512 channels, EDS, 10
counts a position and pass); the truth is known. Each scan appends a line to the results file, so that a run can be cut
in pieces (`--seconds`); tables are made of all lines in it.

Curves: error of the phase map against counts a position, for a uniform scan of many quick passes (a quarter of the
counts), adaptive dwell in passes as quick, sparse
sampling with adaptive dwell, random sparse sampling with the same inpainting, and an oracle that goes on only where the
map is wrong. Homogeneous: the error of an element's map with adaptive dwell, on one phase. Stops: uniform passes,
stopped by the daemon for a stated target, beside the earliest stop possible (small maps, and larger ones, in which
chance has less of a part), and the fixed dose by which 19 of 20 scans of a specimen have come to the target, which an
operator would have to know beforehand. Known: what a scan could do that knows the phases. Sockets: some stops again
with daemon and instrument as processes, which are to end as those in one process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np

from tests.benchmarks._closed_known import known_scan, known_sparse, known_stop
from tests.benchmarks._closed_loop import (
    COUNTS,
    CURVE_SIDES,
    QUICK,
    SIDE,
    SPECIMENS,
    Mode,
    Stopped,
    homogeneous,
    objects_of,
    scan,
    specimen_of,
    stop,
)
from tests.benchmarks._closed_sockets import stop_over_sockets

LEVELS = (0.03, 0.01, 0.003)
PASSES = {"uniform": 160, "adaptive": 320, "sparse": 1, "random": 1, "oracle": 12}
STOP_TARGET, STOP_RISK, STOP_PASSES = 0.02, 0.05, 40
MOST_BEYOND = 0.25
SOCKETS = ("sulfide_ore", "exercise")
"""Specimens that the simulator has by name."""
KNOWN_SPARSE = (
    (0.12, 5.0), (0.2, 2.0), (0.2, 5.0), (0.25, 2.0), (0.25, 5.0), (0.33, 1.0), (0.33, 2.0), (0.4, 2.0), (0.5, 2.0),
)  # fmt: skip
"""Shares of the positions, and counts of a visit, of sparse scans that know the phases."""
LARGE = 80
"""Side of the larger maps that are stopped: where fewer positions may be wrong, chance has a larger part in it."""


def run(options: argparse.Namespace) -> None:
    """Do the scans that the results file does not have yet."""
    done = {(r["kind"], r["specimen"], r["seed"], r.get("mode")) for r in read(options.results)}
    modes = [m for m in get_args(Mode) if not options.modes or m in options.modes.split(",")]
    jobs: list[tuple[str, str, int, str | None]] = []
    most = max(options.seeds, options.known, options.stops, options.large, options.sockets)
    for seed in range(options.first_seed, options.first_seed + most):
        number = seed - options.first_seed
        if number < options.seeds:
            jobs.append(("homogeneous", "homogeneous", seed, None))
        for name in options.specimens.split(","):
            jobs += [("curve", name, seed, mode) for mode in modes if number < options.seeds]
            jobs += [("known", name, seed, None)] if number < options.known else []
            jobs += [("stop", name, seed, None)] if number < options.stops else []
            jobs += [("large", name, seed, None)] if number < options.large else []
        if number < options.sockets:
            jobs += [(kind, name, seed, None) for name in SOCKETS for kind in ("socket", "beside")]
    until_s = time.monotonic() + options.seconds
    for job in jobs:
        if job in done or time.monotonic() > until_s:
            continue
        kind, name, seed, mode = job
        line = {"kind": kind, "specimen": name, "seed": seed, "mode": mode, **one(kind, name, seed, mode)}
        with options.results.open("a") as file:
            file.write(json.dumps(line) + "\n")


def one(kind: str, name: str, seed: int, mode: str | None) -> dict[str, Any]:
    """Do one scan and return what came of it."""
    if kind == "homogeneous":
        return {"ratio": homogeneous(seed)}
    if kind == "known":
        return known(name, seed)
    if kind == "large":
        return asdict(stop(name, seed, STOP_TARGET, STOP_PASSES, side=LARGE))
    if kind == "curve":
        return {"points": [asdict(p) for p in scan(name, seed, mode, PASSES[mode])]}  # type: ignore[arg-type,index]
    if kind == "socket":
        return asdict(stop_over_sockets(name, seed, STOP_TARGET, STOP_PASSES))
    return asdict(stop(name, seed, STOP_TARGET, STOP_PASSES, real_time=kind == "beside"))


def known(name: str, seed: int) -> dict[str, Any]:
    """What a scan could do that knows the phases: curves, and stops of small and large maps."""
    specimen = specimen_of(name, seed, CURVE_SIDES.get(name, SIDE))
    found: dict[str, Any] = {
        mode: [
            {"counts": dose, "error": error}
            for dose, error in known_scan(specimen, seed, mode, COUNTS, min(LEVELS), QUICK)
        ]
        for mode in ("uniform", "adaptive")
    }
    if name == "precipitates":
        objects = objects_of(specimen)
        found["sparse"] = [known_sparse(specimen, seed, share, counts, objects) for share, counts in KNOWN_SPARSE]
    for kind, side in (("stop", SIDE), ("large", LARGE)):
        found[kind] = known_stop(specimen_of(name, seed, side), seed, STOP_TARGET, STOP_RISK, COUNTS)
    return found


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a results file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def counts_to(points: list[dict[str, float]], level: float) -> float:
    """Counts a position after which the error is at most `level`; infinite where it never is."""
    return next((p["counts"] for p in points if p["error"] <= level), float("inf"))


def curves(results: list[dict[str, Any]], missed: list[str]) -> None:
    """Print by how many times fewer counts reach each error than a uniform scan needs, median and quartiles."""
    print("\ncounts of a uniform scan over those of another for the same error of the phase map (median [quartiles])")
    print("a scan that does not get there counts as 0, a uniform one that does not as its last dose at least")
    print("known: the same ratio for scans that know the phases beforehand, and take the best steps one by one")
    for name in sorted({r["specimen"] for r in results if r["kind"] == "curve"}):
        mine = {(r["seed"], r["mode"]): r["points"] for r in results if r["kind"] == "curve" and r["specimen"] == name}
        bounds = [r for r in results if r["kind"] == "known" and r["specimen"] == name]
        most: dict[str, float] = {}
        if bounds:
            levels = [[ratio(r["uniform"], r["adaptive"], level) for r in bounds] for level in LEVELS]
            print(f"{name:13s} {'known':9s} {'  '.join(map(quartiles, LEVELS, levels))}  ({len(bounds)} seeds)")
            most = {"adaptive": float(np.min(np.median(levels, axis=1))), "sparse": _print_known_sparse(name, bounds)}
        for mode in get_args(Mode)[1:]:
            seeds = [s for s, m in mine if m == mode and (s, "uniform") in mine]
            if not seeds:
                continue
            texts, worst = [], float("inf")
            for level in LEVELS:
                ratios = [ratio(mine[s, "uniform"], mine[s, mode], level) for s in seeds]
                worst = min(worst, float(np.median(ratios)))
                texts.append(quartiles(level, ratios))
            found = np.mean([mine[s, mode][-1]["found"] for s in seeds])
            text = f"{name:13s} {mode:9s} {'  '.join(texts)}  objects found {found:.0%}  ({len(seeds)} seeds)"
            target = {"adaptive": 3.0, "sparse": 8.0 if name == "precipitates" else 0.0}.get(mode, 0.0)
            ok = worst >= target and (mode != "sparse" or name != "precipitates" or found >= 0.95)
            bound = f", and {most[mode]:.2g} where the phases are known" if mode in most else ""
            print(f"{text} {'' if ok else f'MISSED ({target:g} asked{bound})'}", flush=True)
            if not ok:
                missed.append(f"{name} {mode}")


def _print_known_sparse(name: str, bounds: list[dict[str, Any]]) -> float:
    """Print how many times fewer counts sparse scans that know the phases need than a uniform one for their error.

    Return the most of those that find 95 % of the objects; 0 where none does.
    """
    most = 0.0
    scans = [r["sparse"] for r in bounds if "sparse" in r]
    for k, (share, counts) in enumerate(KNOWN_SPARSE if scans else ()):
        dose, error, found = np.median([s[k] for s in scans], axis=0)
        uniform = np.median([counts_to(r["uniform"], error) for r in bounds])
        print(
            f"{name:13s} known, {share:.0%} at {counts:g} counts, then beside what is found: {dose:.2f} counts, "
            f"error {error:.2%} ({uniform / dose:.1f} times fewer), objects found {found:.0%}"
        )
        most = max(most, float(uniform / dose)) if found >= 0.95 else most
    return most


def quartiles(level: float, ratios: list[float]) -> str:
    """Median and quartiles at a level."""
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return f"{level:.1%}: {middle:.2f} [{low:.2f} {high:.2f}]"


def ratio(uniform: list[dict[str, float]], other: list[dict[str, float]], level: float) -> float:
    """Counts of the uniform scan over those of the other to an error."""
    mine = counts_to(other, level)
    its = min(counts_to(uniform, level), uniform[-1]["counts"])
    return its / mine if np.isfinite(mine) else 0.0


def of_kind(results: list[dict[str, Any]], kind: str) -> list[tuple[str, Stopped]]:
    """Return specimens and stops."""
    keys = Stopped.__dataclass_fields__
    return [(r["specimen"], Stopped(**{k: r[k] for k in keys if k in r})) for r in results if r["kind"] == kind]


def stops(results: list[dict[str, Any]], missed: list[str]) -> None:
    """Print how often a finished map misses its target, and how much longer than needed was scanned."""
    print(f"\nstop at a stated {STOP_TARGET:.1%} of the area called by a wrong phase, at a risk of {STOP_RISK:.0%}")
    print("beyond: dose over that of the earliest stop of the same scan, median [10 %, 90 %]")
    print("without: scans stopped before the map that they foresee came to the target, left out of these medians")
    print(
        "known: the same where the phases and their mixtures are known beforehand, and the error is by exact posterior"
    )
    print("rate: the same for one who knows how much is called wrongly at each dose in the mean, though not by chance")
    print("fixed: median dose over that by which 19 of 20 scans of the specimen have come to the target")
    for kind, side in (("stop", SIDE), ("large", LARGE)):
        every = of_kind(results, kind)
        fixed = {name: _hindsight([s for n, s in every if n == name]) for name in {n for n, _ in every}}
        for name in ("all", *sorted(fixed)):
            mine = [(n, s) for n, s in every if name in ("all", n)]
            bounds = [r[kind] for r in results if r["kind"] == "known" and name in ("all", r["specimen"])]
            ok = _print_stops(f"{side} x {side} {name}", mine, fixed, bounds)
            if name == "all" and not ok:
                missed.append(f"stop {side} x {side}")


def _print_stops(
    title: str, mine: list[tuple[str, Stopped]], fixed: dict[str, float], bounds: list[list[float]]
) -> bool:
    """Print a line; return whether it has what is asked for."""
    ended = [(n, s) for n, s in mine if s.stopped]
    if not ended:
        return True
    wrong = sum(s.error > s.stated for _, s in ended)
    middle, text = _beyond([(s.counts, s.earliest) for _, s in ended])
    bound = _beyond([(dose, earliest) for dose, earliest, _ in bounds])[1]
    rate = _beyond([(s.by_rate, s.earliest) for _, s in ended])[1]
    over = [s.counts / fixed[n] - 1.0 for n, s in ended if np.isfinite(fixed[n])]
    hindsight = f"{np.median(over):.0%}" if over else "-"
    ok = wrong <= 1.5 * STOP_RISK * len(ended) and middle <= MOST_BEYOND
    print(
        f"{title:21s} {len(mine)} scans, {len(ended)} stopped, {wrong} missed the target; beyond: {text}, "
        f"rate: {rate}, known: {bound} ({len(bounds)}), fixed: {hindsight} {'' if ok else 'MISSED'}",
        flush=True,
    )
    return ok


def _beyond(doses: list[tuple[float, float]]) -> tuple[float, str]:
    """Median of the doses over the earliest ones that there are, and what is said of them."""
    beyond = [dose / earliest - 1.0 for dose, earliest in doses if np.isfinite(dose) and np.isfinite(earliest)]
    if not beyond:
        return float("nan"), "-"
    low, middle, high = np.percentile(beyond, [10, 50, 90])
    without = f", {len(doses) - len(beyond)} without" if len(beyond) < len(doses) else ""
    return float(middle), f"{middle:.0%} [{low:.0%}, {high:.0%}]{without}"


def _hindsight(mine: list[Stopped]) -> float:
    earliest = [s.earliest for s in mine if np.isfinite(s.earliest)]
    return float(np.quantile(earliest, 0.95)) if earliest else float("nan")


def others(results: list[dict[str, Any]], missed: list[str]) -> None:
    """Print what adaptive dwell costs where there is nothing to find, and how stops over sockets compare."""
    ratios = [r["ratio"] for r in results if r["kind"] == "homogeneous"]
    if ratios:
        ok = float(np.median(ratios)) <= 1.05
        print("\nhomogeneous: error of the map of iron at equal counts, with adaptive over uniform dwell:")
        text = f"median {np.median(ratios):.3f}, largest {max(ratios):.3f} ({len(ratios)} seeds)"
        print(f"{text} {'' if ok else 'MISSED'}")
        missed += [] if ok else ["homogeneous"]
    over, beside = (by_scan(results, kind) for kind in ("socket", "beside"))
    pairs = [(over[scan], beside[scan]) for scan in over if scan in beside]
    if pairs:
        same = sum((a.stopped, a.error <= a.stated) == (b.stopped, b.error <= b.stated) for a, b in pairs)
        dose = np.median([a.counts / b.counts for a, b in pairs])
        print(f"over sockets: {same} of {len(pairs)} stops as in one process; median ratio of doses {dose:.2f}")
        missed += [] if same == len(pairs) else ["sockets"]


def by_scan(results: list[dict[str, Any]], kind: str) -> dict[tuple[str, int], Stopped]:
    """Return stops by specimen and seed."""
    scans = [(r["specimen"], r["seed"]) for r in results if r["kind"] == kind]
    return dict(zip(scans, (s for _, s in of_kind(results, kind)), strict=True))


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw error against dose, each scan a thin line and their median a thick one."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = sorted({r["specimen"] for r in results if r["kind"] == "curve"})
    figure, axes = plt.subplots(1, len(names), figsize=(5 * len(names), 4), squeeze=False, sharey=True)
    grid = np.geomspace(1.0, 700.0, 60)
    for axis, name in zip(axes[0], names, strict=True):
        for colour, mode in zip("kbgrm", get_args(Mode), strict=True):
            mine = [r["points"] for r in results if r["kind"] == "curve" and (r["specimen"], r["mode"]) == (name, mode)]
            lines = list(_on(grid, mine))
            for line in lines:
                axis.plot(grid, line, colour, lw=0.4, alpha=0.3)
            if lines:
                middle = [np.median(c[np.isfinite(c)]) if np.isfinite(c).any() else np.nan for c in np.array(lines).T]
                axis.plot(grid, middle, colour, lw=2, label=mode)
        axis.set(xscale="log", yscale="log", title=name, xlabel="counts a position")
        axis.axhline(0.01, color="0.7", lw=0.8)
        axis.legend()
    axes[0][0].set_ylabel("area called by a wrong phase")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _on(grid: np.ndarray[Any, Any], scans: Iterable[list[dict[str, float]]]) -> Iterable[np.ndarray[Any, Any]]:
    """Errors of scans on a common grid of doses; NaN before the first and after the last."""
    for points in scans:
        counts = np.array([p["counts"] for p in points])
        errors = np.maximum([p["error"] for p in points], 3e-4)
        yield np.interp(grid, counts, errors, left=np.nan, right=np.nan)


def main() -> int:
    """Run what is missing, print the tables, draw; with --check, 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--seeds", type=int, default=5, help="of the curves")
    parser.add_argument("--stops", type=int, default=20, help="seeds of the stops, for each specimen")
    parser.add_argument("--known", type=int, default=3, help="seeds of what scans could do that know the phases")
    parser.add_argument("--large", type=int, default=2, help="seeds of the stops of larger maps, for each specimen")
    parser.add_argument("--sockets", type=int, default=0, help="seeds of the stops over sockets")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--specimens", default=",".join(SPECIMENS))
    parser.add_argument("--modes", default="", help="of the curves; all by default")
    parser.add_argument("--results", type=Path, default=Path("closed_loop.jsonl"))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no scan after so long")
    parser.add_argument("--draw", type=Path, default=None)
    options = parser.parse_args()
    run(options)
    results, missed = read(options.results), list[str]()
    curves(results, missed)
    stops(results, missed)
    others(results, missed)
    if options.draw is not None:
        draw(results, options.draw)
    return int(options.check and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
