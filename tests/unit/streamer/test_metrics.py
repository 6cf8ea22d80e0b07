"""What Prometheus is told, as it reads it."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streamer.books import BooksDelta
from streamer.events import Count
from streamer.exits import UNAVAILABLE, Exit
from streamer.inbox import Depth
from streamer.metrics import Metrics, MetricsServer
from streamer.timings import Timings

Labels = tuple[tuple[str, str], ...]


def scrape(metrics: Metrics) -> dict[tuple[str, Labels], float]:
    return parse(generate_latest(metrics.registry).decode())


def parse(text: str) -> dict[tuple[str, Labels], float]:
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_books_of_series_after_series_become_numbers_that_only_grow() -> None:
    metrics, delta = Metrics("1.2"), BooksDelta()
    for series, received in ((None, 0), ("a", 10), ("a", 15), ("b", 4), ("b", 4)):
        metrics.spectra(*delta.take(series, {"received": received, "processed": received // 2}))
    found = scrape(metrics)
    assert found["scanwise_spectra_received_total", ()] == 19
    assert found["scanwise_spectra_processed_total", ()] == 9
    assert found["scanwise_build_info", (("version", "1.2"),)] == 1


def test_what_is_missing_may_still_come_and_is_lost_only_at_the_end() -> None:
    metrics = Metrics()
    metrics.series(3, 2, missing=7, is_open=True)
    found = scrape(metrics)
    assert found["scanwise_spectra_missing", ()] == 7
    assert found["scanwise_series_open", ()] == 1
    metrics.series_closed("success", {"gap": 3})
    metrics.series(3, 2, missing=0, is_open=False)
    found = scrape(metrics)
    assert found["scanwise_series_open", ()] == 0
    assert found["scanwise_spectra_missing", ()] == 0
    assert found["scanwise_spectra_lost_total", (("reason", "gap"),)] == 3
    assert found["scanwise_series_closed_total", (("exit_status", "success"),)] == 1


def test_decisions_anomalies_model_and_bytes() -> None:
    metrics = Metrics()
    metrics.decision("stop/issued", 1)
    metrics.decision("stop/accepted", 1)
    metrics.anomalies(3)
    metrics.series(7, 4, missing=0, is_open=True)
    metrics.arrived(2, 1000, 1)
    metrics.rejected("control")
    metrics.duplicates(2)
    found = scrape(metrics)
    assert found["scanwise_decisions_total", (("action", "stop"), ("outcome", "issued"))] == 1
    assert found["scanwise_decisions_total", (("action", "stop"), ("outcome", "accepted"))] == 1
    assert found["scanwise_anomalies_total", ()] == 3
    assert found["scanwise_model_version", ()] == 7
    assert found["scanwise_rank", ()] == 4
    assert found["scanwise_messages_received_total", ()] == 2
    assert found["scanwise_bytes_received_total", ()] == 1000
    assert found["scanwise_rejected_messages_total", (("reason", "control"),)] == 1
    assert found["scanwise_duplicates_total", ()] == 2


def test_refused_headers_are_counted_from_nothing() -> None:
    metrics = Metrics()
    key = "scanwise_rejected_headers_total", (("reason", "invalid"),)
    assert scrape(metrics)[key] == 0
    metrics.count(Count("rejected_headers", "invalid"))
    assert scrape(metrics)[key] == 1


def test_inbox_is_read_when_scraped_and_data_have_an_age() -> None:
    metrics = Metrics()
    depth = Depth(3, 4096, 1)
    metrics.watch_inbox(lambda: depth)
    before = scrape(metrics)
    assert before["scanwise_inbox_messages", ()] == 3
    assert before["scanwise_inbox_bytes", ()] == 4096
    assert before["scanwise_inbox_age_seconds", ()] > 1e9, "waiting since one nanosecond after 1970"
    assert before["scanwise_data_age_seconds", ()] != before["scanwise_data_age_seconds", ()], "NaN before any data"
    depth = Depth(0, 0, 0)
    metrics.arrived(1, 1, 1)
    after = scrape(metrics)
    assert after["scanwise_inbox_messages", ()] == after["scanwise_inbox_age_seconds", ()] == 0
    assert after["scanwise_data_age_seconds", ()] > 1e9, "received one nanosecond after 1970"


def test_stages_and_latencies_are_histograms() -> None:
    metrics = Metrics()
    timings = Timings(metrics)
    for seconds in (0.0001, 0.003, 0.003, 4.0):
        timings.latency(seconds)
    with timings.stage("feed"):
        pass
    found = scrape(metrics)
    assert found["scanwise_latency_seconds_count", ()] == 4
    assert found["scanwise_latency_seconds_bucket", (("le", "0.005"),)] == 3
    assert found["scanwise_stage_seconds_count", (("stage", "feed"),)] == 1


def test_quantiles_of_the_series_are_within_their_bins() -> None:
    timings = Timings(Metrics())
    assert timings.summary()["latency_p50_ms"] is None
    for k in range(1, 1001):
        timings.latency(k * 1e-5)
    summary = timings.summary()
    assert summary["latency_p50_ms"] == pytest.approx(5.0, rel=0.03)
    assert summary["latency_p99_ms"] == pytest.approx(9.9, rel=0.03)
    timings.latency(1e9)
    timings.latency(0.0)
    assert timings.summary()["latency_p99_ms"] == pytest.approx(9.9, rel=0.03)
    timings.reset()
    assert timings.summary() == {"latency_p50_ms": None, "latency_p99_ms": None, "stages": {}}


def test_it_is_served_over_http() -> None:
    metrics = Metrics("3")
    server = MetricsServer(metrics, "127.0.0.1:0")
    try:
        with urllib.request.urlopen(f"http://{server.endpoint}/metrics") as answer:
            assert parse(answer.read().decode())["scanwise_build_info", (("version", "3"),)] == 1
    finally:
        server.close()


def test_a_taken_port_is_told_with_the_setting_to_change() -> None:
    metrics = Metrics()
    first = MetricsServer(metrics, "127.0.0.1:0")
    try:
        with pytest.raises(Exit) as refused:
            MetricsServer(metrics, first.endpoint)
    finally:
        first.close()
    assert refused.value.code == UNAVAILABLE
    assert "metrics.listen" in refused.value.text
