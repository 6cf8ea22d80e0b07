"""What the report says of likeness besides the phases: K-means as a reference, and scores in a plane."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

from streamer.alike import adjusted_rand, k_means
from streamer.report import NUMBERS, UMAP_PICTURE, make_report, report_command
from streamer.run_data import Run
from tests.unit.streamer.test_phase_maps import finished, played


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipeline, events = played()
    path = tmp_path_factory.mktemp("run")
    finished(events, pipeline, path)
    return path


def test_agreement_of_labellings_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 4, 300)
    for share in (0.0, 0.3, 1.0):
        other = np.where(rng.random(300) < share, rng.integers(3, 9, 300), one)
        assert adjusted_rand(one, other) == pytest.approx(adjusted_rand_score(one, other))
    assert adjusted_rand(np.zeros(5, dtype=int), np.zeros(5, dtype=int)) == 1.0


def test_the_report_compares_phases_with_k_means(folder: Path) -> None:
    said = make_report(folder)["k_means"]
    assert said["k"] == 3
    assert said["adjusted_rand"] > 0.95
    assert json.loads((folder / NUMBERS).read_text())["k_means"] == said
    run = Run.load(folder)
    assert k_means(Run(run.header, {"counts": run.maps["counts"]}, run.axis)) is None


def test_scores_in_a_plane_are_drawn_where_umap_is_installed_and_refused_in_words_where_not(folder: Path) -> None:
    app = typer.Typer()
    app.command()(report_command)
    done = CliRunner().invoke(app, ["--umap", str(folder)])
    assert done.exit_code == 0
    try:
        import umap  # noqa: F401
    except ImportError:
        assert "scanwise[umap]" in done.output
    else:
        assert (folder / UMAP_PICTURE).stat().st_size > 10_000
