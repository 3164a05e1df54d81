"""The PSF map of an operator of a `PsfBasis`: its parameters are the strengths of the eigen-PSFs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.psf_basis import MODEL, PsfBasis
from napari_deblur.optics.psf_family import DEFAULT_CUTOFF_CYCLES_PER_PX, PsfFamily
from napari_deblur.optics.psf_map import PsfMap

if TYPE_CHECKING:
    import torch

# Ranges of strengths reach that many standard deviations beyond what was seen.
_BEYOND = 1.0
_BASIS = "basis_"


def basis_family(basis: PsfBasis) -> PsfFamily:
    """Return the kernels ``mean + Σ_i c_i e_i`` of a basis as a family with the parameters c_i.

    The ranges are those of the fields that the basis was learned from and a little more.
    """
    names = tuple(f"eigen_psf_{number + 1}" for number in range(basis.n_psfs))
    seen = np.einsum("sij,jrc->irsc", basis.coefficients, basis.maps).reshape(basis.n_psfs, -1)
    low, high = seen.min(axis=1), seen.max(axis=1)
    more = _BEYOND * np.maximum(seen.std(axis=1), 1e-6)
    ranges = {
        name: (float(low[index] - more[index]), float(high[index] + more[index]))
        for index, name in enumerate(names)
    }
    units = ("",) * len(names)
    size = basis.kernel_size_px
    return PsfFamily(MODEL, "Product-convolution", names, units, ranges, False, size, _Render(basis.kernels))


@dataclass(frozen=True, eq=False)
class _Render:
    """Kernels of strengths; picklable, as families are."""

    kernels: NDArray[np.float32]

    def __call__(self, parameters: torch.Tensor, size: int, cutoff: float) -> torch.Tensor:
        import torch

        del cutoff
        if size != self.kernels.shape[-1]:
            rule = f"must be {self.kernels.shape[-1]}, that of the basis"
            raise InvalidInputError("size_px", rule, size)
        basis = torch.from_numpy(self.kernels).to(parameters.device)
        kernels: torch.Tensor = basis[0] + torch.tensordot(parameters, basis[1:], dims=1)
        return kernels


@dataclass(frozen=True, eq=False)
class BasisMap(PsfMap):
    """The PSF map of an operator of a basis; its positions are those of the basis' maps.

    Between positions strengths are interpolated linearly, so that the kernels `compress` finds are no more
    than the basis has, and the blur is the product-convolution itself.

    Attributes
    ----------
    basis : PsfBasis
    coefficients : ndarray, float32, shape (I, J)
        Of the whole field; a part of the field and a map edited by hand keep those that they came from.
    coefficient_errors : ndarray, float32, shape (I, J), or None
        Standard deviations that the estimator expects.
    """

    basis: PsfBasis | None = None
    coefficients: NDArray[np.float32] | None = None
    coefficient_errors: NDArray[np.float32] | None = None

    @classmethod
    def of(
        cls,
        basis: PsfBasis,
        coefficients: ArrayLike,
        image_shape: tuple[int, ...],
        predicted_error: ArrayLike | None = None,
        record: dict[str, Any] | None = None,
    ) -> BasisMap:
        """Return the map of an operator; see `PsfBasis.operator`."""
        values = basis.checked_coefficients(coefficients)
        rows, cols = basis.grid_of(image_shape)
        local = np.einsum("ij,jrc->rci", values, basis.maps).astype(np.float32)
        grid = local.shape[:2]
        errors, spread = None, None
        if predicted_error is not None:
            errors = basis.checked_coefficients(predicted_error)
            squares = np.einsum("ij,jrc->rci", errors**2, basis.maps**2)
            spread = np.sqrt(squares).astype(np.float32)
        return cls(
            MODEL,
            local,
            np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1).astype(np.float32),
            (int(image_shape[-2]), int(image_shape[-1])),
            np.ones(grid, bool),
            _trust(basis, spread, grid),
            predicted_error=spread,
            cutoff_cycles_per_px=basis.cutoff_cycles_per_px or DEFAULT_CUTOFF_CYCLES_PER_PX,
            kernel_size_px=basis.kernel_size_px,
            pixel_size_um=(basis.pixel_size_um,) * 2 if basis.pixel_size_um else None,
            record=record or {},
            basis=basis,
            coefficients=values,
            coefficient_errors=errors,
        )

    @cached_property
    def psf_family(self) -> PsfFamily:
        """The kernels of the basis."""
        assert self.basis is not None
        return basis_family(self.basis)

    def _more(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return what is saved beside what every map has."""
        assert self.basis is not None
        arrays = {f"{_BASIS}{name}": array for name, array in self.basis.arrays().items()}
        for name in ("coefficients", "coefficient_errors"):
            if (array := getattr(self, name)) is not None:
                arrays[name] = array
        return {"basis": self.basis.about()}, arrays

    @classmethod
    def from_archive(cls, meta: dict[str, Any], archive: Any) -> BasisMap:
        """Read a map from an open archive that `save` wrote."""
        own = {name.removeprefix(_BASIS): archive[name] for name in archive if name.startswith(_BASIS)}
        basis = PsfBasis.from_parts(own, meta["basis"])
        pixel = meta["pixel_size_um"]
        found = cls(
            MODEL,
            archive["parameters"],
            archive["centers_px"],
            (int(meta["image_shape"][0]), int(meta["image_shape"][1])),
            archive["valid"],
            archive["confidence"],
            predicted_error=_optional(archive, "predicted_error"),
            cutoff_cycles_per_px=meta["cutoff_cycles_per_px"],
            kernel_size_px=int(meta["kernel_size_px"]),
            pixel_size_um=(float(pixel[0]), float(pixel[1])) if pixel else None,
            record=meta["record"],
            basis=basis,
            coefficients=basis.checked_coefficients(archive["coefficients"]),
            coefficient_errors=_optional(archive, "coefficient_errors"),
        )
        if found.parameters.shape[-1] != basis.n_psfs or found.centers_px.shape[:2] != found.grid_shape:
            rule = f"must have the shape (rows, cols, {basis.n_psfs})"
            raise InvalidInputError("parameters", rule, f"shape {found.parameters.shape}")
        return found


def _optional(archive: Any, name: str) -> NDArray[np.float32] | None:
    return np.asarray(archive[name], dtype=np.float32) if name in archive else None


def _trust(basis: PsfBasis, spread: NDArray[np.float32] | None, grid: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the share of each strength's spread over the fields that is known, weighted by its size."""
    if spread is None:
        return np.ones(grid, np.float32)
    _, covariance = basis.prior
    prior = np.diag(covariance).reshape(basis.n_psfs, basis.n_maps)
    before = np.einsum("ij,jrc->rci", prior, basis.maps.astype(np.float64) ** 2).sum(axis=-1)
    known = 1 - np.sqrt((spread.astype(np.float64) ** 2).sum(axis=-1) / np.maximum(before, 1e-30))
    return np.asarray(np.clip(known, 0, 1), dtype=np.float32)
