"""A stop of the closed-loop benchmark once more, with daemon and instrument as processes that talk over sockets."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.benchmarks._closed_loop import (
    CHANNELS,
    COUNTS,
    DWELL_S,
    SIDE,
    SOCKETS_HZ,
    Stopped,
    error_of,
    specimen_of,
    stop_settings,
)
from tests.system.outsider import Asker, Bench, Listener, daemon, free_port


def stop_over_sockets(name: str, seed: int, target: float, passes: int) -> Stopped:
    """Scan a specimen of the simulator until the daemon stops it; when an oracle would have is not known here."""
    with tempfile.TemporaryDirectory() as made:
        folder, bench = Path(made), Bench()
        settings, truth = folder / "scanwise.toml", folder / "truth.npz"
        asked = {k: v for k, v in stop_settings(target).model_dump().items() if v is not None}
        keys = "\n".join(f"{key} = {json.dumps(value)}" for key, value in asked.items())
        settings.write_text(f"[pipeline.decisions]\n{keys}\n")
        try:
            with daemon(folder, "--config", str(settings)) as server:
                results = Listener(bench, server.results, "series", "map/", "decision")
                Asker(bench, server.control).ask("status", timeout_s=60)
                command = [sys.executable, "-m", "streamer", "simulate", "--specimen", name, "--seed", str(seed)]
                command += ["--shape", *map(str, (SIDE, SIDE)), "--channels", str(CHANNELS), "--counts", str(COUNTS)]
                command += ["--passes", str(passes), "--dwell", str(DWELL_S), "--rate", str(SOCKETS_HZ)]
                command += ["--actions", "stop"]
                command += [
                    "--list-mode",
                    "--block",
                    str(SIDE),
                    "--series",
                    "stop",
                    "--truth",
                    str(truth),
                    "--linger",
                    "2",
                ]
                command += ["--data", server.source, "--control", server.control]
                command += ["--replay", f"tcp://127.0.0.1:{free_port()}"]
                subprocess.run(command, capture_output=True, text=True, check=True)
                books = results.until_end("stop")
                label = results.last("map/phase")[1]["phase"].ravel()
                counts = float(np.nanmean(results.last("map/counts")[1]["counts"]))
        finally:
            bench.close()
        specimen = specimen_of(name, seed)
        with np.load(truth) as known:
            assert np.array_equal(known["phase"], specimen.phase_map()), "another specimen was scanned"
        error = error_of(label, specimen)
    return Stopped(books["exit_status"] == "stopped", error, target, counts, float("nan"))
