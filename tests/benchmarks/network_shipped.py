"""The networks that come with the program, beside PCA, on specimens that they have not seen.

`python -m tests.benchmarks.network_shipped [--check] [--only NAME]`. Maps of varied specimens (other compositions,
backgrounds and widths, strain or shift from place to place) of seeds that no training used; the least, the middle and
the highest dose of the card; the first 256 positions and 2,000 of them. Foreign: specimens of the same technique that
the network has not learnt from, where there are any. PCA is the daemon's, shrunk, fitted on these very counts. `shown`
is what the daemon shows, where the network speaks what it makes of both; `network` is the network alone, attuned to the
scan; errors are over that of PCA, `shown` with the share of positions at which the network speaks. Target: what is
shown is at no dose worse than PCA, by more than a hundredth.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.attune import attuned
from models.axis import Axis
from models.card import ModelCard
from models.inference import TrainedNetwork
from models.linear import LinearEngine
from models.noise import POISSON
from models.second_opinion import SecondOpinion
from models.shipped import NETWORKS
from models.sources import simulated
from models.thinning import squared_error
from models.zoo import SHIPPED, find_models
from tests.benchmarks._networks import Targets, at_dose, options_of

SEEDS = (10, 11, 12, 21)
POSITIONS = (256, 2000)
MOST = 1.01
FOREIGN = {"eds": ("diffusion_couple", "core_shell", "sulfide_ore")}
_LOOKS = 3


def judged(network: TrainedNetwork, truth: NDArray[Any], counts: NDArray[Any], axis: Axis) -> tuple[float, ...]:
    """Errors of what is shown and of the network alone over PCA's, and the share of positions where it speaks."""
    engine = LinearEngine(len(counts), axis.size, noise=POISSON, axis=axis)
    every = np.arange(len(counts), dtype=np.uint32)
    for part in np.array_split(every, max(1, len(counts) // 256)):
        engine.process(part, counts[part])
    engine.finish()
    opinion = SecondOpinion(network)
    for _ in range(_LOOKS):
        found = opinion.look(engine, every)
    if found is None:
        raise ValueError("there is no model")
    linear = engine.denoise(every)
    shown = np.where(found.speaks[:, None], found.spectra, linear)
    alone = attuned(network.denoise(counts).spectra, counts, axis)
    pca, *others = (float(squared_error(x, truth).mean()) for x in (linear, shown, alone))
    return (*(e / pca for e in others), float(found.speaks.mean()))


def compare(name: str, targets: Targets) -> None:
    """Print ratios of errors for one network, a line for each specimen, seed and number of positions."""
    network = TrainedNetwork.load(SHIPPED / f"{name}.onnx", device="cpu")
    doses = np.geomspace(*network.card.counts, 3)
    print(f"\n{name}: error over PCA's at " + ", ".join(f"{d:,.0f}" for d in doses) + " counts")
    for specimen in (*NETWORKS[name].specimens, *FOREIGN.get(name, ())):
        for seed in SEEDS:
            other = simulated(specimen, seed=seed, varied=True, channels=network.n_channels)
            rows = np.random.default_rng(seed).permutation(len(other.spectra))
            for n in POSITIONS:
                made = [at_dose(other.spectra[rows[:n]], float(dose), seed) for dose in doses]
                found = [judged(network, truth, counts, other.axis) for truth, counts in made]
                figure = " ".join(f"{s:.3f} ({100 * part:.0f} %)" for s, _, part in found)
                figure += "  network: " + " ".join(f"{a:.2f}" for _, a, _ in found)
                met = max(s for s, _, _ in found) <= MOST
                targets.judge(f"{specimen}, seed {seed}, {n} positions (<= {MOST})", figure, met)


def main() -> int:
    """Print the tables; 1 where a target is missed under --check."""
    names = sorted(card.name for _, card in find_models() if isinstance(card, ModelCard))
    options = options_of(__doc__, names)
    targets = Targets()
    for name in [options.only] if options.only else names:
        compare(name, targets)
    return int(options.check and targets.missed > 0)


if __name__ == "__main__":
    sys.exit(main())
