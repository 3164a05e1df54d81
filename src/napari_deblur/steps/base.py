"""What every step has in common."""

from __future__ import annotations

from typing import Any, ClassVar

from napari_deblur.core.image import Image
from napari_deblur.core.params import Declared


class Step(Declared):
    """One thing a user can run; its fields are its parameters.

    A subclass adds a literal ``kind``, the parameters, and ``run``.
    """

    title: ClassVar[str]


def describe_input(image: Image) -> dict[str, Any]:
    """Return what a record keeps of the image that went in (JSON types)."""
    return {
        "name": image.name,
        "shape": [int(size) for size in image.data.shape],
        "axes": image.axes,
        "pixel_size_um": list(image.pixel_size_um) if image.pixel_size_um else None,
    }
