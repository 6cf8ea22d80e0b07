"""Writes the expected phases of a specimen as a labelled library, as `pipeline.library` of the daemon takes it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simulator.axis import Axis
from simulator.physics.xrd import amorphous, reflections
from simulator.sample import describe
from simulator.techniques.base import Phase
from simulator.techniques.eels import EelsPhase
from simulator.techniques.registry import TECHNIQUES
from simulator.techniques.xrd import XrdConditions, XrdPhase

Floats = NDArray[np.float64]
MARGIN_DEG = 5.0
"""Lines just beyond the axis are written, too: instruments are not aligned perfectly."""
BEFORE_LINES_EV = 7.0
SCALE = 1000.0


def write_library(name: str, folder: Path, channels: int | None = None) -> int:
    """Write ``library.toml`` and a CSV file for each phase that the specimen's users expect; return how many.

    Crystals become lists of lines, everything else whole spectra, background included. Intensities of all phases are
    on one scale, so that amounts found with them can be compared.

    Parameters
    ----------
    name : str
        Specimen, by name or TOML file.
    folder : Path
        Made if it is not there.
    channels : int, optional
        Another number of channels over the same range.

    Raises
    ------
    ValueError
        Where the specimen is wrong.
    OSError
        Where the files cannot be written.
    """
    described = describe(name, channels=channels)
    technique = TECHNIQUES[described.technique]
    phases: list[Phase] = [technique.phase.model_validate(p) for p in described.phases]
    ends = described.axis
    axis = Axis.linear(technique.axis_name, technique.units, ends.start, ends.stop, ends.channels)
    conditions = technique.conditions.model_validate(described.conditions)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"title = {json.dumps(described.title)}",
        f'technique = "{technique.name}"',
        f'units = "{technique.units}"',
    ]
    if isinstance(conditions, XrdConditions):
        lines.append(f"wavelength_a = {conditions.wavelength_a!r}")
        tables = [_diffraction(p, conditions, axis) for p in phases if isinstance(p, XrdPhase)]
    else:
        lines += _onset(phases)
        spectra = technique.endmembers(phases, conditions, axis).spectra
        order = np.argsort(axis.values)
        tables = [("spectrum", axis.values[order], s[order]) for s in spectra / spectra.max()]
    wanted = [(p.name, table) for p, table in zip(phases, tables, strict=True) if p.expected]
    for number, (phase, (kind, values, intensities)) in enumerate(wanted):
        file = f"{number:02d}-{re.sub(r'[^A-Za-z0-9]+', '-', phase).strip('-')}.csv"
        rows = np.stack([values, SCALE * intensities], axis=1)
        np.savetxt(folder / file, rows, delimiter=",", fmt="%.8g", header=f"{phase}: {_columns(kind, axis)}")
        lines += ["", "[[references]]", f"name = {json.dumps(phase)}", f'{kind} = "{file}"']
    (folder / "library.toml").write_text("\n".join(lines) + "\n", "utf-8")
    return len(wanted)


def _columns(kind: str, axis: Axis) -> str:
    return "d (angstrom), intensity" if kind == "lines" else f"{axis.name} ({axis.units}), intensity"


def _diffraction(phase: XrdPhase, conditions: XrdConditions, axis: Axis) -> tuple[str, Floats, Floats]:
    """Lines of a crystal, or the hump of a glass; both in counts a degree, as the specimen mixes them."""
    crystal = phase.crystal()
    if crystal is None:
        hump = amorphous(axis.values, *(phase.amorphous_deg or (1.0, 1.0)))
        return "spectrum", axis.values, hump / hump.max()
    found = reflections(crystal, conditions.wavelength_a, min(float(axis.values.max()) + MARGIN_DEG, 170.0))
    order = np.argsort(found.d_a)
    return "lines", found.d_a[order], phase.yields * found.intensities[order]


def _onset(phases: list[Phase]) -> list[str]:
    """Say where edges with white lines begin: their shares are mapped."""
    places = [line.energy_ev for p in phases if isinstance(p, EelsPhase) for line in p.white_lines]
    return [f"onset = {min(places) - BEFORE_LINES_EV:.1f}"] if places else []
