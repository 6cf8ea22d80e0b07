"""Another instrument: error of networks where the axis is shifted, stretched or the resolution is worse.

`python -m tests.benchmarks.network_robustness [--check] [--out FOLDER]`. EDS of Fe-Cr-Ni, 512 channels, 200 counts: a
plain residual network; an hourglass trained on augmented spectra, which no PCA that it could begin with would hold; a
convolutional one; and `aligned`: the plain one behind a calibration layer that is fitted to 100 unlabelled spectra of
the instrument. The shrunk PCA of the map itself, which does not care, is the reference. Networks are kept in the
folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from models.augment import Augmentation, displace, expected_share
from models.card import Architecture
from models.evaluate import shrunk_pca
from models.networks import Network, make_network
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
AUGMENTED = Augmentation(shift=6.0, gain=0.025, broadening=2.5)
_TIMES = 16


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
    group = int(held["group"])
    # A convolutional network takes five times as long for a step.
    for name, kind, hidden, latent, steps, rate in (
        ("plain", "residual", (128, 64), 12, 6000, 5e-3),
        ("augmented", "hourglass", (320, 160), 24, 4000, 3e-3),
        ("convolutional", "convolutional", (8, 16, 16), 12, 1200, 5e-3),
    ):
        learnt, judged = (
            augmented(held[n], group, seed) if name == "augmented" else held[n]
            for seed, n in enumerate(("learnt", "held"))
        )
        pool, judge = (Expected(s, Pairs("truth", mixed=3), (20.0, 2000.0), group=group) for s in (learnt, judged))
        built = Architecture(kind=kind, n_channels=CHANNELS, hidden=hidden, latent=latent)
        config = TrainConfig(steps=steps, batch=128, learning_rate=rate, check_every=200, patience=100)
        found[name] = trained(folder, f"robust-{name}", built, pool, judge, config)[0]
    return found


def augmented(expected: NDArray[Any], group: int, seed: int) -> NDArray[Any]:
    """Spectra as many instruments would have them, those of a group, which are mixed, as one; once for all uses."""
    rng = np.random.default_rng(seed)
    several = np.tile(expected, (_TIMES, 1))
    shift, gain, broadening = (np.repeat(c, group) for c in AUGMENTED.draw(len(several) // group, rng))
    return displace(several, shift, gain, broadening, expected_share)


def changed(expected: NDArray[Any], change: tuple[float, float, float]) -> NDArray[Any]:
    """Expected spectra as the other instrument would have them."""
    shift, gain, broadening = (np.full(len(expected), c) for c in change)
    return displace(expected, shift, gain, broadening, expected_share)


def aligned(network: Network, counts: NDArray[Any]) -> Network:
    """A copy behind a calibration layer that is fitted to a few unlabelled spectra."""
    own = make_network(network.architecture.model_copy(update={"calibration": True}), network.mean.numpy())
    own.load_state_dict(network.state_dict(), strict=False)
    few = Measured(counts, Pairs("thinned"), least=1.0)
    align(own, few, few, TrainConfig(steps=600, batch=64, learning_rate=0.2, weight_decay=0.0, patience=100))
    return own


def errors(folder: Path) -> dict[str, dict[str, list[float]]]:
    """Errors by change and method; prints them."""
    held, made = spectra(folder), networks(folder)
    table: dict[str, dict[str, list[float]]] = {}
    for axis, changes in CHANGES.items():
        table[axis] = {name: [] for name in ("PCA", *made, "aligned")}
        for change in changes:

            def judged(change: tuple[float, float, float] = change) -> dict[str, Any]:
                return {name: np.array(e) for name, e in compared(made, held["map"], change).items()}

            # One by one, so that a run that is cut short is soon taken up again.
            name_of = "-".join(f"{c:g}" for c in change)
            for name, error in kept(folder / f"robust-{name_of}.npz", judged).items():
                table[axis][name].append(float(error))
        print(f"\n{axis:24s}" + "".join(f"{max(c[0], 100 * c[1], c[2]):9g}" for c in changes))
        for name, errors_ in table[axis].items():
            print(f"{name:24s}" + "".join(f"{e:9.4f}" for e in errors_), flush=True)
    return table


def compared(made: dict[str, Network], expected: NDArray[Any], change: tuple[float, float, float]) -> dict[str, float]:
    """Errors by method on a map as the other instrument records it."""
    truth, counts = at_dose(changed(expected, change), DOSE)
    found = {name: denoise(network, counts[FEW:]) for name, network in made.items()}
    found["PCA"] = shrunk_pca(counts)[FEW:]
    found["aligned"] = denoise(aligned(made["plain"], counts[:FEW]), counts[FEW:])
    return {name: float(squared_error(spectra_, truth[FEW:]).mean()) for name, spectra_ in found.items()}


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
