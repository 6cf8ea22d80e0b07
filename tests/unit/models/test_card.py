"""The model card."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.axis import Axis
from models.card import Architecture, AxisCard, LatentCard, ModelCard, NoiseCard, read_card, write_card
from models.noise import NoiseModel

AXIS = Axis("Energy", "keV", 64, 0.0, 0.1)


def make_card(**changes: Any) -> ModelCard:
    latent = LatentCard(mean=(0.0, 0.0), covariance=((1.0, 0.0), (0.0, 1.0)), distance=3.7)
    keys: dict[str, Any] = {
        "name": "tiny", "technique": "eds", "architecture": Architecture(n_channels=64, hidden=(16,), latent=2),
        "axis": AxisCard.of(AXIS), "counts": (10.0, 1000.0), "latent": latent, "parameters": 1,
    }  # fmt: skip
    return ModelCard(**(keys | changes))


def test_a_card_is_read_as_it_was_written_with_the_hash_of_its_file(tmp_path: Path) -> None:
    onnx = tmp_path / "tiny.onnx"
    onnx.write_bytes(b"a network")
    write_card(make_card(), onnx)
    card = read_card(onnx)
    assert card.model_copy(update={"sha256": ""}) == make_card()
    assert len(card.sha256) == 64
    onnx.write_bytes(b"another network")
    with pytest.raises(ValueError, match="not the file"):
        read_card(onnx)


def test_missing_and_wrong_cards_are_named(tmp_path: Path) -> None:
    onnx = tmp_path / "tiny.onnx"
    with pytest.raises(ValueError, match=r"no tiny\.json"):
        read_card(onnx)
    onnx.with_suffix(".json").write_text('{"name": "tiny", "colour": "red"}')
    with pytest.raises(ValueError, match="no model card"):
        read_card(onnx)
    onnx.with_suffix(".json").write_text(make_card().model_dump_json())
    with pytest.raises(ValueError, match=r"no tiny\.onnx"):
        read_card(onnx)


@pytest.mark.parametrize(
    ("technique", "axis", "why"),
    [
        ("eds", AXIS, None),
        ("eds", Axis("E", "kev", 64, 0.04, 0.1), None),
        ("eds", Axis("E", "keV", 64, listed=tuple(0.1 * i + 0.02 for i in range(64))), None),
        ("xps", AXIS, "it is for eds"),
        ("eds", Axis("Energy", "keV", 65, 0.0, 0.1), "64 channels"),
        ("eds", Axis("Energy", "eV", 64, 0.0, 0.1), "'keV'"),
        ("eds", Axis("Energy", "keV", 64, 0.1, 0.1), "off by 1 channels"),
        ("eds", Axis("Energy", "keV", 64, 0.0, 0.102), r"off by 1\.26 channels"),
    ],
)
def test_a_network_fits_a_series_of_its_technique_and_axis(technique: str, axis: Axis, why: str | None) -> None:
    misfit = make_card().misfit(technique, axis)
    if why is None:
        assert misfit is None
    else:
        assert misfit is not None
        assert re.search(why, misfit)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "hourglass", "side": 3},
        {"kind": "spatial", "side": 1},
        {"kind": "convolutional", "hidden": (8, 8)},
        {"hidden": ()},
        {"n_channels": 1},
    ],
)
def test_architectures_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Architecture(**({"n_channels": 64} | wrong))


def test_axes_and_noise_survive_a_card() -> None:
    listed = Axis("x", "deg", 3, listed=(1.0, 2.0, 4.0))
    assert AxisCard.of(listed).axis() == listed
    assert AxisCard.of(AXIS).axis() == AXIS
    assert NoiseCard.of(NoiseModel("poisson_gaussian", 2.0, 5.0, 1.0)).offset == 5.0
    assert NoiseCard.of(NoiseModel("poisson_gaussian", 0.0, 0.0, 1.0)).gain == 1.0
