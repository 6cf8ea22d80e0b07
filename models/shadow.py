"""A shadow copy of a network, trained on a scan while it runs, in a process of its own. Needs PyTorch.

``python -m models.shadow`` reads one JSON map a line and answers with one. What it learns from is the counts of some
positions (`models.reservoir`), thinned into pairs: no clean data are needed. It answers `ready` once PyTorch is loaded.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from models.card import ModelCard, write_card
from models.export import from_onnx, with_weights
from models.pools import Measured, Pairs
from models.thinning import is_counts
from models.train import TrainConfig, latent_card, train

_HELD_OUT: Final = 5
_BATCH: Final = 64
_LEAST: Final = 0.25
"""Smallest part of the counts that is learnt from: positions are visited again, and get more."""


def learn(quanta: NDArray[Any], start: Path, out: Path, steps: int, seed: int, rate: float = 1e-3) -> ModelCard:
    """Go on with a network on measured quanta (n, D), and write what has become of it, with its card.

    Raises
    ------
    ValueError
        Where the network cannot be read, or there is nothing to learn from.
    """
    card = ModelCard.model_validate_json(start.with_suffix(".json").read_bytes())
    network = from_onnx(start, card.architecture)
    rows = np.arange(len(quanta))
    held = rows % _HELD_OUT == 0
    read = card.noise.read_sigma / card.noise.gain if not is_counts(quanta) else 0.0
    pools = [Measured(quanta, Pairs("thinned"), _LEAST, read, rows=rows[part]) for part in (~held, held)]
    config = TrainConfig(steps=steps, batch=_BATCH, learning_rate=rate, seed=seed, check_every=max(1, steps // 10))
    history = train(network, pools[0], pools[1], config)
    onnx.save(with_weights(onnx.load(start), network), out)
    total = np.asarray(quanta.sum(axis=1), dtype=np.float64)
    low, high = np.quantile(total[total > 0], (0.01, 0.99))
    said = {"learnt": {"from": card.sha256, "spectra": len(quanta), "steps": history.steps[-1], "seed": seed}}
    known = card.model_copy(
        update={
            "counts": (min(card.counts[0], max(float(low), 1.0)), max(card.counts[1], float(high))),
            "latent": latent_card(network, pools[0], seed),
            "training": {**card.training, **said},
            "metrics": (),
        }
    )
    write_card(known, out)
    return known


def serve(lines: TextIO, answers: TextIO) -> None:
    """Answer requests until there are none: maps of `sample` (.npy), `start`, `out`, `steps`, `seed`."""
    print(json.dumps({"state": "ready"}), file=answers, flush=True)
    for line in lines:
        asked = json.loads(line)
        try:
            quanta = np.load(asked["sample"], allow_pickle=False)
            learn(quanta, Path(asked["start"]), Path(asked["out"]), asked["steps"], asked["seed"])
            answer = {"state": "done"}
        except (ValueError, RuntimeError, OSError) as error:
            answer = {"state": "failed", "error": str(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(sys.stdin, sys.stdout)
