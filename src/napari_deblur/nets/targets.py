"""What an identification network regresses for each family, and the way back to the family's parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from napari_deblur.core.errors import WeightsError
from napari_deblur.optics.psf import PsfFamily, family

SIGNED_DEFOCUS = ("defocus_cos_waves", "defocus_sin_waves")
"""Defocus · cos 2θ and · sin 2θ: no parameters of a family, but what depth is read from."""
_DEFOCUS, _POWER, _AXIS = "defocus_waves", "astigmatism_waves", "axis_rad"
_COS, _SIN = "astigmatism_cos_waves", "astigmatism_sin_waves"
_COS_4, _SIN_4 = "astigmatism_cos4_waves", "astigmatism_sin4_waves"
_DIRECTION = {2: (_COS, _SIN), 4: (_COS_4, _SIN_4)}
# What changes its sign where the axis θ becomes -θ, and where it becomes π/2 - θ.
_ODD_IN_MIRROR = (_SIN, _SIN_4, SIGNED_DEFOCUS[1])
_ODD_IN_TRANSPOSE = (_COS, _SIN_4, SIGNED_DEFOCUS[0])
_EXCHANGED = {"sigma_y_px": "sigma_x_px", "sigma_x_px": "sigma_y_px"}
_NO_AXIS_WAVES = 1e-6


@dataclass(frozen=True)
class Targets:
    """The quantities that a family's network regresses, and their scaling to mean 0 and variance 1.

    Attributes
    ----------
    model : str
        Id of the family.
    names : tuple of str
        Of the K quantities.
    center, scale : tuple of float
    """

    model: str
    names: tuple[str, ...]
    center: tuple[float, ...]
    scale: tuple[float, ...]

    @property
    def of_parameters(self) -> tuple[str, ...]:
        """The quantities that the parameters follow from: all but the signed defocus."""
        return tuple(name for name in self.names if name not in SIGNED_DEFOCUS)

    @property
    def scored_names(self) -> tuple[str, ...]:
        """Names of what `scored` returns."""
        return self.names

    def scored(self, values: Tensor) -> Tensor:
        """Return what R² is told of (batch, …) out of quantities (batch, K)."""
        return values

    def encode(self, parameters: Tensor) -> Tensor:
        """Turn parameters (batch, N) into the regressed quantities (batch, K), unscaled."""
        given = dict(zip(family(self.model).parameter_names, parameters.unbind(-1), strict=True))
        if _AXIS in given:
            order = _axis_order(family(self.model))
            cos, sin = torch.cos(order * given[_AXIS]), torch.sin(order * given[_AXIS])
            power = given[_POWER]
            given |= dict(zip(_DIRECTION[order], (power * cos, power * sin), strict=True))
            if _DEFOCUS in given:
                given |= dict(
                    zip(SIGNED_DEFOCUS, (given[_DEFOCUS] * cos, given[_DEFOCUS] * sin), strict=True)
                )
        return torch.stack([given[name] for name in self.names], dim=-1)

    def decode(self, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
        """Turn regressed quantities and their errors (batch, K) into parameters and errors (batch, N)."""
        chosen = family(self.model)
        column = dict(zip(self.names, zip(values.unbind(-1), errors.unbind(-1), strict=True), strict=True))
        parameters, spreads = [], []
        for name in chosen.parameter_names:
            low, high = chosen.parameter_ranges[name]
            if name == _AXIS:
                order = _axis_order(chosen)
                (cos, cos_error), (sin, sin_error) = (column[part] for part in _DIRECTION[order])
                length = torch.hypot(cos, sin).clamp(min=_NO_AXIS_WAVES)
                parameters.append((torch.atan2(sin, cos) / order) % high)
                across = torch.hypot(sin * cos_error, cos * sin_error) / length
                across = torch.where(length > _NO_AXIS_WAVES, across / (order * length), math.inf)
                spreads.append(across.clamp(max=high / math.sqrt(12)))
            else:
                value, error = column[name]
                parameters.append(value.clamp(low, high))
                spreads.append(error)
        return torch.stack(parameters, dim=-1), torch.stack(spreads, dim=-1)

    def coefficients(self, values: Tensor) -> Tensor:
        """Return the parameters (batch, N) of quantities (batch, K), differentiable, to compare kernels."""
        return self.decode(values, torch.zeros_like(values))[0]

    def signed_defocus(self, values: Tensor) -> Tensor | None:
        """Return defocus · cos 2θ and · sin 2θ (batch, 2) out of quantities (batch, K), where regressed."""
        if not set(SIGNED_DEFOCUS) <= set(self.names):
            return None
        return values[..., [self.names.index(name) for name in SIGNED_DEFOCUS]]

    def mirror(self, values: Tensor, axis: int = -2) -> Tensor:
        """Return the quantities (batch, K) of the patch mirrored along y or, the same here, along x."""
        del axis
        return values * values.new_tensor([-1.0 if name in _ODD_IN_MIRROR else 1.0 for name in self.names])

    def transpose(self, values: Tensor) -> Tensor:
        """Return the quantities (batch, K) of the patch with y and x exchanged."""
        signs = [-1.0 if name in _ODD_IN_TRANSPOSE else 1.0 for name in self.names]
        order = [self.names.index(_EXCHANGED.get(name, name)) for name in self.names]
        return values[..., order] * values.new_tensor(signs)


def targets(model: str, names: Iterable[str] | None = None) -> Targets:
    """Return the regressed quantities of a family.

    An axis is regressed as power · cos 2θ and power · sin 2θ: both are continuous where the axis jumps from π
    to 0 and vanish where it is undefined. The power itself is regressed beside them, for at zero defocus the
    axes θ and θ + π/2 give the same kernel: the two components then average to zero while the power is known.
    A family without defocus has cos 4θ and sin 4θ in their place, and its axis ends at π/2.

    Where there is defocus too, its products with cos 2θ and sin 2θ come last. Across the focus of an
    astigmatic lens the axis turns by 90° while the defocus touches zero: the products pass through zero
    smoothly, and a network reads them well where it cannot be sure of either factor.

    Of signed coefficients those of odd order are regressed, and products of those of even order; see
    `aberrations`.

    Parameters
    ----------
    model : str
    names : iterable of str, optional
        Those of the quantities that a network regresses, in its order; all when not given.

    Raises
    ------
    WeightsError
        If a name is not among them.
    """
    # That module needs this one.
    from napari_deblur.nets import aberrations

    chosen = family(model)
    kind: type[Targets] = aberrations.AberrationTargets if chosen.noll_indices else Targets
    scaling = aberrations.scaling(chosen) if chosen.noll_indices else _scaling(chosen)
    wanted = tuple(scaling) if names is None else tuple(names)
    unknown = sorted(set(wanted) - set(scaling))
    if unknown:
        raise WeightsError(f"the card regresses {', '.join(unknown)}, which {model} does not have")
    center, scale = zip(*(scaling[name] for name in wanted), strict=True)
    return kind(model, wanted, center, scale)


def _scaling(chosen: PsfFamily) -> dict[str, tuple[float, float]]:
    """Return (mean, standard deviation) of each regressed quantity over the family's ranges."""
    ranges = chosen.parameter_ranges
    found: dict[str, tuple[float, float]] = {}
    for name in chosen.parameter_names:
        low, high = ranges[name]
        if name == _AXIS:
            found |= dict.fromkeys(_DIRECTION[_axis_order(chosen)], (0.0, ranges[_POWER][1] / math.sqrt(6)))
        else:
            found[name] = ((low + high) / 2, (high - low) / math.sqrt(12))
    if {_DEFOCUS, _AXIS} <= set(ranges):
        found |= dict.fromkeys(SIGNED_DEFOCUS, (0.0, ranges[_DEFOCUS][1] / math.sqrt(6)))
    return found


def _axis_order(chosen: PsfFamily) -> int:
    """Return how often the kernel repeats itself while the axis turns once around."""
    return round(2 * math.pi / chosen.parameter_ranges[_AXIS][1])
