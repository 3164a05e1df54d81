"""Write a depth surface so that it opens at true scale elsewhere: PLY, OBJ, STL."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.atomic import atomic_path
from napari_deblur.core.errors import InvalidInputError

MESH_SUFFIXES = (".ply", ".obj", ".stl")
_VIEW_PERCENTILES = (0.5, 99.5)


class SurfaceLike(Protocol):
    """What a surface has (see `napari_deblur.steps.surface`)."""

    @property
    def vertices(self) -> NDArray[np.float32]:
        """Positions (z, y, x) in µm, shape (n, 3)."""

    @property
    def faces(self) -> NDArray[np.int32]:
        """Indices of vertices, shape (m, 3)."""

    @property
    def values(self) -> NDArray[np.float32]:
        """One intensity per vertex, shape (n,)."""

    @property
    def calibrated(self) -> bool:
        """Whether z is a measured depth."""


def write_mesh(
    surface: SurfaceLike, path: str | os.PathLike[str], overwrite: bool = False, argument: str = "output"
) -> Path:
    """Write a surface; the suffix of the path chooses the format.

    Parameters
    ----------
    surface : SurfaceLike
    path : path-like
        ``.ply`` (binary; intensity as the number ``quality`` and as grey), ``.obj`` (text, grey vertices) or
        ``.stl`` (binary, shape only). Coordinates are x, y, z in µm.
    overwrite : bool
        Whether a file that exists may be replaced.
    argument : str
        Name used in errors.

    Returns
    -------
    Path

    Raises
    ------
    InvalidInputError
        If the suffix is unknown or the surface is empty or broken.
    OutputError
        If it cannot be written; nothing half-written stays behind.
    """
    target = Path(path).expanduser()
    writers = {".ply": _write_ply, ".obj": _write_obj, ".stl": _write_stl}
    if target.suffix.lower() not in writers:
        raise InvalidInputError(argument, f"must end in {', '.join(MESH_SUFFIXES)}", repr(str(target)))
    _check(surface)
    with atomic_path(target, overwrite, argument) as temporary, temporary.open("wb") as stream:
        writers[target.suffix.lower()](surface, stream)
    return target


def _check(surface: SurfaceLike) -> None:
    vertices, faces, values = surface.vertices, surface.faces, surface.values
    n = len(vertices)
    if n == 0 or len(faces) == 0:
        raise InvalidInputError("surface", "must have faces", f"{n} vertices, {len(faces)} faces")
    if vertices.shape != (n, 3) or faces.shape[1:] != (3,) or values.shape != (n,):
        shapes = f"{vertices.shape}, {faces.shape}, {values.shape}"
        raise InvalidInputError("surface", "must have (n, 3) vertices, (m, 3) faces and n values", shapes)
    if not np.isfinite(vertices).all():
        raise InvalidInputError("surface", "must have finite vertices", "NaN or infinity")
    if int(faces.min()) < 0 or int(faces.max()) >= n:
        raise InvalidInputError(
            "surface", "must have faces between its vertices", f"index {int(faces.max())} of {n}"
        )


def _xyz(surface: SurfaceLike) -> NDArray[np.float32]:
    return np.ascontiguousarray(surface.vertices[:, ::-1], dtype=np.float32)


def _grey(surface: SurfaceLike) -> NDArray[np.uint8]:
    values = np.nan_to_num(np.asarray(surface.values, dtype=np.float64))
    low, high = np.percentile(values, _VIEW_PERCENTILES)
    scaled = np.clip((values - low) / max(float(high - low), 1e-12), 0, 1)
    grey: NDArray[np.uint8] = np.round(255 * scaled).astype(np.uint8)
    return grey


def _meaning(surface: SurfaceLike) -> str:
    height = (
        "z: depth, positive away from the objective" if surface.calibrated else "z: RELATIVE, not calibrated"
    )
    return f"napari-deblur surface; unit micrometre; {height}"


def _write_ply(surface: SurfaceLike, stream: BinaryIO) -> None:
    n, m = len(surface.vertices), len(surface.faces)
    vertex = np.dtype([("xyz", "<f4", 3), ("quality", "<f4"), ("rgb", "u1", 3)])
    face = np.dtype([("count", "u1"), ("corners", "<i4", 3)])
    vertices, faces = np.empty(n, vertex), np.empty(m, face)
    vertices["xyz"], vertices["quality"] = _xyz(surface), surface.values
    vertices["rgb"] = _grey(surface)[:, None]
    faces["count"], faces["corners"] = 3, surface.faces
    header = [
        "ply",
        "format binary_little_endian 1.0",
        f"comment {_meaning(surface)}",
        f"element vertex {n}",
        *(f"property float {name}" for name in ("x", "y", "z", "quality")),
        *(f"property uchar {name}" for name in ("red", "green", "blue")),
        f"element face {m}",
        "property list uchar int vertex_indices",
        "end_header",
    ]
    stream.write(("\n".join(header) + "\n").encode("ascii"))
    stream.write(vertices.tobytes())
    stream.write(faces.tobytes())


def _write_obj(surface: SurfaceLike, stream: BinaryIO) -> None:
    grey = _grey(surface)[:, None] / 255
    stream.write(f"# {_meaning(surface)}\n".encode("ascii"))
    np.savetxt(stream, np.hstack([_xyz(surface), grey, grey, grey]), fmt="v %.9g %.9g %.9g %.4g %.4g %.4g")
    np.savetxt(stream, surface.faces + 1, fmt="f %d %d %d")


def _write_stl(surface: SurfaceLike, stream: BinaryIO) -> None:
    corners = _xyz(surface)[surface.faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).astype(np.float64)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    facet = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    facets = np.zeros(len(corners), facet)
    facets["normal"] = normals / np.where(length > 0, length, 1)
    facets["corners"] = corners
    # A binary STL must not begin with the word 'solid'.
    stream.write(_meaning(surface).encode("ascii")[:80].ljust(80))
    stream.write(np.uint32(len(facets)).astype("<u4").tobytes())
    stream.write(facets.tobytes())
