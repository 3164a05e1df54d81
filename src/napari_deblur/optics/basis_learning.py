"""Learn a `PsfBasis` from PSFs at scattered places of several fields: PCA of the PSFs, then of their maps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.params import Declared, Param
from napari_deblur.core.run import Run
from napari_deblur.optics.interpolation import linear_interpolation_matrix
from napari_deblur.optics.psf_basis import PsfBasis

GRID = 13
"""Positions of the maps along each side of the field: quadratic maps are exact to 0.7 % of their range."""
_HIGHEST_DEGREE = 3
# A polynomial needs that many PSFs per term.
_PSFS_PER_TERM = 2
# Principal components come from at most that many PSFs, taken evenly.
_MOST_PSFS = 4000


@dataclass(frozen=True, eq=False)
class FieldPsfs:
    """PSFs at places of one field: one plane of a bead stack, or one simulated instrument.

    Attributes
    ----------
    positions_px : ndarray, shape (n, 2)
        (y, x) in pixels from the centre of the field's first pixel.
    kernels : ndarray, float32, shape (n, h, h)
        Sum 1, centre at ``h // 2``.
    label : str
    """

    positions_px: NDArray[np.float64]
    kernels: NDArray[np.float32]
    label: str


class LearnBasis(Declared):
    """How large a PSF basis becomes."""

    n_coefficients: int = Param(
        16,
        ge=1,
        le=400,
        step=1,
        title="Coefficients",
        help="Most numbers that describe the blur of one field: eigen-PSFs times maps.",
    )
    tolerance: float = Param(
        0.02,
        ge=0,
        le=0.5,
        step=0.01,
        title="Tolerance",
        help="Fewer coefficients are taken where what they leave out of the PSFs is no more than this.",
    )

    def learn(
        self,
        fields: Sequence[FieldPsfs],
        image_shape: tuple[int, int],
        *,
        pixel_size_um: float | None = None,
        cutoff_cycles_per_px: float | None = None,
        any_size: bool = False,
        run: Run | None = None,
    ) -> PsfBasis:
        """Learn the basis.

        The eigen-PSFs are the principal components of all PSFs. Over each field the strength of each is
        fitted with a polynomial in the position, of the degree up to 3 that predicts left-out PSFs best. The
        maps are the principal components, about zero, of all these fits. Of all numbers I of eigen-PSFs and J
        of maps with I · J coefficients at most, those are taken that leave out least, or the fewest
        coefficients within the tolerance.

        Parameters
        ----------
        fields : sequence of FieldPsfs
            Of one size of kernels.
        image_shape : tuple of int
            Height and width of the field.
        pixel_size_um, cutoff_cycles_per_px, any_size
            See `PsfBasis`.
        run : Run, optional
            Receives facts and notes.

        Raises
        ------
        InvalidInputError
            If there are fewer than two PSFs, of different sizes, or all alike.
        """
        run = run or Run()
        kernels = _stacked(fields)
        mean = kernels.mean(axis=0)
        kernels -= mean
        components = principal_components(kernels, min(self.n_coefficients, len(kernels) - 1))
        strengths = kernels @ components.T
        field = _Field(fields, strengths, image_shape)
        energy, total = float((kernels**2).sum()), float(((kernels + mean) ** 2).sum())
        n_psfs, maps, coefficients, left_out = self._best(field, strengths, energy, total)
        scale = np.sqrt((coefficients**2).sum(axis=(0, 2)) / len(fields))
        scale = np.maximum(scale, 1e-6 * scale.max())
        side = round(kernels.shape[1] ** 0.5)
        eigen = (components[:n_psfs] * scale[:, None]).reshape(n_psfs, side, side)
        error, variation = float(np.sqrt(left_out / total)), float(np.sqrt(energy / total))
        _tell(run, n_psfs, len(maps), error, variation, self.tolerance)
        return PsfBasis(
            np.concatenate([mean.reshape(1, side, side), eigen]).astype(np.float32),
            maps.reshape(-1, GRID, GRID).astype(np.float32),
            field.rows_px,
            field.cols_px,
            (int(image_shape[0]), int(image_shape[1])),
            (coefficients / scale[:, None]).astype(np.float32),
            tuple(one.label for one in fields),
            any_size=any_size,
            pixel_size_um=pixel_size_um,
            cutoff_cycles_per_px=cutoff_cycles_per_px,
            relative_error=error,
            record={
                "settings": self.model_dump(mode="json"),
                "n_fields": len(fields),
                "n_psfs_seen": len(kernels),
                "relative_variation": variation,
            },
        )

    def _best(
        self, field: _Field, strengths: NDArray[np.float64], energy: float, total: float
    ) -> tuple[int, NDArray[np.float64], NDArray[np.float64], float]:
        """Return the number of eigen-PSFs, the maps, the coefficients and the squares that they leave out."""
        found: list[tuple[int, float, int, int]] = []
        for n_psfs in range(1, strengths.shape[1] + 1):
            beyond = energy - float((strengths[:, :n_psfs] ** 2).sum())
            maps = field.maps(n_psfs, self.n_coefficients // n_psfs)
            for n_maps in range(1, len(maps) + 1):
                inside = strengths[:, :n_psfs] - field.rebuilt(n_psfs, maps[:n_maps])
                found.append((n_psfs * n_maps, beyond + float((inside**2).sum()), n_psfs, n_maps))
        within = [one for one in found if one[1] <= self.tolerance**2 * total]
        best = min(within) if within else min(found, key=lambda one: one[1])
        _, left_out, n_psfs, n_maps = best
        maps = field.maps(n_psfs, n_maps)
        return n_psfs, maps, field.coefficients(n_psfs, maps), max(left_out, 0.0)


class _Field:
    """Strengths of eigen-PSFs at scattered places, and smooth fits to them on the grid of the maps."""

    def __init__(
        self, fields: Sequence[FieldPsfs], strengths: NDArray[np.float64], image_shape: tuple[int, int]
    ) -> None:
        self.rows_px, self.cols_px = (
            np.linspace(0, side - 1, GRID, dtype=np.float32) for side in image_shape
        )
        starts = np.cumsum([0, *(len(one.kernels) for one in fields)])
        self._spans = [slice(a, b) for a, b in itertools.pairwise(starts)]
        grid = np.stack(np.meshgrid(self.rows_px, self.cols_px, indexing="ij"), axis=-1).reshape(-1, 2)
        self._places = [_weights(one.positions_px, self.rows_px, self.cols_px) for one in fields]
        half = np.maximum((np.asarray(image_shape) - 1) / 2, 0.5)
        fits = [
            smooth(one.positions_px / half - 1, strengths[span], grid / half - 1)
            for one, span in zip(fields, self._spans, strict=True)
        ]
        self._fits = np.stack(fits).transpose(0, 2, 1)  # (S, I, grid)

    def maps(self, n_psfs: int, most: int) -> NDArray[np.float64]:
        """Return the J strongest maps (J, grid) of the fits of I eigen-PSFs, of mean square 1."""
        flat = self._fits[:, :n_psfs].reshape(-1, GRID * GRID)
        found = principal_components(flat, most) * GRID
        return found

    def coefficients(self, n_psfs: int, maps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the coefficients (S, I, J) of the fits."""
        values: NDArray[np.float64] = self._fits[:, :n_psfs] @ maps.T / GRID**2
        return values

    def rebuilt(self, n_psfs: int, maps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the strengths (n, I) that the maps give at the places of the PSFs."""
        values = self.coefficients(n_psfs, maps)
        parts = [place @ maps.T @ one.T for place, one in zip(self._places, values, strict=True)]
        return np.concatenate(parts)


def _weights(
    positions: NDArray[np.float64], rows: NDArray[np.float32], cols: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the matrix (n, grid) of bilinear interpolation at scattered places."""
    by_row = linear_interpolation_matrix(positions[:, 0], rows)
    by_col = linear_interpolation_matrix(positions[:, 1], cols)
    products: NDArray[np.float64] = np.einsum("nr,nc->nrc", by_row, by_col, dtype=np.float64)
    return products.reshape(len(positions), -1)


def principal_components(values: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """Return at most that many orthonormal principal components (K, d) about zero, the strongest first.

    Their signs are settled: the entry of the largest size is positive.

    Raises
    ------
    InvalidInputError
        If all values are zero: there is nothing that varies.
    """
    some = values[:: max(1, -(-len(values) // _MOST_PSFS))]
    wide = some.shape[1] > len(some)
    strength, vectors = np.linalg.eigh(some @ some.T if wide else some.T @ some)
    order = np.argsort(strength)[::-1][:most]
    order = order[strength[order] > 1e-12 * max(float(strength.max()), 1e-300)]
    if not len(order) or float(strength.max()) <= 1e-24:
        raise InvalidInputError("fields", "must hold PSFs that differ", "PSFs that are all the same")
    found = vectors[:, order].T
    if wide:
        found = found @ some / np.sqrt(strength[order])[:, None]
    peaks = np.take_along_axis(found, np.abs(found).argmax(axis=1)[:, None], axis=1)
    signed: NDArray[np.float64] = found * np.sign(peaks)
    return signed


def smooth(
    places: NDArray[np.float64], values: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Fit polynomials to values at scattered places, and return what they are at others.

    The degree, up to 3 and the same for all columns, is that with the least squared error of predictions of
    each value from all others (Allen's PRESS, doi:10.1080/00401706.1974.10489157). Beyond the rectangle that
    holds the places the fit stays constant: there nothing was measured.

    Parameters
    ----------
    places : ndarray, shape (n, 2)
        About -1 to 1.
    values : ndarray, shape (n, I)
    wanted : ndarray, shape (m, 2)

    Returns
    -------
    ndarray, shape (m, I)
    """
    inside = np.clip(wanted, places.min(axis=0), places.max(axis=0))
    best, result = np.inf, np.repeat(values.mean(axis=0)[None], len(wanted), axis=0)
    for degree in range(_HIGHEST_DEGREE + 1):
        terms = _terms(places, degree)
        if degree and len(places) < _PSFS_PER_TERM * terms.shape[1]:
            break
        inverse = np.linalg.pinv(terms)
        fit = inverse @ values
        leverage = np.clip(np.einsum("nt,tn->n", terms, inverse), 0, 1 - 1e-6)
        press = float((((values - terms @ fit) / (1 - leverage)[:, None]) ** 2).sum())
        if press < best:
            best, result = press, _terms(inside, degree) @ fit
    return result


def _terms(places: NDArray[np.float64], degree: int) -> NDArray[np.float64]:
    y, x = places.T
    powers = [(a, total - a) for total in range(degree + 1) for a in range(total + 1)]
    return np.stack([y**a * x**b for a, b in powers], axis=1)


def _stacked(fields: Sequence[FieldPsfs]) -> NDArray[np.float64]:
    """Return all kernels (n, h · h), of sum 1."""
    sizes = {one.kernels.shape[1:] for one in fields}
    if len(sizes) > 1:
        raise InvalidInputError("fields", "must hold kernels of one size", str(sorted(sizes)))
    count = sum(len(one.kernels) for one in fields)
    if count < 2 or any(len(one.kernels) == 0 for one in fields):
        raise InvalidInputError(
            "fields", "must hold two PSFs or more, and one in each field", f"{count} PSFs"
        )
    flat = np.concatenate([one.kernels.reshape(len(one.kernels), -1) for one in fields]).astype(np.float64)
    return np.asarray(flat / flat.sum(axis=1, keepdims=True))


def _tell(run: Run, n_psfs: int, n_maps: int, error: float, variation: float, tolerance: float) -> None:
    run.fact("n_psfs", n_psfs)
    run.fact("n_maps", n_maps)
    run.fact("relative_error", error)
    run.fact("relative_variation", variation)
    if error > max(tolerance, variation / 2):
        run.note(
            f"The basis leaves out {error:.0%} of the PSFs, which vary by {variation:.0%}: that is noise of "
            "the beads, or blur that takes more coefficients."
        )
