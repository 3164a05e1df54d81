"""One run of deblurring: every plane or volume brought to the method's unit, restored, and counted."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_deblur.core.errors import CancelledError, InvalidInputError, UntellableError
from napari_deblur.core.image import FloatArray, Image
from napari_deblur.core.record import Record
from napari_deblur.core.run import Run
from napari_deblur.methods.base import Method, method_id
from napari_deblur.optics.noise_floor import dark_noise
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.deblur_record import checksums, described_psf, described_run, flux_facts
from napari_deblur.steps.deblur_result import DeblurResult, SoFar
from napari_deblur.steps.deblur_solve import settle_window, with_reblurred
from napari_deblur.steps.plane_psf import BlurFactory, PlanePsf
from napari_deblur.steps.psf_limits import note_uncertain_psf
from napari_deblur.steps.psf_map import without_gaps
from napari_deblur.steps.psf_rules import PsfSource
from napari_deblur.steps.psf_source import resolve

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.engine.engine import Engine
    from napari_deblur.engine.tiling import Window
    from napari_deblur.steps.deblur import Deblur

# Standard deviations of the dark noise by which an image is lifted where its background was taken off: what
# is still cut off below adds 3 % of one of them, and more would slow Richardson–Lucy down.
_PEDESTAL = 1.5


class DeblurJob:
    """One run over all planes or volumes; keeps what is done so that a cancel loses nothing."""

    def __init__(self, step: Deblur, image: Image, engine: Engine, run: Run, ndim: int) -> None:
        self.step, self.image, self.engine, self.run, self.ndim = step, image, engine, run, ndim
        self.blocks = image.with_data(image.unclipped).blocks(ndim)
        self.restored = image.blocks(ndim).copy()
        self.reblurred = self.blocks.copy()
        self.scale = float(np.abs(self.blocks - np.float32(step.camera_offset)).max()) or 1.0
        self.method = step.method.scaled(self.scale)
        self.partial = False
        # Grey values, all pixels together, that were cut off below zero before the method got the image.
        self.cut_off = 0.0
        self.psfs: dict[int, PlanePsf] = {}
        self.optics: Optics | None = None
        self.took_background = False
        self._kept: set[int] = set()
        self._made: tuple[PlanePsf, BlurFactory] | None = None
        self.unit = "Plane" if ndim == 2 else "Volume"
        self.networks = checksums(step.method)
        run.fact("restored_in", f"{ndim}D")

    def compute(self, psf: PsfSource, optics: Optics | None) -> None:
        """Restore all planes or volumes, until the end or a cancel.

        Raises
        ------
        CancelledError
            If there is nothing to keep.
        InvalidInputError
            If there is nothing to restore.
        """
        self.optics = optics
        shared: PlanePsf | None = None
        count, index = len(self.blocks), 0
        while index < count:
            if self._is_constant(index):
                self.run.note(f"{self.unit} {index} is constant and was left as it is.")
                index += 1
                continue
            group = range(index, index + 1)
            try:
                source = shared or self._resolved(psf, index, optics)
                shared = source if source.shared else None
                group = self._together(index, source)
                part = self.run.part(index, group.stop, count)
                self.psfs |= dict.fromkeys(group, source)
                if len(group) == 1 or not self._several(group, source, part):
                    for number in group:
                        self._one(
                            number, self.blocks[number], source, self.run.part(number, number + 1, count)
                        )
            except CancelledError:
                if not self._kept:
                    raise
                self.partial = True
                where = f"{self.unit.lower()} {index + 1}" + (f" to {group.stop}" if len(group) > 1 else "")
                self.run.note(f"Cancelled in {where} of {count}; the rest is as it came in.")
                return
            index = group.stop
        if not self.psfs:
            rule = f"must have a {self.unit.lower()} that is not constant"
            raise InvalidInputError("image", rule, f"{count} constant {self.unit.lower()}s")

    def _resolved(self, psf: PsfSource, index: int, optics: Optics | None) -> PlanePsf:
        """Return the PSF of a plane or volume; in whose pixels none is found has that of the one before."""
        run = self.run.part(index, index + 1, len(self.blocks))
        method, engine = self.step.method, self.engine
        try:
            return resolve(psf, self.image, index, method=method, engine=engine, run=run, optics=optics)
        except UntellableError as error:
            if not self.psfs:
                raise
            self.run.note(f"{self.unit} {index} took the PSF of the one before: {error}.")
            return self.psfs[max(self.psfs)]

    def _is_constant(self, index: int) -> bool:
        block = self.blocks[index]
        return float(block.min()) == float(block.max())

    def _together(self, index: int, source: PlanePsf) -> range:
        """Return the planes or volumes from ``index`` on that are computed at once."""
        stop, shape = index + 1, self.blocks.shape[1:]
        if source.shared and self.step.takes_several(self.image):
            blurs = self._blurs(source, self.run)
            plan = self.engine.plan(
                shape,
                halo_px=self.step.halo_px(source.radii_px),
                bytes_of=self.step.bytes_of(blurs),
                tile_px=self.step.tile_px,
            )
            most = self.engine.at_once(shape, self.step.bytes_of(blurs)) if plan.n_tiles == 1 else 1
            while stop < min(index + most, len(self.blocks)) and not self._is_constant(stop):
                stop += 1
        return range(index, stop)

    def _several(self, group: range, source: PlanePsf, run: Run) -> bool:
        """Restore planes or volumes of one PSF at once; tell whether memory sufficed."""
        cut_off = self.cut_off
        y = np.stack([self._given(self.blocks[index], run)[0] for index in group])
        blurs = self._blurs(source, run)

        def compute(tiles: Tensor, window: Window, part: Run) -> Tensor:
            blur = blurs(window.shape, window.origin, tiles.device)
            return with_reblurred(self.method, tiles, blur, part)

        try:
            both = self.engine.together(y, compute, run, n_out=2)
        except CancelledError as error:
            if error.partial is not None:
                self._keep_all(group, error.partial)
            raise
        if both is None:
            self.cut_off = cut_off
            self.run.note(f"Memory ran out with {len(group)} at a time: continued one by one.")
            return False
        self._keep_all(group, both)
        return True

    def _blurs(self, source: PlanePsf, run: Run) -> BlurFactory:
        """Return the factory of a PSF's blurs, made once for as long as the PSF stays the same."""
        if self._made is None or self._made[0] is not source:
            self._made = source, source.blurs(self.step.eigen_tolerance, self.engine.device, run)
        return self._made[1]

    def _one(self, index: int, block: FloatArray, source: PlanePsf, run: Run) -> None:
        y, pedestal = self._given(block, run)
        if self.method.learned:
            note_uncertain_psf(source.psf, run)
        blurs = replace(self._blurs(source, run), pedestal=pedestal)
        settled: Method | None = None if self.method.settles_in_solve else self._settled(y, blurs, run, index)
        if settled is not None and settled.found_psf is not None:
            source = source.found(settled.found_psf, method_id(type(settled)))
            self.psfs[index] = source
            blurs = self._blurs(source, run)

        def compute(tile: Tensor, window: Window, part: Run) -> Tensor:
            nonlocal settled
            whole = window.shape == y.shape
            if not whole and not self.method.tiles_agree:
                run.note(f"{self.method.title} was computed in tiles, which differ slightly from the whole.")
            if settled is None and not whole:
                settled = self._settled(y, blurs, run, index)
            blur = blurs(window.shape, window.origin, tile.device)
            shown = part.showing(partial(self._so_far, index)) if whole else part
            return with_reblurred(settled or self.method, tile, blur, shown)

        try:
            both = self.engine.over_tiles(
                y,
                compute,
                run,
                n_out=2,
                halo_px=self.step.halo_px(source.radii_px),
                bytes_of=self.step.bytes_of(blurs),
                tile_px=self.step.tile_px,
            )
        except CancelledError as error:
            if error.partial is not None:
                self._keep(index, error.partial)
            raise
        self._keep(index, both)

    def _given(self, block: FloatArray, run: Run) -> tuple[FloatArray, float]:
        """Return a block as the method gets it, and by how much it was lifted before the cut at zero."""
        y = (block - np.float32(self.step.camera_offset)) / np.float32(self.scale)
        pedestal, lifted = 0.0, self.image.below is not None and self.method.knows_pedestal
        if lifted:
            pedestal = _PEDESTAL * dark_noise(y[settle_window(y.shape)])
            run.fact("pedestal", pedestal * self.scale)
            y += np.float32(pedestal)
        elif not self.method.non_negative:
            return y, pedestal
        below = np.minimum(y, 0)
        if not lifted and below.any():
            share = float(np.mean(below < 0))
            what = "the camera offset" if self.image.below is None else "the background"
            run.note(f"Values below {what} ({share:.1%} of the pixels) count as zero.")
        self.cut_off -= float(below.sum(dtype=np.float64)) * self.scale
        return np.maximum(y, 0, out=y), pedestal

    def _settled(self, y: FloatArray, blurs: BlurFactory, run: Run, index: int) -> Method:
        import torch

        window = settle_window(y.shape)
        centre = np.ascontiguousarray(y[window])
        origin = tuple(span.start for span in window)
        run = run.showing(partial(self._so_far, index)) if centre.shape == y.shape else run

        def settle(device: str) -> Method:
            with torch.inference_mode():
                blur = blurs(centre.shape, origin, device)
                return self.method.settle(torch.from_numpy(centre).to(device), blur, run)

        try:
            settled = self.engine.or_on_cpu(settle, run)
            self.networks |= checksums(settled)
            return settled
        except CancelledError as error:
            if self.method.blind and error.partial is not None and error.partial.shape[1:] == y.shape:
                image = error.partial[0].float().cpu().numpy()
                self._keep(index, np.stack([image, np.full_like(image, np.nan)]))
            raise

    def _so_far(self, index: int, partial: Tensor) -> SoFar:
        """Return what a method has of a plane or volume, in grey values."""
        image = partial[0].float().cpu().numpy()
        return SoFar(index, image * np.float32(self.scale) + np.float32(self.step.camera_offset))

    def _keep(self, index: int, both: FloatArray) -> None:
        self._kept.add(index)
        done = np.isfinite(both[0])
        back = both * np.float32(self.scale) + np.float32(self.step.camera_offset)
        self.restored[index] = np.where(done, back[0], self.restored[index])
        self.reblurred[index] = np.where(np.isfinite(both[1]), back[1], self.blocks[index])

    def _keep_all(self, group: range, both: FloatArray) -> None:
        for place, index in enumerate(group):
            self._keep(index, both[:, place])

    def result(self, started: float) -> DeblurResult:
        """Return images and record of what was computed since ``started``."""
        from napari_deblur.core.run import elapsed_s

        step, run = self.step, self.run
        offset = np.float64(step.camera_offset)
        light_in, light_out = (
            float(np.sum(blocks, dtype=np.float64) - offset * blocks.size)
            for blocks in (self.blocks, self.restored)
        )
        for name, value in flux_facts(light_in, light_out, self.cut_off).items():
            run.fact(name, value)
        if self.image.below is not None:
            change = run.facts["flux_out"] - run.facts["flux_in"]
            run.fact("flux_change_grey_values_per_px", change / self.blocks.size)
        residual = self.blocks - self.reblurred
        square = sum(float(np.vdot(block, block)) for block in residual.astype(np.float32, copy=False))
        run.fact("reblur_residual_rms", math.sqrt(square / residual.size))
        weights: dict[str, str] = {}
        for source in self.psfs.values():
            weights |= source.weights
        weights |= self.networks
        psf = described_psf({n: one.description for n, one in self.psfs.items()}, self.image, self.ndim)
        record = Record(
            step=step.model_dump(mode="json"),
            seed=step.seed,
            device=self.engine.describe(),
            seconds=elapsed_s(started),
            input=described_run(self.image, psf, self.optics, background=self.took_background),
            psf=psf,
            weights=weights,
            facts=dict(run.facts),
            notes=list(run.notes),
            partial=self.partial,
            learned=step.method.learned,
        )
        name = f"{self.image.name} · {step.method.label}"
        return DeblurResult(
            image=self.image.with_data(self.image.from_blocks(self.restored), name),
            psf=self._used_psf(),
            residual=self.image.with_data(self.image.from_blocks(residual), f"{name} · residual"),
            record=record,
            partial=self.partial,
        )

    def _used_psf(self) -> Any:
        """Return the kernel or map that was used; where planes have maps of their own, one of each.

        A constant plane takes its neighbour's. Of a run that was cancelled, planes that it did not reach
        have none.
        """
        used = [source.psf for source in self.psfs.values()]
        if not isinstance(used[0], PsfMap) or all(one is used[0] for one in used):
            return used[0]
        found = [self.psfs[index].psf if index in self.psfs else None for index in range(len(self.blocks))]
        maps = [one if isinstance(one, PsfMap) else None for one in found]
        return [one for one in maps if one is not None] if self.partial else without_gaps(maps, self.run)
