"""PSFs of single beads over the field, plane by plane through focus: what a PSF basis is learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray, Image, as_image
from napari_deblur.core.params import Param
from napari_deblur.core.run import Run
from napari_deblur.optics.basis_learning import FieldPsfs, LearnBasis
from napari_deblur.optics.beads import Beads, default_size_px, tally
from napari_deblur.optics.measured import fourier_shift
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.spots import cut_out, estimate_fwhm, find_spots, sharpest_plane, without_noise

_FEWEST_BEADS = 3


class BeadBasis(Beads, LearnBasis):
    """How a PSF basis is learned from stacks of single beads, of one microscope and one field of view."""

    planes_around: int = Param(
        3,
        ge=0,
        le=200,
        step=1,
        title="Planes around focus",
        help="Planes on either side of each stack's sharpest one that the basis is to cover.",
    )

    def measure_basis(self, images: Sequence[Image], run: Run | None = None) -> PsfBasis:
        """Learn the basis of bead stacks.

        Every plane counts as a field of its own, so the blurs of the basis reach from the sharpest plane to
        those around it. Beads are found in the sharpest plane and keep their places in the others.

        Parameters
        ----------
        images : sequence of Image, shape (y, x) or (…, y, x)
            Of one shape (y, x) and one pixel size; leading axes are planes through focus.
        run : Run, optional
            Receives notes, facts and cancel.

        Raises
        ------
        InvalidInputError
            If the images disagree, hold fewer than three good beads, or all PSFs are alike.
        """
        run = run or Run()
        images = [as_image(image) for image in images]
        _check_alike(images)
        fields, used = self.fields(images, run)
        run.fact("beads_used", used)
        pixel = images[0].pixel_size_um
        basis = self.learn(
            fields,
            images[0].shape_yx,
            pixel_size_um=pixel[0] if pixel and abs(pixel[0] - pixel[1]) < 0.01 * pixel[0] else None,
            run=run,
        )
        basis.record.update(settings=self.model_dump(mode="json"), beads_used=used)
        basis.record["images"] = [image.name for image in images]
        return basis

    def fields(self, images: Sequence[Image], run: Run) -> tuple[list[FieldPsfs], int]:
        """Return the PSFs of every plane, and how many beads they come from."""
        if self.size_px is not None and self.size_px % 2 == 0:
            raise InvalidInputError("size_px", "must be odd", self.size_px)
        chosen = [self._planes(image, run) for image in images]
        fwhms = [self.bead_fwhm_px or estimate_fwhm(sharp.astype(np.float64)) for sharp, _, _ in chosen]
        size = self.size_px or self._size(chosen)
        if size >= min(images[0].shape_yx):
            rule = f"must be below the images' smaller side {min(images[0].shape_yx)}"
            raise InvalidInputError("size_px", rule, size)
        fields: list[FieldPsfs] = []
        used, reasons = 0, list[str]()
        for number, (image, (sharp, planes, indices)) in enumerate(zip(images, chosen, strict=True)):
            run.step(number, len(images), f"beads of {image.name}")
            positions, why = self._good_beads(sharp, size, fwhms[number])
            used, reasons = used + len(positions), reasons + why
            for plane, index in zip(planes, indices, strict=True):
                found = _field(plane, positions, size, fwhms[number], f"{image.name}, plane {index}")
                if found is not None:
                    fields.append(found)
        run.fact("beads_skipped", dict(Counter(reason for reason in reasons if reason)))
        if used < _FEWEST_BEADS or not fields:
            rule = f"must show {_FEWEST_BEADS} isolated, unsaturated beads or more inside the border"
            raise InvalidInputError("images", rule, tally(reasons))
        return fields, used

    def _planes(self, image: Image, run: Run) -> tuple[FloatArray, FloatArray, list[int]]:
        """Return the sharpest plane, the planes that count, and their numbers."""
        planes = image.planes()
        sharpest = sharpest_plane(planes, run)
        first = max(0, sharpest - self.planes_around)
        last = min(len(planes) - 1, sharpest + self.planes_around)
        return planes[sharpest], planes[first : last + 1], list(range(first, last + 1))

    def _size(self, chosen: list[tuple[FloatArray, FloatArray, list[int]]]) -> int:
        """Return a kernel size that holds the beads of the planes farthest from focus."""
        ends = [plane for _, planes, _ in chosen for plane in (planes[0], planes[-1])]
        widest = self.bead_fwhm_px or max(estimate_fwhm(plane.astype(np.float64)) for plane in ends)
        return default_size_px(widest)

    def _good_beads(self, sharp: FloatArray, size: int, fwhm: float) -> tuple[NDArray[np.float64], list[str]]:
        """Return the places of good beads, and a reason for every candidate, empty for those."""
        plane = sharp.astype(np.float64)
        positions, snr = find_spots(plane, fwhm)
        reasons = self.first_look(plane, positions, snr, size, fwhm)
        positions, patches = cut_out(plane, positions, reasons, size, fwhm)
        return positions[[i for i in patches if not reasons[i]]], reasons


def _field(
    plane: FloatArray, positions: NDArray[np.float64], size: int, fwhm: float, label: str
) -> FieldPsfs | None:
    """Return the PSFs of beads at known places of a plane, cut where all together are lost in noise."""
    half = size // 2 + 1
    patches = []
    for y, x in positions:
        row, col = round(y), round(x)
        patch = plane[row - half : row + half + 1, col - half : col + half + 1].astype(np.float64)
        rim = np.concatenate([patch[[0, -1]].ravel(), patch[1:-1, [0, -1]].ravel()])
        patches.append(fourier_shift(patch - np.median(rim), (row - y, col - x))[1:-1, 1:-1])
    if not patches:
        return None
    together = without_noise(np.sum(patches, axis=0), fwhm)
    distance = np.hypot(*np.meshgrid(*(np.arange(size) - size // 2,) * 2))
    radius = float(distance[together > 0].max())
    kernels = np.stack(patches) * np.clip((radius + 2 - distance) / 2, 0, 1)
    light = kernels.sum(axis=(1, 2))
    # A bead that is lost in the noise of this plane tells nothing of it.
    good = light > 0.25 * np.median(light)
    if not good.any() or np.median(light) <= 0:
        return None
    normalised = (kernels[good] / light[good, None, None]).astype(np.float32)
    return FieldPsfs(positions[good], normalised, label)


def _check_alike(images: Sequence[Image]) -> None:
    if not images:
        raise InvalidInputError("images", "must hold one bead stack or more", "none")
    first = images[0]
    for image in images[1:]:
        if image.shape_yx != first.shape_yx:
            rule = f"must all have the height and width {first.shape_yx}: they are one field of view"
            raise InvalidInputError("images", rule, f"{image.name} of {image.shape_yx}")
        if image.pixel_size_um and first.pixel_size_um:
            known = zip(image.pixel_size_um, first.pixel_size_um, strict=True)
            if any(abs(own - other) > 0.02 * other for own, other in known):
                rule = f"must all have pixels of {first.pixel_size_um} µm"
                raise InvalidInputError("images", rule, f"{image.name} with {image.pixel_size_um}")
