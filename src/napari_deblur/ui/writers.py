"""File → Save: images with sizes and record, surfaces as meshes in µm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image, as_float32
from napari_deblur.ui.layers import METADATA_KEY, Placement, length_um


def write_image_layer(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write one image layer; the dialog has already asked whether a file may be replaced.

    Parameters
    ----------
    path : str
    data : array_like, or list of them
        Pixels; of a multiscale layer the finest level is written.
    meta : dict
        The layer's attributes.

    Returns
    -------
    list of str
        The path written.

    Raises
    ------
    InvalidInputError
        For RGB, and for pixels that are not finite.
    OutputError
        If the file cannot be written.
    """
    from napari_deblur.io.write import write_image

    name = str(meta.get("name", "image"))
    if meta.get("rgb"):
        raise InvalidInputError("layer", "must be single-channel: right-click it → Split RGB", f"{name}, RGB")
    given = np.asarray(data[0] if meta.get("multiscale") else data)
    # Where a depth is not known it is NaN, which is no fault of the layer.
    pixels = given.astype(np.float32) if given.dtype.kind == "f" else as_float32(given, f"layer '{name}'")
    placement = Placement.from_meta(meta, pixels.ndim)
    pixel_size_um, z_step_um = placement.sizes_um()
    image = Image(pixels, placement.axes, pixel_size_um, z_step_um, name)
    return [str(write_image(image, path, record_of(meta), overwrite=True))]


def write_surface_layer(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write one surface layer as PLY, OBJ or STL, in µm where the layer's unit is a length.

    Returns
    -------
    list of str
        The path written.

    Raises
    ------
    InvalidInputError
        If the suffix is unknown.
    OutputError
        If the file cannot be written.
    """
    from napari_deblur.io.mesh import write_mesh
    from napari_deblur.steps.surface import Surface

    vertices = np.asarray(data[0], dtype=np.float64)
    faces = np.asarray(data[1])
    values = np.asarray(data[2], dtype=np.float32) if len(data) > 2 else np.ones(len(vertices), np.float32)
    if vertices.shape[-1] != 3:
        raise InvalidInputError("surface", "must have the axes z, y, x", f"{vertices.shape[-1]} axes")
    placement = Placement.from_meta(meta, 3)
    in_um = [length_um(1.0, unit) or 1.0 for unit in placement.units]
    scaled = (vertices * placement.pixel_sizes * in_um).astype(np.float32)
    calibrated = bool((record_of(meta) or {}).get("calibrated", True))
    surface = Surface(scaled, faces.astype(np.int32), values, calibrated)
    return [str(write_mesh(surface, Path(path), overwrite=True))]


def record_of(meta: dict[str, Any]) -> dict[str, Any] | None:
    """Return the provenance in a layer's metadata, if it is one of ours."""
    found = (meta.get("metadata") or {}).get(METADATA_KEY)
    return dict(found) if isinstance(found, dict) else None
