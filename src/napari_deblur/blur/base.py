"""What every blur operator offers to the methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class Blur(ABC):
    """A linear map from an object to the blurred image of it.

    The object lives on a larger domain than the image: a frame of `margin` pixels around the field of view
    holds what lies outside it but still sends light into it. With that frame the image is an honest *valid*
    convolution, so that no boundary condition is assumed and no ringing starts at the border (Bertero &
    Boccacci 2005, doi:10.1051/0004-6361:20042351).

    Attributes
    ----------
    image_shape : tuple of int
        Shape (y, x) of the image.
    margin : tuple of int
        Width of the frame along y and x: the kernels' half size.
    n_kernels : int
        How many convolutions one forward costs.
    """

    image_shape: tuple[int, ...]
    margin: tuple[int, ...]
    n_kernels: int = 1

    @property
    def object_shape(self) -> tuple[int, ...]:
        """Shape of the object: the image plus a frame of `margin` on every side."""
        return tuple(size + 2 * m for size, m in zip(self.image_shape, self.margin, strict=True))

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Blur an object ``(…, *object_shape)`` into an image ``(…, *image_shape)``."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the exact transpose of `forward`."""

    @abstractmethod
    def mean_otf_power(self, shape: tuple[int, ...]) -> Tensor:
        """Return the field's mean of |OTF|² on the rfft grid of ``shape``: what one filter can know of it."""

    def crop(self, x: Tensor) -> Tensor:
        """Cut the frame off an object."""
        spans = (slice(m, m + size) for size, m in zip(self.image_shape, self.margin, strict=True))
        index: Any = (..., *spans)
        return x[index]

    def extend(self, y: Tensor) -> Tensor:
        """Continue an image into the frame by reflection: a starting guess for the object."""
        import torch

        for axis, m in enumerate(self.margin):
            dim = y.ndim - len(self.margin) + axis
            y = torch.index_select(y, dim, _reflect_index(y.shape[dim], m).to(y.device))
        return y


def _reflect_index(size: int, margin: int) -> Tensor:
    """Return the indices that continue an axis by reflection, also where the margin exceeds the axis."""
    import torch

    period = max(2 * (size - 1), 1)
    folded = torch.arange(-margin, size + margin).remainder(period)
    return torch.where(folded < size, folded, period - folded)
