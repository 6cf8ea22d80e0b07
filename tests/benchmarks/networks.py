"""Networks beside PCA, for each technique and dose: errors, size, time.

`python -m tests.benchmarks.networks [--check] [--only TECHNIQUE] [--out FOLDER]`. Specimens of the simulator: networks
learn from variants (other compositions, backgrounds, widths; crystals strained, axes shifted by drift, charging or
stress) and are judged on the map of a variant that they have not seen, in which strain or shift varies from place to
place. PCA is the daemon's, shrunk, fitted on that very map: it knows the specimen but not the technique, a network the
technique but not the specimen; it is attuned to the map, as in the daemon. `linear` knows what networks know and is the
best that is linear in the counts (Wiener's filter with the covariance of the variants): where it is worse than PCA of
the map, to know the specimen is worth more than to know the technique. The last two rows are of the first 256 positions
alone: there PCA knows little yet. Trained networks are kept in the folder, so that the run can be cut short and taken
up again. Errors are mean squares in units of counting noise, raw counts being 1: of whole spectra, and of the sum over
the strongest line.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from numpy.typing import NDArray

from models.attune import attuned
from models.axis import Axis
from models.card import Architecture
from models.evaluate import line_error, shrunk_pca, strongest_line
from models.networks import Network
from models.pools import Expected, Pairs
from models.sources import simulated
from models.thinning import squared_error
from models.train import TrainConfig, denoise
from tests.benchmarks._networks import SEED, Targets, at_dose, inference_us, kept, options_of, trained

KINDS = ("AE", "DAE", "residual DAE", "CAE", "VAE")
MAP = 2304
"""Positions that are judged."""
_FIRST, _KNOWN = 256, 6000


@dataclass(frozen=True)
class Case:
    """A technique: its specimen, channels, doses, and variants to learn from."""

    specimen: str
    channels: int
    doses: tuple[float, float, float]
    variants: int = 400


CASES = {
    "eds": Case("fe_cr_ni", 512, (20.0, 200.0, 2000.0), 200),
    "eels": Case("fe_oxidation", 512, (200.0, 2000.0, 20000.0)),
    "xrd": Case("steel_phases", 1000, (500.0, 2000.0, 8000.0)),
    "xps": Case("tungsten_flakes", 140, (100.0, 1000.0, 10000.0), 800),
    "raman": Case("polymer_blend", 504, (200.0, 2000.0, 20000.0), 800),
}


def architecture(kind: str, d: int) -> tuple[Architecture, TrainConfig, str]:
    """The network of a name, how it is trained, and on what."""
    wide = {"hidden": (128, 64), "latent": 12}
    # A convolutional network takes five times as long for a step: all learn for about the same time.
    steps = 1200 if kind == "CAE" else 6000
    config = TrainConfig(steps=steps, batch=128, check_every=200, patience=100)
    if kind == "AE":
        return Architecture(n_channels=d, **wide), config, "same"
    if kind == "DAE":
        return Architecture(n_channels=d, **wide), config, "truth"
    if kind == "residual DAE":
        return Architecture(kind="residual", n_channels=d, **wide), config, "truth"
    if kind == "CAE":
        return Architecture(kind="convolutional", n_channels=d, hidden=(8, 16, 16), latent=12), config, "truth"
    return Architecture(kind="variational", n_channels=d, **wide), config, "truth"


def spectra(case: Case, folder: Path) -> dict[str, Any]:
    """Variants to learn from, others held out, and the map."""

    def make() -> dict[str, Any]:
        learnt = simulated(case.specimen, seed=SEED, variants=case.variants, channels=case.channels)
        held = simulated(case.specimen, seed=SEED + 1, variants=40, channels=case.channels)
        other = simulated(case.specimen, seed=SEED + 10, varied=True, channels=case.channels)
        rows = np.random.default_rng(0).permutation(len(other.spectra))[:MAP]
        offset, scale = other.axis.offset, other.axis.scale
        return {
            "learnt": learnt.spectra.astype(np.float32), "held": held.spectra.astype(np.float32),
            "group": np.array(learnt.group), "map": other.spectra[rows].astype(np.float32),
            "axis": np.array([offset, scale]), "units": np.array(other.axis.units),
        }  # fmt: skip

    return kept(folder / f"{case.specimen}.npz", make)


def pools(technique: str, target: str, folder: Path) -> tuple[Expected, Expected]:
    """What is learnt from, and what is held out."""
    case, held = CASES[technique], spectra(CASES[technique], folder)
    quanta = (case.doses[0] / 2, case.doses[-1] * 2)
    pairs, group = Pairs(target, mixed=3), int(held["group"])  # type: ignore[arg-type]
    return Expected(held["learnt"], pairs, quanta, None, group), Expected(held["held"], pairs, quanta, None, group)


def linear(pool: Expected, counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Spectra (n, D) of the filter with the least error for spectra of the pool at the mean dose of these counts."""
    learnt = pool.known(_KNOWN, np.random.default_rng(SEED))[0].astype(np.float64)
    mean, total = learnt.mean(axis=0), np.maximum(counts.sum(axis=1, dtype=np.float64), 1.0)[:, None]
    root = np.sqrt(np.maximum(mean, 1e-2 * mean.mean()))
    scaled, d = (learnt - mean) / root, counts.shape[1]
    covariance = scaled.T @ scaled / len(scaled)
    gain = np.linalg.solve(covariance + d / total.mean() * np.eye(d), covariance)
    shares = mean + ((counts * (d / total) - mean) / root) @ gain * root
    return np.asarray(shares * (total / d), dtype=np.float32)


def network(technique: str, kind: str, folder: Path) -> tuple[Network, float]:
    """A trained network, and the seconds that took."""
    built, config, target = architecture(kind, CASES[technique].channels)
    return trained(folder, f"{technique}-{kind}".replace(" ", "-"), built, *pools(technique, target, folder), config)


def errors(technique: str, folder: Path) -> dict[str, dict[float, tuple[float, float]]]:
    """Errors of spectra and line by method and dose; prints the table."""
    case = CASES[technique]
    held = spectra(case, folder)
    axis = Axis("", str(held["units"]), case.channels, *held["axis"].tolist())
    found: dict[str, dict[float, tuple[float, float]]] = {"PCA": {}}
    for dose in case.doses:
        found["PCA"][dose] = judged(held["map"], dose, axis, lambda c: shrunk_pca(c, axis=axis))
    print(f"\n{technique}: {case.specimen}, {case.channels} channels, {len(held['map'])} positions")
    print(f"{'':14s}" + "".join(f"{f'{d:,.0f} counts':>24s}" for d in case.doses) + "  parameters  training  inference")
    print(line("PCA", found["PCA"], found["PCA"]))
    pool = pools(technique, "truth", folder)[0]
    found["linear"] = {d: judged(held["map"], d, axis, lambda c: attuned(linear(pool, c), c, axis)) for d in case.doses}
    print(line("linear", found["linear"], found["PCA"]), flush=True)
    for kind in KINDS:
        made, seconds = network(technique, kind, folder)
        found[kind] = {
            d: judged(held["map"], d, axis, lambda c, n=made: attuned(denoise(n, c), c, axis)) for d in case.doses
        }
        cost = f"{made.n_parameters:12,d} {seconds:7.0f} s {inference_us(made, folder):7.1f} us"
        print(line(kind, found[kind], found["PCA"]) + cost, flush=True)
    found |= begun(network(technique, "residual DAE", folder)[0], case, held["map"][:_FIRST], axis)
    return found


def begun(made: Network, case: Case, expected: NDArray[Any], axis: Axis) -> dict[str, dict[float, tuple[float, float]]]:
    """The same where a scan has just begun, and PCA knows few spectra of it."""
    few, ours = f"PCA, {_FIRST}", f"residual, {_FIRST}"
    found = {
        few: {d: judged(expected, d, axis, lambda c: shrunk_pca(c, axis=axis)) for d in case.doses},
        ours: {d: judged(expected, d, axis, lambda c: attuned(denoise(made, c), c, axis)) for d in case.doses},
    }
    for name in (few, ours):
        print(line(name, found[name], found[few]), flush=True)
    return found


def judged(expected: NDArray[Any], dose: float, axis: Axis, denoiser: Any) -> tuple[float, float]:
    """Errors of whole spectra and of the strongest line."""
    truth, counts = at_dose(expected, dose)
    done = denoiser(counts)
    strongest = strongest_line(truth.mean(axis=0), axis)
    return float(squared_error(done, truth).mean()), line_error(done, truth, strongest)


def line(name: str, found: dict[float, tuple[float, float]], pca: dict[float, tuple[float, float]]) -> str:
    """A row: error of spectra (over PCA's) and of the line."""
    cells = "".join(f"{e:9.4f} ({e / pca[d][0]:5.2f}){s:7.3f}" for d, (e, s) in found.items())
    return f"{name:14s}{cells}"


def picture(every: dict[str, dict[str, dict[float, tuple[float, float]]]], folder: Path) -> None:
    """Errors over those of PCA against the dose, and one spectrum of each technique."""
    figure, panels = plt.subplots(2, len(every), figsize=(4 * len(every), 7), squeeze=False, layout="constrained")
    for (technique, found), above, below in zip(every.items(), *panels, strict=True):
        for kind in KINDS:
            doses = list(found[kind])
            above.loglog(doses, [found[kind][d][0] / found["PCA"][d][0] for d in doses], "o-", label=kind)
        above.axhline(1.0, color="k", lw=0.8, ls="--")
        above.set(title=f"{technique}, {CASES[technique].specimen}", xlabel="counts", ylabel="error / PCA's error")
        one(technique, folder, below)
    panels[0, 0].legend(fontsize=8)
    panels[1, 0].legend(fontsize=8)
    figure.savefig(folder / "networks.png", dpi=110)
    plt.close(figure)


def one(technique: str, folder: Path, panel: Any) -> None:
    """One spectrum at the middle dose: counts, truth, and what was made of them."""
    case = CASES[technique]
    held = spectra(case, folder)
    truth, counts = at_dose(held["map"], case.doses[1])
    axis = held["axis"][0] + held["axis"][1] * np.arange(case.channels)
    shares = truth / truth.sum(axis=1, keepdims=True)
    row = int(np.argmax(np.abs(shares - shares.mean(axis=0)).sum(axis=1)))  # the least usual one
    panel.plot(axis, counts[row], color="0.8", lw=0.6, label="counts")
    panel.plot(axis, shrunk_pca(counts)[row], lw=1.0, label="PCA")
    panel.plot(axis, denoise(network(technique, "residual DAE", folder)[0], counts)[row], lw=1.0, label="residual DAE")
    panel.plot(axis, truth[row], "k--", lw=0.7, label="truth")
    panel.set(xlabel=str(held["units"]), ylabel=f"counts, {case.doses[1]:,.0f} in all")


def main() -> int:
    """Print the tables; 1 where a target is missed under --check."""
    options = options_of(__doc__, CASES)
    targets = Targets()
    every = {name: errors(name, options.out) for name in ([options.only] if options.only else CASES)}
    print()
    for technique, found in every.items():
        ratios = {d: min(found[kind][d][0] for kind in KINDS) / e for d, (e, _) in found["PCA"].items()}
        text = ", ".join(f"{r:.2f} at {d:,.0f}" for d, r in ratios.items())
        targets.judge(f"{technique}: best network over PCA, somewhere <= 1", text, min(ratios.values()) <= 1.0)
        ratios = {d: found[f"residual, {_FIRST}"][d][0] / e for d, (e, _) in found[f"PCA, {_FIRST}"].items()}
        text = ", ".join(f"{r:.2f}" for r in ratios.values())
        targets.judge(
            f"    residual DAE over PCA of the first {_FIRST} positions, somewhere <= 0.7",
            text,
            min(ratios.values()) <= 0.7,
        )
        over = {d: found["residual DAE"][d][0] / found["linear"][d][0] for d in found["PCA"]}
        text = ", ".join(f"{r:.2f}" for r in over.values())
        targets.judge(
            "    residual DAE over what is best of linear ones, everywhere <= 1", text, max(over.values()) <= 1.0
        )
    picture(every, options.out)
    print(f"pictures: {options.out / 'networks.png'}")
    return int(options.check and targets.missed > 0)


if __name__ == "__main__":
    sys.exit(main())
