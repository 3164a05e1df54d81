"""Files of other kinds, through the readers of the napari plugins that are installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image, as_float32
from napari_deblur.io.units import length_um


def read_with_plugins(path: Path, argument: str = "image", *, series: int = 0) -> Image | None:
    """Read an image with whichever plugin offers to.

    Plugins are asked through npe2, which needs no window.

    Parameters
    ----------
    path : Path
    argument : str
        Name used in errors.
    series : int
        Which of the image layers that the plugin gives.

    Returns
    -------
    Image or None
        ``None`` if there are no plugins, or none that reads such files.

    Raises
    ------
    InvalidInputError
        If a plugin fails on the file, or gives no single-channel image of that number.
    """
    try:
        from npe2 import PluginManager
        from npe2.io_utils import read_get_reader
    except ImportError:
        return None
    manager = PluginManager.instance()
    manager.discover()
    if not list(manager.iter_compatible_readers([str(path)])):
        return None
    try:
        layers, reader = read_get_reader([str(path)], stack=False)
    except Exception as error:  # a plugin fails in its own way
        rule = f"must be a file that a napari plugin can read ({' '.join(str(error).split())})"
        raise InvalidInputError(argument, rule, repr(str(path))) from error
    given: list[tuple[Any, ...]] = [tuple(layer) for layer in layers]
    images = [layer for layer in given if (layer[2] if len(layer) > 2 else "image") == "image"]
    if not 0 <= series < len(images):
        rule = f"must be below the {len(images)} images that a napari plugin finds in {path.name}"
        raise InvalidInputError("series", rule, series)
    data, meta = images[series][0], dict(images[series][1]) if len(images[series]) > 1 else {}
    return _image(data, meta, path, argument, str(reader.plugin_name))


def _image(data: Any, meta: dict[str, Any], path: Path, argument: str, plugin: str) -> Image:
    if isinstance(data, list | tuple):  # a pyramid, finest first
        data = data[0]
    if meta.get("rgb"):
        rule = "must be single-channel: split the colours into separate images first"
        raise InvalidInputError(argument, rule, f"{str(path)!r}, in colour (shape {np.shape(data)})")
    pixels = as_float32(np.asarray(data), argument)
    if not 2 <= pixels.ndim <= 5:
        rule = "must have 2 to 5 axes, the last two y and x"
        raise InvalidInputError(argument, rule, f"{str(path)!r}, shape {pixels.shape}")
    labels = [str(label).lower() for label in meta.get("axis_labels") or ()]
    axes = "".join(label[:1] for label in labels)
    usable = len(axes) == pixels.ndim and len(set(axes)) == len(axes) and axes.endswith("yx")
    image = Image(
        pixels,
        axes if usable else "",
        name=str(meta.get("name") or path.stem),
        source={"path": str(path), "format": f"napari plugin {plugin}", "dtype": str(np.asarray(data).dtype)},
    )
    sizes = _sizes(image.axes, meta)
    y, x = sizes.get("y"), sizes.get("x")
    return Image(
        image.data, image.axes, (y, x) if y and x else None, sizes.get("z"), image.name, image.source
    )


def _sizes(axes: str, meta: dict[str, Any]) -> dict[str, float | None]:
    """Return the sizes in µm of the axes whose unit is a length."""
    scale, units = meta.get("scale"), meta.get("units")
    if scale is None or units is None or len(scale) != len(axes):
        return {}
    names = [units] * len(axes) if isinstance(units, str) else list(units)
    if len(names) != len(axes):
        return {}
    return {letter: length_um(size, str(unit)) for letter, size, unit in zip(axes, scale, names, strict=True)}
