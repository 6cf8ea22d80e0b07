"""Measured scans, thinned in halves: PCA beside a denoising network that has learnt from the first part of the scan.

`python -m tests.benchmarks.network_real [--check] [--data FOLDER]`. A residual network begins with the PCA of the first
60 % of a scan and learns by thinning their counts; both are judged on the rest, one half of the counts predicting the
other. PCA is the daemon's, shrunk, fitted on one half of the counts of the whole scan. Errors are in units of the noise
of a half (a raw half: 1), with standard errors of the difference. The network is attuned to the scan, as in the daemon.
What is asked is what the daemon asks: that what is shown is no worse. Shown is as much of the network beside PCA as
predicts every fifth spectrum of the rest best (`models.blend`), and that is judged on the others.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from models.attune import attuned
from models.blend import Blend
from models.card import Architecture
from models.evaluate import shrunk_pca
from models.noise import POISSON, NoiseModel
from models.pools import Measured, Pairs
from models.sources import Source, measured
from models.thinning import noise_weight, thin, thinned_error
from models.train import TrainConfig, denoise, fresh, train
from tests.benchmarks._networks import SEED, Targets

FILES = ("eds_fei_superx_20frames_50x10", "eds_bruker_sem_50x50", "xps_nano_antares_51x41", "xrd_fegapd_points_278")
FIRST = 0.6
MOST = 1.1


def compared(source: Source) -> tuple[float, ...]:
    """Errors of PCA, network and what is shown on the rest of the scan; standard error of what the last is worse."""
    dense = source.spectra.toarray() if isinstance(source.spectra, sparse.csr_array) else source.spectra
    quanta: NDArray[Any] = np.asarray(dense)
    rows = np.arange(len(quanta))
    first, rest = rows[: int(FIRST * len(rows))], rows[int(FIRST * len(rows)) :]
    held = first % 5 == 4
    pool, judge = (
        Measured(quanta, Pairs("thinned"), read_sigma=source.read_sigma, rows=r) for r in (first[~held], first[held])
    )
    network = fresh(Architecture(kind="residual", n_channels=quanta.shape[1], hidden=(48, 24), latent=8), pool, SEED)
    config = TrainConfig(steps=600, batch=128, learning_rate=1e-3, check_every=50, patience=4)
    train(network, pool, judge, config)
    half, other = thin(quanta, 0.5, np.random.default_rng(SEED), source.read_sigma)
    read_variance = 0.5 * source.read_sigma**2
    noise = NoiseModel("poisson_gaussian", 1.0, 0.0, read_variance**0.5) if source.read_sigma else POISSON
    tuned = attuned(denoise(network, half), half, source.axis, read_variance**0.5)
    linear, mean = shrunk_pca(half, noise, source.axis), other.mean(axis=0)
    some, rest = rest[rest % 5 == 4], rest[rest % 5 != 4]
    blend, apart, weight = Blend(some.size), tuned - linear, noise_weight(mean)
    blend.add(apart[some] ** 2 @ weight, (apart * (other - linear))[some] @ weight)
    mixed = linear + blend.weight * apart
    pca, ours, shown = (thinned_error(made, other, mean, read_variance) for made in (linear, tuned, mixed))
    spread = (shown - pca)[rest].std() / np.sqrt(len(rest))
    return (*(float(e[rest].mean()) for e in (pca, ours, shown)), float(spread))


def main() -> int:
    """Print a line for each scan; 1 where a target is missed under --check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", choices=FILES)
    options = parser.parse_args()
    targets = Targets()
    if not options.data.is_dir():
        print(f"there are no measured scans in {options.data}")
        return 0
    for name in [options.only] if options.only else FILES:
        pca, network, shown, spread = compared(measured(options.data / f"{name}.npz"))
        text = f"{shown:.4f} / {pca:.4f} (network {network:.4f})"
        targets.judge(f"{name}: shown / PCA (<= {MOST})", text, shown <= MOST * pca + 2 * spread)
    return int(options.check and targets.missed > 0)


if __name__ == "__main__":
    sys.exit(main())
