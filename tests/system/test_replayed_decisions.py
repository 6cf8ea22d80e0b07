"""A scan with changed settings, a killed daemon and an answered controller is decided again from its recording."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from streamer.config import PipelineConfig
from streamer.events import Publish
from streamer.pipeline import Pipeline
from streamer.wire.items import Change, Resumed
from streamer.wire.journal import Closed, Opened, read_records
from tests.system.outsider import Asker, Bench, Instrument, Listener, daemon, messages, scene, send_paced

PASSES, KILLED_AT = 16, 70
CHANGES: dict[int, dict[str, Any]] = {
    5: {"lead_s": 0.5},
    50: {"mode": "enforce", "dwell_longest": 2.0},
    90: {"stop_misclassified_area": 0.1, "stop_relative_error": 1.0, "stop_unseen_area": 0.2, "stop_angle_deg": 30.0},
}
"""Before which block which settings of decisions are changed."""


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def test_a_scan_that_was_killed_and_changed_is_decided_again_bit_for_bit(tmp_path: Path, bench: Bench) -> None:
    with daemon(tmp_path) as server:
        instrument = Instrument(bench, server.source)
        with instrument.serving_replays():
            live = scanned(bench, instrument, server)
        state = server.state
        assert server.stop() == 0
    (folder,) = [p.parent for p in state.glob("*/journal.swj")]
    records = [record for record, _ in read_records(memoryview((folder / "journal.swj").read_bytes()))]
    changes = [r.params for r in records if isinstance(r, Change) and r.val == "settings"]
    assert changes == [{"decisions": values} for values in CHANGES.values()]
    assert sum(isinstance(r, Resumed) for r in records) == 1
    heads = [head for head, _ in live if "action" in head]
    # Whether there is something to decide before the mode changes, the machine's idle time decides.
    assert "enforce" in {head["mode"] for head in heads}
    assert any(head.get("outcome") == "accepted" for head, _ in live)
    assert plain(live) == plain(decided_again(records))
    shown = subprocess.run(
        [sys.executable, "-m", "streamer", "replay-decisions", str(folder)], capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "the same as when the scan ran" in shown.stdout


def scanned(bench: Bench, instrument: Instrument, server: Any) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Scan, with everything that happens on the way; return what was published of decisions."""
    controller, operator = Asker(bench, server.control), Asker(bench, server.control)
    assert controller.ask("hello", role="controller", name="scope")[0]["msg"] == "ack"
    listener = Listener(bench, server.results, "series", "result", "decision")
    instrument.wait_for_subscriber()
    # So few that phases are not certain at once, and there is something to decide.
    counts = np.random.default_rng(1).binomial(scene(PASSES), 0.1).astype(np.uint16)
    first, *blocks, last = messages(
        "changed", counts, actions=["stop", "dwell"], deadline_ms=60_000, passes=PASSES, replay=instrument.replay_url
    )
    instrument.send(first)
    for number, parts in enumerate(blocks):
        if number in CHANGES:
            assert operator.ask("settings", decisions=CHANGES[number])[0]["msg"] == "ack"
        if number == KILLED_AT:
            server.stop(signal.SIGKILL)
            server.start()
            while instrument.data.recv() != b"\1":
                pass
            assert controller.ask("hello", role="controller", name="scope")[0]["msg"] == "ack"
        send_paced(instrument, listener, parts)
        answer(controller)
    instrument.send(last)
    books = listener.until_end("changed")
    assert (books["n_sent"], books["processed"], books["resumed"]) == (256 * PASSES, 256 * PASSES, True)
    return [(head, arrays) for topic, head, arrays in listener.got if topic == "decision"]


def answer(controller: Asker) -> None:
    """Accept what has come."""
    while controller.socket.poll(0):
        asked, _ = controller.read()
        if asked["msg"] == "notify":
            told = {"msg": "ack", "id": asked["id"], "val": "decision"}
            told["params"] = {"decision": asked["params"]["decision"]}
            controller.socket.send_multipart([msgpack.packb(told)])


def decided_again(records: list[Any]) -> list[tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]]:
    pipeline = Pipeline(PipelineConfig.model_validate(records[0]["settings"]))
    events = [e for r in records if not isinstance(r, Opened | Closed) for e in pipeline.feed(r)]
    results = [e.result for e in events if isinstance(e, Publish)]
    return [(dict(r.head), dict(r.arrays)) for r in results if r.topic == "decision"]


def plain(decisions: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[Any]:
    """What is compared: all but what belongs to the sending."""
    sent = {"v", "boot", "seq", "t_ns", "arrays"}
    return [
        (
            msgpack.packb({k: v for k, v in sorted(head.items()) if k not in sent}),
            {name: np.asarray(array).tobytes() for name, array in arrays.items()},
        )
        for head, arrays in decisions
    ]
