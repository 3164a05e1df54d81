"""Parameters of methods whose network sees an image less its mean, as a multiple of its contrast."""

from __future__ import annotations

from typing import Any, Literal

from napari_deblur.core.params import Param

MEAN_LEVEL = Param(
    None,
    ge=-1e9,
    le=1e9,
    step=1.0,
    title="Mean level",
    help="Mean of the whole image without the camera's offset; measured when not given.",
    unit="grey values",
    advanced=True,
)


def contrast(noise: Literal["with", "without"]) -> Any:
    """Declare the contrast, of which the image's noise is a part or not."""
    return Param(
        None,
        gt=0,
        le=1e9,
        step=1.0,
        title="Contrast",
        help=f"Standard deviation of the whole image {noise} its noise; measured when not given.",
        unit="grey values",
        advanced=True,
    )
