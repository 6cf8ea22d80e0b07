"""Simulator and daemon as processes over real sockets: exact books, and a live map as good as offline PCA."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from tests.reference import best_batch_error, weighted_error
from tests.system.outsider import Asker, Bench, Listener, daemon, free_port


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def simulate(*arguments: str) -> list[str]:
    command = [sys.executable, "-m", "streamer", "simulate", "--series", "simulated", "--shape", "40", "40"]
    return [*command, "--channels", "512", "--passes", "3", *arguments]


def measured(bench: Bench, *arguments: str) -> np.ndarray[Any, Any]:
    """Counts (1600, 512) of the same scan again: the simulator promises the same bytes for the same seed."""
    url = f"tcp://127.0.0.1:{free_port()}"
    puller = bench.socket(zmq.PULL)
    puller.connect(url)
    command = simulate("--data", url, "--pattern", "push", "--rate", "0", "--control", "", "--replay", "", *arguments)
    counts = np.zeros((1600, 512))
    with subprocess.Popen(command, stdout=subprocess.DEVNULL):
        while puller.poll(20_000):
            head, *parts = puller.recv_multipart()
            image = msgpack.unpackb(head)
            if image["htype"] == "series_end":
                return counts
            if image["htype"] == "image":
                block = np.frombuffer(parts[0], image["type"]).reshape(-1, 512)
                np.add.at(counts, (image["frame"] + np.arange(len(block))) % 1600, block)
    raise AssertionError("the simulator did not send its scan")


@pytest.mark.parametrize("mean_counts", [25, 150])
def test_live_map_is_as_good_as_batch_pca(tmp_path: Path, bench: Bench, mean_counts: int) -> None:
    truth_file = tmp_path / "truth.npz"
    with daemon(tmp_path) as server:
        results = Listener(bench, server.results, "series", "map/", "basis")
        Asker(bench, server.control).ask("status")
        command = simulate("--data", server.source, "--control", server.control, "--counts", str(mean_counts))
        command += ["--replay", f"tcp://127.0.0.1:{free_port()}", "--linger", "3", "--rate", "3000"]
        command += ["--truth", str(truth_file)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as simulator:
            books = results.until_end("simulated")
        assert simulator.returncode == 0
    assert books["n_sent"] == books["received"] == books["processed"] == 4800
    assert (books["lost"], books["rejected"], books["duplicates"]) == ({}, {}, 0)
    counts = measured(bench, "--counts", str(mean_counts))
    np.testing.assert_array_equal(results.last("map/counts")[1]["counts"].ravel(), counts.sum(axis=1))
    with np.load(truth_file) as truth:
        expected = truth["abundances"].astype(float) @ truth["endmembers"].astype(float)
    expected *= 3
    basis = results.last("basis")[1]
    scores = results.last("map/scores")[1]["scores"].reshape(1600, -1)
    live = basis["mean"] + scores @ basis["eigenspectra"]
    ratio = weighted_error(live, expected) / best_batch_error(counts, expected)
    assert weighted_error(counts, expected) == pytest.approx(1.0, rel=0.1)
    assert ratio <= 1.25
