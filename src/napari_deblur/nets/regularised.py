"""The data term of an unrolled method: a regularised inverse by conjugate gradients, with its derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from napari_deblur.blur.base import Blur
from napari_deblur.blur.convolution import cut, fft_shape, filter_with

_TINY = 1e-30


class RegularisedInverse:
    """Minimises ‖A x − y‖² + λ ‖x − r‖² over x: (AᵀA + λ) x = Aᵀy + λ r.

    Conjugate gradients, preconditioned by the division of spectra that would be exact for one PSF on a
    periodic image. The derivative is implicit: as AᵀA + λ is symmetric, a gradient g leads to
    v = (AᵀA + λ)⁻¹ g by the same iterations, then to λ v for r and to v · (r − x) for λ.

    Parameters
    ----------
    blur : Blur
    y : Tensor, shape ``(…, *blur.image_shape)``
    """

    def __init__(self, blur: Blur, y: Tensor) -> None:
        self.blur = blur
        self._shape = fft_shape(blur.object_shape)
        self._power = blur.mean_otf_power(self._shape)
        self._back = blur.adjoint(y)

    def __call__(self, towards: Tensor, strength: Tensor, start: Tensor, n_iterations: int) -> Tensor:
        """Return the minimiser.

        Parameters
        ----------
        towards : Tensor, shape ``(…, *blur.object_shape)``
            What the image is pulled to: r.
        strength : Tensor, broadcastable to it, one value per image
            λ.
        start : Tensor
            Where the iterations start.
        n_iterations : int
        """
        found: Tensor = _Solve.apply(towards, strength, start, self, n_iterations)  # type: ignore[no-untyped-call]
        return found

    def right_side(self, towards: Tensor, strength: Tensor) -> Tensor:
        """Return Aᵀy + λ r."""
        return self._back + strength * towards

    def solve(self, right_side: Tensor, strength: Tensor, start: Tensor | None, n_iterations: int) -> Tensor:
        """Return (AᵀA + λ)⁻¹ b by preconditioned conjugate gradients, each image by itself."""
        filter_ = 1 / (self._power + strength)
        if start is None:
            x, residual = torch.zeros_like(right_side), right_side
        else:
            x, residual = start, right_side - self._apply(start, strength)
        z = self._filtered(residual, filter_)
        direction, inner = z, _dot(residual, z)
        for done in range(1, n_iterations + 1):
            image_of = self._apply(direction, strength)
            step = inner / _dot(direction, image_of).clamp_min(_TINY)
            x = x + step * direction
            if done == n_iterations:
                break
            residual = residual - step * image_of
            z = self._filtered(residual, filter_)
            inner, before = _dot(residual, z), inner
            direction = z + inner / before.clamp_min(_TINY) * direction
        return x

    def _apply(self, x: Tensor, strength: Tensor) -> Tensor:
        return self.blur.adjoint(self.blur.forward(x)) + strength * x

    def _filtered(self, x: Tensor, filter_: Tensor) -> Tensor:
        return cut(filter_with(x, filter_, self._shape), tuple(x.shape[-2:]))


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, towards: Tensor, strength: Tensor, start: Tensor, inverse: RegularisedInverse, count: int
    ) -> Tensor:
        x = inverse.solve(inverse.right_side(towards, strength), strength, start, count)
        ctx.inverse, ctx.count = inverse, count
        ctx.save_for_backward(towards, strength, x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        towards, strength, x = ctx.saved_tensors
        v = ctx.inverse.solve(gradients[0], strength, None, ctx.count)
        by_strength = (v * (towards - x)).sum_to_size(strength.shape)
        return strength * v, by_strength, None, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(dim=(-2, -1), keepdim=True)
