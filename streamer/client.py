"""What a microscope-control program or a viewer needs to talk to the streamer; a bare install is enough.

A scan that obeys the streamer when it says something in time, and goes on as planned when it does not::

    from streamer.client import Controller, Sender

    def scan(detector, n_passes=4, ny=128, nx=128):
        axis = {"name": "energy", "units": "keV", "size": 2048, "offset": 0.0, "scale": 0.01}
        with (
            Sender("tcp://127.0.0.1:5555") as sender,
            Controller("tcp://127.0.0.1:5557", name="my microscope") as controller,
        ):
            sender.open([ny, nx], axis, technique="eds", dwell_s=1e-3, passes=n_passes,
                        expected=n_passes * ny * nx, actions=["stop"], deadline_ms=200)
            for _ in range(n_passes):
                for row in range(ny):
                    sender.send(detector.measure_row(row))  # uint16[nx, 2048]
                    decision = controller.poll(0)  # never waits
                    if decision is None or decision.series != sender.series:
                        continue
                    if decision.action != "stop" or decision.expired:
                        controller.refuse(decision, "too late" if decision.expired else "cannot do that")
                    elif operator_agrees(decision.reason):
                        controller.accept(decision)
                        return sender.end(exit_status="stopped", reason=decision.reason)
            return sender.end()

Somebody who wants to look::

    for result in Viewer("tcp://127.0.0.1:5556", topics=["map/counts", "status"]):
        print(result.topic, result.head, {name: a.shape for name, a in result.arrays.items()})

Every connection is made again by itself when it breaks. `Sender` and `Controller` may be used from any thread,
`Viewer` from one thread at a time. Addresses and messages are those of protocol.md.
"""

from streamer.client_control import Controller, Decision, NoAnswer, RequestRefused
from streamer.client_outlet import Outlet
from streamer.client_send import Sender
from streamer.client_socket import CurveKeys
from streamer.client_view import Viewer
from streamer.wire.results import Result

__all__ = [
    "Controller",
    "CurveKeys",
    "Decision",
    "NoAnswer",
    "Outlet",
    "RequestRefused",
    "Result",
    "Sender",
    "Viewer",
]
