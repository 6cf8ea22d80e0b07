"""Every fault of the simulated instrument meets the real daemon: two processes, real sockets, exact books."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from simulator.effects import Effects
from simulator.faults import parse_switches
from simulator.points import random_points
from simulator.sample import load_specimen
from simulator.scene import SimulatedScene
from streamer.wire import Events
from tests.system.outsider import Asker, Bench, Daemon, Listener, daemon
from tests.system.simulators import Simulators, simulators

N, D, BLOCK = 400, 256, 8
SEED = 3
SCAN = ["--specimen", "exercise", "--shape", "20", "20", "--channels", str(D), "--passes", "1", "--counts", "100"]
SCAN += ["--rate", "4000", "--block", str(BLOCK), "--seed", str(SEED), "--control", "", "--wait-subscriber", "20"]
ANY = "tcp://127.0.0.1:*"


@dataclass
class Met:
    """What the daemon published of a series, and how often the simulator says that each fault happened."""

    books: dict[str, Any]
    counts: NDArray[np.float32]
    spoiled: dict[str, int]

    @property
    def lost(self) -> int:
        return sum(self.books["lost"].values())


@dataclass
class Site:
    """A daemon, and simulators that meet it one after another."""

    server: Daemon
    forks: Simulators
    bench: Bench

    def meet(self, series: str, *arguments: str, last: str | None = None) -> Met:
        """Run a simulator against the daemon until the end of the series (or of `last`)."""
        results = Listener(self.bench, self.server.results, "series", "map/counts")
        Asker(self.bench, self.server.control).ask("status")
        self.forks.start([*SCAN, "--series", series, "--data", self.server.source, "--replay", ANY, *arguments])
        books = results.until_end(series)
        counts = results.last("map/counts")[1]["counts"].ravel()
        if last is not None:
            results.until_end(last)
        code, said = self.forks.wait()
        assert code == 0, said
        found = re.search(r"faults: (\{.*\})", said)
        return Met(check(books), counts, ast.literal_eval(found[1]) if found else {})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One daemon for all faults: it must be in good order after each."""
    bench = Bench()
    with daemon(tmp_path_factory.mktemp("daemon")) as server, simulators() as forks:
        yield Site(server, forks, bench)
    bench.close()


@pytest.fixture(scope="module")
def truth() -> NDArray[np.int64]:
    """Counts (n,) that were measured at each position: the same seed gives the same counts."""
    return measured()


def measured(where: NDArray[np.uint32] | None = None, *, list_mode: bool = False) -> NDArray[np.int64]:
    return np.asarray(drawn(where, list_mode=list_mode).sum(axis=1))


def drawn(
    where: NDArray[np.uint32] | None = None,
    *,
    list_mode: bool = False,
    specimen: str = "exercise",
    effects: Sequence[str] = (),
    passes: int = 1,
) -> NDArray[np.int64]:
    """Spectra (n, D), summed over passes, that the simulator measures with these switches."""
    where = np.arange(N, dtype=np.uint32) if where is None else where
    sample = load_specimen(specimen, seed=SEED, shape=(20, 20), channels=D)
    switched = parse_switches([*effects], Effects)
    scene = SimulatedScene(sample, counts=100, dwell_s=0.001, seed=SEED + 1, list_mode=list_mode, effects=switched)
    found = np.zeros((len(where), D), dtype=np.int64)
    for start in [*range(0, len(where), BLOCK)] * passes:
        at = where[start : start + BLOCK]
        spectra = scene.measure(at, np.zeros(BLOCK, dtype=np.int64), np.full(BLOCK, 0.001))
        if isinstance(spectra, Events):
            rows = start + np.repeat(np.arange(len(at)), np.diff(spectra.offsets))
            np.add.at(found, (rows, spectra.channels), 1)
        else:
            found[start : start + BLOCK] += spectra
    return found


def check(books: dict[str, Any]) -> dict[str, Any]:
    assert books["n_sent"] == books["processed"] + sum(books["lost"].values())
    assert books["received"] == books["processed"]
    return books


def test_a_good_line(site: Site, truth: NDArray[np.int64]) -> None:
    met = site.meet("good")
    assert met.books["processed"] == N
    assert (met.books["lost"], met.books["rejected"], met.books["duplicates"]) == ({}, {}, 0)
    np.testing.assert_array_equal(met.counts, truth)


@pytest.mark.parametrize(
    ("fault", "rejected"),
    [("drop", set()), ("double", set()), ("reorder", set()), ("cut", {"unreadable", "junk"}),
     ("corrupt", {"unreadable", "junk"})],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["dense", "events"])
def test_a_bad_line_costs_nothing_where_replay_is_served(
    site: Site, truth: NDArray[np.int64], fault: str, rejected: set[str], mode: str
) -> None:
    switches = ["--fault", f"{fault}=0.2", "--crc", *(["--list-mode"] if mode == "events" else [])]
    met = site.meet(f"{fault}-{mode}", *switches)
    assert met.spoiled[fault] > 3
    assert met.books["exit_status"] == "success"
    assert met.books["lost"] == {}
    assert met.books["processed"] == N
    np.testing.assert_array_equal(met.counts, truth if mode == "dense" else measured(list_mode=True))
    assert set(met.books["rejected"]) <= rejected
    assert bool(met.books["rejected"]) == bool(rejected)
    assert (met.books["duplicates"] > 0) or fault != "double"


def test_everything_wrong_with_the_line_at_once(site: Site, truth: NDArray[np.int64]) -> None:
    switches = [x for f in ("drop", "double", "reorder", "cut", "corrupt") for x in ("--fault", f"{f}=0.1")]
    met = site.meet("all-at-once", "--crc", *switches)
    assert set(met.spoiled) == {"drop", "double", "reorder", "cut", "corrupt"}
    assert met.books["lost"] == {}
    np.testing.assert_array_equal(met.counts, truth)


def test_a_bad_line_without_replay_loses_what_it_lost_and_says_so(site: Site, truth: NDArray[np.int64]) -> None:
    met = site.meet("no-replay", "--replay", "", "--fault", "drop=0.2")
    # The header and the end came through: what was dropped were blocks.
    assert met.books["exit_status"] == "success"
    assert met.books["lost"] == {"gap": met.spoiled["drop"] * BLOCK}
    seen = np.isfinite(met.counts)
    assert np.count_nonzero(~seen) == met.lost
    np.testing.assert_array_equal(met.counts[seen], truth[seen])


@pytest.mark.parametrize("fault", ["wrong_dtype", "not_a_number", "negative", "huge"])
def test_what_a_sender_says_wrongly_is_dropped_whole_and_lost(site: Site, truth: NDArray[np.int64], fault: str) -> None:
    met = site.meet(fault, "--fault", f"{fault}=0.1")
    wrong = met.spoiled[fault]
    assert wrong > 2
    assert met.books["exit_status"] == "success"
    # Asking again would bring the same: each is rejected once, and its spectra are lost.
    assert met.books["rejected"] == {"invalid": wrong}
    assert met.books["lost"] == {"gap": wrong * BLOCK}
    seen = np.isfinite(met.counts)
    assert np.count_nonzero(~seen) == met.lost
    np.testing.assert_array_equal(met.counts[seen], truth[seen])


def test_a_series_that_never_ends_is_closed_after_silence(
    site: Site, tmp_path: Path, truth: NDArray[np.int64], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCANWISE_PIPELINE__SERIES_TIMEOUT_S", "2")
    with daemon(tmp_path) as server:
        met = Site(server, site.forks, site.bench).meet("endless", "--fault", "no_end")
    assert met.spoiled == {"no_end": 1}
    assert met.books["exit_status"] == "timeout"
    assert (met.books["lost"], met.books["processed"]) == ({}, N)
    np.testing.assert_array_equal(met.counts, truth)


def test_a_sender_that_restarts_begins_another_series(site: Site, truth: NDArray[np.int64]) -> None:
    results = Listener(site.bench, site.server.results, "series")
    met = site.meet("restarted", "--fault", "restart", last="restarted-again")
    again = check(results.until_end("restarted-again"))
    assert met.books["exit_status"] == "superseded"
    assert met.books["lost"] == {}
    assert N // 2 <= met.books["processed"] < N
    seen = np.isfinite(met.counts)
    assert np.count_nonzero(seen) == met.books["processed"]
    np.testing.assert_array_equal(met.counts[seen], truth[seen])
    assert again["exit_status"] == "success"
    assert (again["lost"], again["processed"]) == ({}, N)


def test_of_two_series_at_once_the_second_supersedes_the_first(site: Site) -> None:
    results = Listener(site.bench, site.server.results, "series")
    met = site.meet("entangled", "--fault", "two_series", last="entangled-again")
    again = check(results.until_end("entangled-again"))
    assert met.books["exit_status"] == "superseded"
    assert met.books["processed"] >= N // 2
    # What goes on arriving of the first series after that is nobody's: rejected, in the books of the second.
    assert again["exit_status"] == "success"
    assert (again["lost"], again["processed"]) == ({}, N)
    assert set(again["rejected"]) <= {"foreign"}


def test_a_stall_closes_nothing(site: Site, truth: NDArray[np.int64]) -> None:
    met = site.meet("stalled", "--fault", "stall_s=2")
    assert met.spoiled == {"stall_s": 1}
    assert met.books["exit_status"] == "success"
    assert (met.books["lost"], met.books["processed"]) == ({}, N)
    np.testing.assert_array_equal(met.counts, truth)


@pytest.mark.parametrize("jump_s", [-3600, 86400])
def test_a_clock_that_jumps_changes_no_count(site: Site, truth: NDArray[np.int64], jump_s: int) -> None:
    met = site.meet(f"clock{jump_s}", "--fault", f"clock_jump_s={jump_s}")
    assert met.spoiled["clock_jump_s"] > 10
    assert met.books["exit_status"] == "success"
    assert (met.books["lost"], met.books["rejected"], met.books["processed"]) == ({}, {}, N)
    np.testing.assert_array_equal(met.counts, truth)


def test_a_calibration_that_comes_late_is_taken(site: Site, truth: NDArray[np.int64]) -> None:
    met = site.meet("late-axis", "--calibrated-at", "5")
    axis = met.books["axis"]
    assert (axis["units"], axis["offset"]) == ("keV", pytest.approx(-0.2))
    assert axis["scale"] == pytest.approx(20.48 / D)
    assert (met.books["lost"], met.books["rejected"], met.books["processed"]) == ({}, {}, N)
    np.testing.assert_array_equal(met.counts, truth)


@pytest.mark.parametrize(
    "effects",
    [
        ["shift_per_s=2"],
        ["gain_per_s=0.1"],
        ["stage_y_per_s=10"],
        ["stage_x_per_s=10"],
        ["damage_s=0.001", "damaged=oxide"],
        ["damage_s=0.001", "damaged=oxide", "damaged_into=ferrite"],
        ["contamination_per_s=500", "contaminant=unknown"],
        ["segment_fails_s=0.2", "segment_share=0.5"],
        ["dwell_changes_s=0.2", "dwell_factor=0.5"],
        ["charging_per_s=50", "charging_positions=2"],
        ["charging_per_s=50", "charging_shift=0.3"],
        ["dead=80,81"],
        ["hot=7", "hot_per_s=20000"],
        ["bleach_s=0.001"],
        ["cosmic_per_s=200", "cosmic_counts=500"],
    ],
    ids=lambda effects: effects[0].partition("=")[0] + str(len(effects)),
)
def test_what_changes_while_the_scan_runs_is_data(site: Site, effects: list[str]) -> None:
    specimen = "polymer_blend" if effects[0].startswith(("bleach", "cosmic")) else "exercise"
    series = "-".join(effects).replace("=", "")
    met = site.meet(series, "--specimen", specimen, *[x for e in effects for x in ("--effect", e)])
    assert met.books["exit_status"] == "success"
    assert (met.books["lost"], met.books["rejected"], met.books["processed"]) == ({}, {}, N)
    there, plain = drawn(specimen=specimen, effects=effects), drawn(specimen=specimen)
    np.testing.assert_array_equal(met.counts, there.sum(axis=1))
    # The last position that the effect changed, channel by channel.
    changed = np.flatnonzero((there != plain).any(axis=1))
    _, spectrum = Asker(site.bench, site.server.control).ask("spectrum", index=int(changed[-1]))
    np.testing.assert_array_equal(spectrum["raw"], there[changed[-1]])


def test_a_changing_specimen_and_detector_leave_the_books_exact(site: Site) -> None:
    effects = ["shift_per_s=0.5", "gain_per_s=0.02", "stage_y_per_s=10", "stage_x_per_s=5", "dead=3,4", "hot=7"]
    effects += ["damage_s=0.001", "damaged=oxide", "damaged_into=ferrite"]
    effects += ["contamination_per_s=50", "contaminant=unknown"]
    effects += ["charging_per_s=50", "charging_decay_s=0.02", "charging_positions=2", "charging_shift=0.05"]
    met = site.meet("changing", *[x for e in effects for x in ("--effect", e)])
    assert met.books["exit_status"] == "success"
    assert (met.books["lost"], met.books["rejected"], met.books["processed"]) == ({}, {}, N)
    assert np.all(np.isfinite(met.counts))


def test_a_list_of_points_meets_the_daemon(site: Site) -> None:
    specimen = load_specimen("exercise", seed=SEED, shape=(20, 20), channels=D)
    where = random_points(specimen, 40, SEED)
    truth = measured(where)
    met = site.meet("points", "--points", "40")
    assert met.books["exit_status"] == "success"
    assert (met.books["lost"], met.books["rejected"], met.books["processed"]) == ({}, {}, 40)
    np.testing.assert_array_equal(met.counts, truth)


def test_a_stop_is_obeyed_at_the_end_of_the_pass_and_what_comes_until_then_is_counted(site: Site) -> None:
    results = Listener(site.bench, site.server.results, "decision")
    # Never as many passes as planned: only the daemon's stop ends it.
    stop = ["--control", site.server.control, "--obey-advice", "--obeys-at", "section", "--passes", "3000"]
    # Of this specimen hardly a position is pure, and some are of nothing known: a hundredth of it is never certain.
    Asker(site.bench, site.server.control).ask("settings", decisions={"stop_misclassified_area": 0.2})
    # So slowly that a slow machine, too, has time for phases between spectra.
    stop += ["--rate", "1500", "--actions", "stop", "--fault", "drop=0.05"]
    met = site.meet("stopped", *stop)
    assert met.books["exit_status"] == "stopped"
    assert (met.books["lost"], met.books["rejected"]) == ({}, {})
    passes, rest = divmod(met.books["n_sent"], N)
    assert rest == 0
    np.testing.assert_array_equal(met.counts, drawn(passes=passes).sum(axis=1))
    while results.socket.poll(0):
        results.read()
    assert [head.get("outcome") for _, head, _ in results.got] == [None, "accepted"]
