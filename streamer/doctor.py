"""`scanwise doctor`: what is installed, what works, what is free, and what to do about each problem."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from streamer.build import program_version
from streamer.exits import OK, PROBLEM, Exit
from streamer.probe import blas_pools, onnx_providers, torch_cuda
from streamer.security import split_url

if TYPE_CHECKING:
    from streamer.settings import Settings

Level = Literal["ok", "note", "problem"]
_MARKS: Final[dict[Level, str]] = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
_ROLES: Final = {
    "cli": "the command line",
    "daemon": "`scanwise run`",
    "simulator": "`scanwise simulate` and `scanwise replay`",
    "train": "`scanwise train`",
}
_REQUIREMENT: Final = re.compile(r"(?P<name>[A-Za-z0-9._-]+)\s*>=\s*(?P<least>[0-9.]+)")
_YEAR_2024_S: Final = 1_704_067_200


@dataclass(frozen=True)
class Finding:
    """One line: how it stands, and what to do where it does not stand well."""

    level: Level
    text: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{_MARKS[self.level]} {self.text}" + (f"\n        -> {self.advice}" if self.advice else "")


def examine(config: Path | None = None, write: Callable[[str], None] = print) -> int:
    """Examine everything and write a line for each finding; return 0, or 1 where there is a problem."""
    problems = 0
    for finding in _all(config):
        write(str(finding))
        problems += finding.level == "problem"
    write(f"{problems} problem{'' if problems == 1 else 's'} found")
    return PROBLEM if problems else OK


def _all(config: Path | None) -> Iterator[Finding]:
    yield from check_python()
    yield from check_packages()
    yield from check_onnx()
    yield from check_torch()
    yield from check_threads()
    yield from check_clock()
    try:
        from streamer.settings import load
    except ModuleNotFoundError as error:
        yield Finding("note", f"the daemon's own checks need {error.name}", "pip install 'scanwise[daemon]'")
        return
    try:
        settings = load(config)
    except Exit as error:
        yield Finding("problem", error.text, "`scanwise config` prints an example of the file")
        return
    yield Finding("ok", f"configuration {config or '(defaults and environment)'}")
    yield from check_ports(settings)
    yield from check_state(settings)


def check_python() -> Iterator[Finding]:
    """Say which interpreter and which machine this is."""
    python, machine = platform.python_version(), f"{platform.system()} {platform.machine()}"
    yield Finding("ok", f"Python {python} on {machine}, scanwise {program_version()}")


def check_packages() -> Iterator[Finding]:
    """Say for each role which of its packages are missing."""
    try:
        needed = requires("scanwise") or []
    except PackageNotFoundError:
        yield Finding("problem", "scanwise itself is not installed", "pip install -e '.[all]' in its folder")
        return
    yield _role("the client", [r for r in needed if "extra ==" not in r], "pip install scanwise", "problem")
    for extra, what in _ROLES.items():
        listed = [r for r in needed if f'extra == "{extra}"' in r]
        yield _role(what, listed, f"pip install 'scanwise[{extra}]'", "note")


def _role(what: str, listed: Iterable[str], advice: str, missing: Level) -> Finding:
    found, lacking = [], []
    for requirement in listed:
        match = _REQUIREMENT.match(requirement)
        if match is None or "platform" in requirement:  # which onnxruntime it is depends on the machine: see below
            continue
        name, least = match["name"], match["least"]
        has = _version_of(name)
        if has is None or _numbers(has) < _numbers(least):
            lacking.append(f"{name}>={least}" + (f" (there is {has})" if has else ""))
        else:
            found.append(f"{name} {has}")
    if lacking:
        return Finding(missing, f"{what} lacks {', '.join(lacking)}", advice)
    return Finding("ok", f"{what}: {', '.join(found)}")


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    """Return the release numbers of a version; all that our lower bounds need."""
    return tuple(int(n) for n in re.findall(r"\d+", text)[:3])


def check_onnx() -> Iterator[Finding]:
    """Say which ONNX providers really work."""
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version_of(name) is not None]
    if len(both) > 1:
        advice = f"pip uninstall -y {' '.join(both)}, then install one: removing either breaks the other"
        yield Finding("problem", "onnxruntime and onnxruntime-gpu are both installed", advice)
    if not both:
        yield Finding("note", "no ONNX Runtime: networks cannot be used", "pip install 'scanwise[daemon]'")
        return
    found = onnx_providers()
    if isinstance(found, str):
        yield Finding("problem", f"ONNX Runtime does not work: {found}", f"pip install --force-reinstall {both[0]}")
        return
    working = [name for name, works in found["working"].items() if works]
    idle = [name for name in found["claimed"] if name not in working]
    level: Level = "ok" if "CPUExecutionProvider" in working else "problem"
    yield Finding(level, f"ONNX Runtime {found['version']}, working: {', '.join(working) or 'nothing'}")
    if idle:
        advice = "fine on a machine without such a device; CUDA needs the driver, CUDA 13 and cuDNN 9"
        yield Finding("note", f"built in but not working here: {', '.join(idle)}", advice)


def check_torch() -> Iterator[Finding]:
    """Say what PyTorch would train on; the daemon never imports it."""
    if find_spec("torch") is None:
        yield Finding("note", "no PyTorch: networks cannot be trained here (the daemon does not need it)")
        return
    found = torch_cuda()
    if isinstance(found, str):
        yield Finding("problem", f"PyTorch does not work: {found}", "pip install --force-reinstall torch")
    else:
        yield Finding("ok", f"PyTorch {found['version']}, CUDA: {found['cuda'] or 'none'}")


def check_threads() -> Iterator[Finding]:
    """Say how many processors there are, and which pools would compete for them."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding(
        "ok" if available > 1 else "note",
        f"{available} processors for this process",
        "" if available > 1 else "receiving and computing share one: expect longer latencies",
    )
    if find_spec("threadpoolctl") is None or find_spec("scipy") is None:
        return
    pools = blas_pools()
    if isinstance(pools, str):
        yield Finding("problem", f"numpy and scipy do not work: {pools}", "pip install --force-reinstall numpy scipy")
        return
    told = "; ".join(f"{Path(p['filepath']).name}: {p['num_threads']} threads" for p in pools) or "none found"
    yield Finding("ok", f"linear algebra: {told} (the daemon sets threads.blas for all of them)")


def check_clock() -> Iterator[Finding]:
    """Say whether the clock can be believed: times on the wire are Unix times."""
    if time.time() < _YEAR_2024_S:
        yield Finding("problem", f"the clock says {time.ctime()}", "set it; times in recordings come from it")
        return
    tool = shutil.which("timedatectl")
    answer = ""
    if tool is not None:
        try:
            done = subprocess.run(  # noqa: S603 - found by its name in the system's path
                [tool, "show", "-p", "NTPSynchronized", "--value"],
                capture_output=True,
                text=True,
                timeout=5,
                check=False,
            )
            answer = done.stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            answer = ""
    if answer == "no":
        yield Finding(
            "note", "the clock is not synchronised", "deadlines of decisions compare it with the instrument's"
        )
    else:
        yield Finding("ok", f"clock {time.strftime('%Y-%m-%d %H:%M:%SZ', time.gmtime())}")


def check_ports(settings: Settings) -> Iterator[Finding]:
    """Say which endpoints the daemon can bind, and whether the instrument is there."""
    bound = [("results.url", settings.results.url), ("control.url", settings.control.url)]
    if settings.source.bind:
        bound.append(("source.url", settings.source.url))
    if settings.metrics.listen:
        bound.append(("metrics.listen", f"tcp://{settings.metrics.listen}"))
    for key, url in bound:
        transport, host, port = split_url(url)
        if transport == "tcp" and port is not None:
            yield _port(key, url, host, port)
    transport, host, port = split_url(settings.source.url)
    if not settings.source.bind and transport == "tcp" and port is not None:
        yield _instrument(settings.source.url, host, port)


def _instrument(url: str, host: str, port: int) -> Finding:
    """Say whether anybody listens where the daemon is to connect; it need not be there yet."""
    try:
        socket.create_connection((host, port), timeout=2.0).close()
    except OSError as error:
        why = error.strerror or str(error)
        advice = "fine while the instrument is not started: the daemon tries again every 100 ms; else change source.url"
        return Finding("note", f"source.url: nobody listens at {url} ({why})", advice)
    return Finding("ok", f"source.url: something listens at {url}")


def _port(key: str, url: str, host: str, port: int) -> Finding:
    name = "" if host == "*" else host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((name, port))
        except OSError as error:
            advice = f"stop the program that uses it (perhaps a scanwise that runs already), or change {key}"
            return Finding("problem", f"{key}: {url} cannot be used: {error.strerror}", advice)
    return Finding("ok", f"{key}: {url} is free")


def check_state(settings: Settings) -> Iterator[Finding]:
    """Say whether recordings can be written, and what an earlier run has left."""
    from streamer.state import StateFolder

    path = settings.state.dir
    if not path.exists():
        yield _room(path, settings.state.keep_gib)
        return
    try:
        state = StateFolder(path)
    except Exit as error:
        yield Finding("problem", error.text)
        return
    try:
        yield _room(path, settings.state.keep_gib)
        for series in state.open_series():
            text = f"series {series.opened.get('series')!r} is open in {series.folder}"
            yield Finding("note", text, "the next `scanwise run` resumes it")
    finally:
        state.close()


def _room(path: Path, keep_gib: float) -> Finding:
    """Say how much room there is where `path` is, or will be."""
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not os.access(there, os.W_OK):
        return Finding("problem", f"state.dir: {there} cannot be written", "choose another with state.dir")
    free_gib = shutil.disk_usage(there).free / (1 << 30)
    text = f"state.dir: {path.absolute()}, {free_gib:.1f} GiB free"
    if free_gib < keep_gib:
        advice = f"up to {keep_gib:g} GiB of recordings are kept: lower state.keep_gib or make room"
        return Finding("note", text, advice)
    return Finding("ok", text)
