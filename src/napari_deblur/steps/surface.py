"""A depth map as a triangle mesh."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.image import FloatArray

MOST_VERTICES = 40_000


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangle mesh in µm.

    Attributes
    ----------
    vertices : ndarray, float32, shape (n, 3)
        (z, y, x) in µm; z is the depth, y and x count from the centre of the image's first pixel.
    faces : ndarray, int32, shape (m, 3)
        Indices of vertices; seen from beyond focus, all turn the same way.
    values : ndarray, float32, shape (n,)
        Image intensity at the vertices, or the depth where there is no image.
    calibrated : bool
        Whether z is a measured depth; if not, only the shape has a meaning, not its height.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]
    values: NDArray[np.float32]
    calibrated: bool = True


def make_surface(
    depth_um: FloatArray,
    image: FloatArray | None,
    *,
    pixel_size_um: tuple[float, float],
    max_vertices: int = MOST_VERTICES,
    calibrated: bool = True,
) -> Surface:
    """Make a mesh of a depth map, leaving out what is NaN.

    Parameters
    ----------
    depth_um : ndarray, float32, shape (y, x)
    image : ndarray or None, shape (y, x)
        Intensities, averaged over the pixels that a vertex stands for; the depth itself when not given.
    pixel_size_um : tuple of float
        Along y and x.
    max_vertices : int
        Pixels are skipped evenly until the mesh is about this small.
    calibrated : bool
    """
    from scipy.ndimage import uniform_filter

    step = max(1, math.ceil(math.sqrt(depth_um.size / max(max_vertices, 4))))
    at = np.ix_(_picked(depth_um.shape[0], step), _picked(depth_um.shape[1], step))
    z = depth_um[at]
    values = z if image is None else uniform_filter(image, step, mode="nearest")[at]
    y, x = np.broadcast_arrays(at[0] * pixel_size_um[0], at[1] * pixel_size_um[1])
    kept = np.isfinite(z)
    number = np.cumsum(kept.ravel()) - 1
    return Surface(
        vertices=np.stack([z, y, x], axis=-1)[kept].astype(np.float32),
        faces=number[_faces(kept)].astype(np.int32),
        values=values[kept].astype(np.float32),
        calibrated=calibrated,
    )


def _picked(size: int, step: int) -> NDArray[np.int64]:
    """Return every step-th index, and the last."""
    picked = np.arange(0, size, step)
    return picked if picked[-1] == size - 1 else np.append(picked, size - 1)


def _faces(kept: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return two triangles per grid cell whose corners are kept, as indices into the flat grid."""
    number = np.arange(kept.size).reshape(kept.shape)
    a, b = number[:-1, :-1], number[1:, :-1]
    c, d = number[:-1, 1:], number[1:, 1:]
    triangles = np.stack([np.stack([a, c, b], axis=-1), np.stack([c, d, b], axis=-1)], axis=2).reshape(-1, 3)
    whole: NDArray[np.int64] = triangles[kept.ravel()[triangles].all(axis=1)]
    return whole
