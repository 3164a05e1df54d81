"""The arithmetic behind the families of kernels: sampled Gaussians and pupils transformed to intensities."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_deblur.optics.zernike import DEFOCUS, OBLIQUE_ASTIGMATISM, VERTICAL_ASTIGMATISM, zernike

if TYPE_CHECKING:
    import torch

_SMALLEST_GRID = 256
_PUPIL_RADIUS_SAMPLES = 24
_LARGEST_GRID = 4096
_CHUNK = 16


def gaussian_kernels(sigma_y: torch.Tensor, sigma_x: torch.Tensor, size: int) -> torch.Tensor:
    """Render (batch, size, size) Gaussians sampled at pixel centres."""
    import torch

    position = torch.arange(size, device=sigma_y.device, dtype=torch.float32) - size // 2
    profile_y = torch.exp(-0.5 * (position / sigma_y[:, None]) ** 2)
    profile_x = torch.exp(-0.5 * (position / sigma_x[:, None]) ** 2)
    return profile_y[:, :, None] * profile_x[:, None, :]


def oversampling(cutoff: float) -> int:
    """Return the odd factor by which to refine pixels so that the pupil stays below the Nyquist frequency."""
    factor = math.ceil(cutoff / 0.49)
    return factor if factor % 2 else factor + 1


@dataclass(frozen=True)
class Pupil:
    """The square of frequency samples that holds the pupil.

    Attributes
    ----------
    amplitude, rho, phi : Tensor, shape (m, m)
    frequency : Tensor, float64, shape (m,)
        In cycles per pixel, multiples of 1 / n for an n-point grid.
    """

    amplitude: torch.Tensor
    rho: torch.Tensor
    phi: torch.Tensor
    frequency: torch.Tensor


def sample_pupil(size: int, cutoff: float, blur_radius_px: float, device: torch.device) -> Pupil:
    """Sample the pupil at frequencies i / n, with n fine enough for the kernel's extent.

    The pupil's edge is softened over one frequency sample: its area, and with it the Airy pattern, is then
    nearer to the exact one than a staircase of whole samples.
    """
    import torch

    needed = max(_SMALLEST_GRID, 2 * size, 3 * blur_radius_px, _PUPIL_RADIUS_SAMPLES / cutoff)
    n = min(1 << math.ceil(math.log2(needed)), _LARGEST_GRID)
    reach = math.floor(cutoff * n + 0.5)
    frequency = torch.arange(-reach, reach + 1, device=device, dtype=torch.float64) / n
    side = frequency.float()
    radius = torch.hypot(side[:, None], side[None, :])
    phi = torch.atan2(side[:, None].expand_as(radius), side[None, :].expand_as(radius))
    return Pupil(((cutoff - radius) * n + 0.5).clamp(0, 1), radius / cutoff, phi, frequency)


def intensity(pupil: Pupil, phase_waves: torch.Tensor, size: int, step: int) -> torch.Tensor:
    """Return |FT(pupil)|² at every ``step``-th fine pixel around the centre, shape (batch, size, size).

    Only the pupil's samples and the window's pixels are computed, by two matrix products (Soummer et al.
    2007, doi:10.1364/OE.15.015935); there is no shift or crop in which half a pixel could be lost.
    """
    import torch

    position = (torch.arange(size, device=phase_waves.device, dtype=torch.float64) - size // 2) * step
    turns = position[:, None] * pupil.frequency[None, :]
    basis = torch.polar(torch.ones_like(turns), 2 * math.pi * (turns % 1)).to(torch.complex64)
    field = torch.polar(pupil.amplitude.expand_as(phase_waves), 2 * math.pi * phase_waves)
    amplitude = basis @ field @ basis.T
    return amplitude.real.square() + amplitude.imag.square()


def zernike_kernels(
    defocus: torch.Tensor, astigmatism: torch.Tensor, axis: torch.Tensor, size: int, cutoff: float
) -> torch.Tensor:
    """Render (batch, size, size) wave-optical kernels."""
    import torch

    step = oversampling(cutoff)
    fine = cutoff / step
    # The largest slope of the phase is the geometric radius of the blur.
    slope = 4 * math.sqrt(3) * defocus.abs() + 2 * math.sqrt(6) * astigmatism.abs()
    blur_radius = float(slope.max()) / fine if defocus.numel() else 0.0
    pupil = sample_pupil(size * step, fine, blur_radius, defocus.device)
    terms = [
        zernike(index, pupil.rho, pupil.phi) for index in (DEFOCUS, VERTICAL_ASTIGMATISM, OBLIQUE_ASTIGMATISM)
    ]
    weights = [defocus, astigmatism * torch.cos(2 * axis), astigmatism * torch.sin(2 * axis)]
    kernels = []
    for chunk in torch.arange(len(defocus), device=defocus.device).split(_CHUNK):
        phase = sum(weight[chunk, None, None] * term for weight, term in zip(weights, terms, strict=True))
        kernels.append(intensity(pupil, phase, size, step))  # type: ignore[arg-type]
    return torch.cat(kernels) if kernels else defocus.new_zeros((0, size, size))
