"""Export to ONNX and inference without PyTorch: the same numbers by every way through a network."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from scipy import sparse

from models import graphs
from models.card import Architecture, AxisCard, LatentCard, ModelCard, write_card
from models.export import from_onnx, to_onnx, with_weights
from models.inference import TrainedNetwork
from models.networks import Network, make_network
from models.noise import NoiseModel
from models.precision import choose, made_up, quantised
from models.sessions import Session
from tests.unit.models.spectra import moving_line

D, K = 96, 3
KINDS: dict[str, dict[str, Any]] = {
    "hourglass": {"hidden": (48, 16)},
    "residual": {"kind": "residual", "hidden": (48, 16)},
    "calibration": {"hidden": (24,), "calibration": True},
    "convolutional": {"kind": "convolutional", "hidden": (4, 6, 8)},
    "variational": {"kind": "variational", "hidden": (24,)},
    "nonnegative": {"kind": "nonnegative", "hidden": (24,)},
    "topographic": {"kind": "topographic", "hidden": (4,)},
    "spatial": {"kind": "spatial", "hidden": (24, 12), "side": 3},
}
DENSE = ["hourglass", "residual", "variational", "nonnegative", "topographic"]


@dataclass(frozen=True)
class Made:
    """A network in PyTorch, and its file."""

    network: Network
    path: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Networks of every kind with random weights, exported once."""
    folder = tmp_path_factory.mktemp("networks")
    mean = moving_line(np.array([30.0, 60.0]), D).mean(axis=0)
    found = {}
    for number, (name, keys) in enumerate(KINDS.items()):
        network = make_network(Architecture(n_channels=D, latent=K, **keys), mean, seed=number).eval()
        if network.calibration is not None:
            with torch.no_grad():
                network.calibration.shift.fill_(1.3)
                network.calibration.stretch.fill_(-2.2)
        path = folder / f"{name}.onnx"
        to_onnx(network, path)
        write_card(card_of(name, network), path)
        found[name] = Made(network, path)
    return found


def card_of(name: str, network: Network) -> ModelCard:
    identity = tuple(map(tuple, np.eye(K).tolist()))
    return ModelCard(
        name=name, technique="eds", architecture=network.architecture, axis=AxisCard(size=D), counts=(20.0, 2000.0),
        latent=LatentCard(mean=(0.0,) * K, covariance=identity, distance=4.0), parameters=network.n_parameters,
    )  # fmt: skip


def counts_for(network: Network, n: int, seed: int = 0, mean: float = 3.0) -> NDArray[np.uint16]:
    side = network.architecture.side
    shape = (n, D) if side == 1 else (n, side**2, D)
    return np.random.default_rng(seed).poisson(mean, shape).astype(np.uint16)


def in_torch(network: Network, counts: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
    with torch.no_grad():
        return {k: v.numpy() for k, v in network.stages(torch.from_numpy(counts.astype(np.float32))).items()}


def close(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    return bool(np.abs(found - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1.0))


@pytest.mark.parametrize("name", KINDS)
def test_onnx_gives_what_pytorch_gives_for_blocks_of_any_size(made: dict[str, Made], name: str) -> None:
    network = made[name].network
    trained = TrainedNetwork.load(made[name].path, rows=16, device="cpu")
    for n in (1, 7, 16, 50):
        counts = counts_for(network, n, seed=n)
        counts[0] = 0
        expected = in_torch(network, counts)
        found = trained.denoise(counts)
        assert found.spectra.shape == (n, D)
        assert close(found.spectra, expected["denoised"])
        assert close(found.latent, expected["latent"])
        assert (found.sigma is None) == (name != "variational")
        assert found.sigma is None or close(found.sigma, expected["sigma"])
        assert close(trained.transform(counts), expected["latent"])
    empty = trained.denoise(counts[:0])
    assert empty.spectra.shape == (0, D)
    assert empty.latent.shape == (0, K)


@pytest.mark.parametrize("name", KINDS)
def test_decoding_what_was_encoded_is_denoising(made: dict[str, Made], name: str) -> None:
    trained = TrainedNetwork.load(made[name].path, device="cpu")
    counts = counts_for(made[name].network, 5)
    found = trained.denoise(counts)
    total = in_torch(made[name].network, counts)["total"]
    assert close(trained.reconstruct(found.latent, total), found.spectra)


@pytest.mark.parametrize("name", [k for k in KINDS if k != "spatial"])
@pytest.mark.parametrize("mean", [0.05, 3.0])
def test_list_mode_gives_what_dense_spectra_give(made: dict[str, Made], name: str, mean: float) -> None:
    trained = TrainedNetwork.load(made[name].path, rows=16, device="cpu")
    counts = counts_for(made[name].network, 40, mean=mean)
    spectrum, channel = np.nonzero(counts)
    events = np.repeat(channel, counts[spectrum, channel])  # one entry for each count, as list mode arrives
    indptr = np.concatenate([[0], np.cumsum(counts.sum(axis=1))])
    listed = sparse.csr_array((np.ones(events.size, np.float32), events, indptr), shape=counts.shape)
    before = listed.nnz
    found, expected = trained.denoise(listed), trained.denoise(counts)
    assert close(found.spectra, expected.spectra)
    assert close(found.latent, expected.latent)
    assert listed.nnz == before  # the caller's array is left alone


@pytest.mark.parametrize("name", [k for k in KINDS if k != "spatial"])
def test_window_sums_are_those_of_whole_spectra(made: dict[str, Made], name: str) -> None:
    noise = NoiseModel("poisson_gaussian", 2.0, 10.0, 1.0)
    counts = counts_for(made[name].network, 20)
    windows = [(0, 5), (40, 41), (3, 60), (50, D)]
    for trained, seen in (
        (TrainedNetwork.load(made[name].path, rows=16, device="cpu"), counts),
        (TrainedNetwork.load(made[name].path, rows=16, device="cpu", noise=noise), 2.0 * counts + 10.0),
    ):
        whole = trained.denoise(seen).spectra
        expected = np.stack([whole[:, a:b].sum(axis=1) for a, b in windows], axis=1)
        assert close(trained.windows(seen, windows), expected)
        assert close(trained.windows(seen, windows[:2]), expected[:, :2])


def test_the_cut_parts_are_smaller_than_the_whole(made: dict[str, Made]) -> None:
    model = onnx.load(made["hourglass"].path)
    whole = model.ByteSize()
    assert graphs.encoder(model).ByteSize() < 0.6 * whole
    assert graphs.window_sums(model, [(0, 4)]).ByteSize() < 0.7 * whole
    assert graphs.after_first_layer(model).ByteSize() < 0.6 * whole
    with pytest.raises(ValueError, match="no tensor features"):
        graphs.window_sums(onnx.load(made["convolutional"].path), [(0, 4)])
    with pytest.raises(ValueError, match="no tensor hidden"):
        graphs.after_first_layer(onnx.load(made["convolutional"].path))
    with pytest.raises(ValueError, match="no tensor hidden"):
        graphs.first_layer(onnx.load(made["convolutional"].path))


def test_gain_and_offset_are_taken_off_before_and_put_on_after(made: dict[str, Made]) -> None:
    counts = counts_for(made["hourglass"].network, 6)
    plain = TrainedNetwork.load(made["hourglass"].path).denoise(counts)
    noise = NoiseModel("poisson_gaussian", 2.5, 100.0, 1.0)
    camera = TrainedNetwork.load(made["hourglass"].path, noise=noise).denoise(2.5 * counts + 100.0)
    np.testing.assert_allclose(camera.latent, plain.latent, atol=1e-4)
    np.testing.assert_allclose(camera.spectra, 2.5 * plain.spectra + 100.0, rtol=1e-4)


def test_the_same_block_gives_the_same_bits_whatever_came_before(made: dict[str, Made]) -> None:
    counts = counts_for(made["hourglass"].network, 40)
    first, second = (TrainedNetwork.load(made["hourglass"].path, device="cpu") for _ in range(2))
    kept = first.denoise(counts)
    before = kept.spectra.copy()
    first.denoise(counts_for(made["hourglass"].network, 40, seed=9))
    assert np.array_equal(kept.spectra, before)  # results are not overwritten by the next block
    assert np.array_equal(second.denoise(counts).spectra, before)
    assert np.array_equal(first.denoise(counts).spectra, before)


def test_cuda_is_claimed_only_where_a_session_really_has_it(made: dict[str, Made]) -> None:
    model = onnx.load(made["hourglass"].path)
    session = Session(model, 4, "auto")
    assert Session(model, 4, "cpu").device == "cpu"
    if "CUDAExecutionProvider" not in session.providers:
        assert session.device == "cpu"
        assert Session(model, 4, "cuda").device == "cpu"  # falls back, and says so
    else:
        assert session.device == "cuda"


def test_asking_for_cuda_where_there_is_none_prints_nothing(made: dict[str, Made]) -> None:
    program = (
        "import sys, onnx; from models.sessions import Session; "
        "print(Session(onnx.load(sys.argv[1]), 4, 'cuda').device)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(made["hourglass"].path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() in {"cpu", "cuda"}
    assert done.stderr == ""


def test_inference_needs_no_pytorch() -> None:
    program = "import sys, models.inference, models.models_command; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_choice_of_int8_follows_from_what_was_measured(made: dict[str, Made]) -> None:
    model = onnx.load(made["hourglass"].path)
    card = card_of("hourglass", made["hourglass"].network)
    choice = choose(model, card)
    assert choice.speed > 0
    assert (choice.precision == "int8") == (choice.speed > 1.0 and choice.cost < 1.01)
    truth, counts = made_up(model, card, 500, 0)
    assert truth.sum(axis=1).min() > 15
    assert truth.sum(axis=1).max() < 3000
    assert np.array_equal(made_up(model, card, 500, 0)[1], counts)
    ops = {node.op_type for node in quantised(model).graph.node}
    assert "MatMulInteger" in ops
    assert "Gemm" not in ops
    rough = TrainedNetwork(model, card, device="cpu", precision="int8").denoise(counts).spectra
    fine = TrainedNetwork(model, card, device="cpu").denoise(counts).spectra
    away = np.abs(rough - fine).mean() / fine.mean()
    assert 0 < away < 0.05


@pytest.mark.parametrize("name", KINDS)
def test_an_exported_network_can_be_trained_further(made: dict[str, Made], name: str) -> None:
    network = made[name].network
    again = from_onnx(made[name].path, network.architecture)
    counts = counts_for(network, 5)
    expected, found = in_torch(network, counts), in_torch(again, counts)
    np.testing.assert_allclose(found["denoised"], expected["denoised"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["latent"], expected["latent"], atol=1e-4)
    assert again.n_parameters == network.n_parameters
    assert (again.centre is None) == (network.centre is None)


@pytest.mark.parametrize("name", ["residual", "nonnegative", "topographic"])
def test_weights_find_their_places_in_a_file(made: dict[str, Made], name: str) -> None:
    model, network = onnx.load(made[name].path), made[name].network
    again = from_onnx(made[name].path, network.architecture)
    for parameter in again.parameters():
        parameter.data.mul_(1.01)
    moved = graphs.weights(with_weights(model, again))
    same = graphs.weights(with_weights(model, network))
    for key, value in graphs.weights(model).items():
        np.testing.assert_allclose(same[key], value, rtol=1e-5, atol=1e-6, err_msg=key)
    assert not np.allclose(moved["last.weight"], same["last.weight"], rtol=1e-4)


@pytest.mark.parametrize("name", ["residual", "variational", "convolutional"])
def test_biases_that_are_exactly_zero_are_kept_and_read_where_they_are_not(
    made: dict[str, Made], name: str, tmp_path: Path
) -> None:
    network = copy.deepcopy(made[name].network)
    last = f"encoder.{len(network.get_submodule('encoder')) - 1}.bias"  # type: ignore[arg-type]
    network.get_parameter(last).data.zero_()
    path = tmp_path / "zero.onnx"
    to_onnx(network, path)
    model = onnx.load(path)
    assert not graphs.weights(model)[last].any()
    for node in model.graph.node:
        if last in node.input:
            node.input.remove(last)  # as the exporter has it
    kept = [t for t in model.graph.initializer if t.name != last]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, tmp_path / "lacking.onnx")
    counts = counts_for(network, 5)
    expected = in_torch(network, counts)["denoised"]
    for file in (path, tmp_path / "lacking.onnx"):
        again = from_onnx(file, network.architecture)
        np.testing.assert_allclose(in_torch(again, counts)["denoised"], expected, rtol=1e-3, atol=1e-4)
        again.get_parameter(last).data.fill_(0.5)
        assert (graphs.weights(with_weights(onnx.load(file), again))[last] == 0.5).all()


def test_files_of_other_networks_are_refused(made: dict[str, Made], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another network"):
        from_onnx(made["hourglass"].path, Architecture(n_channels=D, hidden=(20,), latent=K))
    model = onnx.load(made["hourglass"].path)
    del model.graph.initializer[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="not exported from"):
        from_onnx(tmp_path / "foreign.onnx", made["hourglass"].network.architecture)


def test_the_file_says_nothing_of_the_machine_it_was_made_on(made: dict[str, Made], tmp_path: Path) -> None:
    for name in DENSE:
        data = made[name].path.read_bytes()
        assert b".py" not in data
        assert str(Path.cwd()).encode() not in data
    again = tmp_path / "again.onnx"
    to_onnx(made["hourglass"].network, again)
    assert again.read_bytes() == made["hourglass"].path.read_bytes()
