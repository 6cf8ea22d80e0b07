"""The daemon as a process, met by an instrument and a controller that know only protocol.md."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from streamer.config import PipelineConfig
from streamer.events import Publish
from streamer.pipeline import Pipeline
from streamer.wire.journal import Closed, Opened, read_records
from tests.system.outsider import (
    BLOCK,
    WAIT_S,
    Asker,
    Bench,
    D,
    Instrument,
    Listener,
    daemon,
    end,
    messages,
    scene,
    send_paced,
    wait_for_status,
)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def check_books(books: dict[str, Any]) -> None:
    assert books["n_sent"] == books["processed"] + sum(books["lost"].values())
    assert books["received"] == books["processed"]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_scan_over_pub_sub(tmp_path: Path, bench: Bench, as_json: bool) -> None:
    with daemon(tmp_path) as server:
        instrument = Instrument(bench, server.source)
        listener = Listener(bench, server.results)
        instrument.wait_for_subscriber()
        counts = scene()
        for parts in messages("run-1", counts, as_json=as_json):
            instrument.send(parts)
        books = listener.until_end("run-1")
        check_books(books)
        assert books["processed"] == len(counts)
        assert books["exit_status"] == "success"
        np.testing.assert_array_equal(
            listener.last("map/counts")[1]["counts"].ravel(), counts.reshape(2, 256, D).sum(axis=(0, 2))
        )
        basis_head, basis = listener.last("basis")
        scores_head, scores = listener.last("map/scores")
        assert basis_head["model"] == scores_head["model"]
        denoised = basis["mean"] + scores["scores"].reshape(256, -1) @ basis["eigenspectra"]
        raw = counts.reshape(2, 256, D).sum(axis=0)
        assert abs(denoised.sum() / raw.sum() - 1) < 0.01
        boots = {head["boot"] for _, head, _ in listener.got}
        assert len(boots) == 1
        results = [head for topic, head, _ in listener.got if topic == "result"]
        assert [head["seq"] for head in results] == list(range(results[0]["seq"], results[0]["seq"] + len(results)))
        assert all(head["latency_ms"] >= 0 for head in results)
        late = Listener(bench, server.results)
        assert late.until_end("run-1") == books
        kept = {"basis", "status", "map/counts", "map/scores", "map/anomaly", "map/dwell"}
        while not kept <= {topic for topic, _, _ in late.got}:
            assert late.socket.poll(1000 * WAIT_S), "a late subscriber does not get what was published last"
            late.read()
        assert server.stop() == 0


def test_push_pull_with_the_streamer_bound(tmp_path: Path, bench: Bench) -> None:
    with daemon(tmp_path, "--pattern", "pull", "--bind-source") as server:
        instrument = Instrument(bench, server.source, zmq.PUSH, bind=False)
        listener = Listener(bench, server.results)
        counts = scene()
        for parts in messages("pushed", counts):
            instrument.send(parts)
        books = listener.until_end("pushed")
        assert (books["processed"], books["lost"]) == (len(counts), {})
        assert server.stop(signal.SIGINT) == 0


def test_gaps_are_filled_from_the_replay_service(tmp_path: Path, bench: Bench) -> None:
    with daemon(tmp_path) as server:
        instrument = Instrument(bench, server.source)
        listener = Listener(bench, server.results)
        instrument.wait_for_subscriber()
        counts = scene()
        for number, parts in enumerate(messages("gappy", counts, replay=instrument.replay_url)):
            instrument.send(parts, lose=number in {3, 4, 9})
        with instrument.serving_replays():
            books = listener.until_end("gappy")
        check_books(books)
        assert (books["processed"], books["lost"]) == (len(counts), {})
        assert (3, 4) in instrument.asked


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_restart_in_mid_scan_ends_with_exact_books_and_the_same_map(tmp_path: Path, bench: Bench, number: int) -> None:
    counts = scene(passes=3)
    with daemon(tmp_path) as server:
        instrument = Instrument(bench, server.source)
        listener = Listener(bench, server.results)
        instrument.wait_for_subscriber()
        all_messages = messages("killed", counts, replay=instrument.replay_url)
        for parts in all_messages[:10]:
            instrument.send(parts)
        wait_for_status(bench, server.control, processed=9 * BLOCK)
        server.stop(number)
        for parts in all_messages[10:15]:
            instrument.send(parts)
        server.start()
        with instrument.serving_replays():
            wait_for_status(bench, server.control, processed=14 * BLOCK)
            for parts in all_messages[15:]:
                instrument.send(parts)
            books = listener.until_end("killed")
        check_books(books)
        assert (books["processed"], books["lost"], books["resumed"]) == (len(counts), {}, True)
        assert len({head["boot"] for _, head, _ in listener.got}) == 2
        expected = counts.reshape(3, 256, D).sum(axis=(0, 2))
        np.testing.assert_array_equal(listener.last("map/counts")[1]["counts"].ravel(), expected)
        assert np.isfinite(listener.last("map/scores")[1]["scores"]).all()


def test_the_recording_gives_every_published_result_again(tmp_path: Path, bench: Bench) -> None:
    """Bit for bit: results, bases and decisions of a live scan, computed anew from its journal."""
    with daemon(tmp_path) as server:
        instrument = Instrument(bench, server.source)
        listener = Listener(bench, server.results, "result", "basis", "decision", "series")
        instrument.wait_for_subscriber()
        first, *blocks, last = messages("recorded", scene(passes=12), actions=["stop"], replay=instrument.replay_url)
        instrument.send(first)
        for number, parts in enumerate(blocks, 1):
            if number in {4, 9}:
                instrument.send(parts, lose=True)
            else:
                send_paced(instrument, listener, parts)
        instrument.send(last)
        with instrument.serving_replays():
            listener.until_end("recorded")
        assert server.stop() == 0
    (journal,) = (tmp_path / "state").glob("*/journal.swj")
    records = [record for record, _ in read_records(memoryview(journal.read_bytes()))]
    assert isinstance(records[0], Opened)
    assert isinstance(records[-1], Closed)
    pipeline = Pipeline(PipelineConfig.model_validate(records[0]["settings"]))
    events = [event for item in records[1:-1] if not isinstance(item, Opened | Closed) for event in pipeline.feed(item)]
    again = [e.result for e in events if isinstance(e, Publish)]
    for topic in ("result", "basis", "decision"):
        live = [(head, arrays) for t, head, arrays in listener.got if t == topic]
        anew = [r for r in again if r.topic == topic]
        assert len(live) == len(anew) > 0
        for (head, arrays), result in zip(live, anew, strict=True):
            assert head["model"] == result.head["model"]
            assert {n: a.tobytes() for n, a in arrays.items()} == {n: a.tobytes() for n, a in result.arrays.items()}
            assert head.get("decision") == result.head.get("decision")


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ])
def test_requests(tmp_path: Path, bench: Bench, kind: int) -> None:
    with daemon(tmp_path) as server:
        asker = Asker(bench, server.control, kind)
        answer, _ = asker.ask("snapshot")
        assert (answer["msg"], answer["params"]["error"]) == ("nack", "no series yet")
        assert asker.ask("hello", role="viewer", name="test")[0]["msg"] == "ack"
        instrument = Instrument(bench, server.source)
        listener = Listener(bench, server.results)
        instrument.wait_for_subscriber()
        counts = scene()
        for parts in messages("asked", counts):
            instrument.send(parts)
        listener.until_end("asked")
        snapshot, maps = asker.ask("snapshot", names=["counts", "scores"])
        assert snapshot["msg"] == "ack"
        assert maps["counts"].shape == (16, 16)
        _, basis = asker.ask("basis")
        assert set(basis) == {"mean", "eigenspectra", "eigenvalues"}
        _, spectra = asker.ask("spectrum", index=17)
        np.testing.assert_array_equal(spectra["raw"], counts[17] + counts[256 + 17])
        np.testing.assert_allclose(
            spectra["denoised"], basis["mean"] + maps["scores"].reshape(256, -1)[17] @ basis["eigenspectra"], atol=1e-3
        )
        _, window = asker.ask("window", lo=0.5, hi=0.7)
        energy = 0.01 * np.arange(D)
        inside = (energy >= 0.5) & (energy <= 0.7)
        expected = counts.reshape(2, 256, D)[:, :, inside].sum(axis=(0, 2))
        np.testing.assert_array_equal(window["raw"].ravel(), expected)
        assert asker.ask("settings")[0]["params"]["decisions"]["mode"] == "advise"
        changed, _ = asker.ask("settings", decisions={"mode": "enforce"})
        assert changed["params"]["decisions"]["mode"] == "enforce"
        assert "nonsense" in asker.ask("settings", nonsense=1)[0]["params"]["error"]


def test_decisions_reach_a_controller_and_its_answer_is_mirrored(tmp_path: Path, bench: Bench) -> None:
    with daemon(tmp_path) as server:
        controller = Asker(bench, server.control)
        assert controller.ask("hello", role="controller", name="scope")[0]["msg"] == "ack"
        instrument = Instrument(bench, server.source)
        listener = Listener(bench, server.results)
        instrument.wait_for_subscriber()
        counts = scene(passes=12)
        first, *blocks, last = messages("decided", counts, actions=["stop"], deadline_ms=5000)
        instrument.send(first)
        for parts in blocks:
            send_paced(instrument, listener, parts)
        instrument.send(last)
        listener.until_end("decided")
        assert controller.socket.poll(0), "no decision"
        decision, _ = controller.read()
        assert (decision["msg"], decision["val"]) == ("notify", "decision")
        params = decision["params"]
        assert (params["action"], params["mode"], params["series"]) == ("stop", "advise", "decided")
        assert params["issued_ns"] < params["valid_until_ns"]
        assert params["evidence"]["coverage"] == 1.0
        mirrored = [head for topic, head, _ in listener.got if topic == "decision"]
        assert mirrored[0]["decision"] == params["decision"]


def test_data_that_arrive_after_a_stop_are_counted(tmp_path: Path, bench: Bench) -> None:
    with daemon(tmp_path) as server:
        controller = Asker(bench, server.control)
        assert controller.ask("hello", role="controller", name="scope")[0]["msg"] == "ack"
        instrument = Instrument(bench, server.source)
        listener = Listener(bench, server.results, "series", "result", "decision", "map/counts")
        instrument.wait_for_subscriber()
        counts, n = scene(passes=30), 1
        sent = messages("overrun", counts, actions=["stop"])
        instrument.send(sent[0])
        while not controller.socket.poll(0):
            send_paced(instrument, listener, sent[n])
            n += 1
        decision, _ = controller.read()
        answer = {"msg": "ack", "id": decision["id"], "val": "decision"}
        answer["params"] = {"decision": decision["params"]["decision"]}
        controller.socket.send_multipart([msgpack.packb(answer)])
        while not (listener.got and listener.got[-1][1].get("outcome")):
            assert listener.socket.poll(1000 * WAIT_S), "the answer was not mirrored"
            listener.read()
        assert listener.got[-1][1]["outcome"] == "accepted"
        # A controller that cannot stop at once: ten more blocks come, of the same pass and of the next.
        more = sent[n : n + 10]
        assert msgpack.unpackb(more[-1][0])["htype"] == "image"
        for parts in more:
            instrument.send(parts)
        n_sent = sum(msgpack.unpackb(parts[0])["shape"][0] for parts in instrument.kept[1:])
        instrument.send(end("overrun", n + 10, n_sent))
        books = listener.until_end("overrun")
    check_books(books)
    assert (books["n_sent"], books["lost"]) == (n_sent, {})
    summed = np.zeros(256, dtype=np.int64)
    np.add.at(summed, np.arange(n_sent) % 256, counts[:n_sent].sum(axis=1))
    np.testing.assert_array_equal(listener.last("map/counts")[1]["counts"].ravel(), summed)


def test_junk_on_every_socket_stops_nothing(tmp_path: Path, bench: Bench) -> None:
    with daemon(tmp_path) as server:
        instrument = Instrument(bench, server.source)
        listener = Listener(bench, server.results)
        instrument.wait_for_subscriber()
        counts = scene()
        files = sorted((Path(__file__).parents[1] / "hostile").glob("*.msg"))
        # The one that names channel 16 is wrong only where there are no more than 16 channels.
        corpus = [msgpack.unpackb(p.read_bytes()) for p in files if p.stem != "events-channel-past-end"]
        asker = Asker(bench, server.control)
        all_messages = messages("hostile", counts)
        instrument.send(all_messages[0])
        for case in corpus:
            instrument.data.send_multipart(case["parts"])
            asker.socket.send_multipart(case["parts"])
        for parts in all_messages[1:]:
            instrument.send(parts)
        books = listener.until_end("hostile")
        check_books(books)
        assert (books["processed"], books["lost"]) == (len(counts), {})
        assert sum(books["rejected"].values()) == len(corpus)
        assert asker.ask("status")[0]["params"]["state"] == "idle"
        assert server.stop() == 0


def test_instrument_is_not_held_up_by_a_killed_or_stopped_daemon(tmp_path: Path, bench: Bench) -> None:
    with daemon(tmp_path) as server:
        instrument = Instrument(bench, server.source, zmq.PUB)
        instrument.data.setsockopt(zmq.SNDHWM, 100)
        time.sleep(1.5)
        counts = scene()
        sent = messages("alone", counts)
        for parts in sent[:5]:
            instrument.send(parts)
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        for _ in range(50):
            for parts in sent[5:]:
                instrument.send(parts)
        assert time.monotonic() - began < 5
        server.process.send_signal(signal.SIGCONT)
        server.stop(signal.SIGKILL)
