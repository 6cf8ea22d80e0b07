"""Drawings of specimens: all of them can be drawn, and show their phases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
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


def test_a_sheet_has_a_row_for_each_specimen(tmp_path: Path) -> None:
    specimens = [load_specimen(n, shape=(12, 12), channels=64) for n in specimen_names()[:2]]
    for n in (1, 2):
        draw_sheet(specimens[:n], tmp_path / f"{n}.png")
    one, two = (imread(tmp_path / f"{n}.png").shape for n in (1, 2))
    assert (two[0], two[1]) == (2 * one[0], one[1])
