"""Map how the PSF varies over the field of view, from the image alone."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray, Image, as_image
from napari_deblur.core.params import Param
from napari_deblur.core.record import Record
from napari_deblur.core.run import Run
from napari_deblur.optics.psf import DEFAULT_CUTOFF_CYCLES_PER_PX, family
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.base import Step, describe_input

if TYPE_CHECKING:
    from napari_deblur.engine.engine import Engine

_BATCH = 64
_ALL_VIEWS = 8
# Cut-offs closer than this are the same: resampling would cost more than it corrects.
_SAME_CUTOFF = 0.02
# Beyond this cut-off (cycles per pixel) the camera has lost more than half of what the optics pass.
_LARGEST_CUTOFF = 0.5
_AXIS = "axis_rad"


class EstimatePsfMap(Step):
    """Read the PSF's parameters off overlapping patches with a trained network."""

    kind: Literal["estimate-psf-map"] = "estimate-psf-map"
    title: ClassVar[str] = "PSF map"

    model: Literal["gaussian-2", "zernike-3"] = Param(
        "zernike-3",
        title="Model",
        help="gaussian-2: widths along y and x; zernike-3: defocus and astigmatism, needed for depth.",
    )
    stride_px: int = Param(
        64, ge=8, le=1024, step=8, title="Stride", help="Distance between neighbouring patches.", unit="px"
    )
    average_views: bool = Param(
        True,
        title="Average views",
        help="Read each patch in its eight mirrored and turned views: more accurate, eight times slower.",
        advanced=True,
    )
    least_validity: float = Param(
        0.5,
        ge=0,
        le=1,
        step=0.05,
        title="Least validity",
        help="Patches whose probability of holding enough texture is lower are filled from their neighbours.",
        advanced=True,
    )

    def run(
        self, image: Image, *, engine: Engine, run: Run | None = None, optics: Optics | None = None
    ) -> PsfMap | list[PsfMap]:
        """Estimate one map per plane.

        Parameters
        ----------
        image : Image, shape (…, y, x)
            At least one patch (128 pixels at the network's pixel scale) high and wide.
        engine : Engine
        run : Run, optional
        optics : Optics, optional
            Brings the image to the cut-off that the network was trained for; without it that cut-off is
            assumed and noted.

        Returns
        -------
        PsfMap, or a list of them over the flattened leading axes of a stack

        Raises
        ------
        InvalidInputError
            If the image breaks a rule or holds no texture anywhere.
        """
        run = run or Run()
        image = as_image(image)
        with engine.job(run):
            planes = image.planes()
            maps = []
            for index, plane in enumerate(planes):
                part = run.part(index, index + 1, len(planes))
                single = Image(plane, "yx", image.pixel_size_um, name=image.name)
                maps.append(self.estimate(single, engine=engine, run=part, optics=optics))
        return maps if image.data.ndim > 2 else maps[0]

    def estimate(self, image: Image, *, engine: Engine, run: Run, optics: Optics | None = None) -> PsfMap:
        """Estimate the map of one plane ``(y, x)`` inside a job that is already held."""
        started = time.perf_counter()
        as_image(image)
        net, card = engine.network(self.model)
        zoom, cutoff = self._zoom(card, optics, run)
        plane = _resample(image.data, zoom)
        patch = int(card["config"]["patch_px"])
        if min(plane.shape) < patch:
            least = int(np.ceil(patch / zoom))
            raise InvalidInputError(
                "image", f"must be at least {least} × {least} pixels to map", f"shape {image.data.shape}"
            )
        rows, cols = (_starts(size, patch, self.stride_px * zoom) for size in plane.shape)
        read = _Reader(net, patch, _ALL_VIEWS if self.average_views else 1, engine.device)
        values, errors, validity, signed = read.grid(plane, rows, cols, run)
        valid = validity >= self.least_validity
        if not valid.any():
            raise InvalidInputError(
                "image", "must hold texture somewhere to tell its PSF", f"no valid patch among {valid.size}"
            )
        self._note_limits(values[valid], run)
        ys, xs = (((starts + (patch - 1) / 2 + 0.5) / zoom - 0.5) for starts in (rows, cols))
        record = Record(
            step=self.model_dump(mode="json"),
            device=engine.describe(),
            seconds=round(time.perf_counter() - started, 3),
            input=describe_input(image) | ({"optics": optics.model_dump(mode="json")} if optics else {}),
            weights={self.model: str(card["sha256"])},
            facts={"valid_patches": int(valid.sum()), "patches": int(valid.size), "zoom": round(zoom, 4)},
            notes=list(run.notes),
        )
        return PsfMap.from_parameters(
            self.model,
            fill_invalid(values, valid, family(self.model).parameter_names),
            centers_px=np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1),
            image_shape=image.shape_yx,
            valid=valid,
            confidence=_confidence(self.model, errors, validity),
            predicted_error=errors,
            signed_defocus_waves=signed,
            cutoff_cycles_per_px=cutoff,
            pixel_size_um=image.pixel_size_um,
            record=record.to_dict(),
        )

    def _zoom(self, card: dict[str, Any], optics: Optics | None, run: Run) -> tuple[float, float]:
        """Return the factor that brings the image to the network's cut-off, and the image's own cut-off."""
        if not family(self.model).needs_cutoff:
            return 1.0, DEFAULT_CUTOFF_CYCLES_PER_PX
        trained = float(card["cutoff_cycles_per_px"])
        if optics is None:
            run.note(f"No optics given: NA · pixel / wavelength = {trained:g} cycles per pixel is assumed.")
            return 1.0, trained
        own = optics.cutoff_cycles_per_px
        if own > _LARGEST_CUTOFF:
            rule = f"must sample the optics: NA · pixel / wavelength at most {_LARGEST_CUTOFF}"
            raise InvalidInputError("pixel_size_um", rule, f"{own:.3g} cycles per pixel")
        zoom = own / trained
        return (1.0, trained) if abs(zoom - 1) < _SAME_CUTOFF else (zoom, own)

    def _note_limits(self, values: NDArray[np.float32], run: Run) -> None:
        fam = family(self.model)
        for index, name in enumerate(fam.parameter_names):
            low, high = fam.parameter_ranges[name]
            if name != _AXIS and float(np.mean(values[:, index] > high - 0.01 * (high - low))) > 0.1:
                run.note(f"{name} is at {high:g}, the end of the trained range, in over a tenth of the map.")


def _resample(plane: FloatArray, zoom: float) -> FloatArray:
    if zoom == 1.0:
        return plane
    from skimage.transform import rescale

    resampled: FloatArray = rescale(plane, zoom, order=3, anti_aliasing=zoom < 1, preserve_range=True)
    return resampled.astype(np.float32)


def _starts(size: int, patch: int, stride: float) -> NDArray[np.int64]:
    """Return the first pixels of patches that cover an axis evenly, at most ``stride`` apart."""
    count = int(np.ceil((size - patch) / stride - 1e-9)) + 1
    return np.round(np.linspace(0, size - patch, count)).astype(np.int64)


@dataclass(frozen=True)
class _Reader:
    """Runs a network over patches of a plane."""

    net: Any
    patch_px: int
    views: int
    device: str

    def grid(
        self, plane: FloatArray, rows: NDArray[np.int64], cols: NDArray[np.int64], run: Run
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray | None]:
        """Return parameters and errors (rows, cols, N), validity (rows, cols) and signed defocus, if read."""
        import torch

        windows = np.lib.stride_tricks.sliding_window_view(plane, (self.patch_px, self.patch_px))
        places = [(row, col) for row in rows for col in cols]
        found = []
        for start in range(0, len(places), _BATCH):
            run.step(start, len(places), f"PSF map, patch {start + 1} of {len(places)}")
            batch = np.stack([windows[row, col] for row, col in places[start : start + _BATCH]])
            with torch.inference_mode():
                estimate = self.net.estimate(torch.from_numpy(batch).to(self.device), self.views)
            found.append(estimate)
        run.step(len(places), len(places), "PSF map")

        def gathered(name: str) -> FloatArray:
            parts = torch.cat([getattr(estimate, name) for estimate in found]).float().cpu().numpy()
            return np.asarray(parts.reshape(len(rows), len(cols), *parts.shape[1:]))

        signed = None
        if found[0].signed_defocus is not None:
            parts = [gathered(name) for name in ("signed_defocus", "signed_defocus_error")]
            signed = np.concatenate(parts, axis=-1)
        return gathered("parameters"), gathered("predicted_error"), gathered("valid_probability"), signed


def _confidence(
    model: str, errors: NDArray[np.float32], validity: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the share of each parameter's spread that is known, averaged, times the validity.

    A parameter of which nothing is known has the standard deviation of a uniform distribution over its range.
    The axis is left out: it is uncertain by nature where the astigmatism is weak.
    """
    fam = family(model)
    known = [
        np.clip(1 - errors[..., index] * np.sqrt(12) / (high - low), 0, 1)
        for index, (name, (low, high)) in enumerate(fam.parameter_ranges.items())
        if name != _AXIS
    ]
    confidence: NDArray[np.float32] = (np.mean(known, axis=0) * validity).astype(np.float32)
    return confidence


def fill_invalid(
    values: NDArray[np.float32], valid: NDArray[np.bool_], names: tuple[str, ...]
) -> NDArray[np.float32]:
    """Fill invalid patches from the nearest valid ones.

    Each takes the mean of the nearest valid patch in each of the four directions along the grid, weighted by
    the inverse distance (Shajkofci & Liebling 2020, §II-F); where no line meets one, the nearest overall. An
    axis is averaged as a direction modulo π.

    Parameters
    ----------
    values : ndarray, shape (rows, cols, N)
    valid : ndarray, bool, shape (rows, cols)
        At least one is true.
    names : tuple of str
        Names of the N parameters.
    """
    filled = values.copy()
    places = np.argwhere(valid)
    for row, col in np.argwhere(~valid):
        sources = _nearest_in_lines(valid, int(row), int(col))
        if not sources:
            nearest = places[np.abs(places - (row, col)).sum(axis=1).argmin()]
            sources = [(int(nearest[0]), int(nearest[1]), 1.0)]
        weights = np.array([1 / distance for _, _, distance in sources])
        weights /= weights.sum()
        stack = np.stack([values[r, c] for r, c, _ in sources]).astype(np.float64)
        filled[row, col] = weights @ stack
        if _AXIS in names:
            index = names.index(_AXIS)
            direction = weights @ np.exp(2j * stack[:, index])
            filled[row, col, index] = (np.angle(direction) / 2) % np.pi
    return filled


def _nearest_in_lines(valid: NDArray[np.bool_], row: int, col: int) -> list[tuple[int, int, float]]:
    """Return (row, column, distance) of the nearest valid patch up, down, left and right."""
    found = []
    for step_row, step_col in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        r, c, distance = row + step_row, col + step_col, 1
        while 0 <= r < valid.shape[0] and 0 <= c < valid.shape[1]:
            if valid[r, c]:
                found.append((r, c, float(distance)))
                break
            r, c, distance = r + step_row, c + step_col, distance + 1
    return found
