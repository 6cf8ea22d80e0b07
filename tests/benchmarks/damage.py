"""Damage by the beam: found before a tenth is lost, its dose constant told, and none where there is none.

`python -m tests.benchmarks.damage [--check] [--seeds 4] [--only CASE ...] [--tally FILE]` runs the pipeline with
the simulated instrument in one process: EDS at 500 counts a visit, pass after pass over 40 x 40 positions, one phase of
each specimen losing intensity with a dose constant of 20, 40 or 100 passes, or turning into another phase, or nothing
at all. With a tally file, scans that it has are not run again, so that many can be run in pieces.

A scan of damage is right where damage of this phase is reported while less than 10 % of it is lost, and no other phase
is said to lose. The dose constant at the end of the scan is held against its stated error. In a scan without damage
nothing may be reported, however often the raster comes from one phase to another.

At a dose constant of 20 passes a tenth is lost after two passes, of which the second brings 2.5 % less of the phase's
counts than the first: no test with one false alarm in a million sees that in less than some 50,000 counts. The smallest
phase here has 80,000 by then.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from models.damage import Damage
from simulator.effects import Effects
from simulator.raster import scan_order
from simulator.sample import load_specimen
from simulator.schedule import Plan
from streamer.config import PipelineConfig
from tests.loop import Loop, loop_of

SHAPE, CHANNELS, COUNTS, DWELL_S = (40, 40), 512, 500.0, 0.01
CASES: dict[str, tuple[str, str, str | None]] = {
    "oxide": ("exercise", "oxide", None),
    "reduced": ("exercise", "oxide", "ferrite"),
    "sphalerite": ("sulfide_ore", "sphalerite", None),
    "film": ("core_shell", "carbon film", None),
}
"""Specimen, phase that is damaged, and what it becomes."""

CONSTANTS = (20, 40, 100)
NONE = 0
"""Stands for no damage among dose constants."""

MOST_LOST, WITHIN, LEAST_WITHIN, MOST_RMS = 0.10, 2.0, 0.85, 1.5


@dataclass(frozen=True)
class Outcome:
    """One scan.

    Attributes
    ----------
    case, constant, seed
        Dose constant in passes, 0: no damage.
    lost : float or None
        Part of the phase that was lost when it was found; None: never found.
    told, error : float
        Dose constant and its stated error at the end, in passes; 0 where nothing was found.
    others : list of str
        What else was reported.
    spectra : int
    """

    case: str
    constant: int
    seed: int
    lost: float | None
    told: float
    error: float
    others: list[str]
    spectra: int

    @property
    def pull(self) -> float:
        """Error of the rate of loss in stated errors: it is the rate whose error is Gaussian."""
        return (1 / self.told - 1 / self.constant) * self.told**2 / self.error


def passes_of(constant: int) -> int:
    """Passes of a scan: until about a fifth of the phase is lost."""
    return 8 if constant == NONE else 3 + constant // 5


def run(case: str, constant: int, seed: int) -> Outcome:
    """Scan a specimen."""
    name, phase, into = CASES[case]
    specimen = load_specimen(name, seed=seed, shape=SHAPE, channels=CHANNELS)
    effects = Effects()
    if constant != NONE:
        effects = Effects(damage_s=constant * DWELL_S, damaged=phase, damaged_into=into)
    plan = Plan(scan_order(SHAPE), passes=passes_of(constant), dwell_s=DWELL_S, actions=())
    loop = loop_of(specimen, seed + 1000, plan, PipelineConfig(), COUNTS, block=100, effects=effects)
    truth, wanted = specimen.phase_map().ravel(), specimen.phases.index(phase)
    lost: float | None = None
    others: dict[str, None] = {}
    last: Damage | None = None

    def watch(now: Loop) -> None:
        nonlocal lost, last
        for found in now.series.deciding._watch.losing:
            true = true_phase(now, found.phase, truth)
            if found.kind == "damage" and true in {None, wanted} and constant != NONE:
                last = last if true is None else found
                if lost is None:
                    dose_s = now.series.dwell_s[truth == wanted].mean()
                    lost = float(-np.expm1(-dose_s / (constant * DWELL_S)))
            else:
                others[f"{'all' if true is None else specimen.phases[true]}: {found.kind}"] = None

    loop.watch = watch
    loop.run()
    told = (0.0, 0.0) if last is None else (last.dose_constant / DWELL_S, float(last.dose_constant_error) / DWELL_S)
    n_spectra = int(loop.end["processed"])
    return Outcome(case, constant, seed, lost, *told, list(others), n_spectra)


def true_phase(loop: Loop, number: int, truth: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> int | None:
    """Return the phase that most positions have that were given to the phase of this number; None: all are one yet."""
    phases = loop.series.phases
    assert phases is not None
    if number < 0:
        return None
    mine = phases.label == number
    return int(np.bincount(truth[mine] if mine.any() else truth).argmax())


def line(outcomes: list[Outcome]) -> str:
    """What a row of the table says."""
    lost = sorted(1.0 if o.lost is None else o.lost for o in outcomes)
    pulls = np.array([o.pull for o in outcomes if o.told])
    told = sorted(o.told for o in outcomes if o.told)
    middle, spread = (float("nan"),) * 2
    if told:
        middle, spread = float(np.median(told)), float(np.std(told))
    within = int(np.count_nonzero(np.abs(pulls) < WITHIN))
    return (
        f"found {sum(o.lost is not None for o in outcomes)} of {len(outcomes)}, lost by then: median "
        f"{np.median(lost):6.1%}, worst {lost[-1]:6.1%};  constant {middle:5.1f} +- {spread:4.1f}, within {WITHIN:g} "
        f"stated errors {within} of {len(pulls)};  others {sum(bool(o.others) for o in outcomes)}"
    )


def judged(outcomes: list[Outcome]) -> list[str]:
    """Print the tables; return what missed its target."""
    missed: list[str] = []
    for name in CASES:
        for constant in CONSTANTS:
            these = [o for o in outcomes if (o.case, o.constant) == (name, constant)]
            if these:
                print(f"{name:17s} {constant:4d} passes  {line(these)}")
    damaged = [o for o in outcomes if o.constant != NONE]
    clean = [o for o in outcomes if o.constant == NONE]
    late = [o for o in damaged if o.lost is None or o.lost >= MOST_LOST]
    pulls = np.array([o.pull for o in damaged if o.told])
    wrong = [o for o in damaged if o.others]
    false = [o for o in clean if o.others]
    n_spectra = sum(o.spectra for o in clean)
    rms = float(np.sqrt(np.mean(pulls**2))) if pulls.size else float("inf")
    within = float(np.mean(np.abs(pulls) < WITHIN)) if pulls.size else 0.0
    for text, good in (
        (f"found when 10 % was lost, or later: {len(late)} of {len(damaged)} (0)", not late),
        (
            f"dose constants within {WITHIN:g} stated errors: {within:.0%} (>= {LEAST_WITHIN:.0%})",
            within >= LEAST_WITHIN,
        ),
        (f"errors in stated errors, rms: {rms:.2f} (<= {MOST_RMS})", rms <= MOST_RMS),
        (f"scans in which another phase was said to lose: {len(wrong)} of {len(damaged)} (0)", not wrong),
        (f"reports in {len(clean)} scans ({n_spectra} spectra) without damage: {len(false)} (0)", not false),
    ):
        print(f"{text:95s} {'' if good else 'MISSED'}")
        if not good:
            missed.append(text)
    for o in [*late, *wrong, *false]:
        print(f"  {o.case} {o.constant} passes, seed {o.seed}: lost {o.lost}, others {o.others}")
    return missed


def main() -> int:
    """Run what is asked for and print the tables; with --check, 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a target is missed")
    parser.add_argument("--seeds", type=int, default=4, help="scans of each kind")
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=list(CASES), help="which cases")
    parser.add_argument("--tally", type=Path, help="file (JSON lines) that keeps what was found")
    options = parser.parse_args()
    lines = options.tally.read_text().splitlines() if options.tally and options.tally.exists() else []
    had = {(o.case, o.constant, o.seed): o for o in (Outcome(**json.loads(text)) for text in lines)}
    outcomes = []
    for seed in range(options.seeds):
        for name in options.only:
            for constant in (*CONSTANTS, NONE):
                outcome = had.get((name, constant, seed)) or run(name, constant, seed)
                if options.tally and (name, constant, seed) not in had:
                    with options.tally.open("a") as file:
                        file.write(json.dumps(asdict(outcome)) + "\n")
                outcomes.append(outcome)
    return int(bool(judged(outcomes)) and options.check)


if __name__ == "__main__":
    sys.exit(main())
