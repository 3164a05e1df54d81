"""The Python API: one function per step, arrays in and arrays out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image, as_image
from napari_deblur.core.params import parameters
from napari_deblur.core.run import Run
from napari_deblur.methods.info import MethodInfo, methods
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics

if TYPE_CHECKING:
    from napari_deblur.comparison import Compared
    from napari_deblur.methods.base import Method
    from napari_deblur.nets.weights import ModelInfo
    from napari_deblur.steps.background import BackgroundResult
    from napari_deblur.steps.calibration import DepthCalibration
    from napari_deblur.steps.deblur import DeblurResult
    from napari_deblur.steps.depth import DepthResult
    from napari_deblur.steps.psf_rules import PsfSource

__all__ = [
    "MethodInfo",
    "deblur",
    "estimate_depth",
    "estimate_psf_map",
    "methods",
    "models",
    "remove_background",
]

R = TypeVar("R")


def remove_background(image: Any, *, run: Run | None = None, **params: Any) -> BackgroundResult:
    """Split an image into foreground and background.

    Parameters
    ----------
    image : array_like or Image, shape (…, y, x)
    run : Run, optional
        Progress and cancel.
    **params
        Fields of `napari_deblur.steps.background.RemoveBackground`.

    Returns
    -------
    BackgroundResult
        With ``image`` (foreground, not negative) and ``background``: arrays if an array came in.
    """
    from napari_deblur.steps.background import RemoveBackground

    result = RemoveBackground(**params).run(as_image(image), run=run or Run())
    return _like(image, result, "image", "background", "clipped")


def estimate_psf_map(
    image: Any,
    model: str = "zernike-3",
    stride_px: int = 64,
    *,
    optics: Optics | None = None,
    basis: PsfBasis | None = None,
    run: Run | None = None,
    **params: Any,
) -> PsfMap | list[PsfMap]:
    """Map the PSF's parameters over the field of view, from the image alone.

    Parameters
    ----------
    image : array_like or Image, shape (…, y, x)
    model : {"zernike-3", "zernike-2", "zernike-1", "gaussian-2", "gaussian-1", "product-convolution"}
        The last one finds the blur in a PSF basis.
    stride_px : int
        Distance between neighbouring patches in pixels.
    optics : Optics, optional
        Brings the image to the cut-off that the network knows.
    basis : PsfBasis, optional
        For ``product-convolution``, which it implies; that of a simulated microscope when not given.
    run : Run, optional
    **params
        Further fields of `napari_deblur.steps.psf_map.EstimatePsfMap`; ``one_psf=True`` reads one PSF of the
        whole field.

    Returns
    -------
    PsfMap
        Or a list of them, one per plane, for a stack.
    """
    from napari_deblur.engine.shared import get_engine
    from napari_deblur.optics.psf_basis import MODEL
    from napari_deblur.steps.identify import IdentifyOperator, known_basis
    from napari_deblur.steps.psf_map import EstimatePsfMap

    if basis is not None or model == MODEL:
        space = basis or known_basis(model, optics)
        return IdentifyOperator(**params).run(as_image(image), space, engine=get_engine(), run=run)
    step = EstimatePsfMap(model=model, stride_px=stride_px, **params)
    return step.run(as_image(image), engine=get_engine(), run=run, optics=optics)


def deblur(
    image: Any,
    method: str | Method,
    psf: PsfSource = None,
    *,
    optics: Optics | None = None,
    background: Any = None,
    run: Run | None = None,
    **params: Any,
) -> DeblurResult:
    """Deblur an image.

    Parameters
    ----------
    image : array_like or Image, shape (…, y, x)
    method : str or Method
        A method's id (see `methods`) or a configured method.
    psf : ndarray or PsfMap or PsfBasis or Optics or str or None
        A kernel, a PSF map, optics, a basis or the id of a model for a blind estimate, or None for the
        method's default.
    optics : Optics, optional
        Helps a blind estimate.
    background : array_like or Image of the image's shape, optional
        What `remove_background` found in this image; better than to deblur its foreground, whose noise lost
        its lower half.
    run : Run, optional
    **params
        Parameters of the method (``n_iterations=…``) or of the step (``camera_offset=…``).

    Returns
    -------
    DeblurResult
        With ``image`` (an array if an array came in), ``psf``, ``residual``, ``record`` and ``partial``.
    """
    from napari_deblur.engine.shared import get_engine
    from napari_deblur.methods.base import make_method
    from napari_deblur.steps.deblur import Deblur

    own = {info.name for info in parameters(Deblur)}
    for_step = {name: value for name, value in params.items() if name in own}
    for_method = {name: value for name, value in params.items() if name not in own}
    step = Deblur(method=make_method(method, **for_method), **for_step)
    result = step.run(
        as_image(image), psf, engine=get_engine(), run=run, optics=optics, background=background
    )
    return _like(image, result, "image", "residual")


def compare(
    image: Any,
    methods: Sequence[str | Method] | None = None,
    psf: PsfSource = None,
    *,
    optics: Optics | None = None,
    background: Any = None,
    run: Run | None = None,
) -> list[Compared]:
    """Deblur an image with several methods; a PSF that has to be found in it is found once.

    Parameters
    ----------
    image : array_like or Image, shape (…, y, x)
    methods : sequence of str or Method, optional
        Ids, or configured methods; by default all that take seconds and know the PSF.
    psf, optics, background, run
        As for `deblur`.

    Returns
    -------
    list of Compared
        Each with ``method``, ``result`` (as of `deblur`) and ``row()``, the figures that tell them apart.

    Raises
    ------
    NapariDeblurError
        What no method could do; what one of several cannot is noted in ``run``.
    """
    from napari_deblur.comparison import able, quick_methods, steps_of
    from napari_deblur.comparison import compare as compare_methods
    from napari_deblur.engine.shared import get_engine

    run, source = run or Run(), as_image(image)
    steps = steps_of(quick_methods() if methods is None else methods)
    steps, _ = able(steps, psf, source, chosen=methods is not None)
    found = compare_methods(
        steps,
        source,
        psf,
        engine=get_engine(),
        run=run,
        optics=optics,
        background=background,
        on_refusal=lambda label, error: run.note(f"{label}: {error}"),
    )
    return [replace(one, result=_like(image, one.result, "image", "residual")) for one in found]


def estimate_depth(
    image_or_psf_map: Any,
    calibration: DepthCalibration | None = None,
    *,
    optics: Optics | None = None,
    run: Run | None = None,
    **params: Any,
) -> DepthResult:
    """Estimate the depth of a surface from the astigmatism of its image.

    Parameters
    ----------
    image_or_psf_map : array_like or Image or PsfMap
        Of an image ``(y, x)`` the PSF map is estimated first.
    calibration : DepthCalibration, optional
        Without it the depth is relative, without unit.
    optics : Optics, optional
        Of the map; with ``axis_deg`` they also give µm by theory where there is no calibration.
    run : Run, optional
    **params
        Fields of `napari_deblur.steps.depth.EstimateDepth`.

    Returns
    -------
    DepthResult
        With ``depth_um``, ``confidence`` and ``surface()``.
    """
    from napari_deblur.steps.depth import EstimateDepth

    run = run or Run()
    image = None
    if isinstance(image_or_psf_map, PsfMap):
        psf_map: PsfMap | list[PsfMap] = image_or_psf_map
    else:
        image = as_image(image_or_psf_map)
        if image.data.ndim > 2:
            shape = f"shape {image.data.shape}"
            raise InvalidInputError("image_or_psf_map", "must be one plane (y, x)", shape)
        model = getattr(calibration, "model", "zernike-3")
        psf_map = estimate_psf_map(image, model, optics=optics, run=run.part(0, 9, 10))
    if isinstance(psf_map, list):
        raise InvalidInputError("image_or_psf_map", "must be one plane (y, x)", f"{len(psf_map)} planes")
    step = EstimateDepth(**params)
    return step.run(psf_map, calibration=calibration, optics=optics, image=image, run=run.part(9, 10, 10))


def models() -> list[ModelInfo]:
    """List the trained networks that estimate PSFs, with their cards."""
    from napari_deblur.nets.weights import list_models

    # Networks that are a part of a method have no parameters; `napari-deblur models` lists them too.
    return [model for model in list_models() if model.parameter_names]


def _like(given: Any, result: R, *names: str) -> R:
    """Return images as arrays where an array was given."""
    if isinstance(given, Image):
        return result
    return cast(R, replace(cast(Any, result), **{name: getattr(result, name).data for name in names}))
