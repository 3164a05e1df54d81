"""A PSF map as layers over the image it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.ui.layers import Placement, provenance
from napari_deblur.ui.results import put_layer, remove_layers

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

    from napari_deblur.optics.psf_map import PsfMap
    from napari_deblur.steps.map_difference import MapDifference

POWER, AXIS = "astigmatism_waves", "axis_rad"
_GROUP = "psf-map"
_UNITS = ("px", "waves", "rad")
_ENERGY_SHOWN = 0.98
_LARGEST_MOSAIC_BYTES = 200e6
_LEAST_SPREAD = 0.1
# Families of more parameters would fill the list of layers; their errors are told where the user clicks.
_MOST_WITH_ERRORS = 3


def readable(name: str) -> str:
    """Return ``defocus (waves)`` for ``defocus_waves``."""
    words, unit = split_unit(name)
    return f"{words} ({unit})" if unit else words


def split_unit(name: str) -> tuple[str, str]:
    """Return ``defocus`` and ``waves`` for ``defocus_waves``."""
    words, _, unit = name.rpartition("_")
    return (words.replace("_", " "), unit) if unit in _UNITS else (name.replace("_", " "), "")


@dataclass(frozen=True, eq=False)
class Grid:
    """Where a map's positions lie.

    Attributes
    ----------
    first_px : ndarray, shape (2,)
        Position (y, x) of the first centre.
    step_px : ndarray, shape (2,)
        Distance of centres.
    """

    first_px: NDArray[np.float64]
    step_px: NDArray[np.float64]

    @classmethod
    def of(cls, psf_map: PsfMap) -> Grid:
        """Read the grid off a map; its positions are even to half a pixel."""
        centers = np.asarray(psf_map.centers_px, dtype=np.float64)
        steps = []
        for axis, positions in enumerate((centers[:, 0, 0], centers[0, :, 1])):
            alone = psf_map.image_shape[axis]
            count = len(positions) - 1
            steps.append(float(positions[-1] - positions[0]) / count if count else float(alone))
        return cls(centers[0, 0], np.asarray(steps))


def mosaic(psf_map: PsfMap) -> NDArray[np.float32]:
    """Return the local PSFs side by side, each stretched to its own maximum, shape (rows · k, cols · k)."""
    kernels = psf_map.kernels()
    size = kernels.shape[-1]
    mean = kernels.mean(axis=(0, 1))
    half = size // 2
    windows = [slice(half - radius, half + radius + 1) for radius in range(1, half + 1)]
    keep = next((w for w in windows if mean[w, w].sum() > _ENERGY_SHOWN), slice(None))
    cut = kernels[..., keep, keep]
    cut = np.sqrt(cut / cut.max(axis=(-2, -1), keepdims=True).clip(min=1e-12))
    rows, cols, side, _ = cut.shape
    return np.ascontiguousarray(cut.transpose(0, 2, 1, 3).reshape(rows * side, cols * side), dtype=np.float32)


def mosaics(maps: list[PsfMap], leading: tuple[int, ...]) -> NDArray[np.float32] | None:
    """Return the mosaics of all planes; None where they would take too much memory."""
    first = mosaic(maps[0])
    if first.nbytes * len(maps) > _LARGEST_MOSAIC_BYTES:
        return None
    rest = [mosaic(other) for other in maps[1:]]
    if any(other.shape != first.shape for other in rest):
        return None
    return np.stack([first, *rest]).reshape(*leading, *first.shape) if leading else first


def astigmatism_lines(maps: list[PsfMap], leading: tuple[int, ...]) -> NDArray[np.float32]:
    """Return lines along the astigmatism's axis, their length in proportion to its power.

    Returns
    -------
    ndarray, shape (n, 2, ndim)
        Start and direction in pixels of the image; only valid patches.
    """
    strongest = max(float(one.parameters[..., one.parameter_names.index(POWER)].max()) for one in maps) or 1.0
    lines = []
    for index, one in enumerate(maps):
        plane = np.unravel_index(index, leading) if leading else ()
        power = one.parameters[..., one.parameter_names.index(POWER)][one.valid]
        axis = one.parameters[..., one.parameter_names.index(AXIS)][one.valid]
        length = 0.8 * float(Grid.of(one).step_px.min()) * power / max(strongest, 1e-6)
        direction = np.stack([np.sin(axis), np.cos(axis)], axis=-1) * length[:, None]
        start = one.centers_px[one.valid] - direction / 2
        line = np.zeros((len(power), 2, len(leading) + 2), np.float32)
        line[:, 0, : len(leading)] = plane
        line[:, 0, -2:], line[:, 1, -2:] = start, direction
        lines.append(line)
    return np.concatenate(lines)


def _limits(values: NDArray[np.float32], low: float, high: float, name: str) -> tuple[float, float]:
    """Return contrast limits: the map's spread, but never so narrow that noise looks like a trend."""
    if name == AXIS:
        return 0.0, float(np.pi)
    least = _LEAST_SPREAD * (high - low)
    start, stop = float(values.min()), float(values.max())
    missing = max(0.0, least - (stop - start)) / 2
    return start - missing, stop + missing


def error_name(parameter: str) -> str:
    """Return ``defocus error (waves)`` for ``defocus_waves``."""
    words, unit = split_unit(parameter)
    return f"{words} error ({unit})" if unit else f"{words} error"


def _trust(maps: list[PsfMap]) -> list[tuple[str, list[NDArray[Any]], tuple[float, float]]]:
    """Return (quantity, values by plane, contrast limits) of confidence and predicted errors.

    An error is shown up to that of plain guessing, the standard deviation over the parameter's range.
    """
    shown: list[tuple[str, list[NDArray[Any]], tuple[float, float]]] = [
        ("confidence", [one.confidence for one in maps], (0.0, 1.0))
    ]
    ranges = maps[0].psf_family.parameter_ranges
    if len(ranges) > _MOST_WITH_ERRORS:
        return shown
    for index, parameter in enumerate(maps[0].parameter_names):
        errors = [one.predicted_error[..., index] for one in maps if one.predicted_error is not None]
        low, high = ranges[parameter]
        if len(errors) == len(maps):
            shown.append((error_name(parameter), errors, (0.0, (high - low) / np.sqrt(12))))
    return shown


def add_difference(
    viewer: Viewer, name: str, other: str, placement: Placement, psf_map: PsfMap, difference: MapDifference
) -> list[Layer]:
    """Show a map minus another over its image, in place of an earlier comparison.

    Parameters
    ----------
    viewer : Viewer
    name, other : str
        Of what the maps belong to.
    placement : Placement
        Of the first map's image.
    psf_map : PsfMap
        The first map.
    difference : MapDifference

    Returns
    -------
    list of Layer
        An image per parameter, NaN where one of the maps is invalid.
    """
    grid = Grid.of(psf_map)
    coarse = placement.last(2).at(grid.first_px, grid.step_px)
    ranges = psf_map.psf_family.parameter_ranges
    added = []
    for index, parameter in reversed(list(enumerate(difference.parameter_names))):
        values = np.where(difference.valid, difference.values[..., index], np.float32(np.nan))
        low, high = ranges[parameter]
        reach = max(float(np.nanmax(np.abs(values))), _LEAST_SPREAD * (high - low) / 2)
        quantity = f"difference in {readable(parameter)}"
        more = {"group": _GROUP, "of": name, "quantity": quantity, "minus": other}
        about = provenance(psf_map.record, role="overlay", **more)
        layer = put_layer(
            viewer,
            "image",
            values,
            coarse,
            name=f"{name} minus {other} · {readable(parameter)}",
            metadata=about,
            contrast_limits=(-reach, reach),
            colormap="PiYG",
            interpolation2d="nearest",
            blending="translucent",
            opacity=0.7,
            visible=index == 0,
        )
        layer.colorbar.visible = index == 0
        added.append(layer)
    return added


def add_overlays(
    viewer: Viewer,
    name: str,
    placement: Placement,
    maps: list[PsfMap],
    leading: tuple[int, ...],
    mosaic_data: NDArray[np.float32] | None,
    *,
    preview: bool = False,
) -> list[Layer]:
    """Show maps over their image, in place of what was shown for it before.

    A preview leaves the overlays of the whole image as they are; those replace also the preview's, and
    differences to other maps, which were the old map's.

    Parameters
    ----------
    viewer : Viewer
    name : str
        Of the input layer.
    placement : Placement
        Of the input, or of the part of it that the maps cover.
    maps : list of PsfMap
        One, or one per plane.
    leading : tuple of int
        Shape of the leading axes that the maps cover; empty for a single plane.
    mosaic_data : ndarray or None
        From `mosaics`.
    preview : bool
        Whether the maps cover a part only.

    Returns
    -------
    list of Layer
        An image per parameter and, of few, one of its predicted error, confidence, invalid patches,
        astigmatism's axis, mosaic; errors, confidence and mosaic hidden at first.
    """
    first = maps[0]
    grid = Grid.of(first)
    place = placement if leading else placement.last(2)
    coarse = place.at(grid.first_px, grid.step_px)
    role, end = ("preview", " · preview") if preview else ("overlay", "")
    added: list[Layer] = []

    def put(kind: str, data: NDArray[Any], where: Placement, quantity: str, **look: Any) -> None:
        about = provenance(first.record, role=role, group=_GROUP, of=name, quantity=quantity)
        title = f"{name} · {quantity}{end}"
        layer = put_layer(viewer, kind, data, where, name=title, metadata=about, **look)
        added.append(layer)
        if quantity == readable(first.parameter_names[0]):
            layer.colorbar.visible = True

    def stacked(arrays: list[NDArray[Any]]) -> NDArray[Any]:
        return np.stack(arrays).reshape(*leading, *arrays[0].shape) if leading else arrays[0]

    if mosaic_data is not None:
        step = grid.step_px / (np.asarray(mosaic_data.shape[-2:]) / np.asarray(first.grid_shape))
        corner = grid.first_px - grid.step_px / 2 + step / 2
        look = {"colormap": "inferno", "contrast_limits": (0, 1), "visible": False}
        put("image", mosaic_data, place.at(corner, step), "local PSFs", **look)
    for quantity, planes, limits in _trust(maps):
        look = {"colormap": "magma", "blending": "translucent", "opacity": 0.55, "visible": False}
        put("image", stacked(planes), coarse, quantity, contrast_limits=limits, **look)
    ranges = first.psf_family.parameter_ranges
    for index, parameter in reversed(list(enumerate(first.parameter_names))):
        values = stacked([one.parameters[..., index] for one in maps])
        put(
            "image",
            values,
            coarse,
            readable(parameter),
            contrast_limits=_limits(values, *ranges[parameter], parameter),
            colormap="hsv" if parameter == AXIS else "viridis",
            interpolation2d="nearest" if parameter == AXIS else "linear",
            blending="translucent",
            opacity=0.55,
            visible=index == 0,
        )
    red = {0: "transparent", 1: "red", None: "transparent"}
    invalid = stacked([(~one.valid).astype(np.uint8) for one in maps])
    put("labels", invalid, coarse, "invalid patches", colormap=red, opacity=0.35)
    if {POWER, AXIS} <= set(first.parameter_names):
        width = max(1.0, float(grid.step_px.min()) / 14)
        look = {"vector_style": "line", "edge_width": width, "edge_color": "white"}
        put("vectors", astigmatism_lines(maps, leading), place, "astigmatism axis", **look)
    remove_layers(viewer, _GROUP, name, (role,) if preview else ("overlay", "preview"), keep=added)
    return added
