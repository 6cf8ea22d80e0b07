"""A network in the stream, without sockets: who speaks, what is flagged, what is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.card import ModelCard, read_card
from models.inference import TrainedNetwork
from streamer.config import PipelineConfig, StepsByTechnique, StepsSection
from streamer.discovery import FLAG_OUTSIDE
from streamer.events import Count, Event, Log, Publish
from streamer.pipeline import Pipeline
from streamer.wire import Control, encode_image, encode_result
from streamer.wire.items import Arrived, Denoise, Item, NewNetwork, Tick
from streamer.wire.journal import pack_record, read_records
from tests.unit.streamer.scene import HOST, MS, Scene, feed_all, results

ROWS = 48


def item_of(path: Path, card: ModelCard | None = None, series: str = "scene") -> NewNetwork:
    card = card or read_card(path)
    return NewNetwork(1, series, card.model_dump_json(), "fp32", "cpu", [path.read_bytes()])


def with_network(scene: Scene, network: NewNetwork, rows: int = ROWS, **keys: Any) -> Iterator[Item]:
    """The items of a scene, the network after its header, and a look after each block."""
    for item in scene.items(**keys):
        yield item
        if isinstance(item, Tick):
            if item.t_ns == 0:
                yield network
            yield Denoise(item.t_ns, rows)


def run(scene: Scene, network: NewNetwork, config: PipelineConfig | None = None) -> tuple[Pipeline, list[Event]]:
    pipeline = Pipeline(config or PipelineConfig())
    return pipeline, feed_all(pipeline, with_network(scene, network))


def logged(events: list[Event]) -> str:
    return "\n".join(e.text for e in events if isinstance(e, Log) and e.kind == "network")


def ask(pipeline: Pipeline, val: str, **params: Any) -> Control:
    return pipeline.answer(Control("cmd", 1, val, params), "boot")


def test_a_network_that_fits_speaks_and_results_say_so(scene_network: Path) -> None:
    scene = Scene((24, 32))
    pipeline, events = run(scene, item_of(scene_network), PipelineConfig(windows={"peak": (0.39, 0.61)}))
    said = results(events, "denoised")
    assert {(r.head["kind"], r.head["network"], r.head["model"]) for r in said} == {("hourglass", 1, 1)}
    last: dict[int, np.ndarray[Any, Any]] = {}
    for result in said:
        last |= dict(zip(result.arrays["index"].tolist(), result.arrays["denoised"], strict=True))
    assert len(last) > 0.9 * 24 * 32
    shown = results(events, "map/network")[-1].arrays["network"].ravel()
    index = np.array([i for i in sorted(last) if shown[i] == 1.0])
    truth = 2 * scene.expected[index]
    raw = scene.counts.sum(axis=0)[index]
    denoised = np.stack([last[i] for i in index.tolist()])
    assert ((denoised - truth) ** 2).mean() < 0.15 * ((raw - truth) ** 2).mean()
    status = pipeline.status()["network"]
    assert (status["name"], status["kind"], status["version"], status["device"]) == ("scene", "hourglass", 1, "cpu")
    assert status["speaks"]
    assert status["inside"] > 0.98
    window = results(events, "map/network/peak")[-1].arrays["network/peak"].ravel()
    np.testing.assert_array_equal(np.isnan(window), shown != 1.0)
    np.testing.assert_allclose(window[index], denoised[:, 8:13].sum(axis=1), rtol=1e-5)
    answer = ask(pipeline, "spectrum", index=int(index[-1])).arrays
    # What is shown lies between the two (the network has been attuned further since).
    assert status["weights"][0] > 0.5
    apart = [np.linalg.norm(answer[name] - denoised[-1]) for name in ("network", "denoised")]
    assert max(apart) < 1.1 * np.linalg.norm(answer["network"] - answer["denoised"])


def test_results_are_those_of_the_linear_model_whether_there_is_a_network_or_not(scene_network: Path) -> None:
    scene = Scene()
    _, with_one = run(scene, item_of(scene_network))
    without = feed_all(Pipeline(PipelineConfig()), scene.items())
    first = [r for r in results(with_one, "result") if "network" not in r.head]
    for a, b in zip(first, results(without, "result"), strict=True):
        for name in ("index", "scores", "anomaly", "flag"):
            np.testing.assert_array_equal(a.arrays[name], b.arrays[name])


@pytest.mark.parametrize("seed", [0, 1])
def test_where_the_models_disagree_the_flag_says_it_and_goes_when_they_agree(scene_network: Path, seed: int) -> None:
    # So small a scan does not teach the linear model all that the network knows.
    scene, foreign = Scene((12, 24), mean_counts=200.0, seed=seed), np.s_[144:172]
    rng = np.random.default_rng(seed)
    spectrum = 0.5 + 40 * np.exp(-0.5 * ((np.arange(64) - 38) / 2.0) ** 2)
    scene.counts[:, foreign] = rng.poisson(200 * spectrum / spectrum.sum(), scene.counts[:, foreign].shape)
    pipeline, events = run(scene, item_of(scene_network))
    flag = np.zeros(12 * 24, dtype=np.uint8)
    for result in results(events, "result"):
        flag[result.arrays["index"]] = result.arrays["flag"]
    flagged = flag & FLAG_OUTSIDE > 0
    assert flagged[foreign].mean() > 0.9
    assert np.delete(flagged, foreign).mean() < 0.02
    shown = results(events, "map/network")[-1].arrays["network"].ravel()
    assert not np.any(shown[foreign][flagged[foreign]])
    again = [r for r in results(events, "result") if r.head.get("network") == 1]
    assert any((r.arrays["flag"] & FLAG_OUTSIDE == 0).any() for r in again), "some were taken back"
    assert pipeline.status()["network"]["disagreements"] >= flagged.sum()


def test_what_is_too_dim_is_left_to_the_linear_model(scene_network: Path) -> None:
    scene = Scene((24, 32), mean_counts=3.0)
    pipeline, events = run(scene, item_of(scene_network))
    assert not results(events, "denoised")
    assert pipeline.status()["network"]["inside"] < 0.05


def test_a_recording_with_a_network_gives_the_same_bytes(scene_network: Path) -> None:
    items = list(with_network(Scene((24, 32)), item_of(scene_network), rows=29))

    def published(stream: Any) -> list[bytes]:
        events = feed_all(Pipeline(PipelineConfig()), stream)
        parts = [encode_result(e.result, boot="b", seq=0, t_ns=0) for e in events if isinstance(e, Publish)]
        return [b"".join(bytes(p) for p in message) for message in parts]

    journal = b"".join(bytes(p) for item in items for p in pack_record(item))
    again = [record for record, _ in read_records(memoryview(journal))]
    assert [type(i) for i in again] == [type(i) for i in items]
    first = published(items)
    assert any(b"hourglass" in message for message in first)
    assert published(again) == first


def test_a_network_that_does_not_fit_is_told_and_left_out(scene_network: Path) -> None:
    card = read_card(scene_network)
    other = card.model_copy(update={"axis": card.axis.model_copy(update={"offset": 0.5})})
    pipeline, events = run(Scene(), item_of(scene_network, other))
    assert "its axis is off by 10 channels" in logged(events)
    assert pipeline.status()["network"] is None
    assert not results(events, "denoised")


def test_prepared_spectra_are_left_to_the_linear_model(scene_network: Path) -> None:
    config = PipelineConfig(steps=StepsByTechnique(eds=StepsSection(rebin=2)))
    pipeline, events = run(Scene(), item_of(scene_network), config)
    assert "prepared" in logged(events)
    assert pipeline.status()["network"] is None


def test_another_series_network_is_nobodys(scene_network: Path) -> None:
    _, events = run(Scene(), item_of(scene_network, series="another"))
    assert not logged(events)


def test_an_axis_corrected_later_takes_the_network_away(scene_network: Path) -> None:
    scene = Scene()
    pipeline = Pipeline(PipelineConfig())
    axis = {"name": "Energy", "units": "keV", "size": 64, "offset": 1.0, "scale": 0.05}
    late = encode_image("scene", 1, 0, scene.counts[0][:24], axis=axis)
    events = feed_all(pipeline, [Arrived(0, scene.header(), HOST), item_of(scene_network), Arrived(MS, late, HOST)])
    assert "no longer used" in logged(events)
    assert pipeline.status()["network"] is None
    assert pipeline.without_network is not None
    feed_all(pipeline, [Tick(2 * MS), Denoise(2 * MS, 100)])


def test_looks_are_bounded_and_all_positions_are_looked_at_at_the_end(scene_network: Path) -> None:
    scene = Scene((24, 32), passes=1)
    pipeline = Pipeline(PipelineConfig())
    *items, last, idle = [i for i in scene.items(block=192) if not isinstance(i, Denoise)]
    feed_all(pipeline, [items[0], item_of(scene_network), *items[1:]])
    assert pipeline.waiting_positions == 768
    looked = [e.n for e in pipeline.feed(Denoise(0, 100)) if isinstance(e, Count) and e.label == "looked"]
    assert (looked, pipeline.waiting_positions) == ([100], 668)
    events = feed_all(pipeline, [last, Tick(items[-1].t_ns + 10**10), idle])
    # A network that speaks by then looks at all of them once more, beside the final linear model.
    total = {word: sum(e.n for e in events if isinstance(e, Count) and e.label == word) for word in ("looked", "spoke")}
    assert 768 <= total["looked"] < 800
    assert total["spoke"] > 700


@pytest.mark.parametrize("network", [True, False])
def test_the_status_always_has_the_key(scene_network: Path, network: bool) -> None:
    scene = Scene()
    pipeline = Pipeline(PipelineConfig())
    items = with_network(scene, item_of(scene_network)) if network else scene.items()
    feed_all(pipeline, items)
    assert (pipeline.status()["network"] is not None) == network


def moved_by(path: Path, size: float, seed: int = 0) -> NewNetwork:
    """The network with its last layer spoilt, as one that learnt nonsense."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "last.bias":
            values = onnx.numpy_helper.to_array(tensor)
            noise = np.random.default_rng(seed).standard_normal(values.shape).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values + size * noise, tensor.name))
    card = read_card(path).model_copy(update={"name": f"moved by {size:g}"})
    return NewNetwork(1, "scene", card.model_dump_json(), "fp32", "cpu", [model.SerializeToString()])


def challenged(scene: Scene, first: NewNetwork, second: NewNetwork, at: int) -> Iterator[Item]:
    for number, item in enumerate(with_network(scene, first)):
        yield item
        if number == at:
            yield replace(second, learnt=True)


def test_what_has_learnt_is_promoted_only_where_it_is_better(scene_network: Path) -> None:
    scene = Scene((24, 64), mean_counts=300.0)
    good, bad = item_of(scene_network), moved_by(scene_network, 0.3)
    outcomes = {}
    for name, first, second in (("better", bad, good), ("worse", good, bad)):
        items = list(challenged(scene, first, second, at=250))
        pipeline = Pipeline(PipelineConfig())
        events = feed_all(pipeline, items)
        status = pipeline.status()["network"]
        outcomes[name] = (status["promoted"], status["rejected"], status["rolled_back"], status["version"])
        assert {e.n for e in events if isinstance(e, Count) and e.name == "network_version"} == (
            {1, 2} if name == "better" else {1}
        )
        told = [e.text for e in events if isinstance(e, Log) and e.kind == "learnt"]
        assert len(told) == 1
        assert ("is promoted" in told[0]) == (name == "better")
        said = results(events, "denoised")
        assert {r.head["model"] for r in said} <= ({1, 2} if name == "better" else {1})
    assert outcomes == {"better": (1, 0, 0, 2), "worse": (0, 1, 0, 1)}


def test_a_promoted_network_gives_its_place_back_when_the_specimen_is_another(scene_network: Path) -> None:
    """It is better where the scan begins, and worse on what comes later."""
    early = Scene((36, 96), mean_counts=300.0)
    late = Scene((36, 96), mean_counts=300.0, seed=1)
    good = item_of(scene_network)
    bad = moved_by(scene_network, 0.3)
    spoilt = moved_by(scene_network, 0.3)
    # Counts that the spoilt network is right about, then those that the other one is.
    card = read_card(scene_network)
    network = TrainedNetwork(onnx.load_model_from_string(bytes(spoilt.parts[0])), card, device="cpu")
    truth = network.denoise(early.expected.astype(np.float32)).spectra
    early.counts[0] = np.random.default_rng(0).poisson(truth)
    early.counts[1] = late.counts[0] * 8
    items = list(challenged(early, good, bad, at=400))
    pipeline = Pipeline(PipelineConfig())
    events = feed_all(pipeline, items)
    status = pipeline.status()["network"]
    assert (status["promoted"], status["rolled_back"], status["version"]) == (1, 1, 3)
    assert status["name"] == "scene"
    assert "gives its place back" in [e.text for e in events if isinstance(e, Log) and e.kind == "learnt"][-1]


def test_a_recording_with_a_promotion_gives_the_same_bytes(scene_network: Path) -> None:
    items = list(challenged(Scene((24, 64)), moved_by(scene_network, 0.3), item_of(scene_network), at=250))
    journal = b"".join(bytes(p) for item in items for p in pack_record(item))
    again = [record for record, _ in read_records(memoryview(journal))]

    def published(stream: Any) -> list[bytes]:
        events = feed_all(Pipeline(PipelineConfig()), stream)
        found = [e.result for e in events if isinstance(e, Publish)]
        assert any(r.topic == "denoised" and r.head["model"] == 2 for r in found)
        return [b"".join(bytes(p) for p in encode_result(r, boot="b", seq=0, t_ns=0)) for r in found]

    assert published(items) == published(again)
