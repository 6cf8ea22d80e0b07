"""The networks that come with the program, beside PCA, on specimens that they have not seen.

`python -m tests.benchmarks.network_shipped [--check] [--only NAME]`. Maps of varied specimens (other compositions,
backgrounds and widths, strain or shift from place to place) of seeds that no training used; the least, the middle and
the highest dose of the card; the first 256 positions and 2,000 of them. PCA is the daemon's, shrunk, fitted on these
very counts. The network is judged as it is and attuned to the scan, as the daemon has it. Target: attuned, at no dose
worse than PCA.
"""

from __future__ import annotations

import sys

import numpy as np

from models.attune import attuned
from models.card import ModelCard
from models.evaluate import shrunk_pca
from models.inference import TrainedNetwork
from models.shipped import NETWORKS
from models.sources import simulated
from models.thinning import squared_error
from models.zoo import SHIPPED, find_models
from tests.benchmarks._networks import Targets, at_dose, options_of

SEEDS = (10, 11, 12, 21)
POSITIONS = (256, 2000)


def compare(name: str, targets: Targets) -> None:
    """Print ratios of errors for one network, a line for each specimen, seed and number of positions."""
    network = TrainedNetwork.load(SHIPPED / f"{name}.onnx", device="cpu")
    doses = np.geomspace(*network.card.counts, 3)
    print(f"\n{name}: error over PCA's at " + ", ".join(f"{d:,.0f}" for d in doses) + " counts")
    for specimen in NETWORKS[name].specimens:
        for seed in SEEDS:
            other = simulated(specimen, seed=seed, varied=True)
            rows = np.random.default_rng(seed).permutation(len(other.spectra))
            for n in POSITIONS:
                plain, tuned = [], []
                for dose in doses:
                    truth, counts = at_dose(other.spectra[rows[:n]], float(dose), seed)
                    said = network.denoise(counts).spectra
                    pca = squared_error(shrunk_pca(counts, axis=other.axis), truth).mean()
                    plain.append(squared_error(said, truth).mean() / pca)
                    tuned.append(squared_error(attuned(said, counts, other.axis), truth).mean() / pca)
                figure = " ".join(f"{t:.2f}" for t in tuned) + "  as it is: " + " ".join(f"{p:.2f}" for p in plain)
                targets.judge(f"{specimen}, seed {seed}, {n} positions (<= 1)", figure, max(tuned) <= 1.0)


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
