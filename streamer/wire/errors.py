"""What can be wrong with a message, and whose fault it is."""

from __future__ import annotations

from typing import Literal

Reason = Literal["junk", "unreadable", "invalid", "foreign"]


class WireError(ValueError):
    """A message that cannot be used; the sender's fault, never a reason to stop.

    Parameters
    ----------
    reason : {"junk", "unreadable", "invalid", "foreign"}
        ``junk``: part 0 is no map with a known ``htype``; ``unreadable``: the map is fine but its parts are
        damaged (missing, cut, bad CRC), so asking again can help; ``invalid``: readable, but it contradicts
        itself or its header, so asking again cannot help; ``foreign``: of a series nobody announced.
    text : str
        What is wrong, where, and what was expected.
    msg_number, series
        As far as they could be read; so is ``htype``, set where the message is decoded.
    """

    def __init__(self, reason: Reason, text: str, *, msg_number: int | None = None, series: str | None = None) -> None:
        super().__init__(text)
        self.reason: Reason = reason
        self.text = text
        self.msg_number = msg_number
        self.series = series
        self.htype: str | None = None
