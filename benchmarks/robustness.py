"""Robustness of the PSF's parameters against what happens to images: curves of R² over the strength.

After Fig. 7 of Shajkofci & Liebling 2020 (doi:10.1109/TIP.2020.2986880). Every condition sees the same
blurred micrographs of the test sources, with 2,000 photons at the brightest pixel and read noise of 2 photons
where nothing else is said.

* illumination: the whole image dimmed, photons and all; and the numbers alone scaled, the photons kept;
* gradient: a ramp across the patch, brightest over darkest side;
* offset: a camera offset in units of the image's peak;
* noise, Gaussian, Poisson or both: its standard deviation over that of the noiseless image. The published
  strength runs from 0 to 0.5 in a unit that is not stated; this one is ours;
* rotation: the scene turned about the patch's centre, by interpolation; the axis has to turn with it;
* binning: 2 × 2 pixels added, read with the right optics, that is interpolated to the trained cut-off;
* bits: rounding to 8, 12 or 16 bits at full scale, and at a tenth of it.

    python -m benchmarks.robustness --data ../shared/data --json robustness.json
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmarks.common import arguments, report
from napari_deblur.nets.identification import PATCH_PX, IdentificationNet
from napari_deblur.nets.weights import list_models, load_network
from napari_deblur.optics.noise import poisson_gaussian
from napari_deblur.optics.psf import family
from napari_deblur.steps.psf_map import VIEWS
from napari_deblur.train.degrade import Sampler, crop_size_px, draw_parameters, valid_convolution
from napari_deblur.train.tiles import micrograph_pool

SEED, FIELD_PX = 31_415, 256
PHOTONS, READ_NOISE = 2000.0, 2.0
STRENGTHS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
LEAST_CONTRAST = 0.05
# What the published curves and this project's bars say of a strength of 0.5.
NOISE_BARS = {"zernike-1": 0.90, "gaussian-1": 0.85}


@dataclass(frozen=True)
class Scenes:
    """Blurred micrographs without noise, peak 1.

    Attributes
    ----------
    fields : Tensor, shape (n, 256, 256)
    parameters : Tensor, shape (n, N)
    """

    fields: Tensor
    parameters: Tensor

    @property
    def patches(self) -> Tensor:
        """The middle of every field."""
        return middle(self.fields)


def middle(fields: Tensor, size: int = PATCH_PX) -> Tensor:
    """Return the central part of fields."""
    start = (fields.shape[-1] - size) // 2
    return fields[..., start : start + size, start : start + size]


def draw(model: str, data_dir: Path, count: int) -> Scenes:
    """Blur micrographs of the test sources, each with its own parameters."""
    pool = micrograph_pool(crop_size_px(model, FIELD_PX), data_dir, "test")
    rng = np.random.default_rng(SEED)
    crops: list[NDArray[np.float32]] = []
    while len(crops) < count:
        crop = pool.crop(rng)
        if crop.std() >= LEAST_CONTRAST:
            crops.append(crop)
    parameters = draw_parameters(model, count, Sampler(torch.Generator().manual_seed(SEED)))
    fields = []
    for start in range(0, count, 16):
        kernels = family(model).kernels(parameters[start : start + 16])
        fields.append(valid_convolution(torch.from_numpy(np.stack(crops[start : start + 16])), kernels))
    blurred = torch.cat(fields).clamp(min=0)
    return Scenes(blurred / blurred.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-6), parameters)


def camera(expected: Tensor, photons: float = PHOTONS, read_noise: float = READ_NOISE) -> Tensor:
    """Return what a camera sees; the same noise for the same shape."""
    return poisson_gaussian(expected * photons, read_noise, torch.Generator().manual_seed(SEED))


def with_noise(clean: Tensor, strength: float, kind: str) -> Tensor:
    """Add noise whose standard deviation is a share of the image's."""
    if strength == 0:
        return clean
    generator = torch.Generator().manual_seed(SEED)
    wanted = strength * clean.std(dim=(-2, -1), keepdim=True)
    share = {"gaussian": 0.0, "poisson": 1.0, "mixed": 0.5}[kind]
    result = clean
    if share:
        # Poisson noise of n photons per unit has the variance mean / n.
        per_unit = clean.mean(dim=(-2, -1), keepdim=True) / (share * wanted**2).clamp(min=1e-12)
        result = poisson_gaussian(clean * per_unit, 0.0, generator) / per_unit
    return result + torch.randn(clean.shape, generator=generator) * wanted * math.sqrt(1 - share)


def turned(fields: Tensor, degrees: float) -> Tensor:
    """Return fields whose content is turned about their centre from x towards y."""
    from scipy.ndimage import affine_transform

    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # Output (y, x) reads the input where the turn came from.
    matrix = np.array([[c, -s], [s, c]])
    centre = (fields.shape[-1] - 1) / 2
    offset = np.full(2, centre) - matrix @ np.full(2, centre)
    found = [affine_transform(field.numpy(), matrix, offset, order=3, mode="reflect") for field in fields]
    return torch.from_numpy(np.stack(found)).clamp(min=0)


def binned(fields: Tensor) -> Tensor:
    """Add 2 × 2 pixels, see that by the camera, and interpolate back to the pixels of before."""
    small = camera(functional.avg_pool2d(fields[:, None], 2)[:, 0], 4 * PHOTONS)
    grown = functional.interpolate(small[:, None], scale_factor=2, mode="bicubic", align_corners=False)
    return grown[:, 0]


def rounded(image: Tensor, bits: int, fill: float) -> Tensor:
    """Round to whole numbers, the brightest pixel at a share of the full scale."""
    top = image.amax(dim=(-2, -1), keepdim=True).clamp(min=1e-6)
    return torch.round(image / top * fill * (2**bits - 1)).clamp(min=0)


@torch.inference_mode()
def score(net: IdentificationNet, patches: Tensor, parameters: Tensor, views: int) -> dict[str, float]:
    """Return the mean R² over the quantities that the parameters follow from, and the axis's median error."""
    values = torch.cat([net.regress(batch, views)[0] for batch in patches.split(32)])
    true = net.targets.encode(parameters)
    r2 = 1 - (true - values).square().sum(dim=0) / (true - true.mean(dim=0)).square().sum(dim=0)
    names = net.targets.names
    found = {"r2": round(float(np.mean([float(r2[names.index(n)]) for n in net.targets.of_parameters])), 4)}
    if "astigmatism_cos_waves" in names:
        at = [names.index(name) for name in ("astigmatism_cos_waves", "astigmatism_sin_waves")]
        angles = [torch.atan2(part[:, at[1]], part[:, at[0]]) for part in (true, values)]
        strong = torch.hypot(*true[:, at].unbind(1)) > 0.1
        turn = torch.angle(torch.polar(torch.ones_like(angles[0]), angles[1] - angles[0])).abs() / 2
        found["axis_median_error_deg"] = round(math.degrees(float(turn[strong].median())), 2)
    return found


def conditions(scenes: Scenes) -> dict[str, dict[str, Callable[[], Tensor]]]:
    """Return what is done to the scenes: by curve and strength, patches ready for the network."""
    clean = scenes.patches
    ramp = torch.linspace(0, 1, PATCH_PX)
    return {
        "illumination, photons": {
            f"{level:g}": lambda level=level: camera(clean, PHOTONS * level) for level in (1.0, 0.5, 0.2, 0.1)
        },
        "illumination, numbers": {
            f"{level:g}": lambda level=level: camera(clean) * level for level in (1.0, 0.1, 1e-3, 100.0)
        },
        "gradient": {
            f"{ratio:g}": lambda ratio=ratio: camera(clean * (1 / ratio + (1 - 1 / ratio) * ramp))
            for ratio in (1.0, 2.0, 4.0, 8.0)
        },
        "offset": {
            f"{share:g}": lambda share=share: camera(clean) + share * PHOTONS
            for share in (0.0, 0.5, 2.0, 10.0)
        },
        **{
            f"noise, {kind}": {
                f"{strength:g}": lambda strength=strength, kind=kind: with_noise(clean, strength, kind)
                for strength in STRENGTHS
            }
            for kind in ("gaussian", "poisson", "mixed")
        },
        "binning": {
            "1": lambda: camera(clean),
            "2": lambda: middle(binned(scenes.fields)),
        },
        "bits": {
            f"{bits} at {fill:g}": lambda bits=bits, fill=fill: rounded(camera(clean), bits, fill)
            for bits in (16, 12, 8)
            for fill in (1.0, 0.1)
        },
    }


def evaluate(model: str, data_dir: Path, count: int, views: int) -> dict[str, Any]:
    """Return all curves of one network."""
    net, card = load_network(model)
    assert isinstance(net, IdentificationNet)
    scenes = draw(model, data_dir, count)
    result: dict[str, Any] = {"sha256": card["sha256"]}
    for curve, levels in conditions(scenes).items():
        result[curve] = {
            strength: score(net, make(), scenes.parameters, views) for strength, make in levels.items()
        }
    names = family(model).parameter_names
    if "axis_rad" in names:
        result["rotation, degrees"] = {}
        for degrees in (0, 15, 30, 45, 60, 90):
            moved = scenes.parameters.clone()
            axis = names.index("axis_rad")
            moved[:, axis] = (moved[:, axis] + math.radians(degrees)) % math.pi
            patches = camera(middle(turned(scenes.fields, degrees)))
            result["rotation, degrees"][str(degrees)] = score(net, patches, moved, views)
    return result


def main() -> None:
    """Evaluate the shipped networks."""
    known = [info.id for info in list_models() if info.card.get("task") == "psf-identification"]
    args = arguments(
        __doc__,
        data={"type": Path, "required": True, "help": "folder with train_micro"},
        patches={"type": int, "default": 512},
        views={"type": int, "default": VIEWS},
        models={"nargs": "+", "default": known},
    )
    figures = {model: evaluate(model, args.data, args.patches, args.views) for model in args.models}
    bars: dict[str, tuple[float, str, float]] = {}
    for model, found in figures.items():
        if model in NOISE_BARS:
            worst = min(found[f"noise, {kind}"]["0.5"]["r2"] for kind in ("gaussian", "poisson", "mixed"))
            bars[f"{model}: R² at noise strength 0.5"] = (worst, "at least", NOISE_BARS[model])
        plain = found["illumination, photons"]["1"]["r2"]
        for curve in ("illumination, numbers", "offset"):
            lost = round(plain - min(level["r2"] for level in found[curve].values()), 4)
            bars[f"{model}: R² lost to {curve}"] = (lost, "at most", 0.01)
    settings = {"patches": args.patches, "views": args.views}
    report("robustness of the identification", settings | figures, args.json, bars)


if __name__ == "__main__":
    main()
