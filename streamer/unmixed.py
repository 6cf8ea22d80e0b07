"""What is published of unmixing: abundance maps with their errors, and the end-members. Pure reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.prepared import PreparedEngine
from models.unmixing import Unmixing
from streamer.series import Series
from streamer.wire import Result, f4

TOPIC = "endmembers"


def abundance_names(labels: list[str]) -> list[str]:
    """Names of the maps of some end-members: abundances, then their errors."""
    return [f"{kind}/{label}" for kind in ("abundance", "abundance_error") for label in labels]


def abundances(unmixing: Unmixing, labels: list[str], index: NDArray[np.int64]) -> list[NDArray[Any]]:
    """Return these maps at positions, each (n,)."""
    return [column for part in unmixing.abundances(index, labels) for column in part.T]


def end_members(series: Series, model: int) -> Iterator[Result]:
    """Give the message of the end-members there are, on the sender's axis, if there are any."""
    found = None if series.unmixing is None else series.unmixing.end_members
    summary = None if series.unmixing is None else series.unmixing.summary()
    if found is None or summary is None:
        return
    spectra: NDArray[Any] = found.spectra
    if isinstance(series.engine, PreparedEngine):
        spectra = series.engine.of_sender(spectra)
    head = {"series": series.name, "model": model, **summary}
    yield Result(TOPIC, head, {"spectra": f4(spectra)})
