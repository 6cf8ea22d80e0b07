"""A real Prometheus server scrapes the daemon, and promtool reads what we deploy."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.running import Outside, Running, outside, settings
from tests.unit.streamer.scene import Scene

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
WAIT_S = 60.0
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(PROMETHEUS is None, reason="the Debian package prometheus is not installed")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian package prometheus) is not installed")


class Prometheus:
    """A server over our own configuration, scraping each second."""

    def __init__(self, folder: Path, target: str) -> None:
        for name in ("prometheus.yml", "rules.yml"):
            shutil.copy(DEPLOY / name, folder / name)
        config = (DEPLOY / "prometheus.yml").read_text()
        assert "127.0.0.1:9109" in config
        assert "scrape_interval: 5s" in config
        config = config.replace("127.0.0.1:9109", target).replace("_interval: 5s", "_interval: 1s")
        (folder / "prometheus.yml").write_text(config)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        assert PROMETHEUS is not None
        command = [
            PROMETHEUS,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=error",
        ]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def ask(self, path: str, **params: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(params)}"
        with urllib.request.urlopen(url) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[float]:
        return [float(r["value"][1]) for r in self.ask("query", query=expression)["result"]]

    def until(self, expression: str, value: float) -> None:
        """Wait until a query gives this value."""
        deadline = time.monotonic() + WAIT_S
        got: object = None
        while time.monotonic() < deadline:
            try:
                got = self.query(expression)
            except (urllib.error.URLError, ConnectionError) as error:
                got = error
            if got == [value]:
                return
            time.sleep(0.1)
        raise AssertionError(f"{expression} is {got}, not {value}")


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    folder.mkdir()
    server = Prometheus(folder, target)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def others() -> Iterator[Outside]:
    with outside() as made:
        yield made


@needs_prometheus
def test_a_prometheus_server_reads_the_rate_back(tmp_path: Path, others: Outside) -> None:
    scene = Scene(passes=4)
    messages = scene.messages()
    half = len(messages) // 2
    first = (half - 1) * 24
    with Running(settings(tmp_path / "state", metrics={"listen": "127.0.0.1:0"})) as daemon:
        assert daemon.service.metrics_server is not None
        with prometheus(tmp_path / "prometheus", daemon.service.metrics_server.endpoint) as server:
            server.until('up{job="scanwise"}', 1)
            server.until("scanwise_spectra_received_total", 0)
            instrument = others.instrument(daemon)
            instrument.send(*messages[:half])
            server.until("scanwise_spectra_received_total", first)
            server.until("scanwise_series_open", 1)
            instrument.send(*messages[half:])
            server.until("scanwise_spectra_received_total", scene.n_sent)
            server.until("scanwise_spectra_processed_total", scene.n_sent)
            server.until('scanwise_series_closed_total{exit_status="success"}', 1)
            server.until("scanwise_series_open", 0)
            server.until("max_over_time(scanwise_spectra_received_total[5m])", scene.n_sent)
            server.until("min_over_time(scanwise_spectra_received_total[5m])", 0)
            (rate,) = server.query("rate(scanwise_spectra_received_total[5m])")
            (recorded,) = server.query("last_over_time(scanwise:spectra_received:rate1m[5m])")
            results = server.query("scanwise_latency_seconds_count")
            targets = server.ask("targets")["activeTargets"]
    assert 0 < rate < scene.n_sent, "the counter rose by n_sent within more than a second"
    assert recorded > 0
    assert results[0] > 0
    assert [t["lastError"] for t in targets] == [""]


@needs_promtool
@pytest.mark.parametrize(
    "command",
    [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "rules.yml"],
        ["test", "rules", "rules.test.yml"],
    ],
)
def test_what_is_deployed_passes_promtool(command: list[str]) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *command], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_the_metrics_page_is_well_formed(tmp_path: Path, others: Outside) -> None:
    """Promtool finds bad names, missing help texts and the like."""
    assert PROMTOOL is not None
    with Running(settings(tmp_path, metrics={"listen": "127.0.0.1:0"})) as daemon:
        others.instrument(daemon).send(*Scene().messages())
        others.asker(daemon).until_status(processed=Scene().n_sent)
        assert daemon.service.metrics_server is not None
        with urllib.request.urlopen(f"http://{daemon.service.metrics_server.endpoint}/metrics") as answer:
            page = answer.read()
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=page, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_in_a_rule_exists(tmp_path: Path) -> None:
    import re

    from prometheus_client import generate_latest

    from streamer.metrics import Metrics

    page = generate_latest(Metrics().registry).decode()
    known = set(re.findall(r"^# TYPE (\w+) ", page, re.M)) | {"scanwise_latency_seconds_bucket"}
    rules = (DEPLOY / "rules.yml").read_text()
    used = set(re.findall(r"\b(scanwise_\w+)", "\n".join(re.findall(r"expr: (.*)", rules))))
    assert used <= known, used - known
