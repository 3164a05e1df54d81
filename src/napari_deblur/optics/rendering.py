"""The arithmetic behind the families of kernels: sampled Gaussians and pupils transformed to intensities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_deblur.optics.zernike import (
    DEFOCUS,
    OBLIQUE_ASTIGMATISM,
    VERTICAL_ASTIGMATISM,
    noll_to_nm,
    zernike,
)

if TYPE_CHECKING:
    import torch

_SMALLEST_GRID = 256
_PUPIL_RADIUS_SAMPLES = 24
_LARGEST_GRID = 4096
# Kernels rendered at once: a processor's cache holds few, a GPU wants many.
_CPU_CHUNK, _GPU_CHUNK = 16, 512


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
    """Render (batch, size, size) wave-optical kernels of defocus and of astigmatism by power and axis."""
    import torch

    indices = (DEFOCUS, VERTICAL_ASTIGMATISM, OBLIQUE_ASTIGMATISM)
    weights = [defocus, astigmatism * torch.cos(2 * axis), astigmatism * torch.sin(2 * axis)]
    return noll_kernels(torch.stack(weights, dim=1), indices, size, cutoff)


def noll_kernels(
    coefficients: torch.Tensor, indices: Sequence[int], size: int, cutoff: float
) -> torch.Tensor:
    """Render the kernels of wavefronts, differentiable in the coefficients.

    Parameters
    ----------
    coefficients : Tensor, shape (batch, K)
        In waves (rms over the pupil).
    indices : sequence of int
        Noll indices of the K polynomials.
    size : int
    cutoff : float
        In cycles per pixel.

    Returns
    -------
    Tensor, shape (batch, size, size)
        Not normalised.
    """
    import torch

    step = oversampling(cutoff)
    fine = cutoff / step
    given = coefficients.detach()
    blur_radius = float(_largest_slope(given, indices).max()) / fine if len(given) else 0.0
    pupil = sample_pupil(size * step, fine, blur_radius, given.device)
    terms = torch.stack([zernike(index, pupil.rho, pupil.phi) for index in indices])
    chunk = _CPU_CHUNK if given.device.type == "cpu" else _GPU_CHUNK
    kernels = [
        intensity(pupil, torch.einsum("bk,kyx->byx", part, terms), size, step)
        for part in coefficients.split(chunk)
    ]
    return torch.cat(kernels) if len(given) else coefficients.new_zeros((0, size, size))


def wavefront(
    coefficients: torch.Tensor, indices: Sequence[int], size: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a wavefront (size, size) in waves over the pupil's circumscribed square, and where the pupil is.

    Parameters
    ----------
    coefficients : Tensor, shape (K,)
    indices : sequence of int
        Noll indices.
    size : int
        Points along the pupil's diameter, at their centres; y runs down the rows.
    """
    import torch

    line = (torch.arange(size, device=coefficients.device) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    rho, phi = torch.hypot(y, x), torch.atan2(y, x)
    terms = torch.stack([zernike(index, rho, phi) for index in indices])
    return torch.einsum("k,kyx->yx", coefficients, terms), rho <= 1


def _largest_slope(coefficients: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
    """Return a bound (batch,) of the wavefront's slope in waves per pupil radius, the rays' reach.

    Sine and cosine of one polynomial count as one of their joint power. At the rim, where it is steepest, the
    slope of R_n^m is (n (n + 2) - m²) / 2 along the radius and at most m across it.
    """
    import torch

    together: dict[tuple[int, int], list[int]] = {}
    for column, index in enumerate(indices):
        n, m = noll_to_nm(index)
        together.setdefault((n, abs(m)), []).append(column)
    bound = coefficients.new_zeros(len(coefficients))
    for (n, m), columns in together.items():
        power = torch.linalg.vector_norm(coefficients[:, columns], dim=1)
        normalisation = math.sqrt((1 if m == 0 else 2) * (n + 1))
        bound = bound + power * normalisation * max((n * (n + 2) - m * m) / 2, m)
    return bound
