"""Convolution with one PSF, exact at the borders, with its adjoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scipy.fft import next_fast_len

from napari_deblur.blur.base import Blur
from napari_deblur.blur.chain import Chain, make_chain, suits

if TYPE_CHECKING:
    from torch import Tensor


class Convolution(Blur):
    """True convolution of an object with one kernel, restricted to the field of view.

    Parameters
    ----------
    kernel : Tensor, shape (y, x) or (z, y, x), odd sizes, centre at ``size // 2``
    image_shape : tuple of int
    spacing : tuple of float, optional
        Distance of samples along each axis, in units of the finest.
    """

    def __init__(self, kernel: Tensor, image_shape: tuple[int, ...], spacing: tuple[float, ...] = ()) -> None:
        self.kernel = kernel
        self.image_shape = tuple(image_shape)
        self.spacing = tuple(spacing)
        self.margin = tuple(size // 2 for size in kernel.shape)
        self._fft_shape = fft_shape(self.object_shape)
        self._otf = otf(kernel, self._fft_shape)
        self._conjugate: Tensor | None = None
        self._chain: Chain | None = None

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Shape of the grid: the next one whose transform is fast."""
        return self._fft_shape

    def forward(self, x: Tensor) -> Tensor:
        """Blur an object ``(…, *object_shape)`` into an image ``(…, *image_shape)``."""
        if self.chain(x) is not None:
            on_grid = x.new_zeros(self._fft_shape)
            self.object_part(on_grid).copy_(x)
            return self.crop(self.forward_on_grid(on_grid))
        return self.crop(filter_with(x, self._otf, self._fft_shape))

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the exact transpose: zero frame, then correlation with the kernel."""
        padded = embed(y, self.margin, self._fft_shape)
        return cut(filter_with(padded, self._otf.conj(), self._fft_shape), self.object_shape)

    def forward_on_grid(self, x: Tensor) -> Tensor:
        """Blur an object on its grid: two transforms and one product in place."""
        chain = self.chain(x)
        if chain is None:
            return _filter_on_grid(x, self._otf)
        chain.load(x, self.object_region)
        chain.filter(self.object_region, self.image_region)
        result = x.new_zeros(x.shape)
        chain.store(result, self.image_region)
        return result

    def adjoint_on_grid(self, y: Tensor, *, overwrite: bool = False) -> Tensor:
        """Correlate an image on its grid: two transforms and one product in place."""
        chain = self.chain(y)
        if chain is not None:
            chain.load(y, self.image_region)
            chain.filter(self.image_region, self.object_region, conjugate=True)
            result = y if overwrite else y.new_zeros(y.shape)
            chain.store(result, self.object_region)
            return result
        if self._conjugate is None:
            # A lazy conjugate would be written out anew in every product.
            self._conjugate = self._otf.conj().resolve_conj()
        return _filter_on_grid(y, self._conjugate)

    def chain(self, x: Tensor) -> Chain | None:
        """Return the means to blur and back-project ``x`` piece by piece, where that is faster."""
        learned = self._otf.requires_grad
        if learned or x.dtype != self.kernel.dtype or not suits(x, self._otf.ndim):
            return None
        if self._chain is None:
            self._chain = make_chain(self._otf, self._fft_shape)
        return self._chain

    def sensitivity_on_grid(self, weight: Tensor) -> Tensor:
        """Return the share of light that reaches the image; where all pixels count, without a transform.

        An object point p sends the kernel's entry j into the image if 0 ≤ p + j − 2 margin < size along every
        axis: a sum over the kernel that factors into one matrix of ones and zeros per axis.
        """
        import torch

        if not bool((weight == 1).all()):
            return super().sensitivity_on_grid(weight)
        seen = self.kernel
        for axis, (size, margin) in enumerate(zip(self.image_shape, self.margin, strict=True)):
            points = torch.arange(size + 2 * margin, device=seen.device)
            entries = torch.arange(2 * margin + 1, device=seen.device)
            at = points[:, None] + entries - 2 * margin
            reaches = ((at >= 0) & (at < size)).to(seen.dtype)
            seen = torch.tensordot(reaches, seen, dims=([1], [axis])).movedim(0, axis)
        on_grid = seen.new_zeros(self._fft_shape)
        self.object_part(on_grid).copy_(seen)
        return on_grid

    def mean_otf_power(self, shape: tuple[int, ...]) -> Tensor:
        """Return |OTF|² on the rfft grid of ``shape``."""
        return otf(self.kernel, shape).abs() ** 2


def fft_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the next sizes whose FFT is fast (small prime factors)."""
    return tuple(int(next_fast_len(size, real=True)) for size in shape)


def otf(kernel: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the rfft of kernels ``(…, h, w)`` with their centre moved to index 0 of a grid ``shape``."""
    import torch

    ndim = len(shape)
    # One axis after the other, the last first: what is zero so far needs no transform.
    spectrum: Tensor = torch.fft.rfft(_wrapped(kernel, -1, shape[-1]))
    for dim in range(-2, -ndim - 1, -1):
        spectrum = torch.fft.fft(_wrapped(spectrum, dim, shape[dim]), dim=dim)
    return spectrum.contiguous()


def _wrapped(kernel: Tensor, dim: int, size: int) -> Tensor:
    """Continue a kernel with zeros along an axis and move its centre to index 0."""
    length = kernel.shape[dim]
    centre = length // 2
    shape = list(kernel.shape)
    shape[dim] = size
    wrapped = kernel.new_zeros(shape)
    wrapped.narrow(dim, 0, length - centre).copy_(kernel.narrow(dim, centre, length - centre))
    wrapped.narrow(dim, size - centre, centre).copy_(kernel.narrow(dim, 0, centre))
    return wrapped


def _filter_on_grid(x: Tensor, transfer: Tensor) -> Tensor:
    """Filter a grid with a transfer function.

    The transforms allocate their results: with ``out=`` torch computes elsewhere and copies, which costs more
    than the allocation that it seems to save.
    """
    import torch

    dims = tuple(range(-transfer.ndim, 0))
    spectrum = torch.fft.rfftn(x, dim=dims).mul_(transfer)
    filtered: Tensor = torch.fft.irfftn(spectrum, s=x.shape[-transfer.ndim :], dim=dims)
    return filtered


def filter_with(x: Tensor, transfer: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Multiply the spectrum of ``x`` (zero-padded to ``shape``) with a transfer function."""
    import torch

    dims = tuple(range(-len(shape), 0))
    filtered: Tensor = torch.fft.irfftn(torch.fft.rfftn(x, s=shape, dim=dims) * transfer, s=shape, dim=dims)
    return filtered


def embed(y: Tensor, margin: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Place ``y`` at offset ``margin`` in zeros of ``shape``: the transpose of cropping it there."""
    ndim = len(shape)
    padded = y.new_zeros((*y.shape[:-ndim], *shape))
    index: Any = (..., *(slice(m, m + size) for m, size in zip(margin, y.shape[-ndim:], strict=True)))
    padded[index] = y
    return padded


def cut(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the leading part of the last axes."""
    index: Any = (..., *(slice(0, size) for size in shape))
    return x[index]
