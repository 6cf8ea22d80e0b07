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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.card import Architecture
from models.isomap import at_nodes, grid, isomap
from models.layers import SOFTPLUS_OF_ONE, Calibration, EndMembers, dense

_TINY = 1e-20
_POOLED = 4
_KERNEL = 9
_SHEET = 64
"""Principal components in which distances on a sheet of spectra are measured."""
_NARROWEST = 0.7
"""Steps of a grid below which a normal distribution on it has no mean between two nodes to speak of."""


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
    def begin(self, spectra: Tensor, weight: Tensor, most: float, generator: torch.Generator) -> None:
        """Start from the PCA of spectra (n, D), D times shares, whose components are seen at a dose of `most` counts.

        Each spectrum weighs (n,) its counts, where they have any noise, so that all have the same (Keenan & Kotula
        2004). Rows of the first layer beyond these components look along random mixtures of them.
        """
        d, k, width = self.architecture.n_channels, self.architecture.latent, self.first.out_features
        root = self.mean.sqrt()
        _, size, axes = torch.linalg.svd((spectra / root - root) * weight.sqrt()[:, None], full_matrices=False)
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


class Topographic(Network):
    """A grid of spectra on a curved sheet: generative topographic mapping (Bishop, Svensen & Williams 1998).

    The encoder is Bayes' rule: each of side^K nodes is as likely as it makes the counts, and latent coordinates are
    their mean over the nodes, from -1 to 1. Beyond some dose the likelihood is taken as no sharper, so that it is
    never narrower than the grid, and what lies between two nodes keeps its place. The decoder goes straight from node
    to node. `begin` lays the grid through training spectra.
    """

    def __init__(self, architecture: Architecture, mean: NDArray[Any]) -> None:
        super().__init__(architecture, mean)
        d, side, k = architecture.n_channels, architecture.hidden[0], architecture.latent
        self.centre = None
        self.place: Tensor
        self.register_buffer("place", torch.tensor(grid(side, k), dtype=torch.float32), persistent=False)
        self.first = nn.Linear(d, side**k)
        self.sharpest = nn.Parameter(torch.tensor(float(np.log(d))))  # logarithm of a dose
        self.last = EndMembers(side**k, self.mean)

    def scale(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        positive = counts.clamp(min=0.0)
        total = positive.sum(-1, keepdim=True)
        return total, positive * (self.architecture.n_channels / total.clamp(min=1.0))

    def encode(self, scaled: Tensor, total: Tensor) -> OrderedDict[str, Tensor]:
        hidden = self.first(scaled)  # log-likelihoods of D counts
        dose = total * (self.sharpest - total.clamp(min=1.0).log()).sigmoid()
        return OrderedDict(hidden=hidden, latent=(hidden * dose / scaled.shape[-1]).softmax(-1) @ self.place)

    def decode(self, latent: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = self.near(latent)
        return self.last(features), {"features": features}

    def near(self, latent: Tensor) -> Tensor:
        """Shares (n, side^K) that the nodes about a place have in it."""
        away = (latent.unsqueeze(-2) - self.place).abs() * (0.5 * (self.architecture.hidden[0] - 1))
        return (1.0 - away).relu().prod(-1)

    @torch.no_grad()
    def begin(self, spectra: Tensor) -> None:
        """Lay the grid through noiseless spectra (n, D), D times shares, that lie about a sheet of K dimensions."""
        side, k = self.architecture.hidden[0], self.architecture.latent
        root = self.mean.sqrt()
        left, size, _ = torch.linalg.svd(spectra / root - root, full_matrices=False)
        at = torch.from_numpy(isomap((left * size)[:, :_SHEET].double().numpy(), k)).float()
        nodes = torch.from_numpy(at_nodes(spectra.double().numpy(), self.near(at).double().numpy(), side, k)).float()
        nodes = torch.maximum(nodes, 1e-3 * self.mean)
        relative = nodes / nodes.mean(dim=1, keepdim=True) / self.mean
        self.last.raw.copy_(relative + torch.log(-torch.expm1(-relative)))  # inverse of softplus
        logarithm = self.last.weight.T.log()
        self.first.weight.copy_(logarithm - logarithm.mean(dim=0))
        self.first.bias.zero_()
        # Nats in a count that tell a node from the next: half the squared step over the variance of the place.
        apart = (self.last.weight.T[1:] * logarithm.diff(dim=0)).mean(dim=1)
        self.sharpest.copy_((0.5 / _NARROWEST**2 / apart.median()).log())


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


_KINDS: dict[str, type[Network]] = {
    "hourglass": Hourglass,
    "residual": Residual,
    "variational": Variational,
    "nonnegative": NonNegative,
    "convolutional": Convolutional,
    "spatial": Spatial,
    "topographic": Topographic,
}


def make_network(architecture: Architecture, mean: NDArray[Any], seed: int = 0) -> Network:
    """Make a network with random weights for spectra whose mean is `mean` (D,)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _KINDS[architecture.kind](architecture, mean)
