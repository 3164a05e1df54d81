"""Run a recipe on one image, each step on what the one before gave."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.recipe import Recipe
from napari_deblur.steps.background import BackgroundResult, RemoveBackground
from napari_deblur.steps.deblur import Deblur, DeblurResult
from napari_deblur.steps.depth import EstimateDepth
from napari_deblur.steps.psf_map import EstimatePsfMap
from napari_deblur.steps.psf_rules import BlindPsf

if TYPE_CHECKING:
    from napari_deblur.engine.engine import Engine
    from napari_deblur.steps.depth import DepthResult
    from napari_deblur.steps.psf_rules import PsfSource


@dataclass(frozen=True, eq=False)
class RecipeResult:
    """What the steps of a recipe gave; ``None`` where there was no such step.

    Attributes
    ----------
    image : Image
        Of the last step that gives an image; the input if none does.
    background : BackgroundResult or None
    psf_map : PsfMap or list of PsfMap or None
    deblur : DeblurResult or None
    depth : DepthResult or None
    records : list of dict
        One per step, in order.
    partial : bool
        Whether the run was cancelled on the way.
    """

    image: Image
    background: BackgroundResult | None = None
    psf_map: PsfMap | list[PsfMap] | None = None
    deblur: DeblurResult | None = None
    depth: DepthResult | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    partial: bool = False


class RecipeRun:
    """One run of a recipe; keeps what is done so far in ``result``."""

    def __init__(self, recipe: Recipe, image: Image, engine: Engine, run: Run) -> None:
        self.recipe, self.engine, self.run = recipe, engine, run
        self.original = image
        self.result = RecipeResult(image)

    def all(self) -> RecipeResult:
        """Run the steps in order, until the end or a cancel."""
        does = {
            RemoveBackground: self._background,
            EstimatePsfMap: self._psf_map,
            Deblur: self._deblur,
            EstimateDepth: self._depth,
        }
        count = len(self.recipe.steps)
        for index, step in enumerate(self.recipe.steps):
            part = self.run.part(index, index + 1, count)
            # A record holds what its own step remarked and measured, not what the steps before did.
            part.notes, part.facts = [], {}
            does[type(step)](step, part)
            for text in part.notes:
                self.run.note(text)
            if self.result.partial:
                break
        return self.result

    def _keep(self, record: dict[str, Any], **found: Any) -> None:
        self.result = replace(self.result, records=[*self.result.records, record], **found)

    def _background(self, step: Any, run: Run) -> None:
        found = step.run(self.result.image, run=run)
        self._keep(found.record.to_dict(), image=found.image, background=found, partial=found.partial)

    def _psf_map(self, step: Any, run: Run) -> None:
        found = step.run(self.result.image, engine=self.engine, run=run, optics=self.recipe.optics)
        record = found[0].record if isinstance(found, list) else found.record
        self._keep(record, psf_map=found)

    def _deblur(self, step: Any, run: Run) -> None:
        psf, path = self.psf()
        found = step.run(self.result.image, psf, engine=self.engine, run=run, optics=self.recipe.optics)
        record = found.record.to_dict()
        if path is not None:
            record["psf"] = {**record["psf"], "path": str(path.resolve())}
        self._keep(record, image=found.image, deblur=found, partial=found.partial)

    def psf(self) -> tuple[PsfSource, Path | None]:
        """Return the PSF for deblurring, and the file it came from."""
        chosen = self.recipe.psf
        if chosen.file is not None:
            from napari_deblur.io.psf import read_measured_psf

            path = self.recipe.path(chosen.file)
            sizes = {"pixel_size_um": chosen.pixel_size_um, "z_step_um": chosen.z_step_um}
            return read_measured_psf(path, "psf.file", **sizes), path
        if chosen.map is not None:
            path = self.recipe.path(chosen.map)
            return PsfMap.load(path), path
        if chosen.basis is not None:
            path = self.recipe.path(chosen.basis)
            basis = PsfBasis.load(path)
            if chosen.basis_field is None:
                return basis, path
            image = self.result.image
            return basis.of_field(chosen.basis_field, image.shape_yx, image.pixel_size_um), path
        if chosen.blind is not None:
            return BlindPsf(chosen.blind, bool(chosen.one_psf)), None
        if chosen.default:
            return None, None
        if self.result.psf_map is not None:
            return self.result.psf_map, None
        if self.recipe.channels:
            return list(self.recipe.channels), None
        return self.recipe.optics, None

    def _depth(self, step: Any, run: Run) -> None:
        from napari_deblur.steps.calibration import DepthCalibration

        psf_map = self.result.psf_map
        if psf_map is None and self.recipe.psf.map is not None:
            psf_map = PsfMap.load(self.recipe.path(self.recipe.psf.map))
        if psf_map is None or isinstance(psf_map, list):
            raise InvalidInputError("image", "must be one plane (y, x) for depth", self.original.data.shape)
        calibration, given = None, self.recipe.calibration
        if isinstance(given, str):
            calibration = DepthCalibration.load(self.recipe.path(given))
        elif given is not None:
            calibration = DepthCalibration.model_validate(given)
        found = step.run(psf_map, calibration=calibration, image=self.original, run=run)
        self._keep(found.record.to_dict(), depth=found)
