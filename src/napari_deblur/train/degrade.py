"""From sharp crops to what a camera sees: exact blur by a family's kernels, illumination, background, noise.

The model is y = Poisson(photons · (h ∗ (illumination · x) + background)) + read noise, and the blur is a
valid convolution: the crop is larger than the patch by the kernel, so no border enters. All of it runs in
batches on the crops' device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from napari_deblur.core.params import Declared, Param
from napari_deblur.optics.noise import poisson_gaussian
from napari_deblur.optics.psf import family
from napari_deblur.train.foreign import enlarged_camera, shake_kernels

_BLOCK_PX = 32


class Degradation(Declared):
    """How sharp crops are degraded for training and for held-out figures."""

    photons_low: float = Param(
        50.0, title="Fewest photons", help="Lowest peak photon count of a patch.", gt=0
    )
    photons_high: float = Param(
        20000.0, title="Most photons", help="Highest peak photon count of a patch.", gt=0
    )
    read_noise_high: float = Param(5.0, title="Read noise", help="Highest read noise in photons.", ge=0)
    gaussian_noise_high: float = Param(
        0.0,
        title="Gaussian noise",
        help="Most further noise (standard deviation over the signal's peak), in half of the patches.",
        ge=0,
    )
    shake_share: float = Param(
        0.0,
        title="Shake",
        help="Share blurred by motion, which no family describes: they count as invalid.",
        ge=0,
        le=1,
    )
    enlarged_share: float = Param(
        0.0,
        title="Enlarged",
        help="Share taken with pixels twice as large and then enlarged: its noise is not white.",
        ge=0,
        le=1,
    )
    invalid_share: float = Param(0.08, title="Empty patches", help="Share without any texture.", ge=0, le=1)
    least_contrast_to_noise: float = Param(
        0.3, title="Least contrast", help="Texture to noise (standard deviations) of a valid patch.", ge=0
    )
    least_contrast: float = Param(
        0.01, title="Least relative contrast", help="Texture to mean of a valid patch.", ge=0
    )
    cutoff_cycles_per_px: float | None = Param(
        None,
        title="Cut-off",
        help="Radius of the pupil; by default the family's own.",
        gt=0,
        unit="cycles/px",
    )


@dataclass(frozen=True)
class Batch:
    """Degraded patches with what is true of them.

    Attributes
    ----------
    patches : Tensor, shape (batch, patch, patch)
        In photons plus an offset.
    parameters : Tensor, shape (batch, N)
    valid : Tensor of bool, shape (batch,)
    photons : Tensor, shape (batch,)
        Peak photon count.
    contrast_to_noise : Tensor, shape (batch,)
    """

    patches: Tensor
    parameters: Tensor
    valid: Tensor
    photons: Tensor
    contrast_to_noise: Tensor


class Sampler:
    """Uniform draws on a device from one seeded generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.device = generator.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw uniformly between two values."""
        return low + (high - low) * torch.rand(shape, generator=self.generator, device=self.device)

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw with a uniform logarithm."""
        return torch.exp(self.uniform(math.log(low), math.log(high), *shape))

    def chance(self, probability: float, *shape: int) -> Tensor:
        """Draw True with a probability."""
        return torch.rand(shape, generator=self.generator, device=self.device) < probability


def draw_parameters(model: str, count: int, sampler: Sampler) -> Tensor:
    """Draw (count, N) parameters uniformly over the family's ranges."""
    chosen = family(model)
    return torch.stack(
        [sampler.uniform(*chosen.parameter_ranges[name], count) for name in chosen.parameter_names], dim=1
    )


def valid_convolution(crops: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each crop (batch, y, x) with its kernel (batch, k, k), keeping only what no border touches."""
    size, side = kernels.shape[-1], crops.shape[-1]
    transfer = torch.fft.rfft2(kernels, s=crops.shape[-2:])
    blurred: Tensor = torch.fft.irfft2(torch.fft.rfft2(crops) * transfer, s=crops.shape[-2:])
    return blurred[..., size - 1 : side, size - 1 : side]


def crop_size_px(model: str, patch_px: int) -> int:
    """Return the size of the sharp crop that yields a patch by valid convolution."""
    return patch_px + family(model).default_size_px - 1


def central_crops(crops: Tensor, size_px: int) -> Tensor:
    """Return the middle of each crop (batch, y, x), ``size_px`` high and wide."""
    start = (crops.shape[-1] - size_px) // 2
    return crops[..., start : start + size_px, start : start + size_px]


def _illumination(count: int, size: int, sampler: Sampler) -> Tensor:
    """Return smooth positive fields (count, size, size): half flat, the others a tilted paraboloid."""
    line = torch.linspace(-1, 1, size, device=sampler.device)
    y, x = line[None, :, None], line[None, None, :]
    slope_y, slope_x, bowl_y, bowl_x = (sampler.uniform(-0.35, 0.35, count, 1, 1) for _ in range(4))
    field = 1 + slope_y * y + slope_x * x + 0.4 * (bowl_y * y**2 + bowl_x * x**2)
    flat = sampler.chance(0.5, count, 1, 1)
    return torch.where(flat, torch.ones_like(field), field.clamp(min=0.1))


def texture_contrast(patches: Tensor) -> Tensor:
    """Return the standard deviation (batch,) within blocks: a gradient counts little, texture fully."""
    images = patches[:, None]
    mean = functional.avg_pool2d(images, _BLOCK_PX)
    square = functional.avg_pool2d((images - images.mean(dim=(-2, -1), keepdim=True)).square(), _BLOCK_PX)
    centred = mean - images.mean(dim=(-2, -1), keepdim=True)
    return (square - centred.square()).clamp(min=0).mean(dim=(1, 2, 3)).sqrt()


def degrade(
    crops: Tensor,
    model: str,
    sampler: Sampler,
    settings: Degradation,
    *,
    parameters: Tensor | None = None,
    photons: Tensor | None = None,
) -> Batch:
    """Degrade sharp crops.

    Parameters
    ----------
    crops : Tensor, shape (batch, crop, crop)
        Sharp, 0 to 1, of `crop_size_px`.
    model : str
        Family of kernels.
    sampler : Sampler
    settings : Degradation
    parameters : Tensor, shape (batch, N), optional
        Drawn over the family's ranges by default.
    photons : Tensor, shape (batch,), optional
        Peak counts; drawn log-uniformly by default.
    """
    count = len(crops)
    parameters = draw_parameters(model, count, sampler) if parameters is None else parameters
    if photons is None:
        photons = sampler.log_uniform(settings.photons_low, settings.photons_high, count)
    kernels = family(model).kernels(parameters, None, settings.cutoff_cycles_per_px)
    foreign = torch.zeros(count, dtype=torch.bool, device=kernels.device)
    if settings.shake_share > 0:
        foreign = sampler.chance(settings.shake_share, count)
        shaken = shake_kernels(count, kernels.shape[-1], sampler)
        kernels = torch.where(foreign[:, None, None], shaken, kernels)
    low = crops.amin(dim=(-2, -1), keepdim=True)
    span = crops.amax(dim=(-2, -1), keepdim=True) - low
    contrasted = ((crops - low) / (span + 1e-6)).pow(sampler.log_uniform(0.7, 1.5, count, 1, 1))
    illumination = _illumination(count, crops.shape[-1], sampler)
    blurred = valid_convolution(contrasted * illumination, kernels).clamp(min=0)

    empty = sampler.chance(settings.invalid_share, count)
    margin = (crops.shape[-1] - blurred.shape[-1]) // 2
    smooth = illumination[:, margin : margin + blurred.shape[-2], margin : margin + blurred.shape[-1]]
    blurred = torch.where(empty[:, None, None], smooth, blurred)
    # Haze from out of focus or a bright medium: none, or up to one and a half times the signal's peak.
    peak = blurred.amax(dim=(-2, -1), keepdim=True) + 1e-6
    haze = sampler.log_uniform(0.01, 1.5, count, 1, 1) * sampler.chance(0.7, count, 1, 1)
    blurred = blurred / peak + haze
    # A crop without any signal stays dark instead of dividing by zero.
    per_unit = photons[:, None, None] / blurred.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-3)
    expected = blurred * per_unit
    read = sampler.uniform(0, settings.read_noise_high, count, 1, 1)
    if settings.gaussian_noise_high > 0:
        more = sampler.uniform(0, settings.gaussian_noise_high, count, 1, 1)
        read = torch.hypot(read, more * sampler.chance(0.5, count, 1, 1) * per_unit)
    noisy = poisson_gaussian(expected, read, sampler.generator)
    if settings.enlarged_share > 0:
        enlarged = sampler.chance(settings.enlarged_share, count).nonzero()[:, 0]
        noisy[enlarged] = enlarged_camera(expected[enlarged], read[enlarged], sampler.generator)
    # A fifth of the images were stored with 8 bits.
    step = expected.amax(dim=(-2, -1), keepdim=True).clamp(min=1.0) / 200
    noisy = torch.where(sampler.chance(0.2, count, 1, 1), torch.round(noisy / step) * step, noisy)

    mean = expected.mean(dim=(-2, -1))
    contrast = texture_contrast(expected)
    to_noise = contrast / (mean + read.flatten().square()).clamp(min=1e-6).sqrt()
    valid = (
        ~(empty | foreign)
        & (to_noise >= settings.least_contrast_to_noise)
        & (contrast >= settings.least_contrast * mean)
    )
    return Batch(noisy, parameters, valid, photons, to_noise)
