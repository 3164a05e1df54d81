"""Read a measured PSF with its voxel size."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from napari_deblur.core.image import FloatArray, Image
from napari_deblur.io.read import existing, read_image, read_psf

if TYPE_CHECKING:
    from napari_deblur.optics.psf_basis import PsfBasis
    from napari_deblur.optics.psf_map import PsfMap


def read_measured_psf(
    path: str | os.PathLike[str],
    argument: str = "psf",
    *,
    pixel_size_um: float | None = None,
    z_step_um: float | None = None,
) -> Image | FloatArray:
    """Read a PSF as whoever measured it left it, to be prepared for the image that it is used on.

    Parameters
    ----------
    path : path-like
        An image file or ``.npy``.
    argument : str
        Name used in errors.
    pixel_size_um, z_step_um : float, optional
        Size of its voxels where the file is silent or wrong.

    Returns
    -------
    Image, shape ([z,] y, x), or ndarray
        An array where nothing is known of its voxels: a ``.npy``, or more than three axes, the first of which
        then counts channels.

    Raises
    ------
    InvalidInputError
        As `read_image`.
    """
    if existing(path, argument).suffix.lower() == ".npy":
        data = read_psf(path, argument)
        if pixel_size_um is None or data.ndim not in (2, 3):
            return data
        psf = Image(data, "zyx"[-data.ndim :])
    else:
        psf = read_image(path, argument)
        if psf.data.ndim > 3:
            return psf.data
        # A stack of a bead is a stack along z, whatever the file calls it.
        psf = replace(psf, axes="zyx"[-psf.data.ndim :])
    if pixel_size_um is not None:
        psf = replace(psf, pixel_size_um=(pixel_size_um, pixel_size_um))
    return psf if z_step_um is None else replace(psf, z_step_um=z_step_um)


def read_psf_archive(path: str | os.PathLike[str]) -> PsfMap | PsfBasis:
    """Read a ``.npz`` that holds a PSF map or a PSF basis.

    Raises
    ------
    InvalidInputError
        If it is missing or neither of them.
    """
    from napari_deblur.optics.basis_checks import is_basis
    from napari_deblur.optics.psf_basis import PsfBasis
    from napari_deblur.optics.psf_map import PsfMap

    return PsfBasis.load(path) if is_basis(path) else PsfMap.load(path)
