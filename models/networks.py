"""The networks, in PyTorch. Only training and export import this.

Every network maps quanta of a spectrum, q (n, D), to denoised quanta (n, D) by way of a few latent coordinates (n, K):

    z = sqrt(q D / h),  h = sum of q                square root: Poisson noise of (nearly) one size everywhere;
                                                    0 stays 0, so that list mode can skip empty channels
    latent = encoder(z - centre)
    share = mean * softplus(decoder(latent))        D times the share of each channel; the mean training spectrum
    denoised = share * h / D                        before the softplus makes a weak line as easy to learn as a strong
                                                    one (without it the error was 40 times larger)
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.card import Architecture

SOFTPLUS_OF_ONE = 0.5413248546129181
"""softplus of this is 1: an untrained decoder says the mean spectrum."""
_TINY = 1e-20
_POOLED = 4
_KERNEL = 9


class Network(nn.Module):
    """What all networks have in common; subclasses have an encoder and a decoder.

    Parameters
    ----------
    architecture : Architecture
    mean : ndarray, (D,)
        Mean training spectrum in any unit; its zeros are filled, as a softplus of nothing could never rise.
    """

    def __init__(self, architecture: Architecture, mean: NDArray[Any]) -> None:
        super().__init__()
        self.architecture = architecture
        share = np.asarray(mean, dtype=np.float64)
        share = np.maximum(share, 1e-2 * share.mean()) if share.sum() > 0 else np.ones_like(share)
        self.mean: Tensor
        self.centre: Tensor | None
        self.register_buffer("mean", torch.tensor(share / share.mean(), dtype=torch.float32))
        self.register_buffer("centre", self.mean.sqrt())
        self.calibration = Calibration(architecture.n_channels) if architecture.calibration else None

    def stages(self, counts: Tensor) -> OrderedDict[str, Tensor]:
        """Return every tensor that has a name: hidden and features (dense networks), latent, sigma, total, denoised.

        `hidden` (n, H) is what the first layer gives, `features` (n, H) what the last one gets: there inference cuts
        a network, to sum rows of the first over events, and to fold energy windows into the last.
        """
        seen = counts if self.calibration is None else self.calibration(counts)
        total, scaled = self.scale(seen)
        named = self.encode(scaled, total)
        if self.architecture.side > 1:
            total = total[:, total.shape[1] // 2]
        share, features = self.decode(self.drawn(named))
        named |= features
        if self.calibration is not None:
            share = self.calibration.back(share)
        named["total"] = total
        named["denoised"] = share * (total / self.architecture.n_channels)
        return named

    def forward(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Denoised spectra (n, D) and latent coordinates (n, K) of counts (n, D); (n, side^2, D) where spatial."""
        named = self.stages(counts)
        return named["denoised"], named["latent"]

    def scale(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Total (..., 1), and counts (..., D) as the encoder sees them."""
        positive = counts.clamp(min=0.0)
        total = positive.sum(-1, keepdim=True)
        # Not quite 0, where a square root has no slope for the calibration to go down.
        scaled = positive.clamp(min=_TINY).sqrt() * (self.architecture.n_channels / total.clamp(min=1.0)).sqrt()
        return total, scaled if self.centre is None else scaled - self.centre

    def encode(self, scaled: Tensor, total: Tensor) -> OrderedDict[str, Tensor]:
        """Latent coordinates (n, K) of scaled spectra of these total counts (n, 1), and what else has a name."""
        raise NotImplementedError

    def drawn(self, named: OrderedDict[str, Tensor]) -> Tensor:
        """Latent coordinates that are decoded."""
        return named["latent"]

    def decode(self, latent: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Shares times D (n, D) of latent coordinates (n, K), and what else has a name."""
        raise NotImplementedError

    def softplus(self, x: Tensor) -> Tensor:
        """log(1 + exp(x)); once trained, by operations that ONNX Runtime does five times faster than its own."""
        return functional.softplus(x) if self.training else x.relu() + (1.0 + (-x.abs()).exp()).log()

    @property
    def n_parameters(self) -> int:
        """Learnable numbers."""
        return sum(p.numel() for p in self.parameters())


def dense(widths: list[int], last_active: bool = False) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*(layers if last_active else layers[:-1]))


class Hourglass(Network):
    """Dense layers D - 512 - 128 - 32 - 8 - 32 - 128 - 512 - D."""

    encoded = 1  # numbers that the encoder gives for each latent coordinate
    carried = 0  # how often each latent coordinate goes to the last layer as it is

    def __init__(self, architecture: Architecture, mean: NDArray[Any]) -> None:
        super().__init__(architecture, mean)
        d, hidden, k = architecture.n_channels, list(architecture.hidden), architecture.latent
        self.first = nn.Linear(d, hidden[0])
        self.encoder = dense([*self.entry(hidden), k * self.encoded])
        self.body = dense([k, *hidden[::-1]], last_active=True)
        self.last = self.exit(hidden[0] + self.carried * k, d)

    def entry(self, hidden: list[int]) -> list[int]:
        """Widths after the first layer."""
        return hidden

    def exit(self, width: int, n_channels: int) -> nn.Module:
        """Make the last layer."""
        last = nn.Linear(width, n_channels)
        nn.init.constant_(last.bias, SOFTPLUS_OF_ONE)
        return last

    def encode(self, scaled: Tensor, total: Tensor) -> OrderedDict[str, Tensor]:
        hidden = self.first(scaled)
        return OrderedDict(hidden=hidden, latent=self.encoder(hidden.relu()))

    def decode(self, latent: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.body(latent)
        return self.mean * self.softplus(self.last(features)), {"features": features}


class Residual(Hourglass):
    """Shrunk PCA, and what a network has to add to it.

    Sees the shares themselves, x D / h / sqrt(mean) - sqrt(mean), as Keenan-Kotula PCA does: they are right on average
    at every dose, where a root of few counts is not. What the first layer gives is shrunk by the dose h, each number by
    s h / (s h + D), s its variance over spectra; the first K of them are latent coordinates, to which the encoder adds.
    Latent coordinates go to the last layer beside what the decoder makes of them, and its softplus is a sharp one, so
    that mixtures stay linear nearly down to 0. `begin` sets all of that to the PCA of training spectra.
    """

    carried = 1
    sharpness = 8.0

    def __init__(self, architecture: Architecture, mean: NDArray[Any]) -> None:
        super().__init__(architecture, mean)
        hidden, k = architecture.hidden, architecture.latent
        if hidden[0] < k:
            raise ValueError(f"the first layer of a residual network needs its {k} latent coordinates, not {hidden[0]}")
        self.shrinkage = nn.Parameter(torch.full((hidden[0],), -float(np.log(architecture.n_channels))))
        self.encoder = dense([hidden[0] + 1, *(hidden[1:] or hidden), k])

    def scale(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        positive = counts.clamp(min=0.0)
        total = positive.sum(-1, keepdim=True)
        share = positive * (self.architecture.n_channels / total.clamp(min=1.0))
        return total, share if self.centre is None else share / self.centre - self.centre

    def encode(self, scaled: Tensor, total: Tensor) -> OrderedDict[str, Tensor]:
        hidden = self.first(scaled)
        dose = total.clamp(min=1.0).log()
        shrunk = hidden * (dose + self.shrinkage).sigmoid()
        more = self.encoder(torch.cat([shrunk.relu(), 0.2 * dose - 1.0], dim=-1))
        return OrderedDict(hidden=hidden, latent=shrunk[..., : self.architecture.latent] + more)

    def decode(self, latent: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = torch.cat([self.body(latent), latent], dim=-1)
        drawn = self.last(features)
        if self.sharpness != 1.0:
            return self.mean * self.softplus(self.sharpness * drawn) / self.sharpness, {"features": features}
        return self.mean * self.softplus(drawn), {"features": features}

    @torch.no_grad()
    def fold(self) -> None:
        """Take the sharpness of the softplus into weights."""
        for name in ("weight", "bias"):
            self.last.get_parameter(name).mul_(self.sharpness)
        self.mean.div_(self.sharpness)
        self.sharpness = 1.0

    @torch.no_grad()
    def begin(self, spectra: Tensor, most: float, generator: torch.Generator) -> None:
        """Start from the PCA of spectra (n, D), D times shares, whose components are seen at a dose of `most` counts.

        Rows of the first layer beyond these components look along random mixtures of them.
        """
        d, k, width = self.architecture.n_channels, self.architecture.latent, self.first.out_features
        root = self.mean.sqrt()
        _, size, axes = torch.linalg.svd(spectra / root - root, full_matrices=False)
        variance = size.square() / len(spectra)
        noise = float(variance[width:].mean()) if len(variance) > width else 0.0
        edge = noise * (1.0 + (d / len(spectra)) ** 0.5) ** 2  # Marchenko & Pastur; 0 where the spectra have no noise
        variance = (variance - edge).clamp(min=d / most)
        rank = max(k, min(width, int((variance > d / most).sum())))
        variance, axes = variance[:rank], axes[:rank]
        blend = torch.eye(width, rank)
        blend[rank:] = functional.normalize(torch.randn(width - rank, rank, generator=generator), dim=1)
        self.first.weight.copy_(blend @ (axes / variance.sqrt()[:, None]))
        self.first.bias.zero_()
        self.shrinkage.copy_((blend.square() @ variance / d).log())
        for name in ("weight", "bias"):
            self.encoder[-1].get_parameter(name).zero_()
        weight, bias = (self.last.get_parameter(name) for name in ("weight", "bias"))
        weight.zero_()
        weight[:, -k:] = ((axes * variance.sqrt()[:, None])[:k] / root).T
        bias.fill_(float(np.log(np.expm1(self.sharpness))) / self.sharpness)


class Variational(Hourglass):
    """The encoder gives mean and log variance of each latent coordinate (Kingma & Welling 2014; beta: Higgins 2017)."""

    encoded = 2

    def encode(self, scaled: Tensor, total: Tensor) -> OrderedDict[str, Tensor]:
        hidden = self.first(scaled)
        latent, log_variance = self.encoder(hidden.relu()).chunk(2, dim=-1)
        sigma = (0.5 * log_variance.clamp(-20.0, 20.0)).exp()
        return OrderedDict(hidden=hidden, latent=latent, sigma=sigma)

    def drawn(self, named: OrderedDict[str, Tensor]) -> Tensor:
        latent, sigma = named["latent"], named["sigma"]
        return latent + sigma * torch.randn_like(sigma) if self.training else latent

    @staticmethod
    def divergence(latent: Tensor, sigma: Tensor) -> Tensor:
        """Kullback-Leibler divergence (n,) of the encoder's normal distributions from the standard one, nats."""
        return 0.5 * (latent.square() + sigma.square() - 2 * sigma.log() - 1).sum(-1)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw new spectra (n, D), shares that sum to about 1."""
        k = self.architecture.latent
        return self.decode(torch.randn(n, k, generator=generator))[0] / self.architecture.n_channels


class NonNegative(Hourglass):
    """Abundances that are not negative times end-members that are not: a decoder that can be read.

    Latent coordinates are what the last layer gets.
    """

    def __init__(self, architecture: Architecture, mean: NDArray[Any]) -> None:
        super().__init__(architecture, mean)
        self.body = nn.Sequential()
        self.last = EndMembers(architecture.latent, self.mean)
        # Abundances begin at 1 / K each.
        with torch.no_grad():
            self.encoder[-1].get_parameter("bias").fill_(float(np.log(np.expm1(1.0 / architecture.latent))))

    def encode(self, scaled: Tensor, total: Tensor) -> OrderedDict[str, Tensor]:
        hidden = self.first(scaled)
        return OrderedDict(hidden=hidden, latent=functional.softplus(self.encoder(hidden.relu())))

    def decode(self, latent: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.last(latent), {}


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


class Convolutional(Network):
    """Three times convolution, ReLU and pooling, a dense bottleneck, and transposed convolutions back."""

    def __init__(self, architecture: Architecture, mean: NDArray[Any]) -> None:
        super().__init__(architecture, mean)
        a, b, c = architecture.hidden
        d = architecture.n_channels
        self.padding = -d % _POOLED**3
        self.short = (d + self.padding) // _POOLED**3
        down = [self._down(i, o) for i, o in ((1, a), (a, b), (b, c))]
        self.encoder = nn.Sequential(*down, nn.Flatten(), nn.Linear(c * self.short, architecture.latent))
        widen = [nn.Linear(architecture.latent, c * self.short), nn.ReLU(), nn.Unflatten(1, (c, self.short))]
        self.decoder = nn.Sequential(
            *widen, self._up(c, b), nn.ReLU(), self._up(b, a), nn.ReLU(), self._up(a, 1), nn.Flatten()
        )
        self.bias = nn.Parameter(torch.full((d,), SOFTPLUS_OF_ONE))

    @staticmethod
    def _down(i: int, o: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv1d(i, o, _KERNEL, padding=_KERNEL // 2), nn.ReLU(), nn.MaxPool1d(_POOLED))

    @staticmethod
    def _up(i: int, o: int) -> nn.ConvTranspose1d:
        # Kernels overlap by half, or every fourth channel would stand out.
        return nn.ConvTranspose1d(i, o, 2 * _POOLED, stride=_POOLED, padding=_POOLED // 2)

    def encode(self, scaled: Tensor, total: Tensor) -> OrderedDict[str, Tensor]:
        return OrderedDict(latent=self.encoder(functional.pad(scaled, (0, self.padding)).unsqueeze(1)))

    def decode(self, latent: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        drawn = self.decoder(latent)[:, : self.architecture.n_channels] + self.bias
        return self.mean * self.softplus(drawn), {}


class Spatial(Hourglass):
    """Sees the spectra of 3 x 3 or 5 x 5 positions, (n, side^2, D), and denoises the middle one.

    One spectral layer for all of them, then a dense layer over the whole neighbourhood, which can learn that a
    neighbour in another phase does not count. Positions outside the map are zeros.
    """

    def entry(self, hidden: list[int]) -> list[int]:
        return [hidden[0] * self.architecture.side**2, *hidden]

    def encode(self, scaled: Tensor, total: Tensor) -> OrderedDict[str, Tensor]:
        each = self.first(scaled.flatten(0, 1))  # (n side^2, H)
        together = each.relu().reshape(-1, self.architecture.side**2 * each.shape[1])
        return OrderedDict(latent=self.encoder(together))


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


_KINDS: dict[str, type[Network]] = {
    "hourglass": Hourglass,
    "residual": Residual,
    "variational": Variational,
    "nonnegative": NonNegative,
    "convolutional": Convolutional,
    "spatial": Spatial,
}


def make_network(architecture: Architecture, mean: NDArray[Any], seed: int = 0) -> Network:
    """Make a network with random weights for spectra whose mean is `mean` (D,)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _KINDS[architecture.kind](architecture, mean)
