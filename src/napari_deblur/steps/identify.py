"""Find in which operator of a PSF basis an image was blurred, from the image alone."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray, Image, as_image
from napari_deblur.core.params import Param
from napari_deblur.core.record import Record
from napari_deblur.core.run import Run
from napari_deblur.optics.psf_basis import MODEL, PsfBasis
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.base import Step, describe_input

if TYPE_CHECKING:
    from napari_deblur.engine.engine import Engine
    from napari_deblur.optics.basis_map import BasisMap
    from napari_deblur.optics.psf_map import PsfMap

# Coefficients so far out in the law of the learned fields (mean square of standard normals) are beyond it.
_FAR_OUT = 6.0


class IdentifyOperator(Step):
    """Find the coefficients of an image's blur in a PSF basis."""

    kind: Literal["identify-operator"] = "identify-operator"
    title: ClassVar[str] = "PSF in a basis"

    seed: int = Param(
        0, ge=0, le=2**31 - 1, title="Seed", help="Seed of the search's random starts.", advanced=True
    )

    def run(
        self, image: Image, basis: PsfBasis, *, engine: Engine, run: Run | None = None
    ) -> PsfMap | list[PsfMap]:
        """Find one operator per plane.

        Parameters
        ----------
        image : Image, shape (…, y, x)
            Of the basis' field; at least 64 pixels high and wide, and twice the kernels.
        basis : PsfBasis
        engine : Engine
        run : Run, optional

        Returns
        -------
        BasisMap, or a list of them over the flattened leading axes of a stack

        Raises
        ------
        InvalidInputError
            If the image does not fit the basis, is too small, or is constant.
        """
        run = run or Run()
        image = as_image(image)
        planes = image.with_data(image.unclipped).planes()
        with engine.job(run):
            maps: list[PsfMap] = [
                self._map(plane, image, basis, run.part(index, index + 1, len(planes)))
                for index, plane in enumerate(planes)
            ]
        return maps if image.data.ndim > 2 else maps[0]

    def estimate(self, image: Image, basis: PsfBasis, run: Run) -> BasisMap:
        """Find the operator of one plane ``(y, x)`` inside a job that is already held."""
        image = as_image(image)
        return self._map(image.unclipped, image, basis, run)

    def _map(self, plane: FloatArray, image: Image, basis: PsfBasis, run: Run) -> BasisMap:
        from napari_deblur.optics.basis_likelihood import SpectralLikelihood

        started = time.perf_counter()
        basis.check_pixel_size(image.pixel_size_um)
        basis.grid_of(image.shape_yx)
        found = SpectralLikelihood(_as_read(plane, run, self.seed), basis).find(run, self.seed)
        facts: dict[str, Any] = {
            "coefficients": np.round(found.coefficients.ravel(), 4).tolist(),
            "coefficient_errors": np.round(found.errors.ravel(), 4).tolist(),
        }
        _note_beyond(found.coefficients, basis, run)
        record = Record(
            step=self.model_dump(mode="json"),
            device="cpu",
            seconds=round(time.perf_counter() - started, 3),
            input=describe_input(image),
            psf={"source": "psf-basis", "relative_error": basis.relative_error},
            facts=facts,
            notes=list(run.notes),
        )
        return basis.operator(
            found.coefficients, image.shape_yx, predicted_error=found.errors, record=record.to_dict()
        )


def _as_read(plane: FloatArray, run: Run, seed: int) -> FloatArray:
    """Return a plane whose noise is white, as the likelihood takes it to be."""
    from napari_deblur.optics.noise_floor import noise_floor

    floor = noise_floor(plane)
    if floor is None:
        return plane
    run.note(
        "The image was enlarged: its noise stops short of the finest detail that its pixels could hold. "
        "Noise of the same strength was added there before its blur was read."
    )
    return floor.filled(plane, seed)


def _note_beyond(coefficients: FloatArray, basis: PsfBasis, run: Run) -> None:
    mean, covariance = basis.prior
    off = coefficients.ravel() - mean
    distance = float(off @ np.linalg.solve(covariance, off)) / len(off)
    run.fact("distance_from_learned_fields", round(distance**0.5, 3))
    if distance > _FAR_OUT:
        run.note(
            "The blur found lies outside of what the PSF basis was learned from: the image may come from "
            "another microscope, or out of its focus. What is restored with it is not to be trusted."
        )


def known_basis(id: str, optics: Optics | None = None) -> PsfBasis:
    """Return the basis that goes by the name of a model.

    It is simulated: a microscope with the optics given, else with those that the seven aberrations assume.

    Raises
    ------
    InvalidInputError
        If it is not `product-convolution`, or the optics' pixels are too large to sample them.
    """
    if id != MODEL:
        raise InvalidInputError("psf", f"must be {MODEL} or a PSF basis to find an operator", repr(id))
    return _simulated(None if optics is None else round(optics.cutoff_cycles_per_px, 4))


@lru_cache(maxsize=4)
def _simulated(cutoff_cycles_per_px: float | None) -> PsfBasis:
    from napari_deblur.optics.simulated_fields import SimulatedFields

    if cutoff_cycles_per_px is None:
        return SimulatedFields().basis()
    return SimulatedFields.at_cutoff(cutoff_cycles_per_px).basis()
