"""Layers: from one to an image, and results back at the very same place."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray, Image, as_float32, as_image
from napari_deblur.core.record import Record
from napari_deblur.ui.below import below_of

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_deblur.ui.region import Region

METADATA_KEY = "napari-deblur"
_DEFAULT_AXES = {2: "yx", 3: "zyx", 4: "tzyx", 5: "tczyx"}


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a layer's pixels lie in the world.

    Attributes
    ----------
    scale, translate : ndarray, shape (n,)
    rotate, shear : ndarray, shape (n, n)
    affine : ndarray, shape (n + 1, n + 1)
        Extra transform on top of the others.
    units : tuple of str
    axis_labels : tuple of str
    """

    scale: NDArray[np.float64]
    translate: NDArray[np.float64]
    rotate: NDArray[np.float64]
    shear: NDArray[np.float64]
    affine: NDArray[np.float64]
    units: tuple[str, ...]
    axis_labels: tuple[str, ...]

    @classmethod
    def of(cls, layer: Layer) -> Placement:
        """Take the placement of a layer."""
        state = {name: getattr(layer, name) for name in ("scale", "translate", "rotate", "shear")}
        affine = layer.affine.affine_matrix
        more = {"affine": affine, "units": layer.units, "axis_labels": layer.axis_labels}
        return cls.from_meta({**state, **more}, layer.ndim)

    @classmethod
    def from_meta(cls, meta: dict[str, Any], ndim: int) -> Placement:
        """Take the placement out of a layer's attributes as writers get them."""

        def array(name: str, default: Any) -> NDArray[np.float64]:
            given = meta.get(name)
            return np.array(default if given is None else given, dtype=np.float64)

        shear = array("shear", np.eye(ndim))
        if shear.ndim == 1:
            full = np.eye(ndim)
            full[np.triu_indices(ndim, 1)] = shear
            shear = full
        return cls(
            scale=array("scale", np.ones(ndim)),
            translate=array("translate", np.zeros(ndim)),
            rotate=array("rotate", np.eye(ndim)),
            shear=shear,
            affine=array("affine", np.eye(ndim + 1)),
            units=tuple(str(unit) for unit in meta.get("units") or ("pixel",) * ndim),
            axis_labels=tuple(meta.get("axis_labels") or (str(i - ndim) for i in range(ndim))),
        )

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.scale)

    @property
    def linear(self) -> NDArray[np.float64]:
        """Matrix from pixels to the world, without the shift."""
        inner: NDArray[np.float64] = self.rotate @ self.shear @ np.diag(self.scale)
        return self.affine[:-1, :-1] @ inner

    @property
    def pixel_sizes(self) -> NDArray[np.float64]:
        """Length in the world of one step along each axis."""
        sizes: NDArray[np.float64] = np.linalg.norm(self.linear, axis=0)
        return sizes

    @property
    def axes(self) -> str:
        """One letter per axis: from the labels where they are letters, else by habit and unit."""
        labels = [label.strip().lower() for label in self.axis_labels]
        if all(len(label) == 1 and label.isalpha() for label in labels) and labels[-2:] == ["y", "x"]:
            return "".join(labels)
        axes = list(_DEFAULT_AXES.get(self.ndim, "q" * max(self.ndim - 2, 0) + "yx"))
        for position, unit in enumerate(self.units[:-2]):
            if length_um(1.0, unit) is None and unit not in ("pixel", "dimensionless"):
                axes[position] = "t"
        return "".join(axes)

    def sizes_um(self) -> tuple[tuple[float, float] | None, float | None]:
        """Return the pixel size along y and x and the distance of planes, where the units are lengths."""
        sizes = [length_um(size, unit) for size, unit in zip(self.pixel_sizes, self.units, strict=True)]
        y, x = sizes[-2:]
        z = sizes[-3] if len(sizes) > 2 and self.axes[-3] == "z" else None
        return (y, x) if y and x else None, z

    def step_um(self, axis: int) -> float | None:
        """Return the length of one step along an axis, where its unit is a length."""
        return length_um(float(self.pixel_sizes[axis]), self.units[axis])

    def kwargs(self) -> dict[str, Any]:
        """Return the arguments of a layer that puts it there."""
        return {
            "scale": self.scale,
            "translate": self.translate,
            "rotate": self.rotate,
            "shear": self.shear,
            "affine": self.affine,
            "units": self.units,
            "axis_labels": self.axis_labels,
        }

    def at(self, offset_px: Any, step_px: Any = 1.0) -> Placement:
        """Return the placement of a part or of a coarser grid.

        Parameters
        ----------
        offset_px : sequence of float
            Where the first pixel lies, in pixels of this placement; fewer values count from the last axis.
        step_px : float or sequence of float
            Distance of pixels along each axis, in pixels of this placement.
        """
        offset = np.zeros(self.ndim)
        given = np.atleast_1d(np.asarray(offset_px, dtype=np.float64))
        offset[self.ndim - len(given) :] = given
        step = np.ones(self.ndim)
        steps = np.atleast_1d(np.asarray(step_px, dtype=np.float64))
        step[self.ndim - len(steps) :] = steps
        shift = self.rotate @ self.shear @ np.diag(self.scale) @ offset
        return replace(self, scale=self.scale * step, translate=self.translate + shift)

    def last(self, n: int = 2) -> Placement:
        """Return the placement restricted to the last ``n`` axes."""
        tail = slice(self.ndim - n, None)
        affine = np.eye(n + 1)
        affine[:-1, :-1] = self.affine[:-1, :-1][tail, tail]
        affine[:-1, -1] = self.affine[:-1, -1][tail]
        return Placement(
            scale=self.scale[tail],
            translate=self.translate[tail],
            rotate=self.rotate[tail, tail],
            shear=self.shear[tail, tail],
            affine=affine,
            units=self.units[tail],
            axis_labels=self.axis_labels[tail],
        )

    def with_leading_axis(self, unit: str, label: str, scale: float = 1.0) -> Placement:
        """Return the placement with one more axis in front, orthogonal to the others."""

        def grown(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
            result = np.eye(len(matrix) + 1)
            result[1:, 1:] = matrix
            return result

        return Placement(
            scale=np.concatenate([[scale], self.scale]),
            translate=np.concatenate([[0.0], self.translate]),
            rotate=grown(self.rotate),
            shear=grown(self.shear),
            affine=grown(self.affine),
            units=(unit, *self.units),
            axis_labels=(label, *self.axis_labels),
        )


@dataclass(frozen=True, eq=False)
class LayerImage:
    """What the worker needs to read a layer's pixels, without the layer itself.

    Attributes
    ----------
    name : str
    placement : Placement
    axes : str
    pixel_size_um : tuple of float or None
    z_step_um : float or None
    data : array_like
        As the layer holds it: numpy, memory map or lazy.
    layer_id : object
        What tells the layer from others also when it is renamed.
    below : ndarray or None
        What was cut off below zero with its background, where that is known.
    """

    name: str
    placement: Placement
    axes: str
    pixel_size_um: tuple[float, float] | None
    z_step_um: float | None
    data: Any
    layer_id: Any = None
    below: FloatArray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the pixels."""
        return tuple(int(size) for size in self.data.shape)

    @classmethod
    def of(cls, layer: Layer) -> LayerImage:
        """Describe an image layer; reads no pixels.

        Raises
        ------
        InvalidInputError
            For labels and other layers that hold no intensities, and for RGB.
        """
        kind = type(layer).__name__
        if kind != "Image":
            raise InvalidInputError(
                "layer",
                "must be an image layer (right-click it → Convert to Image)",
                f"{layer.name} ({kind})",
            )
        if layer.rgb:
            raise InvalidInputError(
                "layer",
                "must be single-channel: right-click it → Split RGB, then choose one of the three",
                f"{layer.name}, an RGB image",
            )
        data = layer.data[0] if layer.multiscale else layer.data
        placement = Placement.of(layer)
        pixel_size_um, z_step_um = placement.sizes_um()
        axes, key = placement.axes, layer.unique_id
        below = below_of(layer)
        return cls(layer.name, placement, axes, pixel_size_um, z_step_um, data, key, below)

    def load(self, index: tuple[slice, ...] | None = None) -> Image:
        """Read the pixels, or a part of them; for the worker's thread.

        Parameters
        ----------
        index : tuple of slice, optional
            One per axis.
        """
        if len(self.shape) < 2:
            raise InvalidInputError("layer", "must have at least the axes y and x", f"shape {self.shape}")
        part = self.data if index is None else self.data[index]
        return Image(
            as_float32(np.asarray(part), f"layer '{self.name}'"),
            self.axes,
            self.pixel_size_um,
            self.z_step_um,
            self.name,
            below=self.below if self.below is None or index is None else self.below[index],
        )

    def load_psf(self) -> Any:
        """Read the layer as a measured PSF: a stack of a bead is a stack along z, whatever it is called."""
        image = self.load()
        if image.data.ndim > 3:
            return image.data
        z_step_um = image.z_step_um or self.placement.step_um(-3) if image.data.ndim == 3 else None
        return replace(image, axes="zyx"[-image.data.ndim :], z_step_um=z_step_um)

    def stub(self) -> Image:
        """Return an image of the same shape, axes and sizes, its pixels zeros that take no memory."""
        zeros = np.broadcast_to(np.float32(0), self.shape)
        return Image(zeros, self.axes, self.pixel_size_um, self.z_step_um, self.name)

    def checked(self, region: Region | None = None) -> Image:
        """Read the pixels, or a region of them, and refuse what no step can work on; for the worker's thread.

        Raises
        ------
        InvalidInputError
            Naming the layer.
        """
        return as_image(self.load(None if region is None else region.index), f"layer '{self.name}'")


def length_um(size: float, unit: str) -> float | None:
    """Convert a length in a unit as napari writes it to µm; None where the unit is no length."""
    import pint

    try:
        value = float(pint.Quantity(float(size), unit).to("micrometer").magnitude)
    except (pint.PintError, AttributeError, ValueError):
        return None
    return value if np.isfinite(value) and value > 0 else None


def provenance(record: Record | dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a layer's metadata: the record as JSON types, under our key."""
    content = record.to_dict() if isinstance(record, Record) else dict(record)
    clean: dict[str, Any] = json.loads(json.dumps({**content, **more}, default=_plain))
    return {METADATA_KEY: clean}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return str(value)
