"""A small space of space-varying blurs: eigen-PSFs, and maps of how their strengths vary over the field.

A product-convolution operator is ``A x = Σ_i e_i * (c_i ⊙ x)`` with few kernels e_i and smooth maps c_i
(Escande & Weiss 2017, doi:10.1007/s10851-017-0714-2). The operators of one microscope lie near a space of
few dimensions: the maps too are combinations ``c_i = Σ_j γ_ij f_j`` of few (Debarnot & Weiss 2024, Model 2.2,
doi:10.1017/S2633903X24000096), so that I · J numbers γ say all of the blur.

Ours is affine: the mean PSF, of sum 1, has the weight 1 everywhere, and the eigen-PSFs sum to 0. Every
operator of the space then keeps the flux, whatever its coefficients.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.basis_checks import BASIS_ARRAYS, check_basis
from napari_deblur.optics.interpolation import linear_interpolation_matrix

if TYPE_CHECKING:
    from napari_deblur.optics.basis_map import BasisMap

MODEL = "product-convolution"
_TOLERATED_SIZE_ERROR = 0.02


@dataclass(frozen=True, eq=False)
class PsfBasis:
    """Eigen-PSFs and maps that span the blurs of one microscope.

    Attributes
    ----------
    kernels : ndarray, float32, shape (1 + I, h, w)
        The mean PSF (sum 1), then eigen-PSFs (sum 0, orthogonal), scaled to strengths of mean square 1 over
        the fields that the basis was learned from.
    maps : ndarray, float32, shape (J, rows, cols)
        How strengths vary over the field: orthogonal, of mean square 1; linear between the positions.
    rows_px, cols_px : ndarray, float32
        Positions of the maps' values in pixels of the field, ascending.
    image_shape : tuple of int
        Height and width of the field in pixels.
    coefficients : ndarray, float32, shape (S, I, J)
        Of the fields that the basis was learned from.
    labels : tuple of str, length S
        What these fields were.
    any_size : bool
        Whether the field stretches over images of other shapes: of simulated ones, never of a camera's.
    pixel_size_um : float or None
    cutoff_cycles_per_px : float or None
        Of the pupils that it was simulated with.
    relative_error : float
        Norm of what the basis leaves out of the PSFs that it was learned from, relative to their norm.
    record : dict
        How it was learned (JSON types).
    """

    kernels: NDArray[np.float32]
    maps: NDArray[np.float32]
    rows_px: NDArray[np.float32]
    cols_px: NDArray[np.float32]
    image_shape: tuple[int, int]
    coefficients: NDArray[np.float32]
    labels: tuple[str, ...]
    any_size: bool = False
    pixel_size_um: float | None = None
    cutoff_cycles_per_px: float | None = None
    relative_error: float = 0.0
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_basis(self)

    @property
    def n_psfs(self) -> int:
        """I, the number of eigen-PSFs beside the mean."""
        return len(self.kernels) - 1

    @property
    def n_maps(self) -> int:
        """J, the number of maps."""
        return len(self.maps)

    @property
    def n_coefficients(self) -> int:
        """K = I · J."""
        return self.n_psfs * self.n_maps

    @property
    def kernel_size_px(self) -> int:
        """Side length of the kernels."""
        return int(self.kernels.shape[-1])

    @cached_property
    def prior(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean (K,) and covariance (K, K) of the coefficients of the fields that it was learned from.

        Of S fields the covariance is drawn towards a diagonal of mean squares by the share 1 / S: one field
        alone says how large coefficients are, and nothing of how they vary together.
        """
        flat = self.coefficients.reshape(len(self.coefficients), -1).astype(np.float64)
        mean = np.asarray(flat.mean(axis=0), dtype=np.float64)
        share = 1 / len(flat)
        spread = np.diag((flat**2).mean(axis=0))
        sample = (flat - mean).T @ (flat - mean) / len(flat)
        covariance = (1 - share) * sample + share * spread
        floor = 1e-4 * max(float(np.trace(covariance)) / len(covariance), 1e-30)
        return mean, covariance + floor * np.eye(len(covariance))

    def grid_of(self, image_shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the positions of the maps' values in pixels of an image.

        Raises
        ------
        InvalidInputError
            If the basis belongs to a field of another size: which part of it the image shows is not known.
        """
        shape = (int(image_shape[-2]), int(image_shape[-1]))
        if shape == self.image_shape:
            return self.rows_px, self.cols_px
        if not self.any_size:
            rule = f"must belong to images of {shape} pixels"
            raise InvalidInputError("psf_basis", rule, f"a basis of a field of {self.image_shape}")
        sides = zip((self.rows_px, self.cols_px), shape, self.image_shape, strict=True)
        rows, cols = ((grid + 0.5) * (new / old) - 0.5 for grid, new, old in sides)
        return rows.astype(np.float32), cols.astype(np.float32)

    def check_pixel_size(self, pixel_size_um: tuple[float, float] | None) -> None:
        """Refuse an image of other pixels, where both sizes are known.

        Raises
        ------
        InvalidInputError
        """
        own = self.pixel_size_um
        for size in pixel_size_um or ():
            if own is not None and abs(size - own) > _TOLERATED_SIZE_ERROR * own:
                rule = f"must be that of the PSF basis, {own:.4g} µm"
                raise InvalidInputError("pixel_size_um", rule, f"{size:.4g} µm")

    def maps_at(
        self, ys_px: ArrayLike, xs_px: ArrayLike, image_shape: tuple[int, ...]
    ) -> NDArray[np.float64]:
        """Return the maps' values (J, n, m) at n rows and m columns of an image."""
        rows, cols = self.grid_of(image_shape)
        by_row = linear_interpolation_matrix(np.asarray(ys_px, dtype=np.float64), rows)
        by_col = linear_interpolation_matrix(np.asarray(xs_px, dtype=np.float64), cols)
        return np.asarray(by_row @ self.maps @ by_col.T, dtype=np.float64)

    def checked_coefficients(self, coefficients: ArrayLike) -> NDArray[np.float32]:
        """Return coefficients as (I, J).

        Raises
        ------
        InvalidInputError
            If there are not I · J of them, or not all are finite.
        """
        values = np.asarray(coefficients, dtype=np.float32)
        if values.size != self.n_coefficients:
            rule = f"must hold {self.n_psfs} × {self.n_maps} values"
            raise InvalidInputError("coefficients", rule, f"shape {values.shape}")
        if not np.isfinite(values).all():
            raise InvalidInputError("coefficients", "must be finite", "NaN or infinity")
        return values.reshape(self.n_psfs, self.n_maps)

    def operator(
        self,
        coefficients: ArrayLike,
        image_shape: tuple[int, ...],
        *,
        predicted_error: ArrayLike | None = None,
        record: dict[str, Any] | None = None,
    ) -> BasisMap:
        """Return the blur with given coefficients, over an image.

        Parameters
        ----------
        coefficients : array_like, I · J values
        image_shape : tuple of int
            Its last two are the height and width of the image.
        predicted_error : array_like, I · J values, optional
            Standard deviations that whoever estimated the coefficients expects.
        record : dict, optional

        Raises
        ------
        InvalidInputError
            If the coefficients or the image do not fit the basis.
        """
        from napari_deblur.optics.basis_map import BasisMap

        return BasisMap.of(self, coefficients, image_shape, predicted_error, record)

    def field(self, which: int | str) -> NDArray[np.float32]:
        """Return the coefficients of one of the fields that the basis was learned from.

        Parameters
        ----------
        which : int or str
            Its number, or its label.

        Raises
        ------
        InvalidInputError
            If there is no such field.
        """
        text = str(which)
        if text in self.labels:
            return np.array(self.coefficients[self.labels.index(text)])
        if text.isdigit() and int(text) < len(self.labels):
            return np.array(self.coefficients[int(text)])
        some = ", ".join(self.labels[:6]) + (", …" if len(self.labels) > 6 else "")
        raise InvalidInputError("basis_field", f"must be 0 to {len(self.labels) - 1} or one of {some}", text)

    def of_field(
        self,
        which: int | str,
        image_shape: tuple[int, ...],
        pixel_size_um: tuple[float, float] | None = None,
    ) -> BasisMap:
        """Return the blur of one of the fields that the basis was learned from, over an image.

        Raises
        ------
        InvalidInputError
            If there is no such field, or the image's shape or pixel size does not fit.
        """
        self.check_pixel_size(pixel_size_um)
        return self.operator(self.field(which), image_shape, record={"basis_field": str(which)})

    def over(self, image_shape: tuple[int, ...]) -> PsfBasis:
        """Return the basis with its field stretched over an image, where it may be.

        Raises
        ------
        InvalidInputError
            If the basis belongs to a field of another size.
        """
        rows, cols = self.grid_of(image_shape)
        shape = (int(image_shape[-2]), int(image_shape[-1]))
        return replace(self, rows_px=rows, cols_px=cols, image_shape=shape)

    def part(self, top_px: int, left_px: int, shape: tuple[int, int]) -> PsfBasis:
        """Return the basis of a part of its field, of the height and width ``shape``."""
        rows, cols = self.rows_px - np.float32(top_px), self.cols_px - np.float32(left_px)
        return replace(self, rows_px=rows, cols_px=cols, image_shape=shape, any_size=False)

    def describe(self) -> str:
        """Return a line of text for lists and reports."""
        varied = self.record.get("relative_variation")
        of = f" of {float(varied):.0%}" if varied is not None else ""
        height, width = self.image_shape
        where = "any image" if self.any_size else f"images of {height} × {width} pixels"
        return (
            f"{self.n_psfs} eigen-PSFs × {self.n_maps} maps = {self.n_coefficients} coefficients "
            f"for {where}; from {len(self.labels)} fields, {self.relative_error:.1%}{of} left out"
        )

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the basis as a ``.npz`` archive of plain arrays (no pickle).

        Raises
        ------
        OutputError
            If the file exists and ``overwrite`` is false, or cannot be written.
        """
        from napari_deblur.optics.basis_file import save_basis

        return save_basis(self.about(), self.arrays(), path, overwrite=overwrite)

    def about(self) -> dict[str, Any]:
        """Return everything but the arrays (JSON types)."""
        return {
            "image_shape": list(self.image_shape),
            "labels": list(self.labels),
            "any_size": self.any_size,
            "pixel_size_um": self.pixel_size_um,
            "cutoff_cycles_per_px": self.cutoff_cycles_per_px,
            "relative_error": self.relative_error,
            "record": self.record,
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name."""
        return {name: getattr(self, name) for name in BASIS_ARRAYS}

    @classmethod
    def from_parts(cls, arrays: Any, about: dict[str, Any]) -> PsfBasis:
        """Put a basis together from what `arrays` and `about` return."""
        height, width = about["image_shape"]
        return cls(
            **{name: np.ascontiguousarray(arrays[name], dtype=np.float32) for name in BASIS_ARRAYS},
            image_shape=(int(height), int(width)),
            labels=tuple(str(label) for label in about["labels"]),
            any_size=bool(about["any_size"]),
            pixel_size_um=about["pixel_size_um"],
            cutoff_cycles_per_px=about["cutoff_cycles_per_px"],
            relative_error=float(about["relative_error"]),
            record=dict(about["record"]),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PsfBasis:
        """Read a basis that `save` wrote.

        Raises
        ------
        InvalidInputError
            If the file is missing, damaged, or no such basis.
        """
        from napari_deblur.optics.basis_file import load_basis

        return load_basis(path, cls.from_parts)
