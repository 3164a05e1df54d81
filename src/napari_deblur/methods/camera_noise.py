"""Parameters of methods that count with the camera's noise."""

from __future__ import annotations

from typing import Any

from napari_deblur.core.params import Param


def photon_gain(**more: Any) -> Any:
    """Declare the grey values per photon; ``more`` holds its lower bound and what else a method says."""
    return Param(
        None,
        le=1e5,
        step=0.1,
        title="Photon gain",
        help="Grey values per detected photon; measured in the image when not given.",
        unit="grey values",
        advanced=True,
        **more,
    )


def read_noise(**more: Any) -> Any:
    """Declare the noise in the dark; ``more`` holds what else a method says of it."""
    return Param(
        None,
        ge=0,
        le=1e5,
        step=0.1,
        title="Read noise",
        help="Standard deviation of the camera's noise without light; measured in the image when not given.",
        unit="grey values",
        advanced=True,
        **more,
    )
