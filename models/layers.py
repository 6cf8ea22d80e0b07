"""Layers that networks are made of, in PyTorch."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

SOFTPLUS_OF_ONE = 0.5413248546129181
"""softplus of this is 1: an untrained decoder says the mean spectrum."""


def dense(widths: list[int], last_active: bool = False) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*(layers if last_active else layers[:-1]))


@torch.no_grad()
def rescale(before: nn.Module, after: nn.Module, mean: Tensor, spread: Tensor) -> None:
    """Measure the K numbers between two linear layers from their means (K,) in units of their spreads (K,).

    What comes after is as it was. The first layer also gives the logarithms of their variances.
    """
    k = len(mean)
    weight, bias = (before.get_parameter(name) for name in ("weight", "bias"))
    weight[:k] /= spread[:, None]
    bias[:k] = (bias[:k] - mean) / spread
    bias[k:] -= 2.0 * spread.log()
    weight, bias = (after.get_parameter(name) for name in ("weight", "bias"))
    bias.add_(weight @ mean)
    weight.mul_(spread)


class EndMembers(nn.Module):
    """The linear last layer whose weights (D, K) are spectra: not negative, each with a mean of 1 over channels."""

    def __init__(self, k: int, mean: Tensor) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.randn(k, mean.numel()) * 0.5 + SOFTPLUS_OF_ONE)
        self.mean: Tensor
        self.register_buffer("mean", mean.clone())

    def forward(self, latent: Tensor) -> Tensor:
        return functional.linear(latent, self.weight)

    @property
    def weight(self) -> Tensor:
        """End-members as columns (D, K), channels having a mean of 1."""
        spectra = self.mean * functional.softplus(self.raw)
        return (spectra / spectra.mean(dim=1, keepdim=True)).T


class Calibration(nn.Module):
    """A shift (channels) and a relative gain that take an instrument's axis to that of the training data.

    What the instrument records in channel (1 + gain) c + shift belongs in channel c. The gain is learnt as channels at
    the end of the axis, where it has as much effect as the shift.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(()))
        self.stretch = nn.Parameter(torch.zeros(()))
        self.last = n_channels - 1

    @property
    def gain(self) -> Tensor:
        """Relative gain."""
        return self.stretch / self.last

    def forward(self, counts: Tensor) -> Tensor:
        """Counts (..., D) of the instrument on the training axis."""
        return (1.0 + self.gain) * _read_at(counts, (1.0 + self.gain) * _channels(counts) + self.shift)

    def back(self, share: Tensor) -> Tensor:
        """Spectra (..., D) on the training axis as the instrument records them."""
        return _read_at(share, (_channels(share) - self.shift) / (1.0 + self.gain)) / (1.0 + self.gain)


def _channels(spectra: Tensor) -> Tensor:
    return torch.arange(spectra.shape[-1], dtype=torch.float32)


def _read_at(spectra: Tensor, place: Tensor) -> Tensor:
    """Spectra (..., D) interpolated at fractional channels (D,); differentiable in these, 0 outside."""
    last = spectra.shape[-1] - 1
    low = place.detach().floor().clamp(0, last - 1)
    part = place - low
    inside = (part >= 0) & (part <= 1)
    at = low.long()
    return (spectra.index_select(-1, at) * (1 - part) + spectra.index_select(-1, at + 1) * part) * inside
