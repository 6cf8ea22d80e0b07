"""Spectra for those who train networks: of simulated specimens and their variants, and of measured files.

The trainer knows the simulator only by the entry-point group ``scanwise.spectra``, and the simulator nothing of it:
what goes between them are arrays and maps as on the wire.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.special import ndtri

from simulator.axis import Axis
from simulator.files import read
from simulator.playback import is_recording
from simulator.recorded import recorded_spectra
from simulator.sample import SpecimenFile, build, describe
from simulator.techniques.base import Phase
from simulator.techniques.registry import TECHNIQUES

Floats = NDArray[np.float64]
ELEMENTS: Final = (
    "C", "N", "O", "Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn",
    "Zr", "Mo", "Pd", "Ag", "W", "Au", "Pb",
)  # fmt: skip
"""What compositions are made of where they are free."""
_MOST_ELEMENTS: Final = 5
_FACTORS: Final = {
    "thickness_nm": 0.5, "density_g_cm3": 0.2, "mean_free_path_nm": 0.1, "plasmon_ev": 0.05, "plasmon_width_ev": 0.15,
    "width_ev": 0.15, "strength_ev": 0.3, "texture": 0.2, "lattice_a": 0.002, "amorphous_deg": 0.03, "yields": 0.2,
    "b_iso_a2": 0.2, "area": 0.05, "width_cm1": 0.05, "fluorescence": 0.7, "resolution_ev": 0.1, "resolution_cm1": 0.1,
    "fwhm_mn_ka_ev": 0.04, "stray_continuum": 0.3, "loss_per_ev": 0.3, "flat": 0.3, "background": 0.15,
}  # fmt: skip
"""Standard deviation of the logarithm of numbers that vary by a factor."""
_COMPOSITION: Final = 0.25
"""Standard deviation of the logarithm of the share of an element."""
_STEPS: Final = {"energy_ev": 0.5, "strain": 0.003, "shift_ev": 0.2, "centre_cm1": 0.5}
"""Standard deviation of numbers that vary by an amount."""
_SHIFTS: Final = {"eels": 0.4, "xps": 0.25, "raman": 3.0}
"""Standard deviation, from position to position, of where the axis begins: drift, charging, stress."""
_STRAIN: Final = 0.003
"""Standard deviation, from position to position, of the strain of crystals."""
_LEVELS: Final = 32
"""Of strain or shift in a map."""


def simulated(
    name: str,
    *,
    seed: int = 0,
    variants: int = 0,
    varied: bool = False,
    free: float = 0.5,
    channels: int | None = None,
    progress: Callable[[int, int], None] = lambda done, planned: None,
) -> dict[str, Any]:
    """Return expected spectra of a specimen: its map, or end-members of specimens like it.

    Parameters
    ----------
    name : str
        Of a specimen, or of its TOML file.
    variants : int
        0: the map. Else so many times all phases and conditions, with other numbers each time. Crystals are strained
        and axes shifted.
    varied : bool
        The map is that of a specimen like it, with other numbers, and with strain or shift from position to position.
    free : float
        Share of the variants of an EDS specimen that have any composition, not one like it.
    channels : int, optional
        Another number of channels.

    Returns
    -------
    dict
        `spectra` (n, D), `expected` true, `name`, `title`, `technique`, `axis`, `counts` (mean of a visit), `group`
        (so many rows after one another belong to one specimen), and `nav_shape` or None.
    """
    described = describe(name, channels=channels)
    technique = TECHNIQUES[described.technique]
    head = {
        "name": Path(name).stem,
        "expected": True,
        "axis": _axis(described).to_map(),
        "technique": described.technique,
        "counts": described.counts,
    }
    if not variants:
        specimen = build(Path(name).stem, described, seed)
        spectra = _other(described, seed) if varied else specimen.expected()
        title = f"like it: {specimen.title}" if varied else specimen.title
        whole = {"title": title, "spectra": spectra, "group": specimen.n_positions}
        return head | whole | {"nav_shape": specimen.nav_shape}
    rng = np.random.default_rng([seed, variants])
    found = []
    for number in range(variants):
        other = _varied_specimen(described, rng, technique.name == "eds" and rng.random() < free)
        spectra = _endmembers(other, float(rng.standard_normal()))
        found.append(spectra / spectra.sum(axis=1, keepdims=True))
        progress(number + 1, variants)
    title = f"{variants} variants of: {described.title}"
    return head | {"title": title, "spectra": np.concatenate(found), "group": len(found[0]), "nav_shape": None}


def _axis(described: SpecimenFile, shift: float = 0.0) -> Axis:
    technique, ends = TECHNIQUES[described.technique], described.axis
    return Axis.linear(technique.axis_name, technique.units, ends.start - shift, ends.stop - shift, ends.channels)


def _varied_specimen(described: SpecimenFile, rng: np.random.Generator, free: bool = False) -> SpecimenFile:
    phases = [vary(phase, rng) for phase in described.phases]
    if free:
        phases = [{k: v for k, v in p.items() if k != "mass"} | {"atomic": _any_composition(rng)} for p in phases]
    return described.model_copy(update={"phases": phases, "conditions": vary(described.conditions, rng)})


def _endmembers(described: SpecimenFile, local: float) -> Floats:
    """Return end-members (M, D) where strain or shift is `local` standard deviations."""
    technique = TECHNIQUES[described.technique]
    phases: list[Phase] = []
    for phase in described.phases:
        strained = {"strain": phase.get("strain", 0.0) + _STRAIN * local} if technique.name == "xrd" else {}
        phases.append(technique.phase.model_validate(phase | strained))
    conditions = technique.conditions.model_validate(described.conditions)
    axis = _axis(described, _SHIFTS.get(technique.name, 0.0) * local)
    return np.asarray(technique.endmembers(phases, conditions, axis).spectra)


def _other(described: SpecimenFile, seed: int) -> Floats:
    """Return expected spectra (n, D) of the map of a specimen like the one described, at unit dose."""
    rng = np.random.default_rng([seed, 0])
    other = _varied_specimen(described, rng)
    abundances = build("other", other, seed).abundances
    field = gaussian_filter(rng.standard_normal(described.shape), 0.15 * max(described.shape), mode="wrap").ravel()
    rank = np.empty(field.size)
    rank[np.argsort(field)] = np.arange(field.size) / field.size
    levels = _LEVELS if described.technique == "xrd" or described.technique in _SHIFTS else 1
    spectra = np.empty((field.size, described.axis.channels))
    for level in range(levels):
        there = (rank * levels).astype(np.int64) == level
        spectra[there] = abundances[there] @ _endmembers(other, float(ndtri((level + 0.5) / levels)))
    return np.asarray(spectra / spectra.sum(axis=1).mean())


def vary(described: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """Return a map of a specimen file with its numbers varied, each by what such numbers vary."""
    return {key: _varied(key, value, rng) for key, value in described.items()}


def _varied(key: str, value: Any, rng: np.random.Generator) -> Any:
    if key in {"atomic", "mass"}:
        return {element: part * float(np.exp(_COMPOSITION * rng.standard_normal())) for element, part in value.items()}
    if isinstance(value, Mapping):
        return vary(value, rng)
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return [vary(part, rng) for part in value]
    if key in _FACTORS:
        factor = float(np.exp(_FACTORS[key] * rng.standard_normal()))
        return [factor * v for v in value] if isinstance(value, list) else factor * value
    if key in _STEPS:
        return value + float(_STEPS[key] * rng.standard_normal())
    return value


def _any_composition(rng: np.random.Generator) -> dict[str, float]:
    elements = rng.choice(ELEMENTS, rng.integers(1, _MOST_ELEMENTS + 1), replace=False)
    parts = rng.dirichlet(np.ones(len(elements))) + 1e-3
    return dict(zip(elements.tolist(), parts.tolist(), strict=True))


def measured(path: Path) -> dict[str, Any]:
    """Return what was measured: a recording of the daemon, an .npz, or whatever RosettaSciIO reads.

    Returns
    -------
    dict
        As `simulated`, `expected` false, and `noise` as the header had it, or None; frames or visits of one position
        are summed.

    Raises
    ------
    ValueError, OSError
        Where the file cannot be read.
    """
    if is_recording(path):
        return recorded_spectra(path)
    recorded = read(path)
    n = int(np.prod(recorded.nav_shape))
    counts = recorded.counts[:n]
    if recorded.frames > 1:
        wide = np.int64 if np.issubdtype(counts.dtype, np.integer) else np.float64
        counts = counts.astype(wide)
        for frame in range(1, recorded.frames):
            counts = counts + recorded.counts[frame * n : (frame + 1) * n]
    return {
        "name": path.stem, "title": recorded.title, "spectra": counts, "expected": False,
        "axis": recorded.axis.to_map(), "technique": recorded.technique, "noise": None, "nav_shape": recorded.nav_shape,
        "counts": float(counts.sum(dtype=np.float64)) / n,
    }  # fmt: skip
