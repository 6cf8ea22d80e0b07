"""Groups of anomalies over the wire: announced, proposed, accepted, dismissed, and flags that are told again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models.grouping import Group, Kind
from models.linear import FLAG_ANOMALOUS, FLAG_WAITS
from streamer.config import AnomalySection, PipelineConfig
from streamer.discovery import Found, free_name, is_proposed
from streamer.events import Event, Publish
from streamer.pipeline import Pipeline
from streamer.requests import RequestError
from streamer.wire import Control
from streamer.wire.items import Change, Item
from tests.unit.streamer.scene import MS, Scene, feed_all, results, run

RARE = [37, 85, 131, 132, 170]


def rare_scene(passes: int = 3) -> Scene:
    """Three phases, and five positions with a line of 40 counts that nothing else has."""
    scene = Scene(passes=passes, mean_counts=300.0)
    line = np.exp(-0.5 * ((np.arange(64) - 36) / 1.8) ** 2)
    more = np.random.default_rng(5).poisson(40 * line / line.sum(), (passes, len(RARE), 64))
    scene.counts[:, RARE] += more.astype(np.uint16)
    return scene


def groups_told(events: list[Event]) -> list[Any]:
    return [r for r in results(events, "anomaly") if r.head["group"] is not None]


def ask(pipeline: Pipeline, val: str, **params: Any) -> Control:
    return pipeline.answer(Control("cmd", 1, val, params), "boot")


def halves(scene: Scene) -> tuple[list[Item], list[Item]]:
    """Items of the first pass and more, and of the rest."""
    items = list(scene.items())
    return items[: len(items) // 2], items[len(items) // 2 :]


def test_a_group_is_proposed_accepted_and_mapped() -> None:
    scene = rare_scene()
    first, second = halves(scene)
    pipeline = Pipeline(PipelineConfig())
    told = groups_told(feed_all(pipeline, first))
    last = told[-1]
    assert last.head["state"] == "proposed"
    assert set(last.head["index"]) <= set(RARE)
    assert last.head["window"][0] <= 36 * 0.05 <= last.head["window"][1]
    assert "proposed as a phase" in last.head["text"]
    seen, expected = (last.arrays[name][33:40].sum() for name in ("spectrum", "expected"))
    assert seen > expected + 20 * len(last.head["index"])
    number = last.head["group"]
    pipeline.check_change("accept", {"group": number, "name": "spinel"})
    events = feed_all(pipeline, [Change(MS, "accept", {"group": number, "name": "spinel"})])
    assert groups_told(events)[-1].head["state"] == "accepted"
    answer = ask(pipeline, "accept", group=number, name="spinel")
    assert (answer.msg, answer.params["name"]) == ("ack", "spinel")
    events = feed_all(pipeline, second)
    late = [r for r in results(events, "result") if r.head["model"]]
    flagged = np.concatenate([r.arrays["index"][r.arrays["flag"] & 1 > 0] for r in late])
    assert not np.isin(flagged, RARE).any(), "known now"
    status = pipeline.status()
    assert next(g for g in status["groups"] if g["group"] == number)["n"] == len(RARE)
    phase = next(p for p in status["phases"] if p["name"] == "spinel")
    label = results(events, "map/phase")[-1].arrays["phase"].ravel()
    assert sorted(np.flatnonzero(label == phase["id"])) == RARE


def test_two_groups_that_may_be_the_same_get_names_of_their_own() -> None:
    positions, nothing = np.arange(3), np.zeros(64, np.float32)
    group = Group(positions, nothing, np.ones(3, np.float32), 0, 100.0, "phase")
    groups = [Found(n, group, (1.4, 1.54), candidates) for n, candidates in enumerate((["Al Ka"], ["Al Ka"], []))]
    for found in groups:
        found.name = free_name(found, groups)
    assert [found.name for found in groups] == ["Al Ka", "Al Ka (1)", "unknown 2"]


def test_groups_are_accepted_without_being_asked_where_that_is_set() -> None:
    pipeline, events = run(rare_scene(), PipelineConfig(anomaly=AnomalySection(accept=True)))
    states = {r.head["state"] for r in groups_told(events)}
    assert "accepted" in states
    assert any(g["state"] == "accepted" for g in pipeline.status()["groups"])


def test_a_dismissed_group_does_not_come_back() -> None:
    first, second = halves(rare_scene())
    pipeline = Pipeline(PipelineConfig())
    number = groups_told(feed_all(pipeline, first))[-1].head["group"]
    events = feed_all(pipeline, [Change(MS, "dismiss", {"group": number, "reason": "dust"}), *second])
    assert [r.head["state"] for r in groups_told(events) if r.head["group"] == number] == ["dismissed"]
    assert not any(g["state"] in {"open", "proposed"} and g["n"] > 1 for g in pipeline.status()["groups"])


@pytest.mark.parametrize(
    ("val", "params", "text"),
    [
        ("accept", {"group": 99, "name": "x"}, "there is no group 99"),
        ("accept", {"group": 0}, "give a name"),
        ("dismiss", {"group": 0, "reason": " "}, "give a reason"),
        ("dismiss", {"group": True, "reason": "x"}, "there is no group True"),
    ],
)
def test_wrong_requests_are_told_why(val: str, params: dict[str, Any], text: str) -> None:
    pipeline = Pipeline(PipelineConfig())
    with pytest.raises(RequestError, match="no series yet"):
        pipeline.check_change(val, params)
    feed_all(pipeline, halves(rare_scene())[0])
    with pytest.raises(RequestError, match=text):
        pipeline.check_change(val, params)


def test_flags_of_a_whole_scan_are_decided_together() -> None:
    scene = rare_scene()
    _, events = run(scene)
    flag = np.zeros(scene.counts.shape[1], dtype=np.uint8)
    for result in results(events, "result"):
        flag[result.arrays["index"]] = result.arrays["flag"]
    assert set(RARE) <= set(np.flatnonzero(flag & 1))
    assert np.count_nonzero(flag & 1) <= len(RARE) + 2
    p_value = results(events, "map/p_value")[-1].arrays["p_value"].ravel()
    assert p_value[RARE].max() < 1e-4 < np.median(p_value)


def test_a_flag_waits_until_the_scan_has_shown_that_nothing_like_it_follows() -> None:
    told: list[tuple[int, int]] = []
    events = feed_all(Pipeline(PipelineConfig()), rare_scene(passes=1).items(ticks=3))
    for result in results(events, "result"):
        told += zip(result.arrays["index"].tolist(), result.arrays["flag"].tolist(), strict=True)
    for position in RARE:
        flags = [flag for index, flag in told if index == position]
        assert flags[0] in {0, FLAG_WAITS}
        assert flags[-1] == FLAG_ANOMALOUS
    alone = [r.head["index"] for r in results(events, "anomaly") if r.head["group"] is None]
    assert len(alone) >= 4, "told when it is clear, and not before"
    assert {i for (i,) in alone} <= set(RARE)


def compound_scene(passes: int) -> tuple[Scene, np.ndarray]:
    """A band of three columns that has the spectrum of a mixture of what lies beside it, and its positions."""
    scene = Scene(nav_shape=(24, 32), passes=passes, mean_counts=750.0)
    column = np.arange(24 * 32) % 32
    compound = np.flatnonzero(abs(column - 21) < 2)
    scene.expected[compound] = 0.6 * scene.expected[15] + 0.4 * scene.expected[31]
    scene.counts = np.random.default_rng(4).poisson(scene.expected, scene.counts.shape).astype(np.uint16)
    return scene, compound


def test_a_compound_like_a_mixture_is_proposed_named_and_mapped() -> None:
    scene, compound = compound_scene(passes=2)
    pipeline = Pipeline(PipelineConfig(anomaly=AnomalySection(minor_phase=0.12)))
    items = list(scene.items(block=48, idle=500))
    scan, end = items[: len(items) * 3 // 4], items[len(items) * 3 // 4 :]
    events = feed_all(pipeline, scan)
    (told,) = [r for r in groups_told(events) if r.head["kind"] == "phase"]
    assert told.head["state"] == "proposed"
    assert np.isin(told.head["index"], compound).mean() > 0.95
    assert np.isin(compound, told.head["index"]).mean() > 0.9
    at = next(k for k, e in enumerate(events) if isinstance(e, Publish) and e.result is told)
    assert np.isin(told.head["index"], flagged(events[:at])).all()
    events = feed_all(pipeline, [Change(MS, "accept", {"group": told.head["group"], "name": "AB2"}), *end])
    assert not np.isin(flagged(events), compound).any()
    assert [g["name"] for g in pipeline.status()["groups"] if g["state"] == "accepted"] == ["AB2"]
    number = next(p["id"] for p in pipeline.status()["phases"] if p["name"] == "AB2")
    label = results(events, "map/phase")[-1].arrays["phase"].ravel()
    assert (label[compound] == number).mean() > 0.95
    assert np.isin(np.flatnonzero(label == number), compound).mean() > 0.95


def test_nobody_is_asked_about_a_phase_that_is_no_longer_rare() -> None:
    scene, compound = compound_scene(passes=3)
    pipeline = Pipeline(PipelineConfig(anomaly=AnomalySection(minor_phase=0.12)))
    items = list(scene.items(block=48, idle=500))
    events = feed_all(pipeline, items[: len(items) // 2])
    (told,) = [r.head for r in groups_told(events) if r.head["kind"] == "phase"]
    assert (told["state"], told["explained"]) == ("proposed", False)
    fewer = Change(MS, "settings", {"anomaly": {"minor_phase": 0.05}})
    events = feed_all(pipeline, [fewer, *items[len(items) // 2 :]])
    last = [r.head for r in groups_told(events) if r.head["group"] == told["group"]][-1]
    assert (last["state"], last["explained"]) == ("open", True)
    assert last["text"].endswith("by now the model explains it: nothing to decide")
    assert not np.isin(flagged(events), compound).any()


def test_nobody_is_asked_about_a_feature_that_became_a_phase_of_the_model() -> None:
    scene = Scene(nav_shape=(32, 32), passes=1, mean_counts=300.0, seed=1)
    rng, line = np.random.default_rng(6), np.exp(-0.5 * ((np.arange(64) - 36) / 1.8) ** 2)
    few = rng.choice(24 * 32, 4, replace=False)
    where = np.append(few, np.arange(24 * 32, 32 * 32))  # and the last lines are all of it
    more = rng.poisson(100 * line / line.sum(), (1, where.size, 64))
    scene.counts[:, where] += more.astype(np.uint16)
    pipeline, events = run(scene, block=32, idle=6)
    told = [r.head for r in groups_told(events) if set(r.head["index"]) <= set(few.tolist())]
    assert told[0]["state"] == "proposed", "four rare positions, before the rest came"
    assert (told[-1]["state"], told[-1]["explained"]) == ("open", True)
    assert not np.isin(flagged(events), few).any()
    assert all(g["explained"] for g in pipeline.status()["groups"] if g["kind"] == "feature")


@pytest.mark.parametrize("ticks", [1, 2, 3])
def test_results_have_as_many_scores_as_the_basis_of_their_model(ticks: int) -> None:
    pipeline = Pipeline(PipelineConfig(anomaly=AnomalySection(accept=True)))
    sizes: dict[int, int] = {}
    for event in feed_all(pipeline, rare_scene(passes=3).items(ticks=ticks)):
        if isinstance(event, Publish) and event.result.topic == "basis":
            sizes[event.result.head["model"]] = len(event.result.arrays["eigenspectra"])
        if isinstance(event, Publish) and event.result.topic == "result":
            assert event.result.arrays["scores"].shape[1] == sizes[event.result.head["model"]]
    assert len(set(sizes.values())) > 1, "groups come and go"


def flagged(events: list[Event]) -> np.ndarray:
    """Positions whose last flag says anomalous."""
    last = {
        int(i): int(f)
        for r in results(events, "result")
        for i, f in zip(*(r.arrays[k] for k in ("index", "flag")), strict=True)
    }
    return np.array(sorted(i for i, flag in last.items() if flag & 1), dtype=np.int64)


def test_positions_that_chance_has_chosen_are_no_evidence() -> None:
    def group(n: int, evidence: float, kind: Kind = "feature") -> Group:
        share = np.full(n, 1 / n, dtype=np.float32)
        return Group(np.arange(n), np.zeros(4, dtype=np.float32), share, 0, evidence, kind)

    # Scores of chance flags are just over ln(1 / 2e-4) = 8.5.
    assert not is_proposed(group(6, 6 * 9.5), 2e-4)
    assert is_proposed(group(6, 6 * 14.0), 2e-4)
    assert is_proposed(group(100, 60.0, "phase"), 2e-4), "not chosen by a window"
    assert not is_proposed(group(3, 1e4, "cosmic ray"), 2e-4)
    assert not is_proposed(group(1, 1e4), 2e-4)
