"""What no family of kernels describes: shake of the camera, and noise that was interpolated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from napari_deblur.optics.noise import poisson_gaussian

if TYPE_CHECKING:
    from napari_deblur.train.degrade import Sampler

_POINTS = 48
# Of a shake, in pixels: its length, and the width of the optics' own spot.
_LENGTH_PX, _SPOT_PX = (25.0, 90.0), (0.7, 1.3)
# How far its direction turns along the way, in radians.
_LEAST_TURN, _MOST_TURN = 2.0, 6.0
_JUMPS = 0.5


def shake_kernels(count: int, size_px: int, sampler: Sampler) -> Tensor:
    """Draw kernels (count, size, size) of a camera or a sample that moved during the exposure; sum 1.

    The way is a curve that turns and, in half of them, jumps. A straight one is left out: the line focus of
    an astigmatic lens looks the same, so that a network asked to tell them would doubt every line focus.

    Parameters
    ----------
    count : int
    size_px : int
        Odd.
    sampler : Sampler
    """
    steps = torch.arange(_POINTS, device=sampler.device) / (_POINTS - 1)
    turn = sampler.uniform(_LEAST_TURN, _MOST_TURN, count, 1)
    swing, phase = sampler.uniform(0.5, 2.0, count, 1), sampler.uniform(0, 2 * math.pi, count, 1)
    heading = sampler.uniform(0, 2 * math.pi, count, 1) + turn * (
        steps + 0.3 * torch.sin(2 * math.pi * swing * steps + phase)
    )
    stride = sampler.log_uniform(*_LENGTH_PX, count, 1) / _POINTS
    at, size = sampler.uniform(0.2, 0.8, count, 1), sampler.uniform(3.0, 10.0, count, 1)
    size = size * sampler.chance(_JUMPS, count, 1)
    toward = sampler.uniform(0, 2 * math.pi, count, 1)
    y, x = (
        (stride * step(heading)).cumsum(dim=1) + (steps > at) * size * step(toward)
        for step in (torch.sin, torch.cos)
    )
    # It dwells at some places longer than at others.
    dwell = 0.2 + torch.rand((count, _POINTS), generator=sampler.generator, device=sampler.device)
    reach = size_px // 2 - 2
    position = torch.arange(size_px, device=sampler.device) - size_px // 2
    spot = sampler.uniform(*_SPOT_PX, count, 1, 1)
    profiles = []
    for places in (y, x):
        centred = places - (places.amax(dim=1, keepdim=True) + places.amin(dim=1, keepdim=True)) / 2
        distance = position[None, :, None] - centred.clamp(-reach, reach)[:, None, :]
        profiles.append(torch.exp(-0.5 * (distance / spot).square()))
    along_y, along_x = profiles
    kernels = (along_y * dwell[:, None, :]) @ along_x.transpose(1, 2)
    result: Tensor = kernels / kernels.sum(dim=(-2, -1), keepdim=True)
    return result


def enlarged_camera(expected: Tensor, read_noise: Tensor, generator: torch.Generator) -> Tensor:
    """Return images (batch, y, x) as taken with pixels twice as large and then enlarged twofold.

    Parameters
    ----------
    expected : Tensor, shape (batch, y, x)
        Photons per pixel, sides even.
    read_noise : Tensor, shape (batch, 1, 1)
        Standard deviation in photons.
    generator : torch.Generator
    """
    coarse = poisson_gaussian(functional.avg_pool2d(expected[:, None], 2), read_noise[:, None], generator)
    return functional.interpolate(coarse, scale_factor=2.0, mode="bicubic", align_corners=False)[:, 0]
