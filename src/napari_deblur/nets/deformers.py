"""Parts that move latent features by the parameters of a blur: dynamic convolutions, and two ablations.

After Guan et al. 2022 (WACV, §3.4 and §4.2). Convolution is linear in the filters, so a dynamic convolution
combines its basis before it convolves, and its cost does not grow with the number of filters in the basis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = ((1, 2), (3, 4), (5, 6, 7), (8, 9, 10))
"""Dynamic convolutions by block, each with one network of coefficients; the first of three is 2-dilated."""
REDUCED = 0.1
"""Factor of the last filters of a residual block at the start, which is then close to the identity."""


class DynamicConvolution(nn.Module):
    """A 3 × 3 convolution whose filters are Σ w_b K_b: Eq. 8 of Guan et al. 2022, summed before convolving.

    Parameters
    ----------
    channels : int
    n_basis : int
    dilation : int
    """

    def __init__(self, channels: int, n_basis: int, dilation: int = 1) -> None:
        super().__init__()
        bound = math.sqrt(3 / (9 * channels))
        self.basis = nn.Parameter(torch.empty(n_basis, channels, channels, 3, 3).uniform_(-bound, bound))
        self.offsets = nn.Parameter(torch.zeros(n_basis, channels))
        self.dilation = dilation

    def combined(self, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        """Return filters (c, c, 3, 3) and offsets (c,) for coefficients (n_basis,)."""
        filters = torch.einsum("b,bcdyx->cdyx", coefficients, self.basis)
        return filters, coefficients @ self.offsets

    def forward(self, x: Tensor, coefficients: Tensor) -> Tensor:
        """Convolve (batch, c, h, w) with one set of filters."""
        filters, offsets = self.combined(coefficients)
        return functional.conv2d(x, filters, offsets, padding=self.dilation, dilation=self.dilation)


class _DynamicBlock(nn.Module):
    def __init__(self, channels: int, n_basis: int, count: int) -> None:
        super().__init__()
        dilations = [2, 1, 1] if count == 3 else [1, 1]
        self.layers = nn.ModuleList(DynamicConvolution(channels, n_basis, dilation) for dilation in dilations)
        last = self.layers[-1]
        assert isinstance(last, DynamicConvolution)
        with torch.no_grad():
            last.basis.mul_(REDUCED)

    def forward(self, x: Tensor, coefficients: Tensor) -> Tensor:
        out = x
        for number, layer in enumerate(self.layers):
            out = layer(functional.relu(out) if number else out, coefficients)
        return x + out


class Deformer(nn.Module):
    """Four residual blocks of dynamic convolutions, the last two with a 2-dilated one before.

    Parameters
    ----------
    n_conditions, channels, n_basis, hidden : int
    normalisation : {"l2", "softmax"}
    """

    def __init__(
        self, n_conditions: int, channels: int, n_basis: int, hidden: int, normalisation: str
    ) -> None:
        super().__init__()
        self.normalisation = normalisation
        self.blocks = nn.ModuleList(_DynamicBlock(channels, n_basis, len(group)) for group in GROUPS)
        self.coefficients = nn.ModuleList(
            nn.Sequential(
                nn.Linear(n_conditions, hidden),
                nn.SiLU(),
                nn.Linear(hidden, hidden),
                nn.SiLU(),
                nn.Linear(hidden, n_basis),
            )
            for _ in GROUPS
        )

    def weights(self, conditions: Tensor) -> list[Tensor]:
        """Return the coefficients (groups, n_basis) of every block for conditions (groups, n)."""
        raw = [net(conditions) for net in self.coefficients]
        if self.normalisation == "softmax":
            return [part.softmax(dim=-1) for part in raw]
        return [functional.normalize(part, dim=-1) for part in raw]

    def forward(self, latent: Tensor, conditions: Tensor) -> Tensor:
        """Deform (groups · n, c, h, w): each part of n by one of the conditions (groups, k)."""
        with torch.autocast(latent.device.type, enabled=False):
            weights = self.weights(conditions)
        parts = []
        for number, features in enumerate(latent.chunk(len(conditions))):
            for block, each in zip(self.blocks, weights, strict=True):
                features = block(features, each[number])  # noqa: PLW2901 - one block after the other
            parts.append(features)
        return torch.cat(parts) if len(parts) > 1 else parts[0]


class SimpleDeformer(nn.Module):
    """The publication's ablation: plain convolutions; at the end the parameters give a factor per channel.

    Parameters
    ----------
    n_conditions, channels : int
    """

    def __init__(self, n_conditions: int, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(_PlainBlock(channels, len(group)) for group in GROUPS))
        self.factors = nn.Sequential(nn.Linear(n_conditions, 16), nn.ReLU(), nn.Linear(16, channels))
        self.leave = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, latent: Tensor, conditions: Tensor) -> Tensor:
        """Deform (groups · n, c, h, w) by conditions (groups, k)."""
        factors = self.factors(conditions).to(latent.dtype)
        each = factors.repeat_interleave(len(latent) // len(conditions), dim=0)[..., None, None]
        out: Tensor = latent + self.leave(functional.relu(self.body(latent) * each))
        return out


class _PlainBlock(nn.Module):
    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        dilations = [2, 1, 1] if count == 3 else [1, 1]
        self.layers = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=d, dilation=d) for d in dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for number, layer in enumerate(self.layers):
            out = layer(functional.relu(out) if number else out)
        return x + out


class NoDeformer(nn.Module):
    """The other ablation: features pass unchanged, whatever the blur."""

    def forward(self, latent: Tensor, conditions: Tensor) -> Tensor:
        """Return the latent features."""
        del conditions
        return latent
