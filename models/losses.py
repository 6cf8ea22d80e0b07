"""The losses of training and the noise that is added to its inputs. Needs PyTorch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Loss = Literal["mse", "poisson", "angle"]
Corruption = Literal["none", "gaussian", "poisson", "masking"]


def corrupt(counts: Tensor, how: Corruption, generator: torch.Generator, strength: float = 0.3) -> Tensor:
    """Counts with noise that a denoising network has to remove.

    gaussian: of `strength` times the standard deviation of counting; poisson: the noise of counting once more;
    masking: the share `strength` of the channels is blank.
    """
    if how == "gaussian":
        noise = torch.randn(counts.shape, generator=generator)
        return counts + strength * noise * counts.clamp(min=1.0).sqrt()
    if how == "poisson":
        return torch.poisson(counts.clamp(min=0.0), generator)
    if how == "masking":
        return counts * (torch.rand(counts.shape, generator=generator) >= strength)
    return counts


def loss_per_spectrum(share: Tensor, target: Tensor, mean: Tensor, kind: Loss) -> Tensor:
    """Loss (n,) of spectra (n, D) against targets (n, D), both D times their share of the counts.

    mse: squared error in units of counting noise of the mean spectrum, (D,); poisson: negative log-likelihood of the
    target's counts, for each of them; angle: 1 - cosine of the spectral angle, plus what holds the size, which the
    angle leaves open.
    """
    if kind == "mse":
        return ((share - target).square() / mean).mean(-1)
    if kind == "poisson":
        return (share - target * (share + 1e-6).log()).mean(-1)
    cosine = functional.cosine_similarity(share, target, dim=-1, eps=1e-8)
    return 1.0 - cosine + (share.mean(-1) - 1.0).square()
