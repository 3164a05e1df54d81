"""Several methods on one image with one PSF, so that they can be judged side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import CancelledError, InvalidInputError, NapariDeblurError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.methods.base import Method, make_method, method_id, registry
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.settings import Optics
from napari_deblur.quality import frc_resolution_px
from napari_deblur.steps.deblur import Deblur, DeblurResult
from napari_deblur.steps.psf_rules import BlindPsf, restored_ndim

if TYPE_CHECKING:
    from napari_deblur.engine.engine import Engine
    from napari_deblur.steps.psf_rules import PsfSource


@dataclass(frozen=True, eq=False)
class Compared:
    """What one method made of the image.

    Attributes
    ----------
    method : str
        Its id.
    label : str
        What its results are called.
    result : DeblurResult
    resolution_before_px, resolution_after_px : float or None
        By Fourier ring correlation of the middle plane with itself; None where that cannot tell.
    """

    method: str
    label: str
    result: DeblurResult
    resolution_before_px: float | None
    resolution_after_px: float | None

    def row(self) -> dict[str, Any]:
        """Return the figures that tell the methods apart (JSON types)."""
        record = self.result.record
        return {
            "method": self.method,
            "restored_in": record.facts.get("restored_in"),
            "seconds": record.seconds,
            "flux_change": record.facts.get("flux_change"),
            "residual_rms": record.facts.get("reblur_residual_rms"),
            "resolution_before_px": self.resolution_before_px,
            "resolution_after_px": self.resolution_after_px,
        }


def quick_methods() -> list[str]:
    """Return the ids of the methods that take seconds, with one PSF or a map."""
    return [id_ for id_, cls in registry().items() if cls.family != "zero-shot" and cls.space_varying]


def steps_of(methods: Sequence[str | Method]) -> dict[str, Deblur]:
    """Return a step for each method, of an id with default parameters, by the method's id.

    Of the same method with several settings, the later ones are numbered.

    Raises
    ------
    UnknownNameError
        If there is no such method.
    """
    steps: dict[str, Deblur] = {}
    for method in methods:
        made = make_method(method)
        id_ = method_id(type(made))
        same = sum(other.partition(" ")[0] == id_ for other in steps)
        steps[f"{id_} ({same + 1})" if same else id_] = Deblur(method=made)
    return steps


def able(
    steps: Mapping[str, Deblur], psf: PsfSource, image: Image, *, chosen: bool
) -> tuple[dict[str, Deblur], list[str]]:
    """Return the methods that can use the PSF, and the ids of those that cannot if nobody chose them.

    Parameters
    ----------
    steps : mapping of str to Deblur
        By the method's id.
    psf : ndarray or PsfMap or PsfBasis or Optics or str or None
    image : Image
    chosen : bool
        Whether the user named the methods: then one that cannot is an error.

    Raises
    ------
    InvalidInputError
        If the PSF has a z axis and the image none, or a method that the user chose knows no volumes.
    """
    deep = {id_: step for id_, step in steps.items() if 3 in step.method.ndim}
    flat = [id_ for id_ in steps if id_ not in deep]
    if not deep or not flat or restored_ndim(psf, image, next(iter(deep.values())).method) == 2:
        return dict(steps), []
    if chosen:
        rule = "must all work in 3D for a PSF with a z axis (or restore plane by plane)"
        raise InvalidInputError("methods", rule, ", ".join(flat))
    return deep, flat


def compare(
    steps: Mapping[str, Deblur],
    image: Image,
    psf: PsfSource,
    *,
    engine: Engine,
    run: Run,
    optics: Optics | None = None,
    background: Image | NDArray[Any] | None = None,
    on_refusal: Callable[[str, NapariDeblurError], None] | None = None,
) -> Iterator[Compared]:
    """Deblur an image with one method after the other.

    A PSF that has to be found in the image is found once, for the first method that needs one.

    Parameters
    ----------
    steps : mapping of str to Deblur
        By the method's id.
    image : Image
    psf : ndarray or PsfMap or PsfBasis or Optics or str or None
    engine : Engine
    run : Run
        Each method's result carries its own notes and facts.
    optics : Optics, optional
        Help for a blind estimate.
    background : Image or ndarray of the image's shape, optional
        What is taken off the image first.
    on_refusal : callable, optional
        Told the label and the error of a method that cannot do it; the others go on.

    Yields
    ------
    Compared
        In the order of the steps. After a cancel the last one's result is partial, and no other follows.

    Raises
    ------
    CancelledError, NapariDeblurError
        What a step raises; of errors, where nobody is to be told of them, or no method could do it.
    """
    before, found, refused = _resolution_px(image), None, 0
    for index, (id_, step) in enumerate(steps.items()):
        part = run.part(index, index + 1, len(steps))
        part.notes, part.facts = [], {}
        own = step.method.blind
        given = psf if found is None or own else found.psf
        try:
            result = step.run(image, given, engine=engine, run=part, optics=optics, background=background)
        except CancelledError:
            raise
        except NapariDeblurError as error:
            refused += 1
            if on_refusal is None or refused == len(steps):
                raise
            on_refusal(step.method.label, error)
            continue
        if found is not None and not own:
            # It is the same estimate: a recipe made of this result has to find it in its own images.
            result = replace(result, record=replace(result.record, psf=found.record.psf))
        elif not own and (psf is None or isinstance(psf, str | BlindPsf | PsfBasis)):
            found = result
        yield Compared(id_, step.method.label, result, before, _resolution_px(result.image))
        if result.partial:
            return


def _resolution_px(image: Image) -> float | None:
    middle = tuple(size // 2 for size in image.data.shape[:-2])
    try:
        found = frc_resolution_px(image.data[middle])
    except InvalidInputError:  # too small to tell
        return None
    return round(float(found), 2) if np.isfinite(found) else None
