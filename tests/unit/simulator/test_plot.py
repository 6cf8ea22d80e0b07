"""Drawings of specimens: all of them can be drawn, and show their phases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from simulator.plot import COLOURS, draw_sheet, draw_specimen
from simulator.sample import load_specimen, specimen_names


def test_a_drawing_shows_every_phase_in_its_colour(tmp_path: Path) -> None:
    specimen = load_specimen("tungsten_flakes", shape=(24, 24), channels=128)
    draw_specimen(specimen, tmp_path / "one.png", specimen.counts)
    image = imread(tmp_path / "one.png")
    pixels = np.unique((255 * image[..., :3]).round().astype(int).reshape(-1, 3), axis=0)
    drawn = {f"#{r:02X}{g:02X}{b:02X}" for r, g, b in pixels}
    assert set(COLOURS[: len(specimen.phases)]) <= drawn


@pytest.mark.parametrize("shape", [(24, 24), (12, 40)])
def test_a_colour_bar_is_as_high_as_its_map(tmp_path: Path, shape: tuple[int, int], monkeypatch: Any) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    specimen = load_specimen("exercise", shape=shape, channels=128)
    draw_specimen(specimen, tmp_path / "one.png", specimen.counts)
    (figure,) = drawn
    figure.draw_without_rendering()
    maps = [ax for ax in figure.axes if ax.images and ax.child_axes]
    assert len(maps) == 1 + len(specimen.phases)
    for ax in maps:
        (bar,) = ax.child_axes
        (bottom, top), (low, high) = ((b.y0, b.y1) for b in (ax.get_window_extent(), bar.get_window_extent()))
        assert (low, high) == pytest.approx((bottom, top), abs=1.0)


def test_a_sheet_has_a_row_for_each_specimen(tmp_path: Path) -> None:
    specimens = [load_specimen(n, shape=(12, 12), channels=64) for n in specimen_names()[:2]]
    for n in (1, 2):
        draw_sheet(specimens[:n], tmp_path / f"{n}.png")
    one, two = (imread(tmp_path / f"{n}.png").shape for n in (1, 2))
    assert (two[0], two[1]) == (2 * one[0], one[1])
