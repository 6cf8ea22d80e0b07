"""The architectures, their noise and their losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from models.augment import displace, expected_share
from models.card import Architecture
from models.layers import Calibration, EndMembers, rescale
from models.losses import corrupt, loss_per_spectrum
from models.networks import NonNegative, Variational, make_network
from tests.unit.models.spectra import moving_line

KINDS: list[dict[str, Any]] = [
    {"kind": "hourglass", "hidden": (24, 12)},
    {"kind": "residual", "hidden": (24, 12)},
    {"kind": "hourglass", "hidden": (24, 12), "calibration": True},
    {"kind": "convolutional", "hidden": (4, 6, 8)},
    {"kind": "variational", "hidden": (24,)},
    {"kind": "nonnegative", "hidden": (24,)},
    {"kind": "topographic", "hidden": (4,)},
    {"kind": "spatial", "hidden": (24, 12), "side": 3},
    {"kind": "spatial", "hidden": (12,), "side": 5},
]


def name(keys: dict[str, Any]) -> str:
    return "-".join(str(v) for v in keys.values())


def test_the_hourglass_of_the_lecture() -> None:
    network = make_network(Architecture(n_channels=2048), np.ones(2048))
    assert network.n_parameters == 2_240_328
    widths = [m.out_features for m in network.modules() if isinstance(m, torch.nn.Linear)]
    assert widths == [512, 128, 32, 8, 32, 128, 512, 2048]


@pytest.mark.parametrize("d", [37, 64, 200])
@pytest.mark.parametrize("keys", KINDS, ids=name)
def test_any_axis_gives_spectra_that_are_finite_and_not_negative(keys: dict[str, Any], d: int) -> None:
    rng = np.random.default_rng(0)
    network = make_network(Architecture(n_channels=d, latent=3, **keys), rng.random(d)).eval()
    side = network.architecture.side
    counts = torch.from_numpy(rng.poisson(3.0, (5, side**2, d) if side > 1 else (5, d)).astype("f4"))
    counts[0] = 0.0
    counts[1] = -1.0
    denoised, latent = network(counts)
    assert denoised.shape == (5, d)
    assert latent.shape == (5, 3)
    assert torch.isfinite(denoised).all()
    assert torch.isfinite(latent).all()
    assert (denoised >= 0).all()
    assert denoised[:2].sum() == 0  # where nothing was counted, nothing is expected
    denoised.sum().backward()
    learnt = [p.grad for p in network.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in learnt)


@pytest.mark.parametrize("keys", KINDS[:6], ids=name)
def test_a_network_that_has_learnt_nothing_says_about_the_mean_spectrum(keys: dict[str, Any]) -> None:
    mean = moving_line(np.array([20.0]))[0]
    network = make_network(Architecture(n_channels=64, latent=3, **keys), mean, seed=1).eval()
    counts = torch.from_numpy(np.random.default_rng(0).poisson(500 * mean, (8, 64)).astype("f4"))
    with torch.no_grad():
        denoised = network(counts)[0].numpy()
    likeness = np.corrcoef(denoised.mean(axis=0), mean)[0, 1]
    assert likeness > 0.9
    assert 0.5 < denoised.sum() / counts.numpy().sum() < 2.0


def test_the_same_seed_makes_the_same_weights_and_leaves_the_generator_alone() -> None:
    architecture = Architecture(n_channels=64, hidden=(8,))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (make_network(architecture, np.ones(64), seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    a, b, c = (torch.cat([p.detach().ravel() for p in n.parameters()]) for n in (first, again, other))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_end_members_can_be_read_from_the_decoder() -> None:
    network = make_network(Architecture(kind="nonnegative", n_channels=64, hidden=(8,), latent=3), np.ones(64)).eval()
    assert isinstance(network, NonNegative)
    assert isinstance(network.last, EndMembers)
    members = network.last.weight.detach()
    assert members.shape == (64, 3)
    assert (members >= 0).all()
    torch.testing.assert_close(members.mean(dim=0), torch.ones(3))
    counts = torch.from_numpy(np.random.default_rng(0).poisson(5.0, (4, 64)).astype("f4"))
    with torch.no_grad():
        denoised, abundances = network(counts)
    assert (abundances >= 0).all()
    expected = abundances @ members.T * counts.sum(dim=1, keepdim=True) / 64
    torch.testing.assert_close(denoised, expected)


def test_a_variational_network_draws_while_it_learns_and_can_make_new_spectra() -> None:
    network = make_network(Architecture(kind="variational", n_channels=64, hidden=(8,), latent=3), np.ones(64))
    assert isinstance(network, Variational)
    counts = torch.from_numpy(np.random.default_rng(0).poisson(5.0, (4, 64)).astype("f4"))
    torch.manual_seed(0)
    first, second = network.train()(counts)[0], network(counts)[0]
    assert not torch.equal(first, second)
    named = network.eval().stages(counts)
    assert torch.equal(network(counts)[0], named["denoised"])
    assert (named["sigma"] > 0).all()
    standard = torch.zeros(2, 3), torch.ones(2, 3)
    torch.testing.assert_close(network.divergence(*standard), torch.zeros(2))
    assert (network.divergence(standard[0] + 1.0, standard[1]) == pytest.approx(1.5)) is True
    new = network.sample(6, torch.Generator().manual_seed(1))
    assert new.shape == (6, 64)
    assert (new >= 0).all()
    assert torch.equal(new, network.sample(6, torch.Generator().manual_seed(1)))


def test_latent_coordinates_are_measured_anew_without_a_change_to_what_is_decoded() -> None:
    network = make_network(Architecture(kind="variational", n_channels=64, hidden=(8,), latent=3), np.ones(64)).eval()
    assert isinstance(network, Variational)
    counts = torch.from_numpy(np.random.default_rng(0).poisson(5.0, (20, 64)).astype("f4"))
    before = network.stages(counts)
    mean, spread = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 0.1, 1.0])
    rescale(network.encoder[-1], network.body[0], mean, spread)
    after = network.stages(counts)
    torch.testing.assert_close(after["denoised"], before["denoised"])
    torch.testing.assert_close(after["latent"], (before["latent"] - mean) / spread)
    torch.testing.assert_close(after["sigma"], before["sigma"] / spread)


def test_a_spatial_network_sees_the_neighbours_and_scales_by_the_middle() -> None:
    network = make_network(Architecture(kind="spatial", n_channels=64, hidden=(16,), latent=3, side=3), np.ones(64))
    network.eval()
    counts = torch.from_numpy(np.random.default_rng(0).poisson(5.0, (2, 9, 64)).astype("f4"))
    with torch.no_grad():
        before = network(counts)
        counts[0, 0] = counts[0, 0].flip(0)
        after = network(counts)
        doubled = counts.clone()
        doubled[:, 4] *= 2
        twice = network(doubled)[0]
    assert not torch.equal(before[1][0], after[1][0])
    assert torch.equal(before[1][1], after[1][1])
    torch.testing.assert_close(twice, 2 * after[0])


@pytest.mark.parametrize(("shift", "stretch"), [(2.5, 0.0), (0.0, 3.0), (-1.75, 1.3)])
def test_the_calibration_layer_undoes_what_an_instrument_does(shift: float, stretch: float) -> None:
    d = 200
    spectra = moving_line(np.array([60.0, 130.0]), d, width=5.0)
    gain = np.full(2, stretch / (d - 1))
    recorded = displace(spectra, np.full(2, shift), gain, np.zeros(2), expected_share)
    layer = Calibration(d)
    with torch.no_grad():
        layer.shift.fill_(shift)
        layer.stretch.fill_(stretch)
        undone = layer(torch.from_numpy(recorded)).numpy()
        again = layer.back(torch.from_numpy(spectra.astype("f4"))).numpy()
    inside = slice(10, 190)
    np.testing.assert_allclose(undone[:, inside], spectra[:, inside], atol=0.03 * spectra.max())
    np.testing.assert_allclose(again[:, inside], recorded[:, inside], atol=0.03 * spectra.max())


def test_calibration_can_be_learnt_by_descent() -> None:
    layer = Calibration(64)
    counts = torch.from_numpy(moving_line(np.array([30.0]), width=4.0).astype("f4"))
    layer(counts)[0, 20:30].sum().backward()
    assert layer.shift.grad is not None
    assert layer.shift.grad.item() > 0  # reading further right brings the line further left
    assert layer.stretch.grad is not None
    assert layer.stretch.grad.item() > 0


def test_noise_that_a_network_must_remove() -> None:
    counts = torch.full((2000, 40), 9.0)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(corrupt(counts, "none", generator), counts)
    gaussian = corrupt(counts, "gaussian", generator, 0.5) - counts
    assert float(gaussian.std()) == pytest.approx(1.5, rel=0.02)
    poisson = corrupt(counts, "poisson", generator)
    assert float(poisson.var()) == pytest.approx(9.0, rel=0.02)
    masked = corrupt(counts, "masking", generator, 0.25)
    assert set(masked.unique().tolist()) == {0.0, 9.0}
    assert float((masked == 0).float().mean()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("kind", ["mse", "poisson", "angle"])
def test_every_loss_is_smallest_at_the_target(kind: Any) -> None:
    target = torch.from_numpy(64 * moving_line(np.array([20.0, 40.0])).astype("f4"))
    share = target.clone().requires_grad_()
    mean = target.mean(dim=0)
    best = loss_per_spectrum(share, target, mean, kind)
    assert best.shape == (2,)
    best.sum().backward()
    assert share.grad is not None
    assert float(share.grad.abs().max()) < 1e-4
    rng = torch.Generator().manual_seed(0)
    for _ in range(5):
        away = target * (1 + 0.2 * torch.randn(target.shape, generator=rng)).clamp(min=0.1)
        assert (loss_per_spectrum(away, target, mean, kind) > best).all()
    assert (loss_per_spectrum(1.3 * target, target, mean, kind) > best).all()
