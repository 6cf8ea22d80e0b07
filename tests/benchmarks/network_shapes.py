"""Latent spaces that mean something: a lattice parameter, the Gibbs triangle, the lecture's exercise, new spectra.

`python -m tests.benchmarks.network_shapes [--check] [--only PART] [--out FOLDER]`. Parts: `xrd` (a pattern whose lines
move: one latent coordinate against the lattice parameter, and errors beside the best batch PCA of all ranks, truncated
or shrunk), `gibbs` (Fe-Cr-Ni: a plane of latent coordinates, composition by an affine map), `exercise` (the lecture's:
bottleneck of 4, trained on the thinned counts of the scan itself), `between` (spectra between two latent points, and
samples of a variational network, judged against the patterns that there are). Networks are kept in the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from scipy.stats import spearmanr

from models.card import Architecture
from models.evaluate import shrunk_pca
from models.networks import Network, Variational
from models.pools import Expected, Measured, Pairs
from models.train import TrainConfig, denoise
from simulator.axis import Axis
from simulator.sample import describe, load_specimen
from simulator.techniques.eds import Eds
from simulator.techniques.xrd import Xrd
from tests.benchmarks._networks import Floats, Targets, at_dose, best_pca_error, kept, options_of, trained
from tests.reference import weighted_error

DOSES = (500.0, 2000.0, 8000.0)
HALF, AFFINE = 0.5, 0.98
ELEMENTS = ("Fe", "Cr", "Ni")
_LATTICE = (3.57, 3.62)
_BINNED = 4
_CHANNELS = 2000


def patterns(lattice_a: Floats) -> Floats:
    """Austenite's diffraction patterns (n, D) of unit sum, by lattice parameter in angstrom."""
    axis = Axis.linear("Two theta", "deg", 30.0, 110.0, _CHANNELS)
    technique, sites = Xrd(), [{"atom": "Fe"}]
    phases: list[Any] = [
        technique.phase.model_validate({"name": "austenite", "lattice_a": [a] * 3, "centring": "F", "sites": sites})
        for a in lattice_a
    ]
    found = technique.endmembers(phases, technique.conditions(), axis).spectra
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def shifted(folder: Path) -> dict[str, Any]:
    """Patterns to learn from, and others with their lattice parameters."""
    found: dict[str, Any] = {}
    for seed, (name, n) in enumerate((("learnt", 1200), ("held", 150), ("judged", 2304))):
        lattice = np.random.default_rng(seed).uniform(*_LATTICE, n)
        # One by one, so that a run that is cut short is soon taken up again.

        def make(name: str = name, lattice: Floats = lattice) -> dict[str, Any]:
            return {name: patterns(lattice)}

        found |= kept(folder / f"shifted-{name}.npz", make) | {"lattice": lattice}
    return found


def pattern_network(folder: Path, name: str, config: TrainConfig, binned: int = 1, **keys: Any) -> Network:
    """A network of one latent coordinate for the moving lines, with so many channels put together."""
    spectra = shifted(folder)
    pool, held = (Expected(rebinned(spectra[k], binned), Pairs("truth"), (250.0, 16000.0)) for k in ("learnt", "held"))
    architecture = Architecture(n_channels=_CHANNELS // binned, latent=1, **keys)
    return trained(folder, name, architecture, pool, held, config)[0]


def rebinned(spectra: NDArray[Any], n: int) -> Floats:
    """Spectra (..., D / n) with n channels put together."""
    return np.asarray(spectra.reshape(len(spectra), -1, n).sum(axis=2))


def latent_of(network: Network, counts: NDArray[Any]) -> NDArray[np.float32]:
    """Latent coordinates (n, K)."""
    with torch.no_grad():
        return np.asarray(network.eval()(torch.from_numpy(np.asarray(counts, dtype=np.float32)))[1].numpy())


def xrd(folder: Path, targets: Targets) -> None:
    """One coordinate for one parameter."""
    spectra = shifted(folder)
    # It begins where it has to be.
    config = TrainConfig(steps=300, batch=128, learning_rate=1e-3, check_every=100, patience=100)
    network = pattern_network(folder, "xrd-topographic", config, kind="topographic", hidden=(128,))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for dose in DOSES:
        truth, counts = at_dose(spectra["judged"], dose)
        found = denoise(network, counts)
        ours = weighted_error(found, truth)

        def linear(counts: NDArray[Any] = counts, truth: Floats = truth) -> dict[str, float]:
            return {"best": best_pca_error(counts, truth, 48), "live": weighted_error(shrunk_pca(counts), truth)}

        best, live = (float(e) for e in kept(folder / f"xrd-pca-{dose:g}.npz", linear).values())
        place = latent_of(network, counts)[:, 0]
        rank = abs(float(spearmanr(place, spectra["lattice"]).statistic))
        text = f"{ours:.5f} / {best:.5f} = {ours / best:.3f} (live PCA {live:.5f})"
        targets.judge(f"XRD, {dose:,.0f} counts: network / best PCA (<= {HALF})", text, ours <= HALF * best)
        targets.judge("    its one coordinate against the lattice, rank correlation", f"{rank:.5f}", rank >= 0.99)
        left.plot(spectra["lattice"], place, ".", ms=2, label=f"{dose:,.0f} counts")
    left.set(xlabel="lattice parameter / angstrom", ylabel="latent coordinate")
    left.legend()
    truth, counts = at_dose(spectra["judged"], DOSES[0])
    at = np.linspace(30.0, 110.0, _CHANNELS, endpoint=False)
    for name, y in (
        ("counts", counts[0]),
        ("PCA", shrunk_pca(counts)[0]),
        ("network", found[0] * DOSES[0] / DOSES[-1]),
    ):
        right.plot(at, y, lw=0.8, color="0.8" if name == "counts" else None, label=name)
    right.plot(at, truth[0], "k--", lw=0.6, label="truth")
    right.set(xlim=(40, 55), xlabel="two theta / deg", ylabel=f"counts, {DOSES[0]:,.0f} in all")
    right.legend()
    figure.savefig(folder / "xrd_shift.png", dpi=110)
    plt.close(figure)


def alloys(folder: Path) -> dict[str, Any]:
    """EDS spectra of Fe-Cr-Ni of any composition."""

    def make() -> dict[str, Any]:
        described = describe("fe_cr_ni", channels=512)
        ends, technique = described.axis, Eds()
        axis = Axis.linear(technique.axis_name, technique.units, ends.start, ends.stop, ends.channels)
        rng = np.random.default_rng(0)
        out: dict[str, Any] = {}
        for name, n in (("learnt", 300), ("held", 60), ("judged", 400)):
            parts = rng.dirichlet(np.ones(3), n) * 0.999 + 0.001 / 3
            phases: list[Any] = [
                technique.phase.model_validate(
                    {"name": "alloy", "atomic": dict(zip(ELEMENTS, p.tolist(), strict=True))}
                )
                for p in parts
            ]
            spectra = technique.endmembers(phases, technique.conditions(), axis).spectra
            out |= {name: spectra / spectra.sum(axis=1, keepdims=True), f"{name}_parts": parts}
        return out

    return kept(folder / "alloys.npz", make)


def affine(latent: NDArray[Any], parts: Floats) -> tuple[Floats, float]:
    """Composition (n, 3) by the affine map of the other half that fits best, and its R2 there."""
    x = np.column_stack([latent, np.ones(len(latent))])
    half = len(x) // 2
    weights = np.linalg.lstsq(x[:half], parts[:half], rcond=None)[0]
    found = np.asarray(x @ weights)
    left = ((found[half:] - parts[half:]) ** 2).sum()
    return found, float(1.0 - left / ((parts[half:] - parts[half:].mean(axis=0)) ** 2).sum())


def gibbs(folder: Path, targets: Targets) -> None:
    """Two coordinates for two degrees of freedom."""
    spectra = alloys(folder)
    pool, held = (Expected(spectra[k], Pairs("truth"), (200.0, 20000.0)) for k in ("learnt", "held"))
    architecture = Architecture(kind="residual", n_channels=512, hidden=(64, 32), latent=2)
    config = TrainConfig(steps=2000, batch=128, check_every=250, patience=100)
    network = trained(folder, "gibbs", architecture, pool, held, config)[0]
    figure, panels = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    parts = spectra["judged_parts"]
    for panel, dose in zip(panels, (500.0, 2000.0, 10000.0), strict=True):
        counts = at_dose(spectra["judged"], dose)[1]
        latent = latent_of(network, counts)
        r2 = affine(latent, parts)[1]
        panel.scatter(*latent.T, c=np.clip(parts, 0, 1), s=9)
        panel.set(title=f"{dose:,.0f} counts, R2 {r2:.4f}", xlabel="latent 1", ylabel="latent 2")
        corners = np.linalg.lstsq(np.column_stack([parts, np.zeros(len(parts))])[:, :3], latent, rcond=None)[0]
        panel.plot(*corners[[0, 1, 2, 0]].T, "k-", lw=0.8)
        for name, corner in zip(ELEMENTS, corners, strict=True):
            panel.annotate(name, corner)
        if dose >= 2000.0:
            name = f"Fe-Cr-Ni, {dose:,.0f} counts: composition by an affine map (>= {AFFINE})"
            targets.judge(name, f"R2 {r2:.4f}", r2 >= AFFINE)
    figure.savefig(folder / "gibbs.png", dpi=110)
    plt.close(figure)


def exercise(folder: Path, targets: Targets) -> None:
    """The lecture's exercise: a bottleneck of 4 on the scan's own counts."""
    specimen = load_specimen("exercise", seed=3, channels=512)
    truth, counts = at_dose(specimen.expected(), specimen.counts)
    rows = np.arange(len(counts))
    held = rows // 100 % 5 == 4
    pool, judge = (Measured(counts.astype(np.uint16), Pairs("thinned"), 1.0, rows=rows[m]) for m in (~held, held))
    pca = weighted_error(shrunk_pca(counts), truth)
    print(f"exercise, 100 x 100 positions, {specimen.counts:g} counts: shrunk PCA {pca:.5f}, raw 1")
    figure, panels = plt.subplots(2, 4, figsize=(13, 6.4), layout="constrained")
    for kind, row in zip(("hourglass", "residual"), panels, strict=True):
        architecture = Architecture(kind=kind, n_channels=512, hidden=(128, 64), latent=4)
        # The residual one begins as PCA, and has little to go.
        steps, rate = (600, 5e-4) if kind == "residual" else (2000, 5e-3)
        config = TrainConfig(steps=steps, batch=128, learning_rate=rate, check_every=100, patience=100)
        network, seconds = trained(folder, f"exercise-{kind}", architecture, pool, judge, config)
        error = weighted_error(denoise(network, counts), truth)
        ok = kind == "hourglass" or error <= 1.25 * pca
        targets.judge(f"exercise, {kind} of 4 after {seconds:.0f} s: error / PCA", f"{error / pca:.3f}", ok)
        for k, (panel, image) in enumerate(zip(row, latent_of(network, counts).T, strict=True)):
            panel.imshow(image.reshape(100, 100))
            panel.set(title=f"{kind}, latent {k + 1}", xticks=[], yticks=[])
    figure.savefig(folder / "exercise.png", dpi=110)
    plt.close(figure)


def nearest(spectra: NDArray[Any], known: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Divergence (n,) in nats a count of spectra (n, D) from the most likely of the known ones, and which that is.

    All have unit sum.
    """
    p = np.maximum(np.asarray(spectra, dtype=np.float64), 1e-12)
    p /= p.sum(axis=1, keepdims=True)
    likely = p @ np.log(known).T
    return np.asarray((p * np.log(p)).sum(axis=1) - likely.max(axis=1)), likely.argmax(axis=1)


def between(folder: Path, targets: Targets) -> None:
    """Spectra that nobody measured: on the way from one to another, and drawn."""
    config = TrainConfig(steps=1500, batch=64, learning_rate=3e-3, check_every=300, patience=100, beta=0.2)
    network = pattern_network(folder, "xrd-vae", config, _BINNED, kind="variational", hidden=(96, 48))
    spectra = shifted(folder)
    lattice, known, ends = spectra["lattice"], spectra["judged"], patterns(np.array([3.58, 3.61]))
    known, ends, learnt = (rebinned(s, _BINNED) for s in (known, ends, spectra["learnt"]))
    latent = torch.from_numpy(latent_of(network, 1e6 * ends))
    share = torch.linspace(0, 1, 9)[:, None]
    with torch.no_grad():
        way = network.decode((1 - share) * latent[:1] + share * latent[1:])[0].numpy()
    straight = (1 - share.numpy()) * ends[:1] + share.numpy() * ends[1:]
    ours, theirs = (nearest(s, known)[0][1:-1].mean() for s in (way, straight))
    targets.judge(
        "between two patterns: divergence of the network's / of mixtures",
        f"{ours:.4f} / {theirs:.4f} nat",
        ours < 0.25 * theirs,
    )
    if not isinstance(network, Variational):
        raise TypeError("not variational")
    drawn = network.sample(500, torch.Generator().manual_seed(1)).numpy()
    centre = learnt.mean(axis=0)
    _, size, axes = np.linalg.svd(learnt - centre, full_matrices=False)
    scores = np.random.default_rng(1).standard_normal((500, 12)) * size[:12] / np.sqrt(len(learnt))
    linear = centre + scores @ axes[:12]
    (away, which), (other, _) = nearest(drawn, known), nearest(linear, known)
    ours, theirs = float(np.median(away)), float(np.median(other))
    targets.judge(
        "drawn spectra: divergence of the VAE's / of PCA's", f"{ours:.4f} / {theirs:.4f} nat", ours < 0.25 * theirs
    )
    low, high = np.quantile(lattice[which], (0.05, 0.95))
    targets.judge(
        "    nine tenths of them, lattice parameter (learnt: 3.5725 to 3.6175)",
        f"{low:.4f} to {high:.4f}",
        high - low > 0.5 * (_LATTICE[1] - _LATTICE[0]),
    )
    figure, panels = plt.subplots(1, 3, figsize=(13, 4), layout="constrained", sharey=True)
    at = np.linspace(30.0, 110.0, known.shape[1], endpoint=False)
    for panel, name, rows in zip(
        panels, ("latent way", "mixtures", "drawn by the VAE"), (way, straight, drawn[:9]), strict=True
    ):
        for k, row in enumerate(rows):
            panel.plot(at, row / row.sum() + 0.01 * k, lw=0.8)
        panel.set(title=name, xlim=(40, 55), xlabel="two theta / deg")
    figure.savefig(folder / "between.png", dpi=110)
    plt.close(figure)


PARTS = {"xrd": xrd, "gibbs": gibbs, "exercise": exercise, "between": between}


def main() -> int:
    """Do all parts; 1 where a target is missed under --check."""
    options = options_of(__doc__, PARTS)
    targets = Targets()
    for name in [options.only] if options.only else PARTS:
        PARTS[name](options.out, targets)
    print(f"pictures: {options.out}")
    return int(options.check and targets.missed > 0)


if __name__ == "__main__":
    sys.exit(main())
