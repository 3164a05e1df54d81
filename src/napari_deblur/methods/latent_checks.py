"""What latent deformation refuses or remarks on: PSFs outside the family, the limits of its training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.methods.latent_image import FAMILIES, NETWORKS, PARAMETERS, sampling

if TYPE_CHECKING:
    from napari_deblur.core.run import Run
    from napari_deblur.optics.fitting import FamilyFit


def check_distance(fit: FamilyFit, tolerance: float) -> None:
    """Refuse a PSF that is too far from every member of the family.

    Raises
    ------
    InvalidInputError
    """
    from napari_deblur.optics.psf import family

    if fit.distance <= tolerance:
        return
    chosen = family(fit.model)
    nearest = ", ".join(
        f"{name} {value:.3g}" for name, value in zip(chosen.parameter_names, fit.parameters, strict=True)
    )
    rule = f"must lie within a relative distance of {tolerance:g} of the family {fit.model}"
    raise InvalidInputError("psf", rule, f"a kernel at {fit.distance:.2f} (nearest: {nearest})")


def check_agreement(
    network: str, values: tuple[float, ...], kernel: NDArray[np.float32], tolerance: float
) -> None:
    """Refuse a PSF that is another than the given parameters say.

    Raises
    ------
    InvalidInputError
    """
    from napari_deblur.optics.fitting import distance_to

    distance = distance_to(FAMILIES[network], values, kernel)
    if not distance <= tolerance:  # nor where it is not a number
        given = ", ".join(PARAMETERS[network])
        rule = f"must be left out where {given} is given, or lie within {tolerance:g} of what that says"
        raise InvalidInputError("psf", rule, f"a kernel at {distance:.2f}")


def say_sampling(network: str, run: Run) -> None:
    """Say for which optics and pixels given parameters count."""
    from napari_deblur.nets.weights import find_model

    if remark := sampling(find_model(NETWORKS[network]).card):
        run.note(f"{', '.join(PARAMETERS[network])}: {remark[0].lower()}{remark[1:]}")


def say_limits(network: str, values: tuple[float, ...], noise: float, run: Run) -> None:
    """Say what lies outside what the network was trained for; the noise is relative to the contrast."""
    from napari_deblur.nets.weights import find_model

    card = find_model(NETWORKS[network]).card
    for name, value in zip(PARAMETERS[network], values, strict=True):
        low, high = card["told"][name]["range"]
        if not low <= value <= high:
            run.note(
                f"{name} {value:.3g} is outside the {low:g} to {high:g} that the network was trained for."
            )
    low, high = card["noise_to_contrast"]
    if noise > high:
        run.note(f"The noise is {noise:.2g} of the contrast; the network was trained for {high:g} at most.")
