"""What PSF maps and bases of a whole image are in the part of it that a preview takes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari_deblur.optics.psf_basis import PsfBasis
    from napari_deblur.optics.psf_map import PsfMap
    from napari_deblur.ui.region import Region


def cropped(psf_map: PsfMap, region: Region) -> PsfMap:
    """Return the map of a part of the image, with the positions around it."""
    centers = psf_map.centers_px - np.asarray([region.read_top, region.read_left], dtype=np.float32)
    rows = _around(centers[:, 0, 0], region.read_height)
    cols = _around(centers[0, :, 1], region.read_width)
    error = psf_map.predicted_error
    return replace(
        psf_map,
        parameters=psf_map.parameters[rows, cols],
        centers_px=centers[rows, cols],
        valid=psf_map.valid[rows, cols],
        confidence=psf_map.confidence[rows, cols],
        predicted_error=None if error is None else error[rows, cols],
        image_shape=(region.read_height, region.read_width),
    )


def _around(positions: Any, size: int) -> slice:
    """Return the positions inside ``0 … size`` and one more on either side."""
    inside = np.flatnonzero((positions >= 0) & (positions <= size - 1))
    if not inside.size:
        nearest = int(np.abs(positions - size / 2).argmin())
        return slice(max(0, nearest - 1), nearest + 2)
    return slice(max(0, int(inside[0]) - 1), int(inside[-1]) + 2)


def over_region(basis: PsfBasis, image_shape: tuple[int, ...], region: Region | None) -> PsfBasis:
    """Return the basis over a whole image, or over the part of it that a preview reads.

    Raises
    ------
    InvalidInputError
        If it belongs to a field of another size.
    """
    whole = basis.over(image_shape)
    if region is None:
        return whole
    return whole.part(region.read_top, region.read_left, (region.read_height, region.read_width))
