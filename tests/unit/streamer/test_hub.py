"""Numbers, last values and wishes of subscribers."""

from __future__ import annotations

import numpy as np

from streamer.hub import Hub
from streamer.wire import Result, decode_result


def make(topic: str, **head: object) -> Result:
    return Result(topic, {"series": "s", "model": 1, **head}, {"x": np.arange(3, dtype="f4")})


def topics(hub: Hub, *prefixes: bytes) -> list[str]:
    return [decode_result(parts).topic for parts in hub.last(prefixes)]


def test_each_topic_is_numbered_from_zero() -> None:
    hub = Hub("boot")
    sent = [decode_result(hub.publish(make(t), 5)) for t in ("result", "status", "result", "map/a", "result")]
    assert [(r.topic, r.head["seq"]) for r in sent] == [
        ("result", 0), ("status", 0), ("result", 1), ("map/a", 0), ("result", 2),
    ]  # fmt: skip
    assert all(r.head["boot"] == "boot" and r.head["t_ns"] == 5 and r.head["v"] == 1 for r in sent)


def test_late_subscribers_get_the_last_with_their_old_number() -> None:
    hub = Hub("boot")
    for topic in ("map/a", "status", "basis", "result", "map/b", "series", "map/a", "anomaly", "decision", "denoised"):
        hub.publish(make(topic), 1)
    assert topics(hub, b"") == ["series", "basis", "status", "map/a", "map/b"]
    assert topics(hub, b"map/a", b"status") == ["status", "map/a"]
    assert topics(hub, b"result") == []
    assert topics(hub) == []
    assert decode_result(hub.last([b"map/a"])[0]).head["seq"] == 1


def test_a_new_series_forgets_the_maps_of_the_one_before() -> None:
    hub = Hub("boot")
    for topic in ("status", "basis", "map/a"):
        hub.publish(make(topic), 1)
    hub.publish(make("series", event="end"), 1)
    assert topics(hub, b"") == ["series", "basis", "status", "map/a"]
    hub.publish(make("series", event="start"), 1)
    assert topics(hub, b"") == ["series", "status"]


def test_wishes_are_counted_for_each_prefix() -> None:
    hub = Hub("boot")
    wanted = [hub.denoised_wanted]
    for message, prefix in (
        (b"\x01map/", b"map/"), (b"\x01denoised", b"denoised"), (b"\x01", b""), (b"\x00denoised", None),
        (b"\x00", None), (b"\x01den", b"den"), (b"\x01den", b"den"), (b"\x00den", None), (b"\x00den", None),
    ):  # fmt: skip
        assert hub.subscription(message) == prefix
        wanted.append(hub.denoised_wanted)
    assert wanted == [False, False, True, True, True, False, True, True, True, False]


def test_what_is_no_subscription_is_ignored() -> None:
    hub = Hub("boot")
    for message in (b"", b"\x02map", b"hello", b"\x00never subscribed"):
        assert hub.subscription(message) is None
    assert not hub.denoised_wanted
