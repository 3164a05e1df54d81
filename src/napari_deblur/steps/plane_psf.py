"""The PSF of one plane or volume, and the blurs made of it."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.run import Run
from napari_deblur.optics.psf_map import PsfMap

if TYPE_CHECKING:
    from napari_deblur.blur.base import Blur
    from napari_deblur.blur.convolution import Convolution
    from napari_deblur.blur.space_varying import EigenPsfs


@dataclass(frozen=True, eq=False)
class BlurFactory:
    """Makes the blur operator of any window of a plane or a volume."""

    kernel: NDArray[np.float32] | None = None
    eigen: EigenPsfs | None = None
    spacing: tuple[float, ...] = ()
    pedestal: float = 0.0
    # The last window's blur, for the next one of the same shape, by thread. Not in what Python keeps for each
    # thread: that is cleared when a thread of Qt's has ended, too late for a plan's own clean-up to be run.
    _last: dict[int, tuple[Any, Convolution]] = field(default_factory=dict, repr=False)

    @property
    def n_kernels(self) -> int:
        """Return how many convolutions one forward takes."""
        return 1 if self.eigen is None else len(self.eigen.kernels)

    @property
    def margin(self) -> tuple[int, ...]:
        """Return the width of the frame that the blur adds along each axis."""
        kernels = self.kernel if self.eigen is None else self.eigen.kernels[0]
        assert kernels is not None
        return tuple(size // 2 for size in kernels.shape)

    def grid_size(self, shape: tuple[int, ...]) -> int:
        """Return the number of voxels of the grid on which a window of ``shape`` is computed."""
        from napari_deblur.blur.convolution import fft_shape

        framed = tuple(size + 2 * m for size, m in zip(shape, self.margin, strict=True))
        return math.prod(fft_shape(framed))

    def __call__(self, shape: tuple[int, ...], origin_px: tuple[int, ...], device: Any) -> Blur:
        """Return the blur over a window of ``shape`` whose first pixel is ``origin_px``."""
        blur = self._blur(shape, origin_px, device)
        blur.pedestal = self.pedestal
        return blur

    def _blur(self, shape: tuple[int, ...], origin_px: tuple[int, ...], device: Any) -> Blur:
        import torch

        from napari_deblur.blur.convolution import Convolution
        from napari_deblur.blur.space_varying import MaskThenConvolve

        if self.eigen is not None:
            height, width = shape
            top, left = origin_px
            return MaskThenConvolve(self.eigen, (height, width), origin_px=(top, left), device=device)
        assert self.kernel is not None
        thread, wanted = threading.get_ident(), (shape, str(device))
        made_for, blur = self._last.get(thread, (None, None))
        if blur is None or made_for != wanted:
            del blur
            self._last.pop(thread, None)  # its memory is free before the next takes any
            blur = Convolution(torch.from_numpy(self.kernel).to(device), shape, self.spacing)
            self._last[thread] = wanted, blur
        return blur


@dataclass(frozen=True, eq=False)
class PlanePsf:
    """The PSF of one plane, or of one volume where it has a z axis.

    Attributes
    ----------
    psf : ndarray, shape (y, x) or (z, y, x), or PsfMap
    shared : bool
        Whether all other planes or volumes have the same.
    description : dict
        For the record (JSON types).
    weights : dict
        sha256 of the networks that took part.
    spacing : tuple of float
        Distance of voxels along each axis, in units of the finest; empty: the same everywhere.
    """

    psf: NDArray[np.float32] | PsfMap
    shared: bool = True
    description: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    spacing: tuple[float, ...] = ()

    @property
    def ndim(self) -> int:
        """2 for planes, 3 for volumes."""
        return 2 if isinstance(self.psf, PsfMap) else self.psf.ndim

    @property
    def radii_px(self) -> tuple[int, ...]:
        """Half the size of the kernels along each axis."""
        if isinstance(self.psf, PsfMap):
            return (self.psf.kernel_size_px // 2,) * 2
        return tuple(size // 2 for size in self.psf.shape)

    @property
    def radius_px(self) -> int:
        """Half the largest size of the kernels."""
        return max(self.radii_px)

    def found(self, kernel: NDArray[np.float32], method: str) -> PlanePsf:
        """Return the PSF that a blind method found, starting from this one."""
        described = {"source": method, "shape": list(kernel.shape), "started_from": self.description}
        return replace(self, psf=kernel, description=described)

    def blurs(self, tolerance: float, device: str, run: Run) -> BlurFactory:
        """Return the factory of blur operators; a map is compressed to eigen-PSFs first."""
        del device
        if not isinstance(self.psf, PsfMap):
            return BlurFactory(kernel=self.psf, spacing=self.spacing)
        from napari_deblur.blur.space_varying import compress

        centers = self.psf.centers_px
        eigen = compress(self.psf.kernels(), centers[:, 0, 0], centers[0, :, 1], tolerance=tolerance)
        run.fact("eigen_psfs", len(eigen.kernels))
        run.fact("eigen_psf_relative_error", eigen.relative_error)
        return BlurFactory(eigen=eigen)
