"""What remains to be done when a series has ended, beside the next one: make it durable, write and draw it."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamer.wire import AxisMap, Result

log = logging.getLogger(__name__)
FINAL = "final.npz"
REPORT_LOG = "report.log"
_LOW_PRIORITY = 10


@dataclass
class Portrait:
    """What was published of a series last."""

    header: Mapping[str, Any] = field(default_factory=dict)
    positions: NDArray[Any] | None = None
    basis: Result | None = None
    endmembers: Result | None = None
    maps: dict[str, NDArray[Any]] = field(default_factory=dict)
    decisions: list[Mapping[str, Any]] = field(default_factory=list)
    status: Mapping[str, Any] = field(default_factory=dict)

    def see(self, result: Result) -> None:
        """Take a published result."""
        if result.topic == "series":
            self.header, self.positions = result.head, result.arrays.get("positions")
        elif result.topic == "basis":
            self.basis = result
        elif result.topic == "endmembers":
            self.endmembers = result
        elif result.topic == "decision":
            self.decisions.append(result.head)
        elif result.topic.startswith("map/"):
            self.maps[result.topic] = next(iter(result.arrays.values()))

    def write(self, folder: Path, books: Mapping[str, Any], timings: Mapping[str, Any]) -> None:
        """Write ``final.npz``: arrays by name, and ``meta``, a JSON string; no pickle."""
        # Of an end-member that was none in the end, nothing is kept.
        arrays: dict[str, Any] = {k: a for k, a in self.maps.items() if not ("abundance" in k and np.isnan(a).all())}
        meta: dict[str, Any] = {"header": self.header, "books": books, "timings": timings}
        meta |= {"decisions": self.decisions, "status": self.status}
        if self.basis is not None:
            arrays |= {f"basis/{k}": a for k, a in self.basis.arrays.items()}
            meta |= {k: self.basis.head.get(k) for k in ("model", "rank", "noise_edge")}
        if self.endmembers is not None:
            arrays |= {f"endmembers/{k}": a for k, a in self.endmembers.arrays.items()}
            meta["endmembers"] = {k: self.endmembers.head[k] for k in ("end_members", "nonlinear")}
        if self.positions is not None:
            arrays["positions"] = self.positions
        if "axis" in self.header:
            arrays["axis/values"] = AxisMap.model_validate(self.header["axis"]).array()
        arrays["meta"] = np.array(json.dumps(meta, default=_plain))
        draft = folder / f"{FINAL}.part"
        with draft.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        draft.replace(folder / FINAL)


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else str(value)


class Closing:
    """Runs such work in one thread, and reports as processes of low priority, with UMAP if that is wanted."""

    def __init__(self, umap: bool = False) -> None:
        self._options = ["--umap"] if umap else []
        self._thread = ThreadPoolExecutor(1, "closing")
        self._work: list[Future[None]] = []
        self._reports: list[tuple[Path, subprocess.Popen[bytes]]] = []

    def submit(self, work: Callable[[], None]) -> None:
        """Do `work` after what was submitted before."""
        self._work.append(self._thread.submit(work))

    def check(self) -> None:
        """Raise what any of the work raised; say which reports have ended."""
        for work in [w for w in self._work if w.done()]:
            self._work.remove(work)
            work.result()
        for folder, process in [r for r in self._reports if r[1].poll() is not None]:
            self._reports.remove((folder, process))
            _say(folder, process.returncode)

    def report(self, folder: Path) -> None:
        """Start drawing the report of a folder."""
        env = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        with (folder / REPORT_LOG).open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "streamer.report", *self._options, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,  # a Ctrl-C in the terminal is for the daemon, which waits for the report
            )
        os.setpriority(os.PRIO_PROCESS, process.pid, _LOW_PRIORITY)
        self._reports.append((folder, process))

    def finish(self, timeout_s: float) -> None:
        """Wait for the work, and a while for reports; what takes longer is ended."""
        self._thread.shutdown(wait=True)
        deadline = time.monotonic() + timeout_s
        for folder, process in self._reports:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                log.warning("the report in %s took too long and was ended", folder)
        self.check()


def _say(folder: Path, code: int) -> None:
    if code == 0:
        log.info("report of the series is in %s", folder)
    else:
        log.warning("the report in %s failed (exit code %d); see %s", folder, code, folder / REPORT_LOG)
