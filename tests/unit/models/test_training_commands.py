"""`scanwise train` and `scanwise models`, on specimens small enough for seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from models import zoo
from models.axis import Axis
from models.card import ModelCard, read_card
from models.inference import TrainedNetwork
from models.shipped import NETWORKS
from models.sources import as_axis, measured, simulated
from models.tables import verdict
from models.thinning import squared_error
from streamer.cli import app
from tests.unit.models.spectra import moving_lines

SPECIMEN = (resources.files("simulator") / "specimens" / "tungsten_flakes.toml").read_text("utf-8")
TINY = ["--hidden", "24,12", "--latent", "4", "--batch", "64"]
RUNNER = CliRunner(env={"COLUMNS": "200"})


def scanwise(*arguments: str | float | Path) -> Any:
    return RUNNER.invoke(app, [str(a) for a in arguments], prog_name="scanwise")


@pytest.fixture(scope="module")
def flakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The XPS specimen, smaller."""
    path = tmp_path_factory.mktemp("specimens") / "flakes.toml"
    path.write_text(SPECIMEN.replace("shape = [50, 50]", "shape = [20, 20]"))
    return path


@pytest.fixture(scope="module")
def trained(flakes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for the XPS specimen, trained for a moment."""
    path = tmp_path_factory.mktemp("zoo") / "flakes.onnx"
    told = scanwise("train", path, "--specimen", flakes, "--variants", 8, "--steps", 40, "--shift", 1, *TINY)
    assert told.exit_code == 0, told.output
    assert "PCA" in told.output
    return path


def test_training_writes_a_network_and_a_card_that_says_all(trained: Path) -> None:
    card = read_card(trained)
    assert (card.technique, card.architecture.n_channels, card.architecture.latent) == ("xps", 140, 4)
    assert card.axis.units == "eV"
    assert card.counts == (3000.0, 300000.0)
    assert [d["use"] for d in card.data] == ["training", "held_out"]
    assert card.training["steps_done"] == 40
    assert card.training["augmentation"]["shift"] == 1.0
    assert [m.against for m in card.metrics] == ["truth"] * 3
    assert card.metrics[0].counts == pytest.approx(3000.0)
    assert all(0 < m.pca < 1 for m in card.metrics)
    assert np.isfinite(TrainedNetwork.load(trained).denoise(np.ones((3, 140))).spectra).all()


def test_the_same_command_makes_the_same_file(trained: Path, flakes: Path, tmp_path: Path) -> None:
    again = tmp_path / "flakes.onnx"
    scanwise("train", again, "--specimen", flakes, "--variants", 8, "--steps", 40, "--shift", 1, *TINY)
    assert read_card(again).sha256 == read_card(trained).sha256


def test_a_grid_is_laid_through_simulated_spectra_and_refuses_noisy_ones(flakes: Path, tmp_path: Path) -> None:
    path = tmp_path / "grid.onnx"
    command = ("train", path, "--specimen", flakes, "--variants", 8, "--steps", 20, "--batch", 64)
    grid = ("--kind", "topographic", "--hidden", 6, "--latent", 2)
    told = scanwise(*command, *grid)
    assert told.exit_code == 0, told.output
    assert read_card(path).parameters == 2 * 36 * 140 + 36 + 1
    refused = scanwise(*command, *grid, "--target", "thinned")
    assert refused.exit_code == 1
    assert "without noise" in refused.output


def test_networks_are_listed_shown_and_checked(trained: Path) -> None:
    listed = scanwise("models", "list", "--folder", trained.parent)
    assert "flakes" in listed.output
    shown = scanwise("models", "show", "flakes", "--folder", trained.parent)
    assert '"technique": "xps"' in shown.output
    checked = scanwise("models", "check", trained)
    assert checked.exit_code == 0
    assert "SHA-256 right" in checked.output
    assert "is used" in checked.output


def test_what_is_wrong_with_a_file_is_said(trained: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(trained.read_bytes() + b"x")
    card = json.loads(trained.with_suffix(".json").read_text())
    broken.with_suffix(".json").write_text(json.dumps(card))
    told = scanwise("models", "check", broken)
    assert told.exit_code == 1
    assert "not the file" in told.stderr
    assert "not the file" in scanwise("models", "list", "--folder", tmp_path).output
    told = scanwise("models", "show", "nonsense", "--folder", trained.parent)
    assert told.exit_code == 1
    assert "flakes" in told.stderr


def test_networks_are_compared_on_specimens_and_scans(trained: Path, flakes: Path, tmp_path: Path) -> None:
    told = scanwise("models", "compare", trained, "--specimen", flakes, "--dose", 5000)
    assert told.exit_code == 0, told.output
    assert "5,000" in told.output
    assert scanwise("models", "compare", trained).exit_code == 1
    told = scanwise("models", "compare", trained, "--specimen", "steel_phases")
    assert told.exit_code == 1
    assert "xrd" in told.stderr
    assert scanwise("models", "compare", trained, "--scan", tmp_path / "nothing.npz").exit_code == 1


def test_a_scan_trains_and_a_network_is_trained_further_on_it(tmp_path: Path) -> None:
    expected = moving_lines(400, 0).reshape(20, 20, 64)
    scan = tmp_path / "scan.npz"
    counts = np.random.default_rng(0).poisson(300 * expected).astype(np.uint16)
    np.savez(scan, data=counts, axis=np.arange(64.0), axis_units="deg", meta=json.dumps({"technique": "XRD"}))
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    told = scanwise("train", first, "--scan", scan, "--steps", 30, *TINY)
    assert told.exit_code == 0, told.output
    card = read_card(first)
    assert (card.technique, card.metrics[0].against) == ("xrd", "thinned")
    assert card.metrics[0].counts == pytest.approx(150.0, rel=0.05)
    told = scanwise("train", second, "--scan", scan, "--from", first, "--steps", 300, "--rate", 0.01)
    assert told.exit_code == 0, told.output
    further = read_card(second)
    assert further.architecture == card.architecture
    assert further.training["start"] == "first"
    assert further.metrics[0].network < card.metrics[0].network
    told = scanwise("train", second, "--specimen", "tungsten_flakes", "--from", first)
    assert told.exit_code == 1
    assert "it is for xrd" in told.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "nothing to train on"),
        (["--specimen", "nonsense"], "no specimen"),
        (["--specimen", "tungsten_flakes", "--kind", "spatial", "--side", "3", "--variants", "2"], "needs a map"),
        (["--specimen", "tungsten_flakes", "--variants", "2", "--hidden", "8,x"], "invalid literal"),
        (["--scan", "nothing.npz"], "nothing.npz"),
    ],
)
def test_trainings_that_cannot_be_are_refused(arguments: list[str], why: str, tmp_path: Path) -> None:
    told = scanwise("train", tmp_path / "x.onnx", *arguments)
    assert told.exit_code == 1
    assert why in told.stderr
    assert "Traceback" not in told.stderr


def test_without_pytorch_the_extra_is_named(tmp_path: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; from streamer.__main__ import main; main()"
    command = [sys.executable, "-c", program, "train", str(tmp_path / "x.onnx"), "--specimen", "tungsten_flakes"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "scanwise[train]" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_spatial_network_is_trained_on_a_map(flakes: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.onnx"
    told = scanwise(
        "train", path, "--specimen", flakes, "--variants", 0, "--kind", "spatial", "--side", 3,
        "--steps", 10, *TINY,
    )  # fmt: skip
    assert told.exit_code == 0, told.output
    assert read_card(path).architecture.side == 3
    assert "3 x 3" in scanwise("models", "check", path).output


def test_the_first_network_that_fits_is_taken_those_of_the_user_first(trained: Path) -> None:
    card = read_card(trained)
    found = zoo.fitting("xps", card.axis.axis(), [trained.parent])
    assert found is not None
    assert found[0] == trained
    assert zoo.fitting("xps", Axis("Binding energy", "eV", 140, 20.0, 0.1), [trained.parent]) is None
    assert all(isinstance(c, ModelCard) for _, c in zoo.find_models())


def test_the_networks_that_come_with_the_program_fit_its_specimens_and_say_where_they_are_good() -> None:
    for path, card in zoo.find_models():
        assert isinstance(card, ModelCard), card
        assert path.stat().st_size < 3e6
        specimen = NETWORKS[card.name].specimens[0]
        source = simulated(specimen, variants=2, seed=77)
        assert zoo.fitting(source.technique, source.axis) == (path, card)
        assert min(m.network / m.pca for m in card.metrics) <= 1.0
        assert any("as good as PCA or better" in text for text in verdict(card))
        truth = np.asarray(source.spectra) * card.counts[0]
        counts = np.random.default_rng(0).poisson(truth)
        assert squared_error(TrainedNetwork.load(path).denoise(counts).spectra, truth).mean() < 0.3  # raw: 1


def test_sources_are_in_quanta_with_their_noise(tmp_path: Path) -> None:
    source = simulated("tungsten_flakes", seed=1)
    assert source.expected
    assert source.nav_shape == (50, 50)
    camera = tmp_path / "camera.npz"
    quanta = np.random.default_rng(0).poisson(2000 * moving_lines(300, 0))
    np.savez(camera, data=(5.0 * quanta).reshape(15, 20, 64), axis=np.arange(64.0))
    found = measured(camera)
    assert found.noise.gain == pytest.approx(5.0, rel=0.15)
    assert found.counts == pytest.approx(2000.0, rel=0.2)
    assert not found.expected


def test_listed_axes_that_are_uniform_become_offset_and_scale() -> None:
    assert as_axis({"values": [1.0, 1.5, 2.0], "units": "eV"}) == Axis("", "eV", 3, 1.0, 0.5)
    assert as_axis({"values": [1.0, 1.5, 2.5]}).listed == (1.0, 1.5, 2.5)
    assert as_axis({"size": 4, "offset": 1.0, "scale": 2.0, "name": "E"}) == Axis("E", "", 4, 1.0, 2.0)
