"""Turn whatever the user gives as a PSF into blur operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.optics.psf_basis import MODEL as OF_A_BASIS
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.identify import IdentifyOperator, known_basis
from napari_deblur.steps.plane_psf import PlanePsf
from napari_deblur.steps.psf_rules import BlindPsf, PsfSource, describe_map, one_of, restored_ndim

if TYPE_CHECKING:
    from napari_deblur.engine.engine import Engine
    from napari_deblur.methods.base import Method

_TOLERATED_SIZE_ERROR = 0.02
# Light that is coarser than two pixels: finer detail than that no pixel can hold.
_SAMPLED_CUTOFF = 0.5


def resolve(
    psf: PsfSource,
    image: Image,
    block: int,
    *,
    method: Method,
    engine: Engine,
    run: Run,
    optics: Optics | None,
) -> PlanePsf:
    """Return the PSF of one plane or volume from anything a user may give.

    Parameters
    ----------
    psf : PsfSource
        One for all, a list with one map per plane, or one per channel: a list or an array whose first axis
        counts the channels.
    image : Image
    block : int
        Number of the plane or volume, in the order of `Image.blocks`.
    method : Method
    engine : Engine
    run : Run
    optics : Optics or None
        Helps a blind estimate.

    Raises
    ------
    InvalidInputError
        If the PSF breaks a rule or none was given where one is needed.
    """
    if psf is None and (first := method.start_psf()) is not None:
        if method.blind:
            run.note("No PSF was given: it is estimated from the image together with the result.")
        from napari_deblur.optics.measured import prepare_psf

        kernel = prepare_psf(first, image_shape=image.shape_yx, argument="psf_size_px")
        return PlanePsf(kernel, description={"source": "none", "shape": list(kernel.shape)})
    if psf is None:
        if method.default_psf is None:
            raise InvalidInputError("psf", f"must be given for {method.title}", "nothing")
        psf = BlindPsf(method.default_psf, method.default_one_psf)
        run.note(f"No PSF was given: it is estimated from the image with {psf.model}.")
    ndim = restored_ndim(psf, image, method)
    one, shared = one_of(psf, image, block, ndim)
    found = None
    if isinstance(one, str | BlindPsf | PsfBasis):
        found = _from_pixels(one, image, block, engine=engine, run=run, optics=optics)
        if not method.blind or method.space_varying:
            return found
        one, shared = found.psf, found.shared
    if isinstance(one, PsfMap):
        described = describe_map(one) if found is None else found.description
        weights = dict(one.record.get("weights", {}))
        if method.blind and not method.space_varying:
            run.note(
                f"{method.title} has one PSF for the whole field; its search starts from the map's mean."
            )
            return PlanePsf(one.kernels().mean(axis=(0, 1)), shared, described, weights)
        if not method.space_varying:
            raise InvalidInputError("psf", f"must be a single kernel for {method.title}", "a PSF map")
        if one.image_shape != image.shape_yx:
            rule = f"must belong to an image of {image.shape_yx} pixels"
            raise InvalidInputError("psf_map", rule, f"a map of an image of {one.image_shape}")
        return PlanePsf(one, shared, described, weights)
    return _kernel(one, image, ndim, shared, run)


def _own_sizes(psf: Image) -> dict[str, float]:
    """Return a measured PSF's voxel size, for the record: a recipe made from it tells it again."""
    found = {"z_step_um": psf.z_step_um}
    if psf.pixel_size_um is not None and psf.pixel_size_um[0] == psf.pixel_size_um[1]:
        found["pixel_size_um"] = psf.pixel_size_um[0]  # else only the file itself can tell it
    return {name: float(size) for name, size in found.items() if size is not None}


def _kernel(psf: Any, image: Image, ndim: int, shared: bool, run: Run) -> PlanePsf:
    """Return a single kernel, made from optics or brought by the user."""
    spacing = _spacing(image, ndim)
    block_shape = image.block_shape(ndim)
    if isinstance(psf, Optics):
        check_sizes(psf, image, ndim)
        if (cutoff := psf.cutoff_cycles_per_px) > _SAMPLED_CUTOFF:
            run.note(
                f"The pixels do not sample the optics (NA · pixel / wavelength is {cutoff:.2g}, above "
                f"{_SAMPLED_CUTOFF}): the PSF is hardly larger than a pixel, and there is little to deblur."
            )
        described = {"source": "optics", **psf.model_dump(mode="json")}
        if ndim == 2:
            from napari_deblur.optics.psf import optics_psf

            return PlanePsf(optics_psf(psf), shared, described, spacing=spacing)
        from napari_deblur.optics.psf_3d import fitted_psf_3d

        voxel = (float(psf.z_step_um or 0), psf.pixel_size_um, psf.pixel_size_um)
        kernel = fitted_psf_3d(psf, block_shape, run=run)
        return PlanePsf(kernel, shared, described, spacing=spacing or _relative(voxel))
    if isinstance(psf, Image):
        from napari_deblur.optics.measured_image import measured_psf

        target = image.voxel_size_um if ndim == 3 else image.pixel_size_um
        kernel, found = measured_psf(psf, target, image_shape=block_shape, run=run)
        return PlanePsf(kernel, shared, {"source": "kernel", **found, **_own_sizes(psf)}, spacing=spacing)
    from napari_deblur.optics.measured import prepare_psf

    kernel = prepare_psf(psf, image_shape=block_shape if ndim == 3 else image.shape_yx, run=run)
    return PlanePsf(kernel, shared, {"source": "kernel", "shape": list(kernel.shape)}, spacing=spacing)


def check_sizes(optics: Optics, image: Image, ndim: int) -> None:
    """Refuse optics of other voxels than the image's, where both are known.

    Raises
    ------
    InvalidInputError
    """
    y, x = image.pixel_size_um or (None, None)
    told_px = optics.pixel_size_um
    pairs: list[tuple[str, float | None, float | None]] = [
        ("pixel_size_um", told_px, y),
        ("pixel_size_um", told_px, x),
    ]
    if ndim == 3:
        pairs.append(("z_step_um", optics.z_step_um, image.z_step_um))
    for name, told, own in pairs:
        if told and own and abs(told - own) > _TOLERATED_SIZE_ERROR * own:
            raise InvalidInputError(name, f"must agree with the image's {own:.4g} µm", f"{told:.4g} µm")


def _spacing(image: Image, ndim: int) -> tuple[float, ...]:
    """Return the relative distance of voxels where the image knows it; slices count as isotropic."""
    return _relative(image.voxel_size_um) if ndim == 3 and image.voxel_size_um else ()


def _relative(voxel_um: tuple[float, ...]) -> tuple[float, ...]:
    finest = min(voxel_um)
    return tuple(size / finest for size in voxel_um)


def _from_pixels(
    psf: str | BlindPsf | PsfBasis,
    image: Image,
    plane: int,
    *,
    engine: Engine,
    run: Run,
    optics: Optics | None,
) -> PlanePsf:
    """Return the PSF that a model or a basis finds in the pixels of one plane."""
    if isinstance(psf, PsfBasis):
        return _identified(psf, image, plane, run)
    given = BlindPsf(psf) if isinstance(psf, str) else psf
    if given.model == OF_A_BASIS:
        return _identified(known_basis(given.model, optics), image, plane, run)
    return _blind(given, image, plane, engine=engine, run=run, optics=optics)


def _blind(
    given: BlindPsf, image: Image, plane: int, *, engine: Engine, run: Run, optics: Optics | None
) -> PlanePsf:
    """Return the PSF that `EstimatePsfMap` reads off one plane."""
    from napari_deblur.steps.psf_map import EstimatePsfMap

    planes = image.with_data(image.unclipped).planes()
    single = Image(planes[plane], "yx", image.pixel_size_um, name=image.name)
    step = EstimatePsfMap(**{"model": given.model, "one_psf": given.one_psf})
    estimate = step.estimate(single, engine=engine, run=run, optics=optics)
    alone = len(image.planes()) == 1
    # A recipe estimates it anew in every image, also where another map was estimated before.
    described = {**describe_map(estimate), "blind": True}
    return PlanePsf(estimate, alone, described, dict(estimate.record.get("weights", {})))


def _identified(basis: PsfBasis, image: Image, plane: int, run: Run) -> PlanePsf:
    """Return the operator of a basis that blurred one plane."""
    planes = image.with_data(image.unclipped).planes()
    single = Image(planes[plane], "yx", image.pixel_size_um, name=image.name)
    found = IdentifyOperator().estimate(single, basis, run)
    described = {**describe_map(found), "source": "psf-basis", "simulated": "simulated" in basis.record}
    return PlanePsf(found, len(planes) == 1, described)
