"""The networks that come with the program on specimens and axes that they know nothing of.

`python -m tests.benchmarks.network_foreign [--check] [--only TECHNIQUE] [--seed N]`. Slags, solders, oxides of
manganese, minerals, carbons, selenides, salts: none is like what was learnt from. Axes have other numbers of
channels and begin elsewhere. Everything goes as in the daemon: blocks of 64 positions are learnt from, then looked at;
at the end, after the last fit, all are looked at once more. Errors of what is shown (the network's spectrum where it
speaks, else the linear model's) over those of the linear model alone: of positions when they were looked at first
(`live`), and at the end. Target: no worse than PCA alone by more than a fiftieth, live and at the end.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from models.axis import Axis
from models.card import read_card
from models.inference import TrainedNetwork
from models.linear import LinearEngine
from models.noise import POISSON
from models.rebinned import rebinned
from models.second_opinion import Opinion, SecondOpinion
from models.sources import as_axis
from models.thinning import squared_error
from models.zoo import SHIPPED
from simulator.sample import Specimen, SpecimenFile, build
from tests.benchmarks._networks import Floats, Targets, at_dose

DOSES = (20.0, 200.0, 2000.0)
MOST = 1.02
_BLOCK, _AT_END = 64, 1024
_ORIGIN = (0.0, 0.0, 0.0)


def _edges(name: str, parts: dict[str, float], metal: str, at_ev: float, ratio: float) -> dict[str, Any]:
    line = {"element": metal, "edge": "L3"}
    lines = [
        line | {"energy_ev": at_ev, "width_ev": 2.2, "strength_ev": 9.0},
        line | {"energy_ev": at_ev + 13.0, "width_ev": 2.6, "strength_ev": 9.0 * ratio},
    ]
    film = {"density_g_cm3": 5.5, "plasmon_ev": 23.0, "plasmon_width_ev": 12.0, "mean_free_path_nm": 95.0}
    return {"name": name, "atomic": parts, "white_lines": lines} | film


def _bands(name: str, fluorescence: float, *bands: tuple[float, float, float]) -> dict[str, Any]:
    keys = ("centre_cm1", "width_cm1", "area")
    return {"name": name, "fluorescence": fluorescence, "bands": [dict(zip(keys, b, strict=True)) for b in bands]}


def _levels(name: str, shift_ev: float, **keys: float) -> dict[str, Any]:
    said = {"element": "W", "shift_ev": shift_ev} | keys
    return {"name": name, "levels": [said | {"level": "N7", "area": 4.0}, said | {"level": "N6", "area": 3.0}]}


def _cubic(name: str, a: float, centring: str, *atoms: tuple[str, tuple[float, ...]]) -> dict[str, Any]:
    sites = [{"atom": atom, "place": list(place)} for atom, place in atoms]
    return {"name": name, "lattice_a": [a] * 3, "centring": centring, "sites": sites}


PHASES: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "slag": ("eds", [
        {"name": "glass", "atomic": {"Si": 0.25, "O": 0.6, "Ca": 0.1, "Al": 0.05}},
        {"name": "spinel", "atomic": {"Mg": 0.14, "Al": 0.28, "O": 0.58}},
        {"name": "alloy", "atomic": {"Ni": 0.6, "Cu": 0.35, "Mn": 0.05}},
    ]),
    "solder": ("eds", [
        {"name": "tin", "atomic": {"Sn": 1.0}}, {"name": "bronze", "atomic": {"Cu": 6.0, "Sn": 5.0}},
        {"name": "lead", "atomic": {"Pb": 0.95, "Sn": 0.05}}, {"name": "gold", "atomic": {"Au": 1.0}},
    ]),
    "cathode": ("eds", [
        {"name": "oxide", "atomic": {"Ni": 0.3, "Mn": 0.1, "Co": 0.1, "O": 1.0}},
        {"name": "phosphate", "atomic": {"Fe": 1.0, "P": 1.0, "O": 4.0}}, {"name": "carbon", "atomic": {"C": 1.0}},
    ]),
    "manganese oxides": ("eels", [
        _edges("MnO", {"Mn": 0.5, "O": 0.5}, "Mn", 640.0, 0.5),
        _edges("MnO2", {"Mn": 0.33, "O": 0.67}, "Mn", 642.5, 0.35),
    ]),
    "chromium and iron": ("eels", [
        _edges("Cr2O3", {"Cr": 0.4, "O": 0.6}, "Cr", 577.0, 0.6),
        _edges("FeO", {"Fe": 0.5, "O": 0.5}, "Fe", 707.8, 0.25),
        _edges("iron", {"Fe": 1.0}, "Fe", 707.0, 0.3),
    ]),
    "minerals": ("raman", [
        _bands("quartz", 6.0, (464, 8, 1.0), (206, 20, 0.3), (355, 10, 0.1), (1160, 15, 0.05)),
        _bands("calcite", 15.0, (1086, 5, 1.0), (712, 5, 0.15), (1436, 8, 0.1)),
        _bands("anatase", 3.0, (395, 20, 0.3), (515, 20, 0.3), (639, 20, 0.4)),
    ]),
    "carbons": ("raman", [
        _bands("graphene", 2.0, (1345, 30, 0.2), (1585, 18, 0.8), (2690, 35, 1.2)),
        _bands("carbide", 5.0, (797, 8, 0.8), (970, 10, 0.3), (1520, 30, 0.1)),
        _bands("epoxy", 30.0, (1608, 10, 0.3), (1186, 14, 0.2), (821, 12, 0.1), (2930, 60, 0.8), (3065, 20, 0.3)),
    ]),
    "selenide": ("xps", [_levels("WSe2", 1.1), _levels("WO2", 2.0), _levels("metal", 0.0, asymmetry=0.08)]),
    "bronze": ("xps", [_levels("bronze", 3.3), _levels("metal", 0.2, asymmetry=0.05)]),
    "metals": ("xrd", [
        _cubic("copper", 3.615, "F", ("Cu", _ORIGIN)), _cubic("tungsten", 3.165, "I", ("W", _ORIGIN)),
        _cubic("salt", 5.64, "F", ("Na", _ORIGIN), ("Cl", (0.5, 0.0, 0.0))),
    ]),
    "casting": ("xrd", [
        _cubic("aluminium", 4.05, "F", ("Al", _ORIGIN)),
        _cubic("silicon", 5.431, "F", ("Si", _ORIGIN), ("Si", (0.25, 0.25, 0.25))),
        {"name": "glass", "amorphous_deg": [40.0, 9.0]},
    ]),
}  # fmt: skip
"""Technique and phases by specimen."""
AXES: dict[str, tuple[tuple[float, float, int], ...]] = {
    "eds": ((-0.2, 20.28, 1024), (-0.1, 20.38, 2048), (0.0, 20.0, 1000)),
    "eels": ((500.0, 780.0, 1024), (498.0, 783.0, 2000)),
    "raman": ((300.0, 3324.0, 1008), (320.0, 3300.0, 1500)),
    "xps": ((28.0, 42.0, 140), (28.1, 42.1, 1000)),
    "xrd": ((30.0, 110.0, 2000), (30.5, 110.5, 3000)),
}
"""First and last value, and channels: the network's own, and others."""


def specimen(name: str, axis: tuple[float, float, int], seed: int) -> Specimen:
    """Grains of the phases, 48 x 48 positions; two phases: a gradient from the one to the other."""
    technique, phases = PHASES[name]
    names = [p["name"] for p in phases]
    painted: dict[str, Any] = {"kind": "grains", "phases": names, "count": 25, "mixing_px": 0.7}
    if len(names) == 2:
        painted = {"kind": "gradient", "phase": names[1], "direction": "x", "first": 0.0, "last": 1.0}
    told = {
        "title": name, "technique": technique, "shape": (48, 48), "counts": 200.0, "phases": phases,
        "axis": dict(zip(("start", "stop", "channels"), axis, strict=True)),
        "layout": [{"kind": "fill", "phase": names[0]}, painted],
    }  # fmt: skip
    return build(name, SpecimenFile.model_validate(told), seed)


def network_for(technique: str, axis: Axis) -> TrainedNetwork:
    """The network that comes with the program, on this axis."""
    path = SHIPPED / f"{technique}.onnx"
    card, model = read_card(path), onnx.load(path)
    if card.misfit(technique, axis) is not None:
        model, card = rebinned(model, card, axis)
    return TrainedNetwork(model, card, rows=_BLOCK, device="cpu")


def shown(engine: LinearEngine, found: Opinion) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What is shown of positions that were looked at, and what the linear model says."""
    linear = engine.denoise(found.index)
    return np.where(found.speaks[:, None], found.spectra, linear), linear


def scan(network: TrainedNetwork, truth: Floats, counts: NDArray[np.float32], axis: Axis) -> tuple[float, float, float]:
    """Errors of what is shown over those of the linear model, live and at the end, and the share that speaks."""
    engine = LinearEngine(len(counts), axis.size, noise=POISSON, axis=axis)
    opinion, every = SecondOpinion(network), np.arange(len(counts), dtype=np.uint32)
    live: list[list[Floats]] = [[], []]
    end: list[list[Floats]] = [[], []]
    spoke = 0
    for index in np.split(every, range(_BLOCK, len(every), _BLOCK)):
        engine.process(index, counts[index])
        engine.promote()
        found = opinion.look(engine, index)
        for errors, spectra in zip(live, shown(engine, found) if found else (), strict=False):
            errors.append(squared_error(spectra, truth[index]))
    engine.finish()
    opinion.judge_anew()
    for index in np.split(every, range(_AT_END, len(every), _AT_END)):
        found = opinion.look(engine, index)
        for errors, spectra in zip(end, shown(engine, found) if found else (), strict=False):
            errors.append(squared_error(spectra, truth[index]))
        spoke += int(found.speaks.sum()) if found else 0
    ours, theirs = ([float(np.concatenate(e).mean()) for e in pair] for pair in zip(live, end, strict=True))
    return ours[0] / theirs[0], ours[1] / theirs[1], spoke / len(every)


def main() -> int:
    """Print ratios; 1 where a target is missed under --check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--only", choices=list(AXES))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    targets = Targets()
    for name, (technique, _) in PHASES.items():
        for ends in AXES[technique] if options.only in {None, technique} else ():
            made = specimen(name, ends, options.seed)
            axis = as_axis(made.axis.to_map())
            network = network_for(technique, axis)
            for dose in DOSES:
                live, end, part = scan(network, *at_dose(made.expected(), dose, options.seed), axis)
                what = f"{technique}, {name}, {axis.size} channels, {dose:,.0f} counts"
                figure = f"live {live:.3f}, end {end:.3f} ({100 * part:.0f} %)"
                targets.judge(what, figure, max(live, end) <= MOST)
    return int(options.check and targets.missed > 0)


if __name__ == "__main__":
    sys.exit(main())
