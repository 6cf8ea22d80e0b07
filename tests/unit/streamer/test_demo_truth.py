"""Comparing a finished series with the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.demo_truth import Truth, compare, denoised_spectra, raw_counts
from streamer.run_data import Run
from streamer.wire import encode_events, encode_header, encode_image, encode_series_end
from streamer.wire.items import Arrived, Tick
from streamer.wire.journal import Opened, Record, pack_record

AXIS = {"name": "energy", "units": "keV", "size": 40, "offset": 0.0, "scale": 0.1}
N = 900


def _truth(rng: np.random.Generator) -> Truth:
    endmembers = rng.gamma(1.0, 1.0, (3, 40))
    abundances = rng.dirichlet([1, 1, 0.01], N)
    return Truth(abundances, endmembers, np.flatnonzero(abundances[:, 2] > 0.3))


def _run(visits: np.ndarray[Any, Any], truth: Truth) -> Run:
    """Return a run whose model is the truth itself: mean 0, abundances as scores."""
    scores = (visits[:, None] * truth.abundances).reshape(30, 30, 3)
    maps: dict[str, Any] = {"scores": scores, "dwell": (0.002 * visits).reshape(30, 30)}
    header = {"series": "s", "nav_shape": [30, 30], "axis": AXIS, "dwell_s": 0.002}
    basis: dict[str, Any] = {"mean": np.zeros(40), "eigenspectra": truth.endmembers, "eigenvalues": np.ones(3)}
    return Run(header, maps, 0.1 * np.arange(40.0), basis)


def test_raw_data_are_one_and_a_perfect_model_is_nothing() -> None:
    rng = np.random.default_rng(3)
    truth = _truth(rng)
    visits = np.where(np.arange(N) < 400, 3.0, 2.0)
    visits[-5:] = 0
    expected = truth.expected(visits)
    run = _run(visits, truth)
    whole, rare, window = compare(run, truth, rng.poisson(expected), {"line": (1.0, 1.5)})
    assert np.allclose(denoised_spectra(run), expected)
    for error in (whole, rare, window):
        assert error.denoised < 1e-20
        assert error.dose_factor > 1e10
    assert whole.raw == pytest.approx(1.0, abs=0.03)
    assert window.raw == pytest.approx(1.0, abs=0.15)
    assert "rare positions" in rare.what


def test_a_networks_word_counts_where_it_has_one() -> None:
    rng = np.random.default_rng(5)
    truth = _truth(rng)
    visits = np.ones(N)
    run, raw = _run(visits, truth), truth.expected(visits)
    inside = (run.axis >= 1.0) & (run.axis <= 1.5)
    sums = raw[:, inside].sum(axis=1) + 2.0
    sums[: N // 2] = np.nan
    run.maps["network/line"] = sums.reshape(30, 30)  # type: ignore[index]
    run.maps["network/silent"] = np.full((30, 30), np.nan)  # type: ignore[index]
    line, silent, unknown = compare(run, truth, raw, dict.fromkeys(("line", "silent", "unknown"), (1.0, 1.5)))[-3:]
    assert line.denoised < 1e-20
    assert line.network == pytest.approx(0.5 * 2.0**2 / raw[:, inside].sum(axis=1).mean())
    assert silent.network is None
    assert unknown.network is None


def test_the_window_is_the_one_asked_for() -> None:
    rng = np.random.default_rng(4)
    truth = _truth(rng)
    visits = np.ones(N)
    run = _run(visits, truth)
    raw = truth.expected(visits)
    raw[:, 10] += 7.0  # 1.0 keV
    inside, outside = compare(run, truth, raw, {"inside": (0.95, 1.25), "outside": (1.05, 1.25)})[-2:]
    true = truth.expected(visits)[:, 10:13].sum(axis=1)
    assert inside.raw == pytest.approx(49.0 / true.mean())
    assert outside.raw < 1e-20


def _write(path: Path, messages: list[list[bytes]]) -> Path:
    items: list[Record] = [Opened({"series": "s"}), *(Arrived(1, m) for m in messages), Tick(2)]
    path.write_bytes(b"".join(bytes(part) for item in items for part in pack_record(item)))
    return path


def test_raw_counts_of_a_recording(tmp_path: Path) -> None:
    counts = np.arange(80, dtype=np.uint16).reshape(2, 40)
    messages = [
        encode_header("s", [2, 2], AXIS),
        encode_image("s", 1, 0, counts),
        encode_image("s", 1, 0, counts),  # a repeat
        encode_image("s", 2, 2, counts, index=np.array([3, 3], "u4")),
        encode_events("s", 3, 4, np.array([0, 3]), np.array([5, 5, 6], "u2"), 40, index=1),
        [b"junk"],
        encode_series_end("s", 4, 5),
    ]
    total = raw_counts(_write(tmp_path / "journal.swj", messages))  # type: ignore[arg-type]
    assert total.shape == (4, 40)
    assert np.array_equal(total[0], counts[0])
    assert np.array_equal(total[3], counts[0] + counts[1])
    assert total[1, 5] == counts[1, 5] + 2
    assert total[2].sum() == 0


def test_a_recording_without_header_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no header"):
        raw_counts(_write(tmp_path / "journal.swj", []))


def test_truth_of_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "truth.npz", abundances=np.ones((5, 2)), endmembers=np.ones((2, 4)))
    truth = Truth.load(tmp_path / "truth.npz")
    assert truth.expected(np.full(5, 2.0)).tolist() == np.full((5, 4), 4.0).tolist()
    assert truth.rare.size == 0
