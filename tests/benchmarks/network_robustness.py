"""Another instrument: error of networks where the axis is shifted, stretched or the resolution is worse.

`python -m tests.benchmarks.network_robustness [--check] [--out FOLDER]`. EDS of Fe-Cr-Ni, 512 channels, 200 counts: a
plain residual network, the same trained on augmented spectra, a convolutional one, and one with a calibration layer
that is aligned to the instrument from 100 unlabelled spectra of it. The shrunk PCA of the map itself, which does not
care, is the reference. Networks are kept in the folder.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from models.augment import Augmentation, displace, expected_share
from models.card import Architecture
from models.evaluate import shrunk_pca
from models.networks import Network
from models.pools import Expected, Measured, Pairs
from models.sources import simulated
from models.thinning import squared_error
from models.train import TrainConfig, align, denoise
from tests.benchmarks._networks import Targets, at_dose, kept, options_of, trained

CHANNELS, DOSE, FEW = 512, 200.0, 100
CHANGES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "shift / channels": tuple((s, 0.0, 0.0) for s in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)),
    "gain / %": tuple((0.0, g, 0.0) for g in (0.0, 0.005, 0.01, 0.02)),
    "broadening / channels": tuple((0.0, 0.0, b) for b in (0.0, 0.5, 1.0, 2.0)),
}
AUGMENTED = Augmentation(shift=5.0, gain=0.02, broadening=2.0)


def spectra(folder: Path) -> dict[str, Any]:
    """Variants to learn from, others held out, and the map of another."""

    def make() -> dict[str, Any]:
        learnt, held = (simulated("fe_cr_ni", seed=s, variants=v, channels=CHANNELS) for s, v in ((0, 150), (1, 30)))
        rows = np.random.default_rng(0).permutation(10000)[:1500]
        other = simulated("fe_cr_ni", seed=10, varied=True, channels=CHANNELS).spectra[rows]
        return {"learnt": learnt.spectra, "held": held.spectra, "group": np.array(learnt.group), "map": other}

    return kept(folder / "robustness.npz", make)


def networks(folder: Path) -> dict[str, Network]:
    """Trained ones by name."""
    held, found = spectra(folder), {}
    for name in ("plain", "augmented", "convolutional", "calibration"):
        keys: dict[str, Any] = {"kind": "residual", "hidden": (128, 64)}
        if name == "convolutional":
            keys = {"kind": "convolutional", "hidden": (8, 16, 16)}
        how = AUGMENTED if name == "augmented" else Augmentation()
        group = int(held["group"])
        pool, judge = (
            Expected(held[n], Pairs("truth", how, mixed=3), (20.0, 2000.0), group=group) for n in ("learnt", "held")
        )
        built = Architecture(n_channels=CHANNELS, latent=12, calibration=name == "calibration", **keys)
        config = TrainConfig(steps=1200, batch=128, check_every=200, patience=100)
        found[name] = trained(folder, f"robust-{name}", built, pool, judge, config)[0]
    return found


def changed(expected: NDArray[Any], change: tuple[float, float, float]) -> NDArray[Any]:
    """Expected spectra as the other instrument would have them."""
    shift, gain, broadening = (np.full(len(expected), c) for c in change)
    return displace(expected, shift, gain, broadening, expected_share)


def aligned(network: Network, counts: NDArray[Any]) -> Network:
    """A copy whose calibration layer is fitted to a few unlabelled spectra."""
    own = copy.deepcopy(network)
    few = Measured(counts, Pairs("thinned"), least=1.0)
    align(own, few, few, TrainConfig(steps=600, batch=64, learning_rate=0.2, weight_decay=0.0, patience=100))
    return own


def errors(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Errors by change and method; prints them."""
    held, made = spectra(folder), networks(folder)
    table: dict[str, dict[str, list[float]]] = {}
    for axis, changes in CHANGES.items():
        table[axis] = {name: [] for name in ("PCA", "plain", "augmented", "convolutional", "calibration", "aligned")}
        for change in changes:
            truth, counts = at_dose(changed(held["map"], change), DOSE)
            found = {name: denoise(network, counts[FEW:]) for name, network in made.items()}
            found["PCA"] = shrunk_pca(counts)[FEW:]
            found["aligned"] = denoise(aligned(made["calibration"], counts[:FEW]), counts[FEW:])
            for name, errors_ in table[axis].items():
                errors_.append(float(squared_error(found[name], truth[FEW:]).mean()))
        print(f"\n{axis:24s}" + "".join(f"{max(c[0], 100 * c[1], c[2]):9g}" for c in changes))
        for name, errors_ in table[axis].items():
            print(f"{name:24s}" + "".join(f"{e:9.4f}" for e in errors_), flush=True)
    return table


def main() -> int:
    """Print errors; 1 where a target is missed under --check."""
    options = options_of(__doc__)
    targets = Targets()
    table = errors(options.out)
    print()
    shift = table["shift / channels"]
    for name, most in (("augmented", 2.0), ("aligned", 2.0)):
        growth = shift[name][-1] / shift["plain"][0]
        targets.judge(f"5 channels: {name}, over plain without a shift (<= {most})", f"{growth:.2f}", growth <= most)
        gain = shift["plain"][-1] / shift[name][-1]
        targets.judge(f"5 channels: plain over {name} (>= 3)", f"{gain:.1f}", gain >= 3.0)
    figure, panels = plt.subplots(1, 3, figsize=(13, 4), layout="constrained", sharey=True)
    for panel, (axis, methods) in zip(panels, table.items(), strict=True):
        at = [max(c[0], 100 * c[1], c[2]) for c in CHANGES[axis]]
        for name, errors_ in methods.items():
            panel.semilogy(at, errors_, "k--" if name == "PCA" else "o-", label=name)
        panel.set(xlabel=axis, ylabel="error, raw counts: 1")
    panels[0].legend()
    figure.savefig(options.out / "network_robustness.png", dpi=110)
    return int(options.check and targets.missed > 0)


if __name__ == "__main__":
    sys.exit(main())
