"""How the networks that come with the program are made: `python -m models.shipped [NAME ...]`.

Each is pre-trained on variants of simulated specimens, and judged on maps of specimens that it has not seen: with other
compositions, backgrounds and widths, and with strain or shift from position to position. Needs PyTorch and the
simulator; minutes each. A network is shipped (its file lies in `models/zoo`) only where it is as good as the PCA of the
whole map somewhere; its card says where it is not, and there what the daemon shows has little of it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from models.card import ModelCard, read_card, write_card
from models.recipe import Recipe, Sources, cook
from models.sources import Source, simulated
from models.tables import verdict
from models.train import TrainConfig
from models.zoo import SHIPPED

_RATE = 5e-3
_SEED, _HELD_OUT, _JUDGED = 0, 1, 10
_FIRST = 256
"""A network is also judged on so few positions: where a scan begins, PCA knows little."""


@dataclass(frozen=True)
class Shipped:
    """A network that comes with the program.

    Attributes
    ----------
    specimens : tuple of str
    variants : int
        Specimens like each of them.
    quanta : (float, float)
        Least and most in a spectrum.
    rounds, steps : int
        The learning rate rises and falls so many times, over so many batches each time.
    """

    specimens: tuple[str, ...]
    variants: int
    quanta: tuple[float, float]
    hidden: tuple[int, ...] = (128, 64)
    latent: int = 12
    rounds: int = 2
    steps: int = 1600


NETWORKS: Final = {
    "eds": Shipped(("exercise", "fe_cr_ni"), 120, (5.0, 500.0), latent=16),
    "eels": Shipped(("fe_oxidation",), 400, (50.0, 20000.0), rounds=1),
    "xrd": Shipped(("steel_phases",), 1200, (50.0, 10000.0), hidden=(160, 96), latent=16, rounds=1, steps=5000),
    "xps": Shipped(("tungsten_flakes",), 1500, (20.0, 20000.0), rounds=1, steps=12000),
    "raman": Shipped(("polymer_blend",), 800, (50.0, 10000.0)),
}


def make(name: str, folder: Path = SHIPPED, only: int | None = None) -> ModelCard:
    """Train one of them into a folder, all rounds or one of them; return its card."""
    shipped, path = NETWORKS[name], folder / f"{name}.onnx"
    training = [simulated(s, seed=_SEED, variants=shipped.variants, free=0.0) for s in shipped.specimens]
    held_out = [simulated(s, seed=_HELD_OUT, variants=shipped.variants // 8, free=0.0) for s in shipped.specimens]
    for number in range(shipped.rounds) if only is None else [only]:
        last = number == shipped.rounds - 1
        judged = [j for s in shipped.specimens for j in _scans(simulated(s, seed=_JUDGED, varied=True))] if last else []
        config = TrainConfig(
            steps=shipped.steps, batch=128, learning_rate=_RATE, check_every=200, patience=20, seed=_SEED + number
        )
        start = path if number else None
        recipe = Recipe("residual", shipped.hidden, shipped.latent, quanta=shipped.quanta, training=config, start=start)
        card = cook(name, Sources(training, held_out, judged), recipe, path, _told, print)
    said = {**card.training, "command": f"python -m models.shipped {name}", "rounds": shipped.rounds}
    write_card(card.model_copy(update={"training": said}), path)
    return read_card(path)


def _scans(source: Source) -> list[Source]:
    """Return a whole map, and the beginning of it."""
    few = np.asarray(source.spectra)[:_FIRST]
    return [source, replace(source, name=f"{source.name}, first {_FIRST}", spectra=few, nav_shape=None)]


def _told(done: int, planned: int, loss: float) -> None:
    if done % 400 == 0:
        print(f"{done} of {planned} steps, held-out loss {loss:.5f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the named ones, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--folder", type=Path, default=SHIPPED)
    parser.add_argument("--round", type=int, help="this round alone, from 0; what the one before it left is there")
    options = parser.parse_args(arguments)
    for name in options.names or NETWORKS:
        if name not in NETWORKS:
            parser.error(f"no network {name!r}: there are {', '.join(NETWORKS)}")
        card = make(name, options.folder, options.round)
        print(f"{name}: {card.parameters:,} parameters, trained in {card.training['seconds']:.0f} s", flush=True)
        print("\n".join(verdict(card)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
