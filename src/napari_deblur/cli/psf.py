"""The PSF that a user names: a file, a map, a model, or optics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_deblur.cli.options import Option, Values
from napari_deblur.cli.session import optics_from, shown
from napari_deblur.core.errors import InvalidInputError, UnknownNameError
from napari_deblur.core.image import Image
from napari_deblur.core.params import parameters
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.psf_map import EstimatePsfMap

if TYPE_CHECKING:
    from napari_deblur.steps.psf_source import PsfSource

PSF_OPTIONS = [
    Option("psf", "PSF from a file: an image or .npy.", "FILE"),
    Option("psf_map", "PSF map from a file that psf-map wrote.", "FILE"),
    Option("blind", "Estimate the PSF from the image with this model.", "MODEL"),
]


def psf_from(values: Values, image: Image) -> tuple[PsfSource, Optics | None, Path | None]:
    """Return (PSF, optics that help a blind estimate, the file that the PSF came from)."""
    from napari_deblur.io.read import existing, read_psf
    from napari_deblur.optics.psf_map import PsfMap

    chosen = [name for name in ("psf", "psf_map", "blind") if name in values]
    if len(chosen) > 1:
        raise InvalidInputError(
            chosen[1], f"must not be combined with {shown(chosen[0])}", repr(values[chosen[1]])
        )
    optics = optics_from(values, image)
    if optics is not None and chosen and chosen[0] != "blind":
        rule = f"must not be combined with {shown(chosen[0])}: a measured PSF already holds the optics"
        raise InvalidInputError("na", rule, f"{optics.na:g}")
    if "psf" in values:
        path = existing(values["psf"], "psf")
        return read_psf(path), None, path
    if "psf_map" in values:
        path = existing(values["psf_map"], "psf_map")
        return PsfMap.load(path), None, path
    if "blind" in values:
        _check_model(values["blind"])
        return str(values["blind"]), optics, None
    return optics, None, None


def _check_model(model: str) -> None:
    """Refuse a model that cannot estimate a map, whose field says which can."""
    choices = next(info.choices for info in parameters(EstimatePsfMap) if info.name == "model")
    if choices and model not in choices:
        raise UnknownNameError("blind", model, list(choices))
