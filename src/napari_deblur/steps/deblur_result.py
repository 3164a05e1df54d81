"""What deblurring gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.image import Image
from napari_deblur.core.record import Record
from napari_deblur.optics.psf_map import PsfMap


@dataclass(frozen=True, eq=False)
class DeblurResult:
    """What deblurring gives.

    Attributes
    ----------
    image : Image
        Same shape, scale and offset as the input, float32.
    psf : ndarray or PsfMap or list of PsfMap
        What was used; a list where each plane has its own estimate.
    residual : Image
        Input minus the result blurred again: what the result does not explain. Structure in it is a warning.
    record : Record
    partial : bool
        Whether the run was cancelled and this is the best result until then.
    """

    image: Image
    psf: NDArray[np.float32] | PsfMap | list[PsfMap]
    residual: Image
    record: Record
    partial: bool = False


@dataclass(frozen=True, eq=False)
class SoFar:
    """What a run has of one plane or volume while it is at it.

    Attributes
    ----------
    index : int
        Which one, counted over the leading axes.
    data : ndarray, shape (y, x) or (z, y, x)
        In the image's grey values.
    """

    index: int
    data: NDArray[np.float32]
