"""A map of PSF parameters over the field of view."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_deblur.core.atomic import atomic_path
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.checks import check_values
from napari_deblur.optics.psf import DEFAULT_CUTOFF_CYCLES_PER_PX, PsfFamily, family
from napari_deblur.optics.psf_basis import MODEL as OF_A_BASIS

_FORMAT = 1
_OPTIONAL = ("predicted_error", "signed_defocus_waves")


@dataclass(frozen=True, eq=False)
class PsfMap:
    """PSF parameters on a grid of positions.

    Attributes
    ----------
    model : str
        Id of the PSF family.
    parameters : ndarray, float32, shape (rows, cols, N)
        Filled everywhere; where `valid` is false the value comes from the neighbours.
    centers_px : ndarray, float32, shape (rows, cols, 2)
        Positions (y, x) in pixels of the image, from the centre of its first pixel.
    image_shape : tuple of int
        Height and width of the image that the map belongs to.
    valid : ndarray, bool, shape (rows, cols)
        Where the image had enough texture to tell.
    confidence : ndarray, float32, shape (rows, cols)
        0 (do not trust) to 1.
    predicted_error : ndarray, float32, shape (rows, cols, N), or None
        Standard deviation that the estimator expects, in the units of the parameters.
    signed_defocus_waves : ndarray, float32, shape (rows, cols, 4), or None
        Of an astigmatic lens: defocus · cos 2θ and · sin 2θ as the estimator read them, which pass smoothly
        through focus where the defocus and the axis θ cannot, and the standard deviations it expects of both.
    cutoff_cycles_per_px : float
        Coherent cut-off NA · pixel / λ of the Zernike families; of no effect on the Gaussian ones.
    kernel_size_px : int
        Odd side length of the kernels.
    pixel_size_um : tuple of float or None
        Pixel size of the image along y and x.
    record : dict
        Provenance (JSON types).
    """

    model: str
    parameters: NDArray[np.float32]
    centers_px: NDArray[np.float32]
    image_shape: tuple[int, int]
    valid: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    predicted_error: NDArray[np.float32] | None = None
    signed_defocus_waves: NDArray[np.float32] | None = None
    cutoff_cycles_per_px: float = DEFAULT_CUTOFF_CYCLES_PER_PX
    kernel_size_px: int = 0
    pixel_size_um: tuple[float, float] | None = None
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def psf_family(self) -> PsfFamily:
        """The family of the kernels."""
        return family(self.model)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """Names of the N parameters, with their units."""
        return self.psf_family.parameter_names

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Rows and columns of the map."""
        return int(self.parameters.shape[0]), int(self.parameters.shape[1])

    @classmethod
    def from_parameters(
        cls,
        model: str,
        parameters: ArrayLike,
        *,
        centers_px: ArrayLike,
        image_shape: tuple[int, int],
        valid: ArrayLike | None = None,
        confidence: ArrayLike | None = None,
        **more: Any,
    ) -> PsfMap:
        """Build a map from known parameters.

        Parameters
        ----------
        model : str
            Id of the PSF family.
        parameters : array_like, shape (rows, cols, N)
        centers_px : array_like, shape (rows, cols, 2)
        image_shape : tuple of int
            Height and width in pixels.
        valid, confidence : array_like, shape (rows, cols), optional
            Everywhere true and 1 where not given.
        **more
            Other attributes of the class.

        Raises
        ------
        InvalidInputError
            If shapes disagree or values are not finite.
        """
        fam = family(model)
        values = np.asarray(parameters, dtype=np.float32)
        centers = np.asarray(centers_px, dtype=np.float32)
        if values.ndim != 3 or values.shape[-1] != len(fam.parameter_names) or 0 in values.shape:
            rule = f"must have the shape (rows, cols, {len(fam.parameter_names)}) for {model}"
            raise InvalidInputError("parameters", rule, f"shape {values.shape}")
        if not np.isfinite(values).all():
            raise InvalidInputError("parameters", "must be finite", "NaN or infinity")
        check_values(fam.parameter_names, values)
        grid = values.shape[:2]
        if centers.shape != (*grid, 2):
            rule = f"must have the shape {(*grid, 2)}"
            raise InvalidInputError("centers_px", rule, f"shape {centers.shape}")
        _check_grid(centers)
        if len(image_shape) != 2 or min(image_shape) < 1:
            raise InvalidInputError("image_shape", "must be (height, width)", image_shape)
        ok = np.ones(grid, bool) if valid is None else np.asarray(valid, dtype=bool)
        trust = ok.astype(np.float32) if confidence is None else np.asarray(confidence, dtype=np.float32)
        for name, array in (("valid", ok), ("confidence", trust)):
            if array.shape != grid:
                raise InvalidInputError(name, f"must have the shape {grid}", f"shape {array.shape}")
        if not ((trust >= 0) & (trust <= 1)).all():
            found = f"{trust.min():g} to {trust.max():g}"
            raise InvalidInputError("confidence", "must be from 0 to 1", found)
        for name, width in (("predicted_error", values.shape[-1]), ("signed_defocus_waves", 4)):
            if (more_values := more.get(name)) is not None and more_values.shape != (*grid, width):
                raise InvalidInputError(
                    name, f"must have the shape {(*grid, width)}", f"shape {more_values.shape}"
                )
        cutoff = more.setdefault("cutoff_cycles_per_px", fam.default_cutoff_cycles_per_px)
        more.setdefault("kernel_size_px", fam.size_px(cutoff))
        shape = (int(image_shape[0]), int(image_shape[1]))
        return cls(fam.id, values, centers, shape, ok, trust, **more)

    def kernels(self) -> NDArray[np.float32]:
        """Return the PSFs, shape (rows, cols, h, w), each with sum 1."""
        return self._render(self.parameters)

    def psf_at(self, y: float, x: float) -> NDArray[np.float32]:
        """Return the PSF at a position, kernels interpolated between the map's centres.

        Parameters
        ----------
        y, x : float
            Position in pixels; outside the centres the nearest ones count.

        Raises
        ------
        InvalidInputError
            If the position lies outside the image.
        """
        self._check_inside(y, x)
        rows, row_weights = _neighbours(self.centers_px[:, 0, 0], y)
        cols, col_weights = _neighbours(self.centers_px[0, :, 1], x)
        kernels = self._render(self.parameters[np.ix_(rows, cols)])
        weights = np.asarray(row_weights)[:, None] * np.asarray(col_weights)[None, :]
        psf: NDArray[np.float32] = np.einsum("rc,rchw->hw", weights, kernels).astype(np.float32)
        return psf

    def nearest(self, y: float, x: float) -> tuple[int, int]:
        """Return row and column of the map's position nearest to (y, x) in pixels."""
        self._check_inside(y, x)
        row = int(np.abs(self.centers_px[:, 0, 0] - y).argmin())
        return row, int(np.abs(self.centers_px[0, :, 1] - x).argmin())

    def _check_inside(self, y: float, x: float) -> None:
        height, width = self.image_shape
        if not (-0.5 <= y <= height - 0.5 and -0.5 <= x <= width - 0.5):
            raise InvalidInputError("position", f"must lie inside the image of {self.image_shape}", (y, x))

    def _render(self, parameters: NDArray[np.float32]) -> NDArray[np.float32]:
        import torch

        fam = self.psf_family
        flat = torch.from_numpy(np.ascontiguousarray(parameters.reshape(-1, parameters.shape[-1])))
        size = self.kernel_size_px or fam.default_size_px
        chunks = [fam.kernels(part, size, self.cutoff_cycles_per_px) for part in torch.split(flat, 64)]
        kernels: NDArray[np.float32] = torch.cat(chunks).numpy()
        return kernels.reshape(*parameters.shape[:-1], size, size)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the map as a ``.npz`` archive of plain arrays (no pickle).

        Raises
        ------
        OutputError
            If the file exists and ``overwrite`` is false, or cannot be written.
        """
        meta = {
            "format": _FORMAT,
            "model": self.model,
            "image_shape": self.image_shape,
            "cutoff_cycles_per_px": self.cutoff_cycles_per_px,
            "kernel_size_px": self.kernel_size_px,
            "pixel_size_um": self.pixel_size_um,
            "record": self.record,
        }
        more, more_arrays = self._more()
        meta |= more
        arrays: dict[str, NDArray[Any]] = {
            "parameters": self.parameters,
            "centers_px": self.centers_px,
            "valid": self.valid,
            "confidence": self.confidence,
            "meta": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8),
        }
        arrays |= {name: array for name in _OPTIONAL if (array := getattr(self, name)) is not None}
        arrays |= more_arrays
        with atomic_path(path, overwrite, "path") as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
        return Path(path).expanduser()

    def _more(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return what a kind of maps saves beside what every map has."""
        return {}, {}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PsfMap:
        """Read a map that `save` wrote.

        Raises
        ------
        InvalidInputError
            If the file is missing or not such a map.
        """
        source = Path(path).expanduser()
        if not source.is_file():
            raise InvalidInputError("psf_map", "must be an existing file", str(source))
        try:
            with source.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                meta = json.loads(archive["meta"].tobytes().decode())
                if meta["model"] == OF_A_BASIS:
                    from napari_deblur.optics.basis_map import BasisMap

                    return BasisMap.from_archive(meta, archive)
                pixel = meta["pixel_size_um"]
                return cls.from_parameters(
                    meta["model"],
                    archive["parameters"],
                    centers_px=archive["centers_px"],
                    image_shape=tuple(meta["image_shape"]),
                    valid=archive["valid"],
                    confidence=archive["confidence"],
                    **{name: archive[name] for name in _OPTIONAL if name in archive},
                    cutoff_cycles_per_px=meta["cutoff_cycles_per_px"],
                    kernel_size_px=meta["kernel_size_px"],
                    pixel_size_um=tuple(pixel) if pixel else None,
                    record=meta["record"],
                )
        except (KeyError, ValueError, OSError, zipfile.BadZipFile, EOFError, TypeError) as error:
            if isinstance(error, InvalidInputError):
                raise
            raise InvalidInputError("psf_map", "must be a saved PSF map", str(source)) from error


def _check_grid(centers: NDArray[np.float32]) -> None:
    """Rows share y, columns share x, both ascending: what the interpolation relies on."""
    ys, xs = centers[:, 0, 0], centers[0, :, 1]
    regular = np.allclose(centers[..., 0], ys[:, None], atol=1e-3) and np.allclose(
        centers[..., 1], xs[None, :], atol=1e-3
    )
    if not regular or (np.diff(ys) <= 0).any() or (np.diff(xs) <= 0).any():
        rule = "must form a grid, y ascending over rows and x over columns"
        raise InvalidInputError("centers_px", rule, "other positions")


def _neighbours(positions: NDArray[np.float32], value: float) -> tuple[list[int], list[float]]:
    """Return the one or two grid indices around a value, with linear weights."""
    last = len(positions) - 1
    clamped = float(np.clip(value, positions[0], positions[last]))
    low = min(int(np.searchsorted(positions, clamped, side="right")) - 1, last)
    if low == last:
        return [last], [1.0]
    share = (clamped - float(positions[low])) / float(positions[low + 1] - positions[low])
    return [low, low + 1], [1.0 - share, share]
