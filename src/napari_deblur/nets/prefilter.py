"""A linear step from one known blur to another: Wiener's filter, cut to a finite window."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

REACH_PX = 64
"""Half the side of the filter's window: tiles that overlap by it agree."""
_GRID_PX = 256
_TAPER_PX = 24
# 1 / A of a spectrum A / f² of variance 1 over frequencies from 1/256 to 1/2: A = 1 / (2π ln 128).
_PRIOR = 30.0
_LEAST_NOISE = 0.03


class Prefilter(nn.Module):
    """Move an image blurred by one kernel to what a reference kernel would have made of the object.

    The filter is H̄ R / (|H|² + α 30 σ² f²) with H and R the transfer functions of kernel and reference, σ the
    noise over the image's contrast and f the frequency: Wiener's for an object whose spectrum falls as 1/f².
    α is learned. In space the filter is tapered to zero at 64 pixels and brought to the sum 1. The noise
    counts as 3 % of the contrast at least: what is cut off in space is an error, too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_weight = nn.Parameter(torch.zeros(()))

    def filters(self, kernels: Tensor, reference: Tensor, noise: Tensor) -> Tensor:
        """Return filters (n, 129, 129) for kernels (n, k, k), a reference (k, k) and relative noise (n,)."""
        transfer = _transfer(kernels)
        wanted = _transfer(reference[None])
        squared = _squared_frequency(kernels.device)
        power = (noise.square() + _LEAST_NOISE**2)[:, None, None] * squared
        spectrum = (
            transfer.conj()
            * wanted
            / (transfer.abs().square() + _PRIOR * self.log_weight.exp() * power + 1e-6)
        )
        space = torch.fft.irfft2(spectrum, s=(_GRID_PX, _GRID_PX)).roll((REACH_PX, REACH_PX), (-2, -1))
        window = _taper(kernels.device)
        square = window[:, None] * window[None, :]
        cut = space[:, : 2 * REACH_PX + 1, : 2 * REACH_PX + 1] * square
        # What the cut took from the sum comes back evenly: it is of the lowest frequency.
        whole: Tensor = cut + (1 - cut.sum(dim=(-2, -1), keepdim=True)) * square / square.sum()
        return whole

    def forward(self, images: Tensor, filters: Tensor) -> Tensor:
        """Filter images (groups · n, h, w), each part of n with one of the filters (groups, …)."""
        mode = "reflect" if min(images.shape[-2:]) > REACH_PX else "replicate"
        padded = functional.pad(images[:, None], [REACH_PX] * 4, mode=mode)[:, 0]
        height, width = padded.shape[-2:]
        spectra = torch.fft.rfft2(filters, s=(height, width))
        each = spectra.repeat_interleave(len(images) // len(filters), dim=0)
        filtered: Tensor = torch.fft.irfft2(torch.fft.rfft2(padded) * each, s=(height, width))
        return filtered[:, 2 * REACH_PX :, 2 * REACH_PX :]


def _transfer(kernels: Tensor) -> Tensor:
    half = kernels.shape[-1] // 2
    padded = functional.pad(kernels, (0, _GRID_PX - kernels.shape[-1], 0, _GRID_PX - kernels.shape[-1]))
    transfer: Tensor = torch.fft.rfft2(padded.roll((-half, -half), (-2, -1)))
    return transfer


def _squared_frequency(device: torch.device) -> Tensor:
    fy, fx = torch.fft.fftfreq(_GRID_PX, device=device), torch.fft.rfftfreq(_GRID_PX, device=device)
    squared: Tensor = fy[:, None].square() + fx[None, :].square()
    return squared


def _taper(device: torch.device) -> Tensor:
    """Return a window (129,) that is 1 in the middle and falls as a cosine to nearly 0 at both ends."""
    distance = (torch.arange(2 * REACH_PX + 1, device=device) - REACH_PX).abs()
    share = ((distance - (REACH_PX - _TAPER_PX)) / (_TAPER_PX + 1)).clamp(0, 1)
    window: Tensor = 0.5 * (1 + torch.cos(torch.pi * share))
    return window
