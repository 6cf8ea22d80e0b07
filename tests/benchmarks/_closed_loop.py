"""Scans of the closed-loop benchmark: each one specimen, one seed, one way to spend the dose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label as labelled

from models.certainty import finished_map
from models.guess import phase_guess
from models.stopping import misclassified_area
from simulator.raster import scan_order, sparse_order
from simulator.sample import Specimen, SpecimenFile, build, describe, load_specimen
from simulator.schedule import Decision, Plan
from streamer.config import PipelineConfig
from streamer.config_decisions import DecisionConfig
from streamer.series import Series
from tests.loop import Loop, loop_of, phase_error

Mode = Literal["uniform", "adaptive", "sparse", "random", "oracle"]
SIDE, CHANNELS, COUNTS, DWELL_S = 40, 512, 10.0, 0.01
QUICK = 0.25
"""Part of the dwell that a pass of uniform and of adaptive curves has: what the first one spends, dwell cannot save."""
CURVE_SIDES = {"precipitates": 80}
"""What is learnt of a phase that has a twentieth of a small map is little."""
SPARSE_SHARE, SPARSE_SHARES = 0.12, {"precipitates": 0.06}
"""Of the positions, measured at first: in a larger map a smaller part is as many to find phases in. Of the one with
precipitates .06 took 9 % fewer counts to 1 % than .12 (15 seeds), and no more to 3 and .3 %."""
SOCKETS_HZ = 500
"""In real time a scan goes on while phases are looked for: so slow that two cores with other work keep up as well."""
LEAST, MOST_FOUND = 0.002, 0.95
PHASE_MAP_ONLY: dict[str, Any] = {
    "stop_relative_error": 100.0, "stop_angle_deg": 90.0, "stop_error_slope": 10.0, "stop_unseen_area": 1.0,
}  # fmt: skip
SPECIMENS = ("exercise", "sulfide_ore", "precipitates", "interfaces")
_HELD = 1 << 20
LEAST_OBJECT_PX, IRON_KEV = 5, (6.25, 6.55)


def specimen_of(name: str, seed: int, side: int = SIDE) -> Specimen:
    """Return a specimen: one of the simulator's, or steel with interfaces, precipitates of 5 to 9, or neither."""
    area = (side / SIDE) ** 2
    if name not in ("interfaces", "precipitates", "homogeneous"):
        return load_specimen(name, seed=seed, shape=(side, side), channels=CHANNELS)
    base = describe("exercise", channels=CHANNELS).model_dump()
    phases: list[dict[str, Any]] = [
        {"name": "ferrite", "atomic": {"Fe": 0.93, "Cr": 0.07}, "density_g_cm3": 7.8},
        {"name": "austenite", "atomic": {"Fe": 0.71, "Cr": 0.19, "Ni": 0.10}, "density_g_cm3": 7.9},
    ]
    grains = {"kind": "grains", "phases": ["ferrite", "austenite"], "count": round(8 * area), "mixing_px": 0.7}
    layout: list[dict[str, Any]] = [{"kind": "fill", "phase": "ferrite"}, grains]
    if name == "precipitates":
        phases.append({"name": "carbide", "atomic": {"Cr": 0.62, "Fe": 0.17, "C": 0.21}, "density_g_cm3": 7.0})
        layout = [layout[0], {"kind": "precipitates", "phase": "carbide", "count": round(14 * area), "pixels": [5, 9]}]
    if name == "homogeneous":
        phases, layout = phases[:1], layout[:1]
    described = SpecimenFile.model_validate({**base, "shape": (side, side), "phases": phases, "layout": layout})
    return build(name, described, seed)


@dataclass(frozen=True)
class Point:
    """One moment of a scan: counts a position so far, error of the phase map, part of the objects that were found."""

    counts: float
    error: float
    found: float


def objects_of(specimen: Specimen) -> list[NDArray[np.int64]]:
    """Return the positions of each object of the rarest phase that has at least five."""
    phase = specimen.phase_map()
    rarest = int(np.bincount(phase.ravel(), minlength=1)[np.unique(phase)].argmin())
    number, n = labelled(phase == np.unique(phase)[rarest])
    objects = [np.flatnonzero(number.ravel() == k + 1) for k in range(n)]
    return [o for o in objects if o.size >= LEAST_OBJECT_PX]


def found_part(label: NDArray[np.int32], truth: NDArray[np.int32], objects: list[NDArray[np.int64]]) -> float:
    """Part of the objects of which half are called by the phase that most of the object's phase is called by."""
    if not objects:
        return 1.0
    kind = truth[objects[0][0]]
    names = label[(truth == kind) & (label >= 0)]
    if not names.size:
        return 0.0
    name = np.bincount(names).argmax()
    if np.bincount(truth[label == name]).argmax() != kind:
        return 0.0
    return float(np.mean([np.mean(label[o] == name) >= 0.5 for o in objects]))


def called(series: Series) -> NDArray[np.int32]:
    """What each position (P,) is called: its phase, or, where its spectrum is held back as an anomaly, one of its own.

    The daemon reports those, and does not call them by any phase.
    """
    assert series.phases is not None
    return np.where(series.engine.held, np.int32(_HELD), series.phases.label)


def as_finished(series: Series, shape: tuple[int, int]) -> NDArray[np.int32]:
    """As `called`, of the map as it would be if the scan ended now: neighbours have their say."""
    assert series.phases is not None
    return np.where(series.engine.held, np.int32(_HELD), finished_map(series.phases, series.engine, shape)[0])


def error_of(called: NDArray[np.int32], specimen: Specimen) -> float:
    """Part of the area called by a wrong phase, but for what nobody counts on: that is for anomalies to find."""
    expected = np.setdiff1d(np.arange(specimen.n_positions), specimen.rare_positions())
    return phase_error(called[expected], specimen.phase_map().ravel()[expected])


def scan(name: str, seed: int, mode: Mode, passes: int) -> list[Point]:
    """Run a scan until hardly anything is called wrongly; return the error after each pass, or so many counts."""
    specimen = specimen_of(name, seed, CURVE_SIDES.get(name, SIDE))
    truth, objects, n = specimen.phase_map().ravel(), objects_of(specimen), specimen.n_positions
    sparse = mode in ("sparse", "random")
    loop = _steered(name, specimen, seed, mode, passes)
    points: list[Point] = []

    def watch(now: Loop) -> None:
        series = now.series
        counts = float(series.engine.totals.sum()) / n
        fine = {"sparse": 0.1, "random": 0.1, "adaptive": 0.5, "uniform": 0.4 * QUICK * COUNTS}
        ends = now.instrument.schedule._sections and now.instrument.schedule._sections[0].done == 0
        before = points[-1].counts if points else 0.0
        step = max(fine.get(mode, 0.4 * COUNTS), 0.04 * before * (mode == "uniform"))
        if counts < before + step or series.phases is None or not (sparse or ends or mode == "adaptive"):
            return
        label = _map(series, specimen, sparse=sparse)
        points.append(Point(counts, error_of(label, specimen), found_part(label, truth, objects)))
        if points[-1].error <= LEAST and points[-1].found >= MOST_FOUND:
            now.instrument.obey(Decision("stop"))
        elif mode == "oracle":
            wrong = _wrong(label, truth)
            dwell_s = np.where(wrong, now.instrument.plan.dwell_s, 0.0)
            now.instrument.obey(Decision("dwell", None, np.arange(n, dtype=np.uint32), dwell_s))

    loop.watch = watch
    final = loop.run().series
    label = _map(final, specimen, sparse=sparse)
    counts = float(final.engine.totals.sum()) / n
    return [*points, Point(counts, error_of(label, specimen), found_part(label, truth, objects))]


def _steered(name: str, specimen: Specimen, seed: int, mode: Mode, passes: int) -> Loop:
    """The scan of a mode; the daemon may steer those that are its own, and we all of them."""
    sparse, shape = mode in ("sparse", "random"), specimen.nav_shape
    share = SPARSE_SHARES.get(name, SPARSE_SHARE)
    order = sparse_order(shape, share, seed=seed) if sparse else scan_order(shape)
    asked = DecisionConfig(mode="enforce", stop_misclassified_area=LEAST, lead_s=1e-6, **PHASE_MAP_ONLY)
    if mode == "random":
        others = np.setdiff1d(np.arange(specimen.n_positions), order)
        order = np.concatenate([order, np.random.default_rng(seed).permutation(others).astype(np.uint32)])
    part = QUICK if mode in ("uniform", "adaptive") else 1.0
    plan = Plan(order, passes=1 if sparse else passes, dwell_s=part * DWELL_S, actions=("stop", "dwell", "visit"))
    block = max(8, order.size // 20) if mode == "sparse" else shape[1]
    loop = loop_of(specimen, seed + 1000, plan, PipelineConfig(decisions=asked), part * COUNTS, block=block)
    loop.instrument._header["actions"] = list({"adaptive": ("dwell",), "sparse": ("visit",)}.get(mode, ()))
    return loop


def _map(series: Series, specimen: Specimen, *, sparse: bool) -> NDArray[np.int32]:
    """The map (P,) as it is published: where nothing was measured, what is guessed."""
    if series.phases is None:
        return np.full(specimen.n_positions, -1, np.int32)
    guess = phase_guess(series.phases, series.engine.visits, specimen.nav_shape) if sparse else None
    return called(series) if guess is None else guess.label


def _wrong(label: NDArray[np.int32], truth: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Which positions are called by a name that mostly stands for another phase."""
    stands = {int(k): np.bincount(truth[label == k]).argmax() for k in np.unique(label)}
    return np.asarray(np.array([stands[int(k)] for k in label]) != truth)


@dataclass(frozen=True)
class Stopped:
    """How a scan with a stop ended.

    Attributes
    ----------
    stopped : bool
    error, stated : float
        Error of the finished map, and the target.
    counts, earliest : float
        Counts a position at the end, and when the error came to the target: an oracle that knows it stops there.
    by_rate : float
        When one would stop who knows what the error is in the mean at each dose, but not what it is by chance.
    """

    stopped: bool
    error: float
    stated: float
    counts: float
    earliest: float
    by_rate: float = float("nan")


def stop_settings(target: float) -> DecisionConfig:
    """What is asked of a scan that is to stop at a target for the area called by a wrong phase."""
    # What nobody has seen is called by a wrong phase as well: it has the same target.
    unseen = {**PHASE_MAP_ONLY, "stop_unseen_area": target}
    return DecisionConfig(mode="enforce", stop_misclassified_area=target, **unseen)


def stop(name: str, seed: int, target: float, passes: int, side: int = SIDE, *, real_time: bool = False) -> Stopped:
    """Scan pass by pass until the daemon stops it at a target for the area called by a wrong phase.

    Parameters
    ----------
    real_time : bool
        At the rate of scans over sockets and with the counts that the simulator draws there, from the next seed after
        the specimen's.
    """
    specimen = specimen_of(name, seed, side)
    n = specimen.n_positions
    config = PipelineConfig(decisions=stop_settings(target))
    plan = Plan(scan_order(specimen.nav_shape), passes=passes, dwell_s=DWELL_S, actions=("stop",))
    loop = loop_of(specimen, seed + (1 if real_time else 1000), plan, config, COUNTS, block=side)
    loop.speed = SOCKETS_HZ * DWELL_S if real_time else 1.0
    seen: list[tuple[float, float]] = []

    def watch(now: Loop) -> None:
        series = now.series
        if series.phases is not None and (series.engine.visits > 0).all():
            seen.append(
                (float(series.engine.totals.sum()) / n, error_of(as_finished(series, specimen.nav_shape), specimen))
            )

    loop.watch = watch
    loop.run()
    series = loop.series
    error = error_of(called(series), specimen) if series.phases is not None else 1.0
    met = next((counts for counts, e in seen if e <= target), float("nan"))
    stopped = any(d["action"] == "stop" for d in loop.decisions)
    by_rate = stop_by_rate(np.array(seen).reshape(-1, 2), n, target, config.decisions.stop_risk)
    return Stopped(stopped, error, target, float(series.engine.totals.sum()) / n, met, by_rate)


def stop_by_rate(seen: NDArray[np.float64], n: int, target: float, risk: float) -> float:
    """Counts a position at which the error is below a target but for a risk, were its mean at each dose known.

    The mean is the power law of the dose that describes the errors of the scan (Poisson counts of wrong positions) as
    long as they are at most twice the target; where they are not twice in that range, the last dose.

    Parameters
    ----------
    seen : ndarray, (m, 2)
        Counts a position, and part of the n positions that was called wrongly then.
    """
    near = seen[(seen[:, 1] > 0) & (seen[:, 1] <= 2 * target)]
    if len(np.unique(near[:, 0])) < 2:
        return float(seen[-1, 0]) if len(seen) else float("nan")
    slope, level = np.polyfit(np.log(near[:, 0]), np.log(near[:, 1]), 1, w=np.sqrt(n * near[:, 1]))
    parts = np.linspace(target, 0.0, 1000, endpoint=False)
    safe = next(part for part in parts if misclassified_area(np.full(n, part), n, risk)[1] <= target)
    return float(np.exp((np.log(safe) - level) / slope)) if slope < 0 else float("inf")


def homogeneous(seed: int, passes: int = 8) -> float:
    """Error of the map of iron with adaptive dwell over that of a uniform scan, at equal counts, on one phase alone."""
    specimen, errors = specimen_of("homogeneous", seed), []
    for actions in ((), ("dwell",)):
        plan = Plan(scan_order(specimen.nav_shape), passes=passes, dwell_s=DWELL_S, actions=actions)
        asked = DecisionConfig(mode="enforce", lead_s=1e-6, **PHASE_MAP_ONLY)
        series = loop_of(specimen, seed + 1000, plan, PipelineConfig(decisions=asked), COUNTS, block=SIDE).run().series
        channels = series.axis.channel_range(*IRON_KEV)
        a_second = series.engine.window(channels)[0] / series.dwell_s
        truth = COUNTS / DWELL_S * specimen.expected()[:, channels[0] : channels[1]].sum(axis=1)
        errors.append(float(np.sqrt(np.mean((a_second - truth) ** 2) * series.dwell_s.sum())))
    return errors[1] / errors[0]
