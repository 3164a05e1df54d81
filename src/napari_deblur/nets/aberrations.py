"""What a network regresses of a family of signed Zernike coefficients, and the way back to them.

Reversing the signs of all coefficients of even radial order at once leaves the kernel as it is (they split
the transform of the pupil into a real and an imaginary part, of which only the squares are seen). The
vector e of these coefficients and its opposite are therefore one thing, and no choice between both is
continuous: with the defocus kept positive, the astigmatism jumps where the defocus touches zero, and a mean
over what an image leaves open would shrink to zero. The products e eᵀ know no sign and are smooth
everywhere. They are what is regressed, beside the odd orders as they are; e is the leading eigenvector
times the root of its eigenvalue, with defocus of 0 or more.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from napari_deblur.nets.targets import Targets
from napari_deblur.optics.psf import PsfFamily, family
from napari_deblur.optics.zernike import noll_to_nm

_TIMES = "*"
# Eigenvalues below the square of this many waves are rounding.
_FLOOR_WAVES = 1e-3
# Below this many waves errors of products no longer tell those of their factors.
_LEAST_WAVES = 0.02
# Each squares the ratio of the eigenvalues.
_SQUARINGS = 10


@dataclass(frozen=True)
class AberrationTargets(Targets):
    """Coefficients of odd order, and the products of those of even order in pairs."""

    @property
    def scored_names(self) -> tuple[str, ...]:
        """The coefficients themselves."""
        return family(self.model).parameter_names

    @property
    def of_parameters(self) -> tuple[str, ...]:
        """The coefficients themselves."""
        return self.scored_names

    def scored(self, values: Tensor) -> Tensor:
        """Return the coefficients (batch, N) that the quantities mean."""
        return self.decode(values, torch.zeros_like(values))[0]

    def encode(self, parameters: Tensor) -> Tensor:
        """Turn coefficients (batch, N) into the regressed quantities (batch, K), unscaled."""
        given = dict(zip(family(self.model).parameter_names, parameters.unbind(-1), strict=True))
        columns = []
        for name in self.names:
            first, _, second = name.partition(_TIMES)
            columns.append(given[first] * given[second] if second else given[first])
        return torch.stack(columns, dim=-1)

    def coefficients(self, values: Tensor) -> Tensor:
        """Return the coefficients (batch, N) of quantities (batch, K), up to half a range outside of it."""
        chosen = family(self.model)
        column = dict(zip(self.names, values.unbind(-1), strict=True))
        even = even_names(chosen)
        root = _root(self._matrix(values))[0]
        column |= dict(zip(even, root.unbind(-1), strict=True))
        found = []
        for name, (low, high) in chosen.parameter_ranges.items():
            beyond = (high - low) / 2
            found.append(column[name].clamp(low - beyond, high + beyond))
        return torch.stack(found, dim=-1)

    def decode(self, values: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
        """Turn quantities and their errors (batch, K) into coefficients and errors (batch, N), in range."""
        chosen = family(self.model)
        even = even_names(chosen)
        root, eigen = _root(self._matrix(values))
        spread = _root_errors(root, eigen, self._matrix(errors))
        column = dict(zip(self.names, zip(values.unbind(-1), errors.unbind(-1), strict=True), strict=True))
        column |= dict(zip(even, zip(root.unbind(-1), spread.unbind(-1), strict=True), strict=True))
        bounds = [chosen.parameter_ranges[name] for name in chosen.parameter_names]
        found = [column[name] for name in chosen.parameter_names]
        parameters = [value.clamp(*limits) for (value, _), limits in zip(found, bounds, strict=True)]
        # Nothing known: the standard deviation of a uniform distribution.
        most = [(high - low) / math.sqrt(12) for low, high in bounds]
        spreads = [error.clamp(max=limit) for (_, error), limit in zip(found, most, strict=True)]
        return torch.stack(parameters, dim=-1), torch.stack(spreads, dim=-1)

    def mirror(self, values: Tensor, axis: int = -2) -> Tensor:
        """Return the quantities (batch, K) of the patch mirrored along y (axis -2) or x (axis -1)."""
        sign = {
            name: _mirror_sign(index, axis)
            for name, index in zip(self.scored_names, family(self.model).noll_indices, strict=True)
        }
        return values * values.new_tensor([math.prod(sign[f] for f in n.split(_TIMES)) for n in self.names])

    def transpose(self, values: Tensor) -> Tensor:
        """Return the quantities (batch, K) of the patch with y and x exchanged."""
        chosen = family(self.model)
        names = dict(zip(chosen.noll_indices, chosen.parameter_names, strict=True))
        source: dict[str, str] = {}
        sign: dict[str, float] = {}
        for index, name in names.items():
            other, sign[name] = _exchanged(index, chosen.noll_indices)
            source[name] = names[other]
        order = [
            self.names.index(_TIMES.join(source[factor] for factor in name.split(_TIMES)))
            for name in self.names
        ]
        signs = [math.prod(sign[factor] for factor in name.split(_TIMES)) for name in self.names]
        return values[..., order] * values.new_tensor(signs)

    def _matrix(self, values: Tensor) -> Tensor:
        """Return the products (batch, E, E) of the E coefficients of even order."""
        even = even_names(family(self.model))
        rows = []
        for i in range(len(even)):
            pairs = [_TIMES.join((even[min(i, j)], even[max(i, j)])) for j in range(len(even))]
            rows.append(torch.stack([values[..., self.names.index(pair)] for pair in pairs], dim=-1))
        return torch.stack(rows, dim=-2)


def even_names(chosen: PsfFamily) -> list[str]:
    """Return the parameters of a family that are coefficients of even radial order."""
    pairs = zip(chosen.parameter_names, chosen.noll_indices, strict=True)
    return [name for name, index in pairs if noll_to_nm(index)[0] % 2 == 0]


def odd_names(chosen: PsfFamily) -> list[str]:
    """Return the parameters of a family that are coefficients of odd radial order."""
    pairs = zip(chosen.parameter_names, chosen.noll_indices, strict=False)
    return [name for name, index in pairs if noll_to_nm(index)[0] % 2]


def scaling(chosen: PsfFamily) -> dict[str, tuple[float, float]]:
    """Return (mean, standard deviation) of each regressed quantity over the family's ranges."""
    even = even_names(chosen)
    found: dict[str, tuple[float, float]] = {}
    for first, second in itertools.combinations_with_replacement(even, 2):
        one, other = (chosen.parameter_ranges[name] for name in (first, second))
        if first == second:
            mean, square = _moment(*one, 2), _moment(*one, 4)
        else:
            mean, square = _moment(*one, 1) * _moment(*other, 1), _moment(*one, 2) * _moment(*other, 2)
        found[_TIMES.join((first, second))] = (mean, math.sqrt(square - mean**2))
    for name, (low, high) in chosen.parameter_ranges.items():
        if name not in even:
            found[name] = ((low + high) / 2, (high - low) / math.sqrt(12))
    return found


def _moment(low: float, high: float, power: int) -> float:
    """Return the mean of the power of a uniformly distributed number."""
    return (high ** (power + 1) - low ** (power + 1)) / ((power + 1) * (high - low))


def _root(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vector e (…, E), its first component 0 or more, whose e eᵀ is the matrix's leading part.

    Also its squared length λ. The direction v comes from repeated squaring and e = M v / √λ: that has the
    right derivative wherever the other eigenvalues are small, and no pole where two are equal.
    """
    with torch.no_grad():
        size = torch.linalg.matrix_norm(matrix)[..., None, None].clamp(min=1e-12)
        power = matrix / size + torch.eye(matrix.shape[-1], device=matrix.device)
        for _ in range(_SQUARINGS):
            power = power @ power
            power = power / torch.linalg.matrix_norm(power)[..., None, None]
        strongest = power.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
        index = strongest[..., None, None].expand(*power.shape[:-1], 1)
        direction = torch.nn.functional.normalize(power.gather(-1, index)[..., 0], dim=-1)
        direction = torch.where(direction[..., :1] < 0, -direction, direction)
    along = (matrix @ direction[..., None])[..., 0]
    eigen = (along * direction).sum(dim=-1, keepdim=True)
    root = along / eigen.clamp(min=_FLOOR_WAVES**2).sqrt()
    return torch.where(eigen > 0, root, torch.zeros_like(root)), eigen[..., 0].clamp(min=0)


def _root_errors(root: Tensor, eigen: Tensor, errors: Tensor) -> Tensor:
    """Return the errors (…, E) of e = `_root` from those of the products (…, E, E), to first order.

    With v = e / |e| a change dM of the matrix changes e by (dM v - v (v · dM v) / 2) / |e|. To that comes the
    chance that the first component, which holds the sign, is in truth on the other side of zero.
    """
    length = eigen.sqrt().clamp(min=_LEAST_WAVES)[..., None]
    direction = torch.nn.functional.normalize(root, dim=-1)
    variance = torch.zeros_like(root)
    count = root.shape[-1]
    for i, j in itertools.combinations_with_replacement(range(count), 2):
        change = torch.zeros_like(root)
        change[..., i] += direction[..., j]
        if i != j:
            change[..., j] += direction[..., i]
        projected = (direction * change).sum(dim=-1, keepdim=True)
        moved = (change - direction * projected / 2) / length
        variance = variance + (moved * errors[..., i, j, None]).square()
    turned = 0.5 * torch.erfc(root[..., :1] / (2 * variance[..., :1]).sqrt().clamp(min=1e-9))
    turned = torch.cat([torch.zeros_like(turned), turned.expand(*turned.shape[:-1], count - 1)], dim=-1)
    return (variance + turned * (2 * root).square()).sqrt()


def _mirror_sign(index: int, axis: int) -> float:
    """Return the factor of a polynomial's coefficient when y (axis -2) or x (axis -1) is mirrored."""
    _, m = noll_to_nm(index)
    if axis == -2:
        return -1.0 if m < 0 else 1.0
    return (-1.0) ** abs(m) * (-1.0 if m < 0 else 1.0)


def _exchanged(index: int, indices: tuple[int, ...]) -> tuple[int, float]:
    """Return whose coefficient, times which factor, a polynomial takes when y and x are exchanged."""
    n, m = noll_to_nm(index)
    if m % 2:
        # cos mφ and sin mφ become each other, for φ becomes π/2 - φ.
        other = next(one for one in indices if noll_to_nm(one) == (n, -m))
        return other, 1.0 if abs(m) % 4 == 1 else -1.0
    return index, (-1.0 if m < 0 else 1.0) * (-1.0) ** (abs(m) // 2)
