"""Convolution with one PSF, exact at the borders, with its adjoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scipy.fft import next_fast_len

from napari_deblur.blur.base import Blur

if TYPE_CHECKING:
    from torch import Tensor


class Convolution(Blur):
    """True convolution of an object with one kernel, restricted to the field of view.

    Parameters
    ----------
    kernel : Tensor, shape (h, w), odd sizes, centre at ``size // 2``
    image_shape : tuple of int
    """

    def __init__(self, kernel: Tensor, image_shape: tuple[int, ...]) -> None:
        self.kernel = kernel
        self.image_shape = tuple(image_shape)
        self.margin = tuple(size // 2 for size in kernel.shape)
        self._fft_shape = fft_shape(self.object_shape)
        self._otf = otf(kernel, self._fft_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Blur an object ``(…, *object_shape)`` into an image ``(…, *image_shape)``."""
        return self.crop(filter_with(x, self._otf, self._fft_shape))

    def adjoint(self, y: Tensor) -> Tensor:
        """Apply the exact transpose: zero frame, then correlation with the kernel."""
        padded = embed(y, self.margin, self._fft_shape)
        return cut(filter_with(padded, self._otf.conj(), self._fft_shape), self.object_shape)

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
    sizes = kernel.shape[-ndim:]
    padded = kernel.new_zeros((*kernel.shape[:-ndim], *shape))
    corner: Any = (..., *(slice(0, size) for size in sizes))
    padded[corner] = kernel
    dims = tuple(range(-ndim, 0))
    padded = torch.roll(padded, tuple(-(size // 2) for size in sizes), dims)
    spectrum: Tensor = torch.fft.rfftn(padded, dim=dims)
    return spectrum


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
