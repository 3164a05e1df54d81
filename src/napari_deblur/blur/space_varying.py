"""Space-varying blur from a grid of PSFs, compressed to a few eigen-PSFs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_deblur.blur.base import Blur
from napari_deblur.blur.convolution import cut, embed, fft_shape, otf
from napari_deblur.optics.interpolation import linear_interpolation_matrix

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class EigenPsfs:
    """PSFs of a grid written as a mean plus few eigen-PSFs with weights.

    Attributes
    ----------
    kernels : ndarray, float32, shape (K, h, w)
        The mean PSF (sum 1), then eigen-PSFs (sum 0).
    weights : ndarray, float32, shape (K, rows, cols)
        1 everywhere for the mean.
    rows_px, cols_px : ndarray, float32
        Positions of the grid in pixels.
    relative_error : float
        Norm of what the truncation left out, relative to the norm of all PSFs.
    """

    kernels: NDArray[np.float32]
    weights: NDArray[np.float32]
    rows_px: NDArray[np.float32]
    cols_px: NDArray[np.float32]
    relative_error: float


def compress(
    kernels: NDArray[np.float32],
    rows_px: NDArray[np.float32],
    cols_px: NDArray[np.float32],
    *,
    tolerance: float = 0.01,
) -> EigenPsfs:
    """Find the fewest eigen-PSFs that reproduce a grid of PSFs.

    Because every PSF sums to 1, the eigen-PSFs of the centred set sum to 0 and any truncation keeps the flux.

    Parameters
    ----------
    kernels : ndarray, shape (rows, cols, h, w)
        PSFs that sum to 1.
    rows_px, cols_px : ndarray
        Their positions.
    tolerance : float
        Largest relative error (root of the summed squares) of the whole set.
    """
    rows, cols, height, width = kernels.shape
    flat = kernels.reshape(rows * cols, height * width).astype(np.float64)
    total = float(np.linalg.norm(flat))
    mean = flat.mean(axis=0)
    left, strength, right = np.linalg.svd(flat - mean, full_matrices=False)
    left_out = np.sqrt(np.append(np.cumsum(strength[::-1] ** 2)[::-1], 0.0)) / total
    keep = int(np.argmax(left_out <= tolerance))
    basis = np.concatenate([mean[None], right[:keep]]).reshape(keep + 1, height, width)
    scores = (left[:, :keep] * strength[:keep]).T.reshape(keep, rows, cols)
    weights = np.concatenate([np.ones((1, rows, cols)), scores])
    return EigenPsfs(
        basis.astype(np.float32), weights.astype(np.float32), rows_px, cols_px, float(left_out[keep])
    )


class MaskThenConvolve(Blur):
    """Space-varying blur ``A x = Σ_k e_k * (w_k ⊙ x)``: weights **before** the convolution.

    Every object point is spread by the PSF at its own place, which is how light adds up (Eq. 5 and 12 of
    Shajkofci & Liebling 2020, doi:10.1109/TIP.2020.2986880). Between grid positions the weights are
    interpolated linearly, outside the grid they stay constant.

    Parameters
    ----------
    eigen : EigenPsfs
    image_shape : tuple of int
        Shape of the (part of the) image that is blurred.
    origin_px : tuple of int
        Where that part's first pixel lies in the coordinates of the grid.
    device : torch device
    """

    def __init__(
        self,
        eigen: EigenPsfs,
        image_shape: tuple[int, int],
        *,
        origin_px: tuple[int, int] = (0, 0),
        device: torch.device | str = "cpu",
    ) -> None:
        import torch

        self.image_shape = tuple(image_shape)
        self.margin = (eigen.kernels.shape[-2] // 2, eigen.kernels.shape[-1] // 2)
        self.n_kernels = len(eigen.kernels)
        self._kernels = torch.from_numpy(eigen.kernels).to(device)
        self._fft_shape = fft_shape(self.object_shape)
        self._otfs = otf(self._kernels, self._fft_shape)
        self._weights = self._object_weights(eigen, origin_px).to(device)

    def _object_weights(self, eigen: EigenPsfs, origin_px: tuple[int, int]) -> Tensor:
        import torch

        height, width = self.object_shape
        ys = np.arange(height) - self.margin[0] + origin_px[0]
        xs = np.arange(width) - self.margin[1] + origin_px[1]
        by_row = torch.from_numpy(linear_interpolation_matrix(ys, eigen.rows_px))
        by_col = torch.from_numpy(linear_interpolation_matrix(xs, eigen.cols_px))
        return by_row @ torch.from_numpy(eigen.weights) @ by_col.T

    def forward(self, x: Tensor) -> Tensor:
        """Weight, then convolve with each eigen-PSF, then add: ``(…, object) → (…, image)``."""
        import torch

        dims = (-2, -1)
        spectrum = torch.zeros((), dtype=self._otfs.dtype, device=x.device)
        for weights, transfer in zip(self._weights, self._otfs, strict=True):
            spectrum = spectrum + torch.fft.rfftn(weights * x, s=self._fft_shape, dim=dims) * transfer
        return self.crop(torch.fft.irfftn(spectrum, s=self._fft_shape, dim=dims))

    def adjoint(self, y: Tensor) -> Tensor:
        """Correlate with each eigen-PSF, then weight, then add."""
        import torch

        dims = (-2, -1)
        spectrum = torch.fft.rfftn(embed(y, self.margin, self._fft_shape), dim=dims)
        total = torch.zeros((), dtype=y.dtype, device=y.device)
        for weights, transfer in zip(self._weights, self._otfs, strict=True):
            back = torch.fft.irfftn(spectrum * transfer.conj(), s=self._fft_shape, dim=dims)
            total = total + weights * cut(back, self.object_shape)
        return total

    @property
    def grid_shape(self) -> tuple[int, ...]:
        """Shape of the grid: the next one whose transform is fast."""
        return self._fft_shape

    def forward_on_grid(self, x: Tensor) -> Tensor:
        """Blur an object on its grid; adds spectra in place."""
        import torch

        dims, part = (-2, -1), self.object_part(x)
        spectrum: Tensor | None = None
        for weights, transfer in zip(self._weights, self._otfs, strict=True):
            term = torch.fft.rfftn(weights * part, s=self._fft_shape, dim=dims).mul_(transfer)
            spectrum = term if spectrum is None else spectrum.add_(term)
        blurred: Tensor = torch.fft.irfftn(spectrum, s=self._fft_shape, dim=dims)
        return blurred

    def adjoint_on_grid(self, y: Tensor, *, overwrite: bool = False) -> Tensor:
        """Apply the transpose on the grid; adds images in place."""
        import torch

        del overwrite

        dims = (-2, -1)
        spectrum = torch.fft.rfftn(y, dim=dims)
        total = torch.zeros_like(y)
        part = self.object_part(total)
        for weights, transfer in zip(self._weights, self._otfs, strict=True):
            back = torch.fft.irfftn(spectrum * transfer.conj(), s=self._fft_shape, dim=dims)
            part.addcmul_(weights, self.object_part(back))
        return total

    def mean_otf_power(self, shape: tuple[int, ...]) -> Tensor:
        """Return |OTF|² on the rfft grid of ``shape``, averaged over the positions of the field.

        The weights of the eigen-PSFs average to about zero over the field, so their cross terms drop out.
        """
        strength = self._weights.square().mean(dim=(-2, -1))
        return (strength[:, None, None] * otf(self._kernels, shape).abs() ** 2).sum(dim=0)
