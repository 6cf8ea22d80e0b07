"""What all tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Before numpy is imported: two BLAS pools on two cores make small products ten times slower.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

from models.card import ModelCard, read_card

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what runs in the background so, and every child would be deaf to an interrupt as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real spectrum images beside the repository; people outside do not have it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder ../shared/data with real spectrum images is not here")
    return SHARED_DATA


@pytest.fixture(scope="session")
def compiled_kernels() -> None:
    """Kernels compiled into the cache on disk.

    After a checkout, or a change of a kernel, that takes half a minute of a processor, and several times as long on
    a busy machine: the time of nobody who waits for a daemon's answer.
    """
    from streamer.warm import warm_up

    warm_up()


@pytest.fixture(scope="session")
def scene_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX file of a network for `tests.unit.streamer.scene`, in a folder of its own, with its card."""
    from tests.networks import shapes_of, train_for
    from tests.unit.streamer.scene import Scene

    path = tmp_path_factory.mktemp("networks") / "scene.onnx"
    train_for(shapes_of(Scene().expected), path)
    return path


@pytest.fixture(scope="session")
def scene_card(scene_network: Path) -> ModelCard:
    """Its card."""
    return read_card(scene_network)
