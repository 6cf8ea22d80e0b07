"""End-members of a finished series as files that other programs read: EMSA/MAS (ISO 22029), and one table for all."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from streamer.run_data import Run

TABLE: Final = "endmembers.csv"
_SIGNALS: Final = {"eds": "EDS", "eels": "ELS", "xps": "XPS"}
_EVEN: Final = 1e-6


def write_end_members(run: Run, folder: Path) -> list[str]:
    """Write each end-member as ``endmember_<label>.msa``, and all as columns of ``endmembers.csv``; return the names.

    Spectra are shares of the counts in each channel: they sum to one.
    """
    members = end_members(run)
    if not members:
        return []
    files = []
    for label, (name, spectrum) in members.items():
        files.append(f"endmember_{label}.msa")
        (folder / files[-1]).write_text(_msa(run, name, spectrum), "ascii", errors="replace")
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([run.axis_label, *(name for name, _ in members.values())])
        writer.writerows(zip(run.axis.tolist(), *(s.tolist() for _, s in members.values()), strict=True))
    return [*files, TABLE]


def end_members(run: Run) -> dict[str, tuple[str, NDArray[np.float64]]]:
    """Name and spectrum (D,) of each end-member of a run by its label, those there are at the end."""
    listed: list[dict[str, Any]] = (run.meta.get("endmembers") or {}).get("end_members", [])
    spectra = run.endmembers
    if spectra is None:
        return {}
    named = zip(listed, spectra.astype(np.float64), strict=True)
    return {str(m["label"]): (str(m["name"]), spectrum) for m, spectrum in named}


def _msa(run: Run, name: str, spectrum: NDArray[np.float64]) -> str:
    axis, steps = run.axis, np.diff(run.axis)
    known = np.isfinite(spectrum)
    even = bool(known.all()) and steps.size > 0 and float(np.ptp(steps)) < _EVEN * abs(float(steps.mean()))
    header = run.header.get("axis") or {}
    said = {
        "FORMAT": "EMSA/MAS Spectral Data File",
        "VERSION": "1.0",
        "TITLE": f"{name} of {run.series}"[:64],
        "OWNER": "scanwise",
        "NPOINTS": f"{int(known.sum())}.",
        "NCOLUMNS": "1.",
        "XUNITS": str(header.get("units", "")),
        "YUNITS": "share of counts",
        "DATATYPE": "Y" if even else "XY",
        "XPERCHAN": f"{float(steps.mean()) if steps.size else 1.0:.9g}",
        "OFFSET": f"{float(axis[0]):.9g}",
        "SIGNALTYPE": _SIGNALS.get(str(run.header.get("technique")), "UNK"),
        "SPECTRUM": "Spectral Data Starts Here",
    }
    pairs = zip(axis[known], spectrum[known], strict=True)
    rows = [f"{y:.9g}" if even else f"{x:.9g}, {y:.9g}" for x, y in pairs]
    return "\n".join([*(f"#{key:<12s}: {value}" for key, value in said.items()), *rows, "#ENDOFDATA   :", ""])
