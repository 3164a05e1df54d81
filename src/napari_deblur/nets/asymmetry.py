"""The branch that tells which way a kernel leans: the signs of coma and trefoil.

A kernel and its mirror image through the centre have the same power spectrum. What tells them apart are
statistics of higher order: a band of the image, correlated with its own square, differs between a lag and
the opposite one if the kernel leans. Squares mean one thing where structures are brighter than what
surrounds them and the contrary where they are darker; the product of a band with its modulus does not
change sides, so it is correlated too. These differences do not know where in the patch they come from: they
average over all of it, and turn with it.

The branch is odd by construction: a patch turned by 180° reverses its differences, and with them its
answer. Everything that does not turn (how noisy, how skewed, what the other branches see) only weighs them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

_BANDS_CYCLES_PER_PX = (0.2, 0.1, 0.05)
_CLIP = 5.0
# Typical sizes of the differences by map (of each band that with its square and that with its signed square),
# measured over training patches, and the lag up to which they grow.
_TYPICAL = (0.074, 0.036, 0.105, 0.052, 0.092, 0.049)
_GROWS_TO_PX = 5.0
_LEAST_GROWN = 0.15
_CONTEXT = 64
# Mean and spread of the scalars by band: logarithm of the strength, skewness, logarithm of the kurtosis, and
# the mean of the signed square.
_SCALARS = ((-1.3, 0.3), (0.9, 0.9), (1.7, 0.45), (0.23, 0.23))


@dataclass(frozen=True)
class Asymmetry:
    """How a patch differs between opposite lags.

    Attributes
    ----------
    maps : Tensor, shape (batch, maps, lags, lags)
        Differences by lag (y, x), odd about the middle.
    scalars : Tensor, shape (batch, scalars)
        What does not turn with the patch.
    """

    maps: Tensor
    scalars: Tensor

    def view(self, number: int) -> Asymmetry:
        """Return that of a view of the patch; see `views.view`."""
        from napari_deblur.nets.views import view

        return Asymmetry(view(self.maps, number), self.scalars)


class AsymmetryBranch(nn.Module):
    """Maps differences between opposite lags to quantities that reverse with them.

    Parameters
    ----------
    patch_px : int
    reach_px : int
        Largest lag.
    width : int
        Of the hidden layer.
    context : int
        Number of features of the other branches.
    outputs : int
    """

    window: Tensor
    bands: Tensor
    typical: Tensor

    def __init__(self, patch_px: int, reach_px: int, width: int, context: int, outputs: int) -> None:
        super().__init__()
        self.reach_px = reach_px
        hann = torch.hann_window(patch_px, periodic=False)
        self.register_buffer("window", hann[:, None] * hann[None, :], persistent=False)
        fy, fx = torch.fft.fftfreq(patch_px)[:, None], torch.fft.rfftfreq(patch_px)[None, :]
        ratio = torch.hypot(fy, fx) / torch.tensor(_BANDS_CYCLES_PER_PX)[:, None, None]
        self.register_buffer("bands", ratio * torch.exp(-ratio.square() / 2), persistent=False)
        lag = torch.arange(-reach_px, reach_px + 1).float()
        grown = (torch.hypot(lag[:, None], lag[None, :]) / _GROWS_TO_PX).clamp(_LEAST_GROWN, 1)
        self.register_buffer("typical", torch.tensor(_TYPICAL)[:, None, None] * grown, persistent=False)
        lags = (2 * reach_px + 1) ** 2 // 2
        scalars = len(_BANDS_CYCLES_PER_PX) * len(_SCALARS)
        self.first = nn.Linear(len(_TYPICAL) * lags, width, bias=False)
        self.second = nn.Linear(width, width // 2, bias=False)
        self.last = nn.Linear(width // 2, outputs, bias=False)
        self.weigh_first = _gate(context + scalars, width)
        self.weigh_second = _gate(context + scalars, width // 2)
        self.dropout = nn.Dropout(0.2)

    @torch.no_grad()
    def statistics(self, x: Tensor) -> Asymmetry:
        """Return the differences of normalised patches (batch, 1, y, x)."""
        with torch.autocast(x.device.type, enabled=False):
            size = tuple(x.shape[-2:])
            banded = torch.fft.irfft2(torch.fft.rfft2(x.float()) * self.bands, s=size)
            strength = banded.square().mean(dim=(-2, -1), keepdim=True).sqrt().clamp(min=1e-6)
            banded = (banded / strength).clamp(-_CLIP, _CLIP)
            square, signed = banded.square(), banded.abs() * banded
            scalars = [
                strength[..., 0, 0].log(),
                (square * banded).mean(dim=(-2, -1)),
                square.square().mean(dim=(-2, -1)).clamp(min=1e-6).log(),
                signed.mean(dim=(-2, -1)),
            ]
            even = [(value - mean) / spread for value, (mean, spread) in zip(scalars, _SCALARS, strict=True)]
            square = square - square.mean(dim=(-2, -1), keepdim=True)
            seen = torch.fft.rfft2(banded * self.window).conj()[:, :, None]
            products = torch.fft.rfft2(torch.stack([square, signed], dim=2) * self.window)
            maps = self._near(torch.fft.irfft2(seen * products, s=size).flatten(1, 2))
            maps = (maps - maps.flip(-2, -1)) / (2 * self.typical * self.window.square().sum())
        return Asymmetry(maps.clamp(-6, 6), torch.cat(even, dim=1).clamp(-4, 4))

    def forward(self, asymmetry: Asymmetry, context: Tensor) -> Tensor:
        """Return (batch, outputs), from the features of the other branches (batch, context) too."""
        half = self.first.in_features // len(_TYPICAL)
        odd = asymmetry.maps.flatten(2)[..., :half].flatten(1)
        even = torch.cat([context, asymmetry.scalars], dim=1)
        inner = torch.tanh(self.first(self.dropout(odd))) * self.weigh_first(even)
        inner = torch.tanh(self.second(self.dropout(inner))) * self.weigh_second(even)
        found: Tensor = self.last(inner)
        return found

    def _near(self, correlations: Tensor) -> Tensor:
        """Return the lags (…, 2 reach + 1, 2 reach + 1) around zero."""
        turned = torch.roll(correlations, (self.reach_px, self.reach_px), dims=(-2, -1))
        return turned[..., : 2 * self.reach_px + 1, : 2 * self.reach_px + 1]


def _gate(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, _CONTEXT), nn.ReLU(), nn.Linear(_CONTEXT, outputs))
