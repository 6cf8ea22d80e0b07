"""What Prometheus scrapes; the only user of prometheus_client."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    start_http_server,
)

from streamer.events import Count
from streamer.exits import UNAVAILABLE, Exit
from streamer.inbox import Depth

_LATENCY_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_SLACK_S = (-10, -1, -0.1, -0.01, 0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_STAGE_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """All metrics of one daemon, in a registry of its own.

    Parameters
    ----------
    version : str
        Of the program, for ``scanwise_build_info``.
    """

    def __init__(self, version: str = "") -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"scanwise_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"scanwise_{name}", text, registry=registry)

        Info("scanwise_build", "Version of the daemon", registry=registry).info({"version": version})
        self._received = counter("spectra_received", "Spectra received and credited to a series")
        self._processed = counter("spectra_processed", "Spectra in the model and the maps")
        self._lost = counter("spectra_lost", "Spectra lost for good when their series closed, by reason", "reason")
        self._missing = gauge("spectra_missing", "Spectra of the open series that have not come (yet)")
        self._rejected = counter("rejected_messages", "Messages that could not be credited", "reason")
        self._rejected_headers = counter("rejected_headers", "Headers that were refused: no scan begins", "reason")
        for reason in ("invalid", "unreadable", "foreign"):  # from 0, so that the first one is an increase
            self._rejected_headers.labels(reason)
        self._duplicates = counter("duplicates", "Repeats of what had been received")
        self._messages = counter("messages_received", "Messages taken from the socket")
        self._bytes = counter("bytes_received", "Bytes of array and header parts taken from the socket")
        self._dropped = counter("inbox_dropped_messages", "Messages dropped because the inbox was full")
        self._anomalies = counter("anomalies", "Anomalies reported")
        self._decisions = counter("decisions", "Decisions by action and outcome", "action", "outcome")
        self._slack = Histogram(
            "scanwise_decision_slack_seconds",
            "Time left before the deadline when a decision was answered",
            ("action",),
            buckets=_SLACK_S,
            registry=registry,
        )
        self._series = counter("series_closed", "Series closed, by exit status", "exit_status")
        self._latency = Histogram(
            "scanwise_latency_seconds", "Receipt to published result", buckets=_LATENCY_S, registry=registry
        )
        self._stages = Histogram(
            "scanwise_stage_seconds",
            "Duration of each stage of a batch",
            ("stage",),
            buckets=_STAGE_S,
            registry=registry,
        )
        self._inbox_messages = gauge("inbox_messages", "Messages that wait for the worker")
        self._inbox_bytes = gauge("inbox_bytes", "Bytes that wait for the worker")
        self._inbox_age = gauge("inbox_age_seconds", "Time that the oldest message has been waiting")
        self._open = gauge("series_open", "1 while a series is open")
        self._age = gauge("data_age_seconds", "Time since the last message of the instrument (NaN: none yet)")
        self._rank = gauge("rank", "Components of the model")
        self._model = gauge("model_version", "Version of the model")
        self._network = counter("network_positions", "What a network did with positions that it got", "outcome")
        self._learnt = counter("network_learnt", "What became of networks that learnt during a scan", "outcome")
        self._network_version = gauge("network_version", "Number of the network in use, 0 without one")
        self._last_ns = 0
        self._age.set_function(self._data_age_s)

    def arrived(self, messages: int, nbytes: int, t_ns: int) -> None:
        """Count what was taken from the data socket."""
        self._messages.inc(messages)
        self._bytes.inc(nbytes)
        self._last_ns = t_ns

    def dropped(self, messages: int) -> None:
        """Count messages that the full inbox dropped."""
        self._dropped.inc(messages)

    def spectra(self, received: int, processed: int) -> None:
        """Add spectra."""
        self._received.inc(received)
        self._processed.inc(processed)

    def count(self, event: Count) -> None:
        """Count what the pipeline says is to be counted."""
        match event.name:
            case "rejected":
                self.rejected(event.label, event.n)
            case "rejected_headers":
                self.rejected_header(event.label)
            case "duplicates":
                self.duplicates(event.n)
            case "anomalies":
                self.anomalies(event.n)
            case "decisions":
                self.decision(event.label, event.n)
            case "network":
                self.network(event.label, event.n)
            case "learnt":
                self.learnt(event.label)
            case "network_version":
                self.network_version(event.n)

    def duplicates(self, n: int) -> None:
        """Count repeats."""
        self._duplicates.inc(n)

    def rejected(self, reason: str, n: int = 1) -> None:
        """Count messages that could not be credited."""
        self._rejected.labels(reason).inc(n)

    def rejected_header(self, reason: str) -> None:
        """Count a header that was refused; it is among the rejected messages too."""
        self._rejected_headers.labels(reason).inc()

    def anomalies(self, n: int) -> None:
        """Count anomalies."""
        self._anomalies.inc(n)

    def decision(self, label: str, n: int) -> None:
        """Count decisions; `label` is action/outcome."""
        action, _, outcome = label.partition("/")
        self._decisions.labels(action, outcome).inc(n)

    def network(self, outcome: str, n: int) -> None:
        """Count positions that a network has looked at: looked, outside (its domain), disagreed, spoke."""
        self._network.labels(outcome).inc(n)

    def learnt(self, outcome: str) -> None:
        """Count what became of a network that learnt: promoted, rejected, rolled_back."""
        self._learnt.labels(outcome).inc()

    def network_version(self, version: int) -> None:
        """Set which network is in use."""
        self._network_version.set(version)

    def slack(self, action: str, seconds: float) -> None:
        """Observe the time left before a decision's deadline when it was answered."""
        self._slack.labels(action).observe(seconds)

    def series_closed(self, exit_status: str, lost: Mapping[str, int]) -> None:
        """Count a closed series, and what is now lost for good."""
        self._series.labels(exit_status).inc()
        for reason, n in lost.items():
            self._lost.labels(reason).inc(n)

    def series(self, version: int, rank: int, missing: int, *, is_open: bool) -> None:
        """Set how the series stands: its model, and what has not come (replays may still bring it)."""
        self._model.set(version)
        self._rank.set(rank)
        self._missing.set(missing)
        self._open.set(is_open)

    def latency(self, seconds: float) -> None:
        """Observe the time from receipt to the published result."""
        self._latency.observe(seconds)

    def stage(self, name: str, seconds: float) -> None:
        """Observe how long a stage took."""
        self._stages.labels(name).observe(seconds)

    def watch_inbox(self, depth: Callable[[], Depth]) -> None:
        """Read the inbox when scraped."""
        self._inbox_messages.set_function(lambda: depth().messages)
        self._inbox_bytes.set_function(lambda: depth().nbytes)
        self._inbox_age.set_function(lambda: depth().age_s)

    def _data_age_s(self) -> float:
        return (time.time_ns() - self._last_ns) / 1e9 if self._last_ns else math.nan


class MetricsServer:
    """Serves /metrics until closed.

    Parameters
    ----------
    listen : str
        HOST:PORT; port 0 lets the system choose.

    Raises
    ------
    Exit
        69, where the port is taken.
    """

    def __init__(self, metrics: Metrics, listen: str) -> None:
        host, _, port = listen.rpartition(":")
        try:
            server, thread = start_http_server(int(port), host.strip("[]"), metrics.registry)
        except OSError as error:
            text = f"metrics.listen: {listen} cannot be used ({error.strerror}); choose another with metrics.listen"
            raise Exit(UNAVAILABLE, text) from error
        self._server: WSGIServer = server
        self._thread = thread
        self.endpoint = f"{host}:{server.server_port}"

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
