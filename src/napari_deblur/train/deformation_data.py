"""What networks with a deformable latent space learn from: kernels of a family, noise of many strengths.

The model is y = h ∗ (x + haze) + noise, a valid convolution of a larger crop; the noise's variance is partly
even and partly in proportion to the light. Its strength is drawn relative to the image's contrast, which is
all that a network sees of it. For the zone plate half of the batches have the published variance, 0.02 on
images in 0 to 1 (Guan et al. 2022, §4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from napari_deblur.nets.deformable import REFERENCES, Conditions, relative_noise
from napari_deblur.optics.probes import PUBLISHED_DEFOCUS_UM
from napari_deblur.optics.psf import family
from napari_deblur.train.degrade import Sampler, draw_parameters, valid_convolution
from napari_deblur.train.tiles import Pool, micrograph_pool, read_folder, scene_pool, training_pool

PATCH_PX = 96
PUBLISHED_VARIANCE = 0.02
NOISE = {"zone-plate": (0.01, 1.5), "zernike-1": (0.005, 1.0), "zernike-3": (0.005, 1.0)}
"""Standard deviation of the noise over that of the blurred image, least and most."""
HELD_OUT_PHOTOGRAPHS = {"validation": "image-processing", "test": "scikit-image"}
"""Source repositories of photographs that are kept out of the training."""
_PHOTOGRAPHS = "photographs: "
_PHOTOGRAPH_SHARE = {"zone-plate": 0.35}
_DEFAULT_PHOTOGRAPH_SHARE = 0.15
_BANK = 2048
_LEAST_SPREAD = 0.02
_SPREAD_FACTOR, _SHIFT = (0.6, 2.2), 0.5
_NOISE_OFF = 0.1


@dataclass(frozen=True)
class Case:
    """A kernel and a noise for held-out figures.

    Attributes
    ----------
    parameters : tuple of float
    noise : float
        Standard deviation on images in 0 to 1.
    """

    parameters: tuple[float, ...]
    noise: float

    @property
    def name(self) -> str:
        """The case as a key."""
        return f"{', '.join(f'{value:g}' for value in self.parameters)}; noise {self.noise:.3g}"


def cases(model: str) -> list[Case]:
    """Return the held-out cases of a family: the published ones, or a few of ours."""
    if model == "zone-plate":
        return [Case((value,), PUBLISHED_VARIANCE**0.5) for value in PUBLISHED_DEFOCUS_UM]
    if model == "zernike-1":
        return [Case((value,), noise) for value in (0.1, 0.25, 0.4, 0.55) for noise in (0.003, 0.03)]
    return [
        Case(values, noise)
        for values in ((0.1, 0.1, 0.4), (0.25, 0.2, 1.3), (0.4, 0.35, 2.5))
        for noise in (0.003, 0.03)
    ]


class KernelBank:
    """Kernels of a family, rendered once.

    Parameters
    ----------
    model : str
    count : int
    seed : int
    device : torch.device
    """

    def __init__(self, model: str, count: int, seed: int, device: torch.device) -> None:
        self.model = model
        sampler = Sampler(torch.Generator().manual_seed(seed))
        chosen = family(model)
        drawn = draw_parameters(model, count, sampler)
        reference = torch.tensor([REFERENCES[model]])
        self.parameters = torch.cat([reference, drawn]).to(device)
        self.kernels = torch.cat([chosen.kernels(part) for part in self.parameters.split(64)])

    def draw(self, groups: int, sampler: Sampler, *, reference: bool) -> tuple[Tensor, Tensor]:
        """Return parameters (groups, N) and kernels (groups, k, k)."""
        count = len(self.parameters)
        at = torch.randint(0, count, (groups,), generator=sampler.generator, device=sampler.device)
        at = torch.zeros_like(at) if reference else at
        return self.parameters[at], self.kernels[at]


@dataclass(frozen=True)
class Batch:
    """Normalised images of several kernels, four or so of each.

    Attributes
    ----------
    images, reference, sharp : Tensor, shape (groups · n, patch, patch)
        Blurred by the group's kernel, by the reference's, and not at all; with noise, but for the last.
    conditions : Tensor, shape (groups, k)
    """

    images: Tensor
    reference: Tensor
    sharp: Tensor
    conditions: Tensor


def draw(crops: Tensor, bank: KernelBank, groups: int, sampler: Sampler, *, reference: bool = False) -> Batch:
    """Degrade sharp crops.

    Parameters
    ----------
    crops : Tensor, shape (groups · n, crop, crop)
        Sharp, 0 to 1.
    bank : KernelBank
    groups : int
        Kernels in the batch.
    sampler : Sampler
    reference : bool
        Whether the kernel is the reference for all.
    """
    each = len(crops) // groups
    parameters, kernels = bank.draw(groups, sampler, reference=reference)
    crops = crops[: groups * each] + _haze(groups * each, sampler)
    margin = kernels.shape[-1] // 2
    blurred = valid_convolution(crops, kernels.repeat_interleave(each, dim=0))
    standard = valid_convolution(crops, bank.kernels[:1].expand(len(crops), -1, -1))
    sharp = crops[:, margin : crops.shape[1] - margin, margin : crops.shape[2] - margin]
    strength = _relative_strength(blurred, bank.model, groups, sampler).repeat_interleave(each)
    share = sampler.uniform(0, 1, groups).repeat_interleave(each)
    if bank.model == "zone-plate":
        share = share * sampler.chance(0.5, groups).repeat_interleave(each)
    images = _noisy(blurred, strength, share, sampler)
    standard = _noisy(standard, strength, share, sampler)

    mean, spread = images.mean(dim=(1, 2)), images.std(dim=(1, 2)).clamp_min(_LEAST_SPREAD)
    noise = relative_noise(images, spread).clamp_min(1e-4).log().view(groups, each).mean(dim=1).exp()
    # A crop's own mean and contrast stand for the whole image's: they differ.
    factor, shift = sampler.log_uniform(*_SPREAD_FACTOR, groups), sampler.uniform(-_SHIFT, _SHIFT, groups)
    told = noise / factor * (_NOISE_OFF * sampler.uniform(-1.7, 1.7, groups)).exp()

    def normalised(part: Tensor) -> Tensor:
        scale = (spread * factor.repeat_interleave(each))[:, None, None]
        return (part - mean[:, None, None]) / scale + shift.repeat_interleave(each)[:, None, None]

    conditions = Conditions(bank.model)(parameters, told)
    return Batch(normalised(images), normalised(standard), normalised(sharp), conditions)


def _haze(count: int, sampler: Sampler) -> Tensor:
    """Return a bright ground (count, 1, 1) for half of the crops; it only adds to the light that is noisy."""
    return sampler.log_uniform(0.01, 1.0, count, 1, 1) * sampler.chance(0.5, count, 1, 1)


def _relative_strength(blurred: Tensor, model: str, groups: int, sampler: Sampler) -> Tensor:
    """Return the noise's standard deviation over the image's (groups,)."""
    drawn = sampler.log_uniform(*NOISE[model], groups)
    if model != "zone-plate":
        return drawn
    first = blurred[:: len(blurred) // groups].std(dim=(1, 2)).clamp_min(_LEAST_SPREAD)
    published = (PUBLISHED_VARIANCE**0.5 / first).clamp_max(5.0)
    return torch.where(sampler.chance(0.5, groups), published, drawn)


def _noisy(blurred: Tensor, strength: Tensor, share: Tensor, sampler: Sampler) -> Tensor:
    """Add noise whose variance is even, or for a share of it in proportion to the light."""
    spread = blurred.std(dim=(1, 2)).clamp_min(_LEAST_SPREAD)
    light = blurred.clamp_min(0) / blurred.mean(dim=(1, 2), keepdim=True).clamp_min(1e-3)
    variance = share[:, None, None] * light + (1 - share[:, None, None])
    normal = torch.randn(blurred.shape, generator=sampler.generator, device=blurred.device)
    return blurred + (strength * spread)[:, None, None] * variance.sqrt() * normal


def deformation_pool(
    crop_px: int, *, model: str, data_dir: Path | None, n_scenes: int, seed: int, micrograph_share: float
) -> Pool:
    """Gather what is trained on; photographs, without the held-out sources, count more for the zone plate."""
    pool = training_pool(
        crop_px, data_dir=data_dir, n_scenes=n_scenes, seed=seed, micrograph_share=micrograph_share
    )
    for source in HELD_OUT_PHOTOGRAPHS.values():
        pool.images.pop(_PHOTOGRAPHS + source, None)
        pool.shares.pop(_PHOTOGRAPHS + source, None)
    groups = [name for name in pool.shares if name.startswith(_PHOTOGRAPHS)]
    total = sum(pool.shares[name] for name in groups)
    rest = sum(pool.shares.values()) - total
    wanted = _PHOTOGRAPH_SHARE.get(model, _DEFAULT_PHOTOGRAPH_SHARE)
    for name in groups:
        pool.shares[name] *= wanted / (1 - wanted) * rest / total
    return pool


def held_out_pools(crop_px: int, data_dir: Path | None, split: str, seed: int) -> dict[str, Pool]:
    """Gather held-out images: scenes of another seed, and of the data folder whole source repositories.

    Parameters
    ----------
    split : {"validation", "test"}
    """
    if data_dir is None:
        return {"scenes": scene_pool(crop_px, 24, seed)}
    photographs = Pool(crop_px)
    for kind, source, image in read_folder(data_dir, "train"):
        if kind == "photographs" and source == HELD_OUT_PHOTOGRAPHS[split]:
            photographs.add(source, image, 1.0)
    return {
        f"photographs ({split} source)": photographs,
        f"micrographs ({split} sources)": micrograph_pool(crop_px, data_dir, split),
    }


def degraded(crops: Tensor, case: Case, model: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return blurred noisy images, sharp ones (n, h, w) in 0 to 1, and the kernel (k, k), for one case."""
    kernel = family(model).kernels(torch.tensor([case.parameters]))[0]
    margin = kernel.shape[-1] // 2
    blurred = valid_convolution(crops, kernel.expand(len(crops), -1, -1))
    generator = torch.Generator().manual_seed(seed)
    images = blurred + case.noise * torch.randn(blurred.shape, generator=generator)
    return images, crops[:, margin:-margin, margin:-margin], kernel


def fixed_crops(pool: Pool, count: int, seed: int) -> Tensor:
    """Return the same crops (count, crop, crop) every time."""
    return torch.from_numpy(pool.crops(count, np.random.default_rng(seed)))
