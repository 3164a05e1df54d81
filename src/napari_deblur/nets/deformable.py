"""Restoration in a latent space that the parameters of the blur deform (Guan et al. 2022, WACV).

An encoder maps a blurred image to latent features, a *deformer* moves them to where the encoder would have
put the same object blurred by a reference kernel, and a decoder makes the sharp image of them. Encoder and
decoder know nothing of the blur; every convolution of the deformer is *dynamic*: its filters are a
combination of a few, weighted by coefficients that a small network computes from the blur's parameters (their
Eqs. 6 to 10).

Beyond the publication the noise in the image, relative to its contrast, is one more parameter, and 16 of the
latent channels begin as the pixels of their cell: the deformer moves them like all others, and the decoder
adds what it makes to them. Fine detail of a clean image then need not be learned to pass. Nor need be what is
known of the blur: a linear filter first brings these channels near the reference (`nets.prefilter`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.nets.deformers import GROUPS, REDUCED, Deformer, NoDeformer, SimpleDeformer
from napari_deblur.nets.prefilter import REACH_PX, Prefilter
from napari_deblur.optics.probes import REFERENCE_DEFOCUS_UM

ARCHITECTURE = "deformable-latent-space"
LATENT_STEP_PX = 4
_PIXELS = LATENT_STEP_PX**2
REFERENCES = {
    "zone-plate": (REFERENCE_DEFOCUS_UM,),
    "zernike-1": (0.1,),
    "zernike-3": (0.1, 0.0, 0.0),
}
"""Parameters of the kernel whose latent space is the reference."""
NOISE_RANGE = (1e-3, 2.0)
"""Standard deviation of the noise over that of the image; the network sees its logarithm."""
_SMALLEST_PX = 16


def default_config(model: str) -> dict[str, Any]:
    """Return the architecture for a family: the most that 3 MB in fp16 hold.

    The bases take most of it: ten of six filters at 48 channels. The publication's 256 channels would take
    12 MB for every filter of the bases. What 48 cost is what a cell of the latent grid can hold, so that grid
    has a quarter of the image's resolution, not an eighth: 48 values for 16 pixels instead of 256 for 64.
    """
    return {
        "architecture": ARCHITECTURE,
        "model": model,
        "channels": 48,
        "n_basis": 6,
        "outer_channels": 32,
        "encoder_blocks": 1,
        "decoder_blocks": 2,
        "hidden": 32,
        "normalisation": "l2",
        "deformer": "complete",
        "prefilter": True,
    }


class _Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.second.weight *= REDUCED

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, h, w) to the same shape."""
        out: Tensor = x + self.second(functional.relu(self.first(x)))
        return out


@dataclass(frozen=True)
class Conditions:
    """What the deformer of a family is told: parameters brought to −1…1, and the noise.

    Attributes
    ----------
    model : str
    """

    model: str

    @property
    def count(self) -> int:
        """Number of values."""
        return (3 if self.model == "zernike-3" else 1) + 1

    def undone(self, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parameters (n, N) and relative noise (n,) of conditions (n, count)."""
        from napari_deblur.optics.psf import family

        high = [bounds[1] for bounds in family(self.model).parameter_ranges.values()]
        columns = [(conditions[:, 0] + 1) / 2 * high[0]]
        if self.model == "zernike-3":
            cosine, sine = conditions[:, 1], conditions[:, 2]
            columns += [torch.hypot(cosine, sine) * high[1], torch.atan2(sine, cosine) / 2 % math.pi]
        low, top = (math.log(bound) for bound in NOISE_RANGE)
        noise = ((conditions[:, -1] + 1) / 2 * (top - low) + low).exp()
        return torch.stack(columns, dim=1), noise

    def __call__(self, parameters: Tensor, noise: Tensor) -> Tensor:
        """Return conditions (n, count) for parameters (n, N) of the family and relative noise (n,).

        An axis θ with its power a counts as a cos 2θ and a sin 2θ, which have no seam at π.
        """
        from napari_deblur.optics.psf import family

        ranges = list(family(self.model).parameter_ranges.values())
        high = [bounds[1] for bounds in ranges]
        columns = [2 * parameters[:, 0] / high[0] - 1]
        if self.model == "zernike-3":
            power, turned = parameters[:, 1] / high[1], 2 * parameters[:, 2]
            columns += [power * turned.cos(), power * turned.sin()]
        low, top = (math.log(bound) for bound in NOISE_RANGE)
        level = noise.clamp(*NOISE_RANGE).log()
        return torch.stack([*columns, 2 * (level - low) / (top - low) - 1], dim=1)


class DeformableNet(nn.Module):
    """Encoder, deformer and decoder.

    Parameters
    ----------
    config : dict
        As `default_config` returns it; ``deformer`` is ``complete``, ``simple`` or ``none``.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = {**default_config(str(config["model"])), **config}
        outer, inner = int(self.config["outer_channels"]), int(self.config["channels"])
        self.conditions = Conditions(str(self.config["model"]))
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4, outer, 3, padding=1),
            _Residual(outer),
            nn.Conv2d(outer, inner, 3, stride=2, padding=1),
            *(_Residual(inner) for _ in range(int(self.config["encoder_blocks"]))),
        )
        self.deformer = self._deformer(inner)
        self.prefilter = Prefilter() if self.config["prefilter"] else None
        self.decoder = nn.Sequential(
            *(_Residual(inner) for _ in range(int(self.config["decoder_blocks"]))),
            nn.Conv2d(inner, 4 * outer, 3, padding=1),
            nn.PixelShuffle(2),
            _Residual(outer),
            nn.Conv2d(outer, 4, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self._start_from_pixels()

    def _start_from_pixels(self) -> None:
        """Leave the channels that hold pixels to them at the start: untrained, it hardly changes an image."""
        coarser, leave = self.encoder[3], self.decoder[-2]
        assert isinstance(coarser, nn.Conv2d)
        assert isinstance(leave, nn.Conv2d)
        assert coarser.bias is not None
        with torch.no_grad():
            coarser.weight[:_PIXELS] = 0
            coarser.bias[:_PIXELS] = 0
            leave.weight.mul_(REDUCED)

    def _deformer(self, channels: int) -> nn.Module:
        kind, count = self.config["deformer"], self.conditions.count
        if kind == "complete":
            more = (
                int(self.config["n_basis"]),
                int(self.config["hidden"]),
                str(self.config["normalisation"]),
            )
            return Deformer(count, channels, *more)
        return SimpleDeformer(count, channels) if kind == "simple" else NoDeformer()

    @property
    def model(self) -> str:
        """PSF family."""
        return self.conditions.model

    def encode(self, images: Tensor) -> Tensor:
        """Map normalised images (batch, h, w), sides multiples of 4, to latent features."""
        features: Tensor = self.encoder(images[:, None])
        pixels = functional.pixel_unshuffle(images[:, None], LATENT_STEP_PX)
        return features + functional.pad(pixels, (0, 0, 0, 0, 0, features.shape[1] - _PIXELS))

    def deform(self, latent: Tensor, conditions: Tensor) -> Tensor:
        """Move latent features to the reference: each part of the batch by one row of conditions."""
        if self.prefilter is not None:
            with torch.autocast(latent.device.type, enabled=False):
                latent = self._prefiltered(latent, conditions)
        moved: Tensor = self.deformer(latent, conditions)
        return moved

    def _prefiltered(self, latent: Tensor, conditions: Tensor) -> Tensor:
        """Bring the channels that began as pixels near the reference by a linear filter."""
        from napari_deblur.optics.psf import family

        assert self.prefilter is not None
        with torch.no_grad():
            parameters, noise = self.conditions.undone(conditions)
            reference = parameters.new_tensor([REFERENCES[self.model]])
            kernels = family(self.model).kernels(torch.cat([reference, parameters]))
        kernels = kernels.to(latent)
        filters = self.prefilter.filters(kernels[1:], kernels[0], noise)
        image = functional.pixel_shuffle(latent[:, :_PIXELS], LATENT_STEP_PX)[:, 0]
        filtered = functional.pixel_unshuffle(self.prefilter(image, filters)[:, None], LATENT_STEP_PX)
        return torch.cat([filtered, latent[:, _PIXELS:]], dim=1)

    def decode(self, latent: Tensor) -> Tensor:
        """Map latent features to normalised images (batch, h, w)."""
        images: Tensor = self.decoder(latent) + functional.pixel_shuffle(latent[:, :_PIXELS], LATENT_STEP_PX)
        return images[:, 0]

    def forward(self, images: Tensor, conditions: Tensor) -> Tensor:
        """Restore normalised images (groups · n, h, w) of conditions (groups, k)."""
        return self.decode(self.deform(self.encode(images), conditions))


def build(config: dict[str, Any]) -> DeformableNet:
    """Build the network that a card's configuration describes."""
    return DeformableNet(config)


def reach_px(config: Mapping[str, Any]) -> int:
    """Return how far an output pixel of a network sees, in whole steps of the latent grid."""
    given = {**default_config(str(config["model"])), **config}
    encoder = 2 + 4 + 2 + 8 * int(given["encoder_blocks"])
    decoder = 8 * int(given["decoder_blocks"]) + 4 + 4 + 2
    body = sum(len(group) + (len(group) == 3) for group in GROUPS)
    steps = {"complete": body, "simple": body + 1}.get(str(given["deformer"]), 0)
    # An output pixel lies anywhere in its cell of the latent grid.
    reach = encoder + decoder + LATENT_STEP_PX * (steps + 1) + (REACH_PX if given["prefilter"] else 0)
    return LATENT_STEP_PX * math.ceil(reach / LATENT_STEP_PX)


def relative_noise(images: Tensor, spread: Tensor) -> Tensor:
    """Return the standard deviation (n,) of white noise in images (n, h, w) over a spread (n,).

    The median of what a difference of two Laplacians leaves (Immerkær 1996, doi:10.1006/cviu.1996.0060).
    """
    d = images[:, :-2] - 2 * images[:, 1:-1] + images[:, 2:]
    d = d[..., :-2] - 2 * d[..., 1:-1] + d[..., 2:]
    sigma = d.abs().flatten(1).median(dim=1).values / (0.6745 * 6)
    return sigma / spread.clamp_min(1e-12)


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of a whole image, by which it is brought to the network and back.

    Attributes
    ----------
    mean, spread : float
        In the image's unit.
    noise : float
        Standard deviation of the noise over ``spread``.
    """

    mean: float
    spread: float
    noise: float

    @classmethod
    def of(cls, y: Tensor) -> Scale:
        """Measure an image (y, x)."""
        if min(y.shape) < _SMALLEST_PX:
            rule = f"must be at least {_SMALLEST_PX} pixels high and wide"
            raise InvalidInputError("image", rule, f"shape {tuple(y.shape)}")
        spread = float(y.std())
        noise = float(relative_noise(y[None], torch.tensor([spread], device=y.device)))
        return cls(float(y.mean()), max(spread, 1e-12), noise)


def padded_to_step(y: Tensor) -> Tensor:
    """Continue an image (h, w) at its lower ends, by its mirror image, to sides that are multiples of 4."""
    more = [-size % LATENT_STEP_PX for size in y.shape]
    if not any(more):
        return y
    framed: Tensor = functional.pad(y[None, None], (0, more[1], 0, more[0]), mode="reflect")[0, 0]
    return framed


def restore(net: DeformableNet, latent: Tensor, parameters: Sequence[float], scale: Scale) -> Tensor:
    """Deform and decode what the encoder made of one image.

    Parameters
    ----------
    net : DeformableNet
    latent : Tensor, shape (1, c, h / 4, w / 4)
    parameters : sequence of float
        Of the family.
    scale : Scale

    Returns
    -------
    Tensor, shape (h, w)
        In the image's unit.
    """
    given = torch.tensor([list(parameters)], dtype=torch.float32, device=latent.device)
    noise = torch.tensor([scale.noise], device=latent.device)
    made = net.decode(net.deform(latent, net.conditions(given, noise)))[0]
    return made * scale.spread + scale.mean
