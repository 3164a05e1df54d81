"""What every blur operator offers to the methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.blur.chain import Chain


class Blur(ABC):
    """A linear map from an object to the blurred image of it.

    The object lives on a larger domain than the image: a frame of `margin` pixels around the field of view
    holds what lies outside it but still sends light into it. With that frame the image is an honest *valid*
    convolution, so that no boundary condition is assumed and no ringing starts at the border (Bertero &
    Boccacci 2005, doi:10.1051/0004-6361:20042351).

    Attributes
    ----------
    image_shape : tuple of int
        Shape (y, x) or (z, y, x) of the image.
    margin : tuple of int
        Width of the frame along each axis: the kernels' half size.
    n_kernels : int
        How many convolutions one forward costs.
    spacing : tuple of float
        Distance of neighbouring samples along each axis, in units of the finest; empty: the same everywhere.
    pedestal : float
        Constant that the image has and the object does not explain: the image is `forward` of the object plus
        this. `forward` itself stays linear; methods that say ``knows_pedestal`` look for it here.

    Notes
    -----
    Iterative methods spend their time in Fourier transforms. For them every operator also works on its
    *grid*: an array of a shape whose transform is fast, with the object at its low corner and anything,
    mostly zeros, beyond it. There a product needs no padding, no cropping and no copy, and image and object
    share their coordinates: the image is the part of the grid that starts at `margin`.
    """

    image_shape: tuple[int, ...]
    margin: tuple[int, ...]
    n_kernels: int = 1
    spacing: tuple[float, ...] = ()
    pedestal: float = 0.0

    @property
    def object_shape(self) -> tuple[int, ...]:
        """Shape of the object: the image plus a frame of `margin` on every side."""
        return tuple(size + 2 * m for size, m in zip(self.image_shape, self.margin, strict=True))

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Shape of the grid; by default the object's own."""
        return self.object_shape

    @property
    def steps(self) -> tuple[float, ...]:
        """Distance of samples along each axis, in units of the finest."""
        return self.spacing or (1.0,) * len(self.image_shape)

    @property
    def object_region(self) -> tuple[slice, ...]:
        """The object's place on the grid along all axes but the last."""
        return tuple(slice(0, size) for size in self.object_shape[:-1])

    @property
    def image_region(self) -> tuple[slice, ...]:
        """The image's place on the grid along all axes but the last."""
        spans = zip(self.image_shape, self.margin, strict=True)
        return tuple(slice(m, m + size) for size, m in spans)[:-1]

    def chain(self, x: Tensor) -> Chain | None:
        """Return the means to blur and back-project ``x`` piece by piece, where there are any."""
        del x
        return None

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Blur an object ``(…, *object_shape)`` into an image ``(…, *image_shape)``."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the exact transpose of `forward`."""

    @abstractmethod
    def mean_otf_power(self, shape: tuple[int, ...]) -> Tensor:
        """Return the field's mean of |OTF|² on the rfft grid of ``shape``: what one filter can know of it."""

    def forward_on_grid(self, x: Tensor) -> Tensor:
        """Blur an object on its grid.

        Parameters
        ----------
        x : Tensor, shape (…, *grid_shape)
            Zero beyond the object.

        Returns
        -------
        Tensor, shape (…, *grid_shape)
            A new one that the caller may overwrite; the image at `margin`, anything around it.
        """
        return self.place(self.forward(self.object_part(x)))

    def adjoint_on_grid(self, y: Tensor, *, overwrite: bool = False) -> Tensor:
        """Apply the transpose of `forward_on_grid`.

        Parameters
        ----------
        y : Tensor, shape (…, *grid_shape)
            Zero around the image.
        overwrite : bool
            Whether the result may take the memory of ``y``.

        Returns
        -------
        Tensor, shape (…, *grid_shape)
            A new one that the caller may overwrite; anything beyond the object.
        """
        del overwrite
        back = self.adjoint(self.crop(y))
        on_grid = back.new_zeros((*back.shape[: -len(self.grid_shape)], *self.grid_shape))
        self.object_part(on_grid).copy_(back)
        return on_grid

    def sensitivity_on_grid(self, weight: Tensor) -> Tensor:
        """Return the share of each object point's light that reaches the image, on the grid.

        Parameters
        ----------
        weight : Tensor, shape ``image_shape``
            How much each pixel counts; 1 where all do.
        """
        return self.adjoint_on_grid(self.place(weight), overwrite=True)

    def place(self, y: Tensor) -> Tensor:
        """Put an image ``(…, *image_shape)`` on the grid, with zeros around it."""
        on_grid = y.new_zeros((*y.shape[: -len(self.grid_shape)], *self.grid_shape))
        self.crop(on_grid).copy_(y)
        return on_grid

    def object_part(self, x: Tensor) -> Tensor:
        """Return a view of the object on the grid."""
        index: Any = (..., *(slice(0, size) for size in self.object_shape))
        return x[index]

    def crop(self, x: Tensor) -> Tensor:
        """Return a view of the image's part of an object or a grid."""
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
