"""Read a network's answers over a grid of patches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray
from napari_deblur.core.run import Run


def resample(plane: FloatArray, zoom: float) -> FloatArray:
    """Return a plane with ``zoom`` times as many pixels along each axis."""
    if zoom == 1.0:
        return plane
    from skimage.transform import rescale

    resampled: FloatArray = rescale(plane, zoom, order=3, anti_aliasing=zoom < 1, preserve_range=True)
    return resampled.astype(np.float32)


def starts_along(size: int, patch: int, stride: float) -> NDArray[np.int64]:
    """Return the first pixels of patches that cover an axis evenly, at most ``stride`` apart."""
    count = int(np.ceil((size - patch) / stride - 1e-9)) + 1
    return np.round(np.linspace(0, size - patch, count)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class PatchGrid:
    """Where the patches of a plane lie, in pixels of the resampled plane.

    Attributes
    ----------
    shape : tuple of int
        Of the resampled plane.
    patch_px : int
    rows, cols : ndarray
        First pixels of the patches.
    zoom : float
        Pixels of the resampled plane per pixel of the image.
    """

    shape: tuple[int, ...]
    patch_px: int
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    zoom: float

    @classmethod
    def over(
        cls,
        shape: tuple[int, ...],
        patch_px: int,
        stride_px: float,
        zoom: float,
        image_shape: tuple[int, int],
    ) -> PatchGrid:
        """Cover a plane; refuses one that is smaller than a patch."""
        if min(shape) < patch_px:
            least = int(np.ceil(patch_px / zoom))
            raise InvalidInputError(
                "image", f"must be at least {least} × {least} pixels to map", f"shape {image_shape}"
            )
        rows, cols = (starts_along(size, patch_px, stride_px * zoom) for size in shape)
        return cls(shape, patch_px, rows, cols, zoom)

    def centers_px(self) -> NDArray[np.float64]:
        """Return the patches' centres (rows, cols, 2) in pixels of the image."""
        middle = (self.patch_px - 1) / 2 + 0.5
        ys, xs = ((starts + middle) / self.zoom - 0.5 for starts in (self.rows, self.cols))
        return np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1)


@dataclass(frozen=True, eq=False)
class Reading:
    """What a network says of one plane's patches.

    Attributes
    ----------
    values, errors : ndarray, shape (rows, cols, N)
    validity : ndarray, shape (rows, cols)
    signed : ndarray, shape (rows, cols, 4), or None
        Signed defocus and its errors, where the network reads them.
    quantities, quantity_errors : ndarray, shape (rows, cols, K), or None
        What the network regresses, of which the values are made.
    """

    values: FloatArray
    errors: FloatArray
    validity: FloatArray
    signed: FloatArray | None
    quantities: FloatArray | None = None
    quantity_errors: FloatArray | None = None


@dataclass(frozen=True)
class Reader:
    """Runs a network over the patches of planes."""

    net: Any
    grid: PatchGrid
    views: int
    device: str

    def planes(self, planes: list[FloatArray], run: Run) -> list[Reading]:
        """Read planes of one shape together."""
        import torch

        count = len(self.grid.rows) * len(self.grid.cols)

        def progress(done: int, total: int) -> None:
            run.step(done, total, f"PSF map, {count} patches")

        with torch.inference_mode():
            estimate = self.net.estimate_planes(
                torch.from_numpy(np.stack(planes)).to(self.device),
                self.grid.rows.tolist(),
                self.grid.cols.tolist(),
                self.views,
                progress=progress,
            )

        def gathered(name: str) -> FloatArray:
            found = getattr(estimate, name).float().cpu().numpy()
            shape = (len(planes), len(self.grid.rows), len(self.grid.cols), *found.shape[1:])
            return np.asarray(found.reshape(shape))

        values, errors, validity = (
            gathered(name) for name in ("parameters", "predicted_error", "valid_probability")
        )
        signed = None
        if estimate.signed_defocus is not None:
            parts = [gathered(name) for name in ("signed_defocus", "signed_defocus_error")]
            signed = np.concatenate(parts, axis=-1)
        found = [
            Reading(values[i], errors[i], validity[i], None if signed is None else signed[i])
            for i in range(len(planes))
        ]
        if estimate.quantities is None:
            return found
        regressed, spread = gathered("quantities"), gathered("quantity_errors")
        return [
            replace(one, quantities=regressed[i], quantity_errors=spread[i]) for i, one in enumerate(found)
        ]

    def together(self, reading: Reading, valid: NDArray[np.bool_]) -> Reading:
        """Return the one reading (1, 1, …) of all valid patches of a plane, as if they were blurred alike."""
        import torch

        from napari_deblur.nets.identification import Estimate

        def column(array: FloatArray | None) -> Any:
            return None if array is None else torch.from_numpy(array[valid])

        parts = (reading.values, reading.errors, reading.validity, None, None)
        estimate = Estimate(*map(column, (*parts, reading.quantities, reading.quantity_errors)))
        covered = float(valid.mean()) * np.prod(self.grid.shape) / self.grid.patch_px**2
        found = self.net.combined(estimate, torch.ones(int(valid.sum())), covered)

        def single(tensor: Any) -> FloatArray:
            return np.asarray(tensor.numpy().reshape(1, 1, *tensor.shape[1:]))

        signed = None
        if found.signed_defocus is not None:
            signed = single(torch.cat([found.signed_defocus, found.signed_defocus_error], dim=-1))
        return Reading(
            single(found.parameters), single(found.predicted_error), single(found.valid_probability), signed
        )
