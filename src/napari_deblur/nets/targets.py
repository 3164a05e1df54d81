"""What an identification network regresses for each family, and the way back to the family's parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from napari_deblur.optics.psf import family

_COS, _SIN = "astigmatism_cos_waves", "astigmatism_sin_waves"
_UNIFORM_AXIS_ERROR = math.pi / math.sqrt(12)
_NO_AXIS_WAVES = 1e-6


@dataclass(frozen=True)
class Targets:
    """The quantities that a family's network regresses, and their scaling to mean 0 and variance 1.

    Attributes
    ----------
    names : tuple of str
    center, scale : tuple of float
    """

    names: tuple[str, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]


def targets(model: str) -> Targets:
    """Return the regressed quantities of a family.

    An axis is regressed as power · cos 2θ and power · sin 2θ: both are continuous where the axis jumps from π
    to 0 and vanish where it is undefined. The power itself is regressed beside them, for without defocus the
    axes θ and θ + π/2 give the same kernel: the two components then average to zero while the power is known.
    """
    chosen = family(model)
    names, center, scale = [], [], []
    for name in chosen.parameter_names:
        low, high = chosen.parameter_ranges[name]
        if name == "axis_rad":
            power = chosen.parameter_ranges["astigmatism_waves"][1]
            names += [_COS, _SIN]
            center += [0.0, 0.0]
            scale += [power / math.sqrt(6)] * 2
        else:
            names.append(name)
            center.append((low + high) / 2)
            scale.append((high - low) / math.sqrt(12))
    return Targets(tuple(names), tuple(center), tuple(scale))


def encode(model: str, parameters: Tensor) -> Tensor:
    """Turn parameters (batch, N) into the regressed quantities (batch, K), unscaled."""
    names = family(model).parameter_names
    columns = []
    for name, column in zip(names, parameters.unbind(-1), strict=True):
        if name == "axis_rad":
            power = parameters[..., names.index("astigmatism_waves")]
            columns += [power * torch.cos(2 * column), power * torch.sin(2 * column)]
        else:
            columns.append(column)
    return torch.stack(columns, dim=-1)


def decode(model: str, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """Turn regressed quantities and their errors (batch, K) into parameters and errors (batch, N)."""
    chosen = family(model)
    column = dict(
        zip(targets(model).names, zip(values.unbind(-1), errors.unbind(-1), strict=True), strict=True)
    )
    parameters, spreads = [], []
    for name in chosen.parameter_names:
        low, high = chosen.parameter_ranges[name]
        if name == "axis_rad":
            (cos, cos_error), (sin, sin_error) = column[_COS], column[_SIN]
            length = torch.hypot(cos, sin).clamp(min=_NO_AXIS_WAVES)
            parameters.append((torch.atan2(sin, cos) / 2) % math.pi)
            across = torch.hypot(sin * cos_error, cos * sin_error) / length
            across = torch.where(length > _NO_AXIS_WAVES, across / (2 * length), math.inf)
            spreads.append(across.clamp(max=_UNIFORM_AXIS_ERROR))
        else:
            value, error = column[name]
            parameters.append(value.clamp(low, high))
            spreads.append(error)
    return torch.stack(parameters, dim=-1), torch.stack(spreads, dim=-1)


def mirror(model: str, values: Tensor) -> Tensor:
    """Return the regressed quantities (batch, K) of the patch mirrored along y (or along x: the same)."""
    signs = [-1.0 if name == _SIN else 1.0 for name in targets(model).names]
    return values * values.new_tensor(signs)


def transpose(model: str, values: Tensor) -> Tensor:
    """Return the regressed quantities (batch, K) of the patch with y and x exchanged."""
    names = targets(model).names
    signs = [-1.0 if name == _COS else 1.0 for name in names]
    exchanged = {"sigma_y_px": "sigma_x_px", "sigma_x_px": "sigma_y_px"}
    order = [names.index(exchanged.get(name, name)) for name in names]
    return values[..., order] * values.new_tensor(signs)
