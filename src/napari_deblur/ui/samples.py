"""Rendered samples for File → Open Sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_deblur.samples import Sample


def tilted_cells() -> list[tuple[Any, dict[str, Any], str]]:
    """Return cells on a tilted plane, blurred by an astigmatic objective, under haze."""
    from napari_deblur import samples

    return [_layer(samples.tilted_cells())]


def tilted_grid() -> list[tuple[Any, dict[str, Any], str]]:
    """Return a printed grid on a tilted plane, the target that calibrates depth."""
    from napari_deblur import samples

    return [_layer(samples.tilted_grid())]


def _layer(sample: Sample) -> tuple[Any, dict[str, Any], str]:
    optics = sample.optics
    about = {
        "role": "result",
        "sample": sample.image.name,
        "optics": optics.model_dump(mode="json"),
        "astigmatism_waves": float(sample.astigmatism_waves),
        "axis_rad": float(sample.axis_rad),
    }
    image = sample.image
    options = {
        "name": image.name,
        "scale": image.pixel_size_um,
        "units": ("um", "um") if image.pixel_size_um else None,
        "axis_labels": tuple(image.axes),
        "metadata": {"napari-deblur": about},
    }
    return image.data, options, "image"
