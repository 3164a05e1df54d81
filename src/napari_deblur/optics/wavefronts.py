"""The wavefront behind a kernel, to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.checks import checked_parameters
from napari_deblur.optics.psf import family
from napari_deblur.optics.zernike import DEFOCUS, OBLIQUE_ASTIGMATISM, VERTICAL_ASTIGMATISM


def wavefront_waves(model: str, parameters: Sequence[float], size_px: int = 96) -> NDArray[np.float32] | None:
    """Return the wavefront over the pupil of a kernel of a family.

    Parameters
    ----------
    model : str
        Id of the family.
    parameters : sequence of float
        In the family's order.
    size_px : int
        Points along the pupil's diameter.

    Returns
    -------
    ndarray, float32, shape (size, size), or None
        In waves, in the image's axes, NaN outside the pupil. None for families without a pupil's phase.

    Raises
    ------
    UnknownNameError, InvalidInputError
    """
    import torch

    from napari_deblur.optics.rendering import wavefront

    if size_px < 1:
        raise InvalidInputError("size_px", "must be 1 or more", size_px)
    chosen = family(model)
    values = dict(
        zip(chosen.parameter_names, checked_parameters(chosen.parameter_names, parameters), strict=True)
    )
    if chosen.noll_indices:
        by_index = dict(zip(chosen.noll_indices, values.values(), strict=True))
    elif {"defocus_waves", "astigmatism_waves"} & set(values):
        power, axis = values.get("astigmatism_waves", 0.0), values.get("axis_rad", 0.0)
        by_index = {
            DEFOCUS: values.get("defocus_waves", 0.0),
            VERTICAL_ASTIGMATISM: power * np.cos(2 * axis),
            OBLIQUE_ASTIGMATISM: power * np.sin(2 * axis),
        }
    else:
        return None
    phase, inside = wavefront(torch.tensor(list(by_index.values())).float(), tuple(by_index), size_px)
    result: NDArray[np.float32] = torch.where(inside, phase, torch.nan).numpy()
    return result
