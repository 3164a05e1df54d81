"""What estimating depth gives, and its surface."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray, Image, as_float32
from napari_deblur.core.record import Record
from napari_deblur.steps.surface import MOST_VERTICES, Surface, make_surface


@dataclass(frozen=True, eq=False)
class DepthResult:
    """Depth at the image's resolution.

    Attributes
    ----------
    depth_um : ndarray, float32, shape (y, x)
        In µm, positive away from the objective, if `calibrated`; otherwise relative, without a unit. NaN
        where the image has no texture to tell from.
    confidence : ndarray, float32, shape (y, x)
        0 (do not trust) to 1; 0 where the depth is not from the place itself.
    calibrated : bool
    record : Record
    pixel_size_um : tuple of float or None
        Along y and x.
    intensity : ndarray or None
        The image's first plane, for the surface.
    """

    depth_um: FloatArray
    confidence: FloatArray
    calibrated: bool
    record: Record
    pixel_size_um: tuple[float, float] | None = None
    intensity: FloatArray | None = field(default=None, repr=False)

    @property
    def unit(self) -> str:
        """Return 'µm' or 'relative'."""
        return "µm" if self.calibrated else "relative"

    def surface(
        self,
        image: Image | ArrayLike | None = None,
        *,
        max_vertices: int = MOST_VERTICES,
        pixel_size_um: tuple[float, float] | None = None,
        relative_height_um: float | None = None,
    ) -> Surface:
        """Return the depth as a triangle mesh at true scale, coloured by intensity.

        Parameters
        ----------
        image : Image or array_like, shape (…, y, x), optional
            Gives the intensities; the image that the depth came from when not given.
        max_vertices : int
            Pixels are skipped evenly until the mesh is this small.
        pixel_size_um : tuple of float, optional
            Along y and x; the image's own when not given.
        relative_height_um : float, optional
            For a depth without calibration: how tall the whole range shall be drawn. The result says that it
            is not calibrated.

        Raises
        ------
        InvalidInputError
            If the pixel size is unknown, or the depth is relative and no height was given.
        """
        height = self._height(relative_height_um)
        pixel = pixel_size_um or self.pixel_size_um
        if pixel is None:
            raise InvalidInputError("pixel_size_um", "is needed for a surface at scale", "nothing")
        plane = self.intensity if image is None else first_plane(image)
        if plane is not None and plane.shape != self.depth_um.shape:
            rule = f"must have the depth's shape {self.depth_um.shape}"
            raise InvalidInputError("image", rule, f"shape {plane.shape}")
        return make_surface(
            self.depth_um * np.float32(height),
            plane,
            pixel_size_um=pixel,
            max_vertices=max_vertices,
            calibrated=self.calibrated,
        )

    def _height(self, relative_height_um: float | None) -> float:
        """Return the factor from the depth to µm."""
        if self.calibrated:
            return 1.0
        if relative_height_um is None or not relative_height_um > 0:
            rule = "must be given (positive) to draw a depth without calibration: its scale is unknown"
            raise InvalidInputError("relative_height_um", rule, relative_height_um)
        return relative_height_um / max(float(np.nanmax(self.depth_um) - np.nanmin(self.depth_um)), 1e-12)


def first_plane(image: Image | ArrayLike) -> FloatArray:
    """Return the first plane (y, x) of an image."""
    data = image.data if isinstance(image, Image) else as_float32(image)
    if data.ndim < 2:
        raise InvalidInputError("image", "must have the axes (…, y, x)", f"shape {data.shape}")
    plane: FloatArray = data.reshape(-1, *data.shape[-2:])[0]
    return plane
