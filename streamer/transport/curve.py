"""CURVE on sockets: who may connect, and to whom we do."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from streamer.exits import UNAVAILABLE, Exit
from streamer.logs import Bounded

log = logging.getLogger(__name__)


class Curve:
    """The keys of this daemon.

    Parameters
    ----------
    secret : Path
        Its own key pair.
    clients : Path, optional
        Folder with the public keys (``*.key``) of those who may connect to bound sockets.
    source : Path, optional
        Public key of the instrument we connect to.

    Raises
    ------
    Exit
        Where a file cannot be read.
    """

    def __init__(self, secret: Path, clients: Path | None = None, source: Path | None = None) -> None:
        self._public, own = _load(secret)
        if own is None:
            raise Exit(UNAVAILABLE, f"{secret} holds no secret key: name the .key_secret file of `scanwise keys`")
        self._secret = own
        self.clients = clients
        self._server = _load(source)[0] if source else None

    def serve(self, socket: zmq.Socket[bytes]) -> None:
        """Make `socket`, before it is bound, refuse everybody whose key is not known."""
        socket.curve_secretkey = self._secret
        socket.curve_publickey = self._public
        socket.curve_server = True

    def join(self, socket: zmq.Socket[bytes]) -> None:
        """Make `socket`, before it is connected, speak only with the instrument whose key we have."""
        if self._server is None:
            return
        socket.curve_secretkey = self._secret
        socket.curve_publickey = self._public
        socket.curve_serverkey = self._server


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise Exit(UNAVAILABLE, f"cannot read the key file {path}: {error}") from error


class _Known:
    """Looks a key up in the folder at each connection, so that a new client needs no restart."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bounded = Bounded(log)

    def callback(self, domain: str, key: bytes) -> bool:
        """Answer the authenticator."""
        try:
            known = key in zmq.auth.load_certificates(self._folder)
        except (OSError, ValueError):
            log.exception("no client key can be read from %s", self._folder)
            return False
        if not known:
            now_s = time.monotonic()
            text = f"a client with the unknown key {key.decode(errors='replace')} was refused"
            self._bounded.summarise(now_s)
            self._bounded.write(logging.WARNING, "unknown key", text, now_s)
        return known


class Authenticated:
    """Runs ZeroMQ's authentication for a context while entered; without `curve` it does nothing."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], curve: Curve | None) -> None:
        self._thread: ThreadAuthenticator | None = None
        if curve is not None and curve.clients is not None:
            self._thread = ThreadAuthenticator(context, log=logging.getLogger("zmq.auth"))
            self._thread.configure_curve_callback(credentials_provider=_Known(curve.clients))

    def __enter__(self) -> Self:
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.stop()


def make_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a key pair, the secret one readable by its owner alone.

    Raises
    ------
    FileExistsError
        Where one of that name exists: a lost key cannot be had back.
    """
    secret = folder / f"{name}.key_secret"
    if secret.exists():
        raise FileExistsError(f"{secret} exists; choose another name or delete it first")
    folder.mkdir(parents=True, exist_ok=True)
    mask = os.umask(0o077)
    try:
        public, written = zmq.auth.create_certificates(folder, name)
    finally:
        os.umask(mask)
    Path(public).chmod(0o644)
    return Path(public), Path(written)
