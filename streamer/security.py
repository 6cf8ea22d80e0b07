"""What may be spoken without keys, and which files may hold them."""

from __future__ import annotations

import stat
from pathlib import Path
from urllib.parse import urlsplit

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def split_url(url: str) -> tuple[str, str, int | None]:
    """Return transport, host and port of an endpoint.

    Raises
    ------
    ValueError
        Saying what an endpoint looks like.
    """
    parts = urlsplit(url)
    if parts.scheme == "ipc" and (parts.netloc or parts.path):
        return "ipc", "", None
    wrong = f"{url!r} is no endpoint: give tcp://HOST:PORT or ipc://PATH"
    if parts.scheme != "tcp":
        raise ValueError(wrong)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{wrong} ({error})") from error
    if not host or port is None:
        raise ValueError(wrong)
    return "tcp", host, port


def is_local(url: str) -> bool:
    """Whether an endpoint cannot be reached from, or does not reach, another machine."""
    transport, host, _ = split_url(url)
    return transport == "ipc" or host in _LOOPBACK or host.startswith("127.")


def check_secret_file(path: Path) -> None:
    """Refuse a file with a secret key that others can read.

    Raises
    ------
    ValueError
        Saying what to do.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); `scanwise keys DIR` makes a key pair") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(f"{path} can be read by others: run `chmod 600 {path}`")
