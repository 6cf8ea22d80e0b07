"""An energy window that nobody configured, asked for over a real control socket."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import zmq

from streamer.client import Controller
from streamer.watch import AskedWindow
from streamer.watch_view import Watched
from streamer.wire import Control, decode_control, encode_control


@pytest.fixture
def router() -> Iterator[zmq.Socket[Any]]:
    context: zmq.Context[Any] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    yield router
    router.close(0)
    context.term()


def _answer(router: zmq.Socket[Any], msg: Any, params: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
    while True:
        assert router.poll(10_000)
        client, *parts = router.recv_multipart()
        asked = decode_control(parts)
        if asked.val == "window":
            router.send_multipart([client, *encode_control(Control(msg, asked.id, "window", params, arrays))])
            return dict(asked.params)


@pytest.mark.parametrize("refused", [False, True])
def test_a_window_is_asked_for_and_shown_or_the_reason_why_not(router: zmq.Socket[Any], refused: bool) -> None:
    port = router.bind_to_random_port("tcp://127.0.0.1")
    watched = Watched()
    with (
        Controller(f"tcp://127.0.0.1:{port}", "watch", role="viewer", timeout_s=10) as controller,
        ThreadPoolExecutor() as pool,
    ):
        asked = pool.submit(AskedWindow(controller, 6.2, 6.6), watched)
        if refused:
            params = _answer(router, "nack", {"error": "no data yet"}, {})
        else:
            params = _answer(router, "ack", {}, {"denoised": np.full((2, 2), 6.25, "f4")})
        asked.result()
    assert params == {"lo": 6.2, "hi": 6.6}
    if refused:
        assert watched.map_error == "no data yet"
    else:
        assert watched.maps["6.2 to 6.6"].tolist() == [[6.25, 6.25], [6.25, 6.25]]
