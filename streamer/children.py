"""Programs that a command starts and always ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_PATIENCE_S = 5.0


class ChildFailed(RuntimeError):  # noqa: N818 - it is the child that failed
    """A program ended as it should not; the text has its last lines."""


class Child:
    """``python -m streamer ARGUMENTS`` with its output in a file.

    Parameters
    ----------
    name : str
        What it is called in words.
    arguments : sequence of str
    log : Path
        Gets all it writes.
    """

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name, self.log = name, log
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "streamer", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C in the terminal is for us, who end it in order
            )

    @property
    def code(self) -> int | None:
        """Exit code, None while it runs."""
        return self._process.poll()

    def check(self) -> None:
        """See that it runs, or ended well.

        Raises
        ------
        ChildFailed
            Where it ended with another code than 0.
        """
        if self.code not in (None, 0):
            raise ChildFailed(f"{self.name} ended with exit code {self.code}; its last lines:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """Return the last lines it wrote."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

    def wait(self, timeout_s: float) -> None:
        """Wait for its good end.

        Raises
        ------
        ChildFailed
            Where it ends with another code than 0, or not in time.
        """
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            text = f"{self.name} has not ended after {timeout_s:g} s; its last lines:\n{self.tail()}"
            raise ChildFailed(text) from error
        self.check()

    def ask_to_end(self) -> None:
        """Send SIGTERM, once it runs."""
        if self.code is None:
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """End it whatever it does."""
        self.ask_to_end()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def child(name: str, arguments: Sequence[str], log: Path) -> Iterator[Child]:
    """Start a program that is ended in any case."""
    started = Child(name, arguments, log)
    try:
        yield started
    finally:
        started.end()


def free_urls(n: int) -> list[str]:
    """Return `n` loopback endpoints whose ports nobody uses just now."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"tcp://127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    finally:
        for one in sockets:
            one.close()
