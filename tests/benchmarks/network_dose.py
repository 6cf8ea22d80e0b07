"""Fe2+/Fe3+: the dose at which a network reaches the error of the conventional method.

`python -m tests.benchmarks.network_dose [--check] [--out FOLDER]`. EELS of iron oxides whose valence is anything from
2+ to 3+ and whose energy drifts from position to position. Conventional: a power law is fitted before the edge and
taken off, and what is left is fitted by least squares with the two reference edges, shifted by what fits best. Network:
a residual one of 12 latent coordinates, trained on simulated oxides of other thicknesses, plasmons and resolutions than
those that are judged; the valence is an affine map of its latent coordinates. `fine-tuned`: trained further on the
thinned counts of 256 spectra of the specimen, 32 of them of known valence, which set the affine map anew.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from models.card import Architecture
from models.networks import Network
from models.pools import Expected, Measured, Pairs
from models.train import TrainConfig, train
from simulator.axis import Axis
from simulator.sample import describe
from simulator.techniques.eels import Eels
from simulator.training import vary
from tests.benchmarks._networks import Floats, Targets, at_dose, kept, options_of, trained

CHANNELS = 512
DOSES = (500.0, 1000.0, 2000.0, 5000.0, 10000.0, 20000.0, 50000.0, 100000.0)
LATENT = 12
TARGET = 3.0
_FEW, _LABELLED = 256, 32


def oxides(rng: np.random.Generator | None, drift_ev: float, offset_ev: float = 0.0) -> Floats:
    """Spectra (2, D) of Fe2+ and Fe3+ oxide of unit sum; nominal ones without a generator."""
    described, technique = describe("fe_oxidation"), Eels()
    conditions: Any = dict(described.conditions)
    phases = described.phases[:2]
    if rng is not None:
        phases, conditions = [vary(p, rng) for p in phases], vary(conditions, rng)
        # One film: what differs between the two are composition and white lines.
        film = {k: phases[0][k] for k in ("plasmon_ev", "plasmon_width_ev", "mean_free_path_nm")}
        phases = [p | film | {"white_lines": q["white_lines"]} for p, q in zip(phases, described.phases, strict=False)]
    shift = offset_ev + (drift_ev * float(rng.standard_normal()) if rng is not None else 0.0)
    axis = Axis.linear("Energy loss", "eV", 500.0 - shift, 780.0 - shift, CHANNELS)
    made: list[Any] = [technique.phase.model_validate(p) for p in phases]
    found = technique.endmembers(made, technique.conditions.model_validate(conditions), axis).spectra
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def simulated(folder: Path) -> dict[str, Any]:
    """Pairs of oxides to learn from, and spectra of a specimen of other parameters with their valence."""

    def make() -> dict[str, Any]:
        rng = np.random.default_rng(0)
        pairs = {n: np.concatenate([oxides(rng, 0.4) for _ in range(k)]) for n, k in (("learnt", 500), ("held", 60))}
        film = np.random.default_rng(99)
        ends = np.stack([oxides(copy.deepcopy(film), 0.0, 0.5 + 0.6 * d) for d in np.linspace(-2, 2, 41)])
        rng = np.random.default_rng(5)
        level = np.clip(np.round(20 + 10 * rng.standard_normal(2000)), 0, 40).astype(np.int64)
        valence = rng.uniform(0.0, 1.0, 2000)
        spectra = (1 - valence)[:, None] * ends[level, 0] + valence[:, None] * ends[level, 1]
        return pairs | {"judged": spectra, "valence": valence, "references": oxides(None, 0.0)}

    return kept(folder / "oxides.npz", make)


def conventional(references: Floats) -> Callable[[NDArray[Any]], Floats]:
    """Valence (n,) from counts (n, D): a power law off, then least squares of the two reference edges."""
    energy = np.linspace(500.0, 780.0, CHANNELS, endpoint=False)
    before, edge = (energy > 640) & (energy < 700), (energy > 700) & (energy < 760)

    def net(counts: NDArray[Any]) -> Floats:
        x, y = np.log(energy[before]), np.maximum(counts[:, before], 0.5)
        # Means of neighbours: a logarithm of few counts is biased.
        x = x[: x.size // 8 * 8].reshape(-1, 8).mean(axis=1)
        y = y[:, : x.size * 8].reshape(len(y), -1, 8).mean(axis=2)
        slope, level = np.polyfit(x, np.log(y).T, 1)
        return np.asarray(counts[:, edge] - np.exp(level[:, None] + slope[:, None] * np.log(energy[edge])))

    def valence(counts: NDArray[Any]) -> Floats:
        found, least, best = net(counts).T, np.full(len(counts), np.inf), np.zeros(len(counts))
        for shift_ev in np.arange(-2.0, 2.01, 0.2):
            edges = net(1e7 * np.stack([np.interp(energy - shift_ev, energy, r) for r in references])).T
            amounts = np.linalg.lstsq(edges, found, rcond=None)[0]
            left = ((found - edges @ amounts) ** 2).sum(axis=0)
            total = amounts.sum(axis=0)
            better = left < least
            least[better] = left[better]
            best[better] = (amounts[1] / np.where(np.abs(total) > 0, total, 1.0))[better]
        return best

    return valence


def latent_of(network: Network, counts: NDArray[Any]) -> Floats:
    """Latent coordinates and a constant, (n, K + 1)."""
    with torch.no_grad():
        found = network.eval()(torch.from_numpy(np.asarray(counts, dtype=np.float32)))[1].numpy()
    return np.column_stack([found, np.ones(len(found))])


def affine(network: Network, counts: NDArray[Any], valence: Floats, ridge: float) -> Floats:
    """Affine map (K + 1,) from latent coordinates to valence."""
    x = latent_of(network, counts)
    return np.asarray(np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ valence))


def errors(folder: Path) -> dict[str, list[float]]:
    """Root mean square errors of the valence at each dose."""
    held = simulated(folder)
    pool, judge = (Expected(held[n], Pairs("truth", mixed=2), (300.0, 2e5), group=2) for n in ("learnt", "held"))
    config = TrainConfig(steps=1500, batch=128, check_every=250, patience=100)
    built = Architecture(kind="residual", n_channels=CHANNELS, hidden=(128, 64), latent=LATENT)
    network = trained(folder, "oxides", built, pool, judge, config)[0]
    truth = held["valence"]
    share = np.random.default_rng(1).uniform(0.0, 1.0, 3000)
    pick = np.random.default_rng(2).integers(0, len(held["learnt"]) // 2, 3000)
    known = (1 - share)[:, None] * held["learnt"][2 * pick] + share[:, None] * held["learnt"][2 * pick + 1]
    methods: dict[str, list[float]] = {"conventional": [], "network": [], "fine-tuned": []}
    for dose in DOSES:
        counts = at_dose(held["judged"], dose, 7)[1]
        rest, few = slice(_FEW, None), slice(0, _FEW)
        tuned = fine_tuned(network, counts[few])
        weights = affine(network, at_dose(known, dose, 3)[1], share, 1e-3)
        labelled = affine(tuned, counts[:_LABELLED], truth[:_LABELLED], 1.0)
        found = {
            "conventional": conventional(held["references"])(counts[rest]),
            "network": latent_of(network, counts[rest]) @ weights,
            "fine-tuned": latent_of(tuned, counts[rest]) @ labelled,
        }
        for name, valence in found.items():
            methods[name].append(float(np.sqrt(np.mean((np.clip(valence, 0, 1) - truth[rest]) ** 2))))
        print(f"{dose:10,.0f} counts" + "".join(f"{name:>15s} {e[-1]:.4f}" for name, e in methods.items()), flush=True)
    return methods


def fine_tuned(network: Network, counts: NDArray[Any]) -> Network:
    """A copy trained on the thinned counts of a few spectra."""
    tuned, rows = copy.deepcopy(network), np.arange(len(counts))
    pools = [Measured(counts, Pairs("thinned"), least=0.5, rows=r) for r in (rows[rows % 4 > 0], rows[rows % 4 == 0])]
    train(tuned, pools[0], pools[1], TrainConfig(steps=60, batch=64, learning_rate=3e-4, check_every=20, patience=2))
    return tuned


def factor(errors_: dict[str, list[float]], name: str) -> tuple[float, float]:
    """Dose at which a method reaches the error that the conventional one has at 20,000 counts, and the factor."""
    at = DOSES.index(20000.0)
    wanted = errors_["conventional"][at]
    # Errors fall with the dose; where one does not, the best so far counts.
    falling = np.minimum.accumulate(errors_[name])
    dose = float(np.exp(np.interp(-np.log(wanted), -np.log(falling), np.log(DOSES))))
    return dose, DOSES[at] / dose


def main() -> int:
    """Print errors and factors; 1 where a target is missed under --check."""
    options = options_of(__doc__)
    targets = Targets()
    found = errors(options.out)
    for name in ("network", "fine-tuned"):
        dose, times = factor(found, name)
        text = f"{dose:,.0f} counts: {'at least ' if dose <= DOSES[0] else ''}{times:.1f} times less"
        targets.judge(f"valence as by the conventional method at 20,000 counts, {name}", text, times >= TARGET)
    figure, panel = plt.subplots(figsize=(6, 4.5), layout="constrained")
    for name, e in found.items():
        panel.loglog(DOSES, e, "o-", label=name)
    panel.set(xlabel="counts in a spectrum", ylabel="error of the share of Fe3+")
    panel.legend()
    figure.savefig(options.out / "network_dose.png", dpi=110)
    return int(options.check and targets.missed > 0)


if __name__ == "__main__":
    sys.exit(main())
