"""Intervals against plain sets, and books that balance whatever the network does to the messages."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.config import PipelineConfig
from streamer.events import AskReplay, Event, Publish
from streamer.intervals import IntervalSet
from streamer.pipeline import Pipeline
from streamer.wire import encode_header, encode_image, encode_series_end
from streamer.wire.items import Arrived, ReplayDone, Tick

MS = 1_000_000
AXIS = {"name": "Energy", "units": "keV", "size": 6, "offset": 0.0, "scale": 0.1}
ranges = st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda t: (t[0], t[0] + t[1]))


@given(st.lists(ranges, max_size=20), ranges)
def test_interval_set_is_a_set(added: list[tuple[int, int]], probe: tuple[int, int]) -> None:
    intervals = IntervalSet()
    plain: set[int] = set()
    for start, stop in added:
        assert intervals.add(start, stop) == len(set(range(start, stop)) - plain)
        plain |= set(range(start, stop))
    assert len(intervals) == len(plain)
    assert {n for a, b in intervals for n in range(a, b)} == plain
    assert all(a < b for a, b in intervals)
    assert intervals.covered(*probe) == len(set(range(*probe)) & plain)
    assert {n for a, b in intervals.missing(*probe) for n in range(a, b)} == set(range(*probe)) - plain
    assert (probe[0] in intervals) == (probe[0] in plain)


def run(messages: list[list[Any]], order: list[int], *, replay: bool) -> dict[str, Any]:
    """Feed messages in this order; serve replays from all of them; return the books at the end."""
    pipeline, t_ns = Pipeline(PipelineConfig()), 0
    events: list[Event] = []

    def feed(item: Any) -> None:
        asks = [e for e in pipeline.feed(item) if not events.append(e)]  # type: ignore[func-returns-value]
        for ask in asks:
            if isinstance(ask, AskReplay) and replay:
                for parts in messages[ask.first : ask.last + 1]:
                    feed(Arrived(item.t_ns, parts, "127.0.0.1", True))
                feed(ReplayDone(item.t_ns, ask.id))

    feed(Arrived(0, messages[0], "127.0.0.1"))
    for number in order:
        t_ns += MS
        feed(Arrived(t_ns, messages[number], "127.0.0.1"))
        feed(Tick(t_ns))
    for _ in range(200):
        t_ns += 100 * MS
        feed(Tick(t_ns))
    ends = [e.result.head for e in events if isinstance(e, Publish) and e.result.topic == "series"]
    assert [e["event"] for e in ends] == ["start", "end"]
    counts = next(
        e.result.arrays["counts"] for e in reversed(events) if isinstance(e, Publish) and e.result.topic == "map/counts"
    )
    return {**ends[-1], "total": float(np.nansum(counts))}


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=12),
    st.booleans(),
    st.randoms(use_true_random=False),
    st.floats(0, 0.6),
    st.floats(0, 0.5),
)
@settings(max_examples=60, deadline=None)
def test_books_balance_over_loss_repeats_and_disorder(
    sizes: list[int], replay: bool, random: Any, loss: float, repeats: float
) -> None:
    rng = np.random.default_rng(0)
    keys: dict[str, Any] = {"replay": "tcp://127.0.0.1:5558"} if replay else {}
    messages: list[list[Any]] = [encode_header("s", [3, 4], AXIS, noise={"model": "poisson"}, **keys)]
    frame, sums = 0, []
    for size in sizes:
        counts = rng.poisson(3.0, (size, 6)).astype(np.uint16)
        messages.append(encode_image("s", len(messages), frame, counts))
        sums.append((size, int(counts.sum())))
        frame += size
    messages.append(encode_series_end("s", len(messages), frame))
    arrived = [n for n in range(1, len(messages) - 1) if random.random() >= loss]
    order = arrived + [n for n in arrived if random.random() < repeats]
    random.shuffle(order)
    order.append(len(messages) - 1)
    books = run(messages, order, replay=replay)
    assert books["n_sent"] == frame
    assert books["n_sent"] == books["processed"] + sum(books["lost"].values())
    assert books["received"] == books["processed"]
    if replay:
        assert books["lost"] == {}
        assert books["total"] == sum(total for _, total in sums)
    else:
        assert books["received"] == sum(sums[n - 1][0] for n in arrived)
        assert books["duplicates"] == len(order) - 1 - len(arrived)
        assert books["total"] == sum(sums[n - 1][1] for n in arrived)
