"""Fe2+/Fe3+: the dose at which a network reaches the error of the conventional method.

`python -m tests.benchmarks.network_dose [--check] [--out FOLDER]`. EELS of iron oxides whose valence is anything from
2+ to 3+ and whose energy drifts from position to position. Conventional: a power law is fitted before the edge and
taken off, and what is left is fitted by least squares with the two reference edges, shifted by what fits best. Network:
a residual one of 16 latent coordinates, trained on simulated oxides of other thicknesses, plasmons and resolutions than
those of the films that are judged; drift moves an edge as valence does, so that the two are told apart by a polynomial
of second degree in the latent coordinates, fitted to simulated spectra alone. `fine-tuned`: trained further on the
thinned counts of 256 spectra of the film, 32 of them of known valence, which correct what was read by an affine map.
`limit` is the mean of the valence under Bayes' rule by one who knows the film's own spectra and how it drifts: nothing
has a smaller error. Errors are root mean squares over films.
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
FILMS = (99, 100, 101, 102)
"""Seeds of the films that are judged."""
LATENT = 16
TARGET = 3.0
_MAP, _FEW, _LABELLED = 1000, 256, 32
_LEVELS = 41
_DRIFT_EV = 1.0
"""Standard deviation in training: more than a session has, whose own (0.6 eV about 0.5 eV) is not known before."""


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


def drifting(seed: int) -> Floats:
    """Spectra (L, 2, D) of the two oxides of a film at each level of its drift."""
    parameters = np.random.default_rng(seed)
    levels = 0.5 + 0.6 * np.linspace(-2.0, 2.0, _LEVELS)
    return np.stack([oxides(copy.deepcopy(parameters), 0.0, at) for at in levels])


def simulated(folder: Path) -> dict[str, Any]:
    """Pairs of oxides to learn from, and films of other parameters; each position with its level and valence."""

    def learnt() -> dict[str, Any]:
        rng = np.random.default_rng(0)
        return {
            n: np.concatenate([oxides(rng, _DRIFT_EV) for _ in range(k)]) for n, k in (("learnt", 500), ("held", 60))
        }

    def films() -> dict[str, Any]:
        rng = np.random.default_rng(5)
        level = np.clip(np.round(20 + 10 * rng.standard_normal((len(FILMS), _MAP))), 0, _LEVELS - 1).astype(np.int64)
        return {
            "films": np.stack([drifting(seed) for seed in FILMS]), "level": level,
            "valence": rng.uniform(0.0, 1.0, level.shape), "references": oxides(None, 0.0),
        }  # fmt: skip

    # One by one, so that a run that is cut short is soon taken up again.
    return kept(folder / "oxides-learnt.npz", learnt) | kept(folder / "oxides-films.npz", films)


def mixed(ends: Floats, share: Floats) -> Floats:
    """Spectra (n, D) between ends (n, 2, D) with a share (n,) of the second."""
    return np.asarray((1 - share)[:, None] * ends[:, 0] + share[:, None] * ends[:, 1])


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


def limit(ends: Floats, counts: NDArray[Any]) -> Floats:
    """Expected valence (n,) given counts (n, D), the film's spectra (L, 2, D), and the distribution of its drift."""
    values = np.linspace(0.0, 1.0, _LEVELS)
    known = np.concatenate([mixed(np.repeat(pair[None], _LEVELS, axis=0), values) for pair in ends])
    drift = np.repeat(-0.5 * np.linspace(-2.0, 2.0, _LEVELS) ** 2, _LEVELS)
    likelihood = counts.astype(np.float64) @ np.log(known).T + drift
    chance = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))
    return np.asarray(chance @ np.tile(values, _LEVELS) / chance.sum(axis=1))


def features(network: Network, counts: NDArray[Any]) -> Floats:
    """Latent coordinates, their products and a constant, (n, (K + 1) (K + 2) / 2)."""
    with torch.no_grad():
        found = network.eval()(torch.from_numpy(np.asarray(counts, dtype=np.float32)))[1].numpy().astype(np.float64)
    whole = np.column_stack([found, np.ones(len(found))])
    first, second = np.triu_indices(whole.shape[1])
    return np.asarray(whole[:, first] * whole[:, second])


def fitted(x: Floats, valence: Floats, ridge: float) -> Floats:
    """Weights (K,) by which features (n, K) give the valence (n,)."""
    return np.asarray(np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ valence))


def errors(folder: Path) -> dict[str, NDArray[np.float64]]:
    """Root mean square errors of the valence, (doses, films) by method; prints them over all films."""
    held = simulated(folder)
    pool, judge = (Expected(held[n], Pairs("truth", mixed=2), (300.0, 2e5), group=2) for n in ("learnt", "held"))
    config = TrainConfig(steps=1500, batch=128, check_every=250, patience=100)
    built = Architecture(kind="residual", n_channels=CHANNELS, hidden=(128, 64), latent=LATENT)
    network = trained(folder, "oxides", built, pool, judge, config)[0]
    rng = np.random.default_rng(1)
    share, pairs = rng.uniform(0.0, 1.0, 4000), held["learnt"].reshape(-1, 2, CHANNELS)
    known = mixed(pairs[rng.integers(0, len(pairs), len(share))], share)
    found: dict[str, list[Floats]] = {}
    for dose in DOSES:

        def judged(dose: float = dose) -> dict[str, Any]:
            weights = fitted(features(network, at_dose(known, dose, 3)[1]), share, 1.0)
            films = [read(network, weights, held, number, dose) for number in range(len(FILMS))]
            return {name: np.array([film[name] for film in films]) for name in films[0]}

        for name, each in kept(folder / f"oxides-{dose:g}.npz", judged).items():
            found.setdefault(name, []).append(each)
        told = "".join(f"{name:>15s} {np.sqrt(np.mean(e[-1] ** 2)):.4f}" for name, e in found.items())
        print(f"{dose:10,.0f} counts{told}", flush=True)
    return {name: np.asarray(rows) for name, rows in found.items()}


def read(network: Network, weights: Floats, held: dict[str, Any], number: int, dose: float) -> dict[str, float]:
    """Errors on one film by method."""
    ends, truth = held["films"][number], held["valence"][number]
    counts = at_dose(mixed(ends[held["level"][number]], truth), dose, 7)[1]
    rest, tuned = slice(_FEW, None), fine_tuned(network, counts[:_FEW])
    labelled = np.column_stack([features(tuned, counts[:_LABELLED]) @ weights, np.ones(_LABELLED)])
    slope, level = fitted(labelled, truth[:_LABELLED], 0.1)
    found = {
        "conventional": conventional(held["references"])(counts[rest]),
        "network": features(network, counts[rest]) @ weights,
        "fine-tuned": slope * (features(tuned, counts[rest]) @ weights) + level,
        "limit": limit(ends, counts[rest]),
    }
    return {name: float(np.sqrt(np.mean((np.clip(v, 0, 1) - truth[rest]) ** 2))) for name, v in found.items()}


def fine_tuned(network: Network, counts: NDArray[Any]) -> Network:
    """A copy trained on the thinned counts of a few spectra."""
    tuned, rows = copy.deepcopy(network), np.arange(len(counts))
    pools = [Measured(counts, Pairs("thinned"), least=0.5, rows=r) for r in (rows[rows % 4 > 0], rows[rows % 4 == 0])]
    train(tuned, pools[0], pools[1], TrainConfig(steps=60, batch=64, learning_rate=3e-4, check_every=20, patience=2))
    return tuned


def factor(wanted: float, errors_: Floats) -> tuple[float, float]:
    """Dose at which a method whose errors those are (doses,) reaches the wanted one, and by how much 20,000 is more."""
    # Errors fall with the dose; where one does not, the best so far counts.
    falling = np.minimum.accumulate(errors_)
    dose = float(np.exp(np.interp(-np.log(wanted), -np.log(falling), np.log(DOSES))))
    return dose, 20000.0 / dose


def main() -> int:
    """Print errors and factors; 1 where a target is missed under --check."""
    options = options_of(__doc__)
    targets = Targets()
    found = errors(options.out)
    at, whole = DOSES.index(20000.0), {n: np.sqrt(np.mean(np.square(e), axis=1)) for n, e in found.items()}
    for name in ("network", "fine-tuned", "limit"):
        dose, times = factor(whole["conventional"][at], whole[name])
        each = [factor(wanted, e)[1] for wanted, e in zip(found["conventional"][at], found[name].T, strict=True)]
        text = f"{dose:,.0f} counts: {times:.1f} times less (films: {', '.join(f'{t:.1f}' for t in each)})"
        targets.judge(f"error of the conventional at 20,000 counts, {name} (>= {TARGET:g})", text, times >= TARGET)
    figure, panel = plt.subplots(figsize=(6, 4.5), layout="constrained")
    for name, e in whole.items():
        panel.loglog(DOSES, e, "k--" if name == "limit" else "o-", label=name)
    panel.set(xlabel="counts in a spectrum", ylabel="error of the share of Fe3+")
    panel.legend()
    figure.savefig(options.out / "network_dose.png", dpi=110)
    return int(options.check and targets.missed > 0)


if __name__ == "__main__":
    sys.exit(main())
