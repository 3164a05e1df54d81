"""What all Poisson-likelihood methods share: sensitivity, start, ratio and likelihood on the blur's grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.blur.base import Blur
    from napari_deblur.blur.chain import Chain, Region

LEAST_SENSITIVITY = 0.01
"""Object points that send less than this share of their light into the image are not estimated."""
_LEAST_DIVISOR = 0.1
TINY = 1e-7
"""Guards divisions; far below the photon noise of an image scaled to a maximum of 1."""


class Emission:
    """One image under photon noise, or several of one blur, with what its update needs computed once.

    Objects are held on the blur's grid, zero where they are not estimated, so that an update is two blurs and
    a few operations in place.

    Parameters
    ----------
    y : Tensor, shape (…, *blur.image_shape)
    blur : Blur
    weight : Tensor, shape ``blur.image_shape``, optional
        Share with which each pixel of the image counts; 0 leaves it out.
    back : callable, optional
        Projects an image on the grid back to the object and may overwrite it; by default the transpose.
    least_factor : float
        Least factor of an update.

    Attributes
    ----------
    data : Tensor, shape (…, *blur.grid_shape)
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
        self._matched = back is None
        self.back = back or partial(blur.adjoint_on_grid, overwrite=True)
        self.least_factor = least_factor
        counted = y.new_ones(blur.image_shape) if weight is None else weight
        self.data = blur.place(y if weight is None else y * weight)
        self.sensitivity = blur.sensitivity_on_grid(counted)
        inside = torch.zeros_like(self.sensitivity, dtype=torch.bool)
        blur.object_part(inside).copy_(blur.object_part(self.sensitivity) > LEAST_SENSITIVITY)
        if back is None:
            divisor = self.sensitivity.clamp_min(LEAST_SENSITIVITY)
        else:
            divisor = back(blur.place(counted)).clamp_min_(_LEAST_DIVISOR)
        self.gain = torch.div(inside, divisor, out=divisor)
        # Without a pedestal the first update forgets the level; with one, all tiles must start from the same.
        axes = tuple(range(-len(blur.image_shape), 0))
        light = self.data.sum(dim=axes, keepdim=True) / counted.sum()
        self._level = torch.ones_like(light) if blur.pedestal else light.clamp_min(TINY)

    def start(self) -> Tensor:
        """Return a flat object, which lets every structure come from the data."""
        return self.gain.sign() * self._level

    def model(self, x: Tensor) -> Tensor:
        """Return what an object should look like: blurred, on the grid, plus the blur's pedestal."""
        blurred = self.blur.forward_on_grid(x)
        return blurred.add_(self.blur.pedestal) if self.blur.pedestal else blurred

    def ratio_(self, model: Tensor) -> Tensor:
        """Turn a model on the grid into image over model, in place: zero around the image."""
        import torch

        return torch.div(self.data, model.clamp_min_(TINY), out=model)

    def update_(self, x: Tensor, back: Tensor) -> Tensor:
        """Turn a back projection into the next object, in place: object times back projection times gain."""
        return back.mul_(self.gain).clamp_(min=self.least_factor).mul_(x)

    def comparison(self, x: Tensor) -> Tensor:
        """Return the back projection of image over model: what an object is to be multiplied with."""
        chain = self.chain(x)
        if chain is None:
            return self.back(self.ratio_(self.model(x)))
        result, objects, image = x.new_zeros(x.shape), self.blur.object_region, self.blur.image_region
        chain.load(x, objects)
        chain.filter(objects, image)
        chain.work(self._ratio_piece, image)
        chain.filter(image, objects, conjugate=True)
        chain.store(result, objects)
        return result

    def chain(self, x: Tensor) -> Chain | None:
        """Return the means to iterate piece by piece, where blur and back projector have them."""
        return self.blur.chain(x) if self._matched else None

    def rounds(self, x: Tensor, chain: Chain, count: int) -> Iterator[Tensor]:
        """Yield one object after the other, each from the one before as `comparison` and `update_` make it.

        An object's memory is used again for the one after the next.

        Parameters
        ----------
        x : Tensor, shape ``blur.grid_shape``
            The first object; overwritten.
        chain : Chain
        count : int
            How many objects.
        """
        import torch

        def update(place: Region, back: Tensor) -> Tensor:
            factor = back.mul_(self.gain[place]).clamp_(min=self.least_factor)
            return torch.mul(factor, x[place], out=after[place])

        objects, image = self.blur.object_region, self.blur.image_region
        after = torch.zeros_like(x)
        chain.load(x, objects)
        for done in range(1, count + 1):
            chain.filter(objects, image)
            chain.work(self._ratio_piece, image)
            chain.filter(image, objects, conjugate=True)
            chain.work(update, objects, last=done == count)
            yield after
            x, after = after, x

    def _ratio_piece(self, place: Region, model: Tensor) -> Tensor:
        """Turn a piece of the blurred object into image over model, in place."""
        import torch

        if self.blur.pedestal:
            model.add_(self.blur.pedestal)
        return torch.div(self.data[place], model.clamp_min_(TINY), out=model)

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
