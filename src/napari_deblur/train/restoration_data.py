"""What the deblurring network of Deep-Blur is trained on: blurs of many kinds, and how they are mistaken.

The model is y = Poisson(photons · h ∗ (x + haze)) / photons + read noise, a valid convolution of a larger
object. The network is given kernels of the size of errors that an identification network makes, as published
(Debarnot & Weiss 2024), and noise measured to about 15 %.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from napari_deblur.blur.base import Blur
from napari_deblur.blur.convolution import cut, embed, fft_shape, filter_with, otf
from napari_deblur.nets.unrolled import Observation, observed
from napari_deblur.optics.noise import poisson_gaussian
from napari_deblur.optics.psf import family
from napari_deblur.optics.widths import half_energy_radius_px
from napari_deblur.train.degrade import Sampler, draw_parameters, valid_convolution
from napari_deblur.train.features import motion_kernels

OBJECT_PX = 128
"""Height and width of the sharp crops; the image is smaller by the kernel."""
MOTION = "camera shake"
KINDS: dict[str, float] = {
    "zernike-7": 0.4,
    "zernike-3": 0.15,
    "zernike-1": 0.04,
    "zernike-2": 0.04,
    "gaussian-1": 0.07,
    "gaussian-2": 0.15,
    MOTION: 0.15,
}
"""Kinds of kernels with their shares."""
CUTOFFS = (0.2, 0.4)
PHOTONS = (30.0, 20_000.0)
READ_NOISE = (0.001, 0.15)
HAZE = (0.01, 1.0)
_LARGEST_KERNEL_PX = 65
_NO_PHOTON_NOISE = 1e6
# Standard deviations of what is told wrongly: coefficients in waves, axes in radians, widths as a share.
_WAVES_OFF, _AXIS_OFF, _WIDTH_OFF = (0.004, 0.05), 0.1, 0.08
_EXACT_SHARE = 0.35


class ConvolutionEach(Blur):
    """Convolution of each object of a batch with its own kernel, restricted to the field of view.

    Parameters
    ----------
    kernels : Tensor, shape (batch, h, w)
    image_shape : tuple of int
    """

    def __init__(self, kernels: Tensor, image_shape: tuple[int, ...]) -> None:
        self.kernels, self.image_shape = kernels, tuple(image_shape)
        self.margin = tuple(size // 2 for size in kernels.shape[-2:])
        self._shape = fft_shape(self.object_shape)
        self._otf = otf(kernels, self._shape)

    def forward(self, x: Tensor) -> Tensor:
        """Blur objects ``(batch, *object_shape)`` into images ``(batch, *image_shape)``."""
        return self.crop(filter_with(x, self._otf, self._shape))

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the exact transpose."""
        padded = embed(y, self.margin, self._shape)
        return cut(filter_with(padded, self._otf.conj(), self._shape), self.object_shape)

    def mean_otf_power(self, shape: tuple[int, ...]) -> Tensor:
        """Return each kernel's |OTF|² on the rfft grid of ``shape``."""
        return otf(self.kernels, shape).abs().square()


@dataclass(frozen=True)
class Degraded:
    """Images to restore, and what they should become.

    Attributes
    ----------
    y : Tensor, shape (batch, y, x)
        Brightest near 1.
    sharp : Tensor, shape (batch, OBJECT_PX, OBJECT_PX)
        The objects, frame included.
    kernels : Tensor, shape (batch, h, w)
        As estimated.
    seen : Observation
        As measured.
    """

    y: Tensor
    sharp: Tensor
    kernels: Tensor
    seen: Observation

    @property
    def blur(self) -> ConvolutionEach:
        """The blur as estimated."""
        return ConvolutionEach(self.kernels, tuple(self.y.shape[-2:]))


def draw_kernels(kind: str, count: int, rng: np.random.Generator, sampler: Sampler) -> tuple[Tensor, Tensor]:
    """Draw (count, h, w) kernels of one kind, as they are and as they are estimated."""
    exact = sampler.chance(_EXACT_SHARE, count, 1)
    if kind == MOTION:
        kernels = torch.from_numpy(motion_kernels(count, rng)).to(sampler.device)
        wider = valid_convolution(functional.pad(kernels, (4, 4, 4, 4)), _small_blurs(count, sampler))
        return kernels, torch.where(exact[..., None], kernels, wider)
    chosen, true = family(kind), draw_parameters(kind, count, sampler)
    wrong = torch.where(exact, true, _mistaken(kind, true, sampler))
    if not chosen.needs_cutoff:
        return chosen.kernels(true), chosen.kernels(wrong)
    # Half of the seven aberrations at the published optics, all else at any sampling.
    published = kind == "zernike-7" and rng.random() < 0.5
    cutoff = 0.261 if published else float(rng.uniform(*CUTOFFS))
    size = min(chosen.size_px(cutoff), _LARGEST_KERNEL_PX)
    return chosen.kernels(true, size, cutoff), chosen.kernels(wrong, size, cutoff)


def _small_blurs(count: int, sampler: Sampler) -> Tensor:
    width = sampler.uniform(0.3, 0.7, count, 1)
    return family("gaussian-1").kernels(width, 9)


def _mistaken(kind: str, true: Tensor, sampler: Sampler) -> Tensor:
    """Return parameters with errors such as a network makes."""
    noise = torch.randn(true.shape, generator=sampler.generator, device=sampler.device)
    columns = []
    waves = sampler.log_uniform(*_WAVES_OFF, len(true))
    for index, name in enumerate(family(kind).parameter_names):
        value, off = true[:, index], noise[:, index]
        if name.endswith("_waves"):
            signed = family(kind).parameter_ranges[name][0] < 0
            moved = value + waves * off
            columns.append(moved if signed else moved.clamp_min(0))
        elif name.endswith("_rad"):
            columns.append(value + _AXIS_OFF * off)
        else:
            columns.append(value * (1 + _WIDTH_OFF * off))
    return torch.stack(columns, dim=1)


def draw(
    crops: Tensor,
    kind: str,
    rng: np.random.Generator,
    sampler: Sampler,
    *,
    photons: float | None = None,
    read_noise: float | None = None,
) -> Degraded:
    """Degrade sharp crops with kernels of one kind.

    Parameters
    ----------
    crops : Tensor, shape (batch, OBJECT_PX, OBJECT_PX)
        Sharp, 0 to 1.
    kind : str
        One of `KINDS`.
    rng : numpy.random.Generator
    sampler : Sampler
    photons, read_noise : float, optional
        Peak count, infinite for none of its noise, and standard deviation as a share of the peak; with
        them there is no haze and no change of contrast. Drawn by default.
    """
    count = len(crops)
    kernels, estimated = draw_kernels(kind, count, rng, sampler)
    low = crops.amin(dim=(-2, -1), keepdim=True)
    span = (crops.amax(dim=(-2, -1), keepdim=True) - low).clamp_min(1e-3)
    sharp = crops
    if read_noise is None:
        sharp = ((crops - low) / span).pow(sampler.log_uniform(0.7, 1.5, count, 1, 1))
        sharp = sharp + sampler.log_uniform(*HAZE, count, 1, 1) * sampler.chance(0.5, count, 1, 1)
    blurred = valid_convolution(sharp, kernels).clamp_min(0)
    peak = blurred.amax(dim=(-2, -1), keepdim=True).clamp_min(1e-2)
    if read_noise is not None:
        peak = torch.ones_like(peak)
    sharp, blurred = sharp / peak, blurred / peak
    per_unit, read = _noise(count, sampler, photons, read_noise)
    y = poisson_gaussian(blurred * per_unit, read * per_unit, sampler.generator) / per_unit
    return Degraded(y, sharp, estimated, _measured(y, 1 / per_unit, read.square(), sampler))


def _noise(
    count: int, sampler: Sampler, photons: float | None, read_noise: float | None
) -> tuple[Tensor, Tensor]:
    """Return photons at the peak and read noise as a share of it, each (count, 1, 1)."""
    if photons is not None and read_noise is not None:
        full = torch.ones(count, 1, 1, device=sampler.device)
        return full * min(photons, _NO_PHOTON_NOISE), full * read_noise
    drawn = sampler.log_uniform(*PHOTONS, count, 1, 1)
    without = sampler.chance(0.4, count, 1, 1)
    per_unit = torch.where(without, torch.full_like(drawn, _NO_PHOTON_NOISE), drawn)
    read = sampler.log_uniform(*READ_NOISE, count, 1, 1)
    # Photon noise is hardly ever alone, and a fifth of the images have next to no noise of the camera.
    read = torch.where(sampler.chance(0.2, count, 1, 1), torch.full_like(read, READ_NOISE[0]), read)
    return per_unit, read


def _measured(y: Tensor, gain: Tensor, read: Tensor, sampler: Sampler) -> Observation:
    """Return what is measured of images, as uncertain as it is where the crop is a part of a whole."""

    def normal() -> Tensor:
        return torch.randn((len(y), 1, 1), generator=sampler.generator, device=sampler.device)

    seen = observed(y, gain * (0.15 * normal()).exp(), read * (0.15 * normal()).exp())
    level = seen.level + 0.3 * normal() * seen.signal_variance.sqrt()
    return Observation(level, seen.signal_variance * (0.5 * normal()).exp(), seen.gain, seen.read_variance)


def kind_of(rng: np.random.Generator) -> str:
    """Draw a kind of kernels by its share."""
    shares = np.array(list(KINDS.values()))
    return list(KINDS)[int(rng.choice(len(shares), p=shares / shares.sum()))]


def radius_range(count: int = 64, seed: int = 0) -> list[float]:
    """Return the range of the kernels' half-energy radii in pixels, without the most extreme hundredths."""
    rng, sampler = np.random.default_rng(seed), Sampler(torch.Generator().manual_seed(seed))
    radii = [
        half_energy_radius_px(kernel)
        for kind in KINDS
        for kernel in draw_kernels(kind, count, rng, sampler)[0].numpy()
    ]
    return [round(float(value), 2) for value in np.percentile(radii, [1, 99])]
