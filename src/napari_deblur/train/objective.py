"""What a training minimises, and how fast."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from napari_deblur.nets.identification import IdentificationNet
from napari_deblur.nets.targets import SIGNED_DEFOCUS
from napari_deblur.optics.psf import family
from napari_deblur.train.degrade import Batch
from napari_deblur.train.recipes import Recipe

# Kernels nearer to the truth than 20 dB gain nothing more.
_KERNEL_FLOOR = 0.01


def learning_rate(chosen: Recipe, fraction: float) -> float:
    """Return the rate at a fraction of the training: a linear rise, then half a cosine down to 0."""
    fraction = min(max(fraction, 0.0), 1.0)
    if fraction < chosen.warm_up:
        return chosen.learning_rate * (0.02 + 0.98 * fraction / chosen.warm_up)
    rest = (fraction - chosen.warm_up) / max(1 - chosen.warm_up, 1e-9)
    return chosen.learning_rate * 0.5 * (1 + math.cos(math.pi * rest))


def loss_terms(
    network: IdentificationNet, batch: Batch, output: tuple[Tensor, Tensor, Tensor]
) -> dict[str, Tensor]:
    """Return the terms of the loss: squared and absolute error, the error's likelihood, and validity.

    Every quantity is scaled to variance 1, so the squared error averages 1 - R² over them; patches without
    texture count in the validity alone (Shajkofci & Liebling 2020, Eq. 11, doi:10.1109/TIP.2020.2986880).
    The likelihood trains the predicted error only.

    Of the signed defocus it is the absolute error that counts. Far from focus its size is sure and its side
    may not be: the mean of both sides would shrink towards focus, the median keeps the size and takes the
    likelier side.
    """
    mean, log_variance, logit = output
    true = network.targets.encode(batch.parameters)
    scaled = (true - network.center) / network.scale
    weight = batch.valid.float()[:, None] / (batch.valid.sum().clamp(min=1) * mean.shape[1])
    signed = torch.tensor([name in SIGNED_DEFOCUS for name in network.targets.names], device=mean.device)
    square = (mean - scaled).square()
    likelihood = 0.5 * (log_variance + square.detach() * torch.exp(-log_variance))
    return {
        "square": (square * weight * ~signed).sum(),
        "absolute": ((mean - scaled).abs() * weight * signed).sum(),
        "likelihood": (likelihood * weight).sum(),
        "validity": functional.binary_cross_entropy_with_logits(logit, batch.valid.float()),
    }


def kernel_term(network: IdentificationNet, batch: Batch, mean: Tensor) -> Tensor:
    """Return the mean logarithm of the relative squared error of the kernels that a network's answers mean.

    Up to a factor and beyond the floor this is minus their signal-to-noise ratio in decibels. It knows what
    coefficients by themselves do not: which of their errors a kernel shows, and which sets of them mean the
    same kernel.

    Parameters
    ----------
    network : IdentificationNet
    batch : Batch
    mean : Tensor, shape (batch, K)
        Scaled quantities, as `IdentificationNet.forward` returns them.
    """
    chosen = family(network.model)
    found = chosen.kernels(network.targets.coefficients(mean * network.scale + network.center))
    with torch.no_grad():
        true = chosen.kernels(batch.parameters)
    relative = (found - true).square().sum(dim=(-2, -1)) / true.square().sum(dim=(-2, -1))
    terms = torch.log(relative + _KERNEL_FLOOR) - math.log(1 + _KERNEL_FLOOR)
    return (terms * batch.valid).sum() / batch.valid.sum().clamp(min=1)
