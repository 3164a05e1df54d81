"""What all Poisson-likelihood methods share: sensitivity, start, ratio and likelihood on the blur's grid."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from napari_deblur.blur.blocked import by_pieces

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.blur.base import Blur

LEAST_SENSITIVITY = 0.01
"""Object points that send less than this share of their light into the image are not estimated."""
_LEAST_DIVISOR = 0.1
TINY = 1e-7
"""Guards divisions; far below the photon noise of an image scaled to a maximum of 1."""


class Emission:
    """One image under photon noise, with what its update needs computed once.

    Objects are held on the blur's grid, zero where they are not estimated, so that an update is two blurs and
    a few operations in place.

    Parameters
    ----------
    y : Tensor, shape ``blur.image_shape``
    blur : Blur
    weight : Tensor, optional
        Share with which each pixel of the image counts; 0 leaves it out.
    back : callable, optional
        Projects an image on the grid back to the object and may overwrite it; by default the transpose.
    least_factor : float
        Least factor of an update.

    Attributes
    ----------
    data : Tensor, shape ``blur.grid_shape``
        The (weighted) image on the grid.
    sensitivity : Tensor, shape ``blur.grid_shape``
        Share of an object point's light that reaches the image.
    gain : Tensor, shape ``blur.grid_shape``
        1 / (back projection of ones) where the sensitivity suffices, else 0.
    """

    def __init__(
        self,
        y: Tensor,
        blur: Blur,
        weight: Tensor | None = None,
        *,
        back: Callable[[Tensor], Tensor] | None = None,
        least_factor: float = 0.0,
    ) -> None:
        import torch

        self.blur = blur
        self.back = back or partial(blur.adjoint_on_grid, overwrite=True)
        self.least_factor = least_factor
        counted = torch.ones_like(y) if weight is None else weight
        self.data = blur.place(y if weight is None else y * weight)
        self.sensitivity = blur.sensitivity_on_grid(counted)
        inside = torch.zeros_like(self.sensitivity, dtype=torch.bool)
        blur.object_part(inside).copy_(blur.object_part(self.sensitivity) > LEAST_SENSITIVITY)
        if back is None:
            divisor = self.sensitivity.clamp_min(LEAST_SENSITIVITY)
        else:
            divisor = back(blur.place(counted)).clamp_min_(_LEAST_DIVISOR)
        self.gain = torch.div(inside, divisor, out=divisor)
        self._level = (self.data.sum() / counted.sum()).clamp_min(TINY)

    def start(self) -> Tensor:
        """Return a flat object, which lets every structure come from the data."""
        return self._level * (self.gain > 0)

    def ratio_(self, model: Tensor) -> Tensor:
        """Turn a model on the grid into image over model, in place: zero around the image."""
        import torch

        def divide(span: slice) -> None:
            torch.div(self.data[span], model[span].clamp_min_(TINY), out=model[span])

        by_pieces(model, divide)
        return model

    def update_(self, x: Tensor, back: Tensor) -> Tensor:
        """Turn a back projection into the next object, in place: object times back projection times gain."""

        def multiply(span: slice) -> None:
            back[span].mul_(self.gain[span]).clamp_(min=self.least_factor).mul_(x[span])

        by_pieces(back, multiply)
        return back

    def estimate(self, x: Tensor) -> Tensor:
        """Return the object without the rest of the grid."""
        return self.blur.object_part(x).contiguous()


def log_likelihood(y: Tensor, model: Tensor) -> float:
    """Return Σ y log m − m: the Poisson log-likelihood of a model, up to what the model does not change."""
    guarded = model.clamp_min(TINY)
    return total(y * guarded.log() - guarded)


def total(values: Tensor) -> float:
    """Return a sum in double precision where the device knows that."""
    import torch

    return float(values.sum(dtype=None if values.device.type == "mps" else torch.float64))
