"""Where a recipe takes its PSF from, and how a record says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.params import Declared, Param
from napari_deblur.optics.settings import Optics


class PsfChoice(Declared):
    """Where deblurring takes its PSF from; without any, the map estimated before, or the method's default."""

    file: str | None = Param(None, title="PSF file", help="An image or .npy with the kernel.")
    map: str | None = Param(None, title="PSF map file", help="A map that was saved before.")
    basis: str | None = Param(None, title="PSF basis file", help="A basis in which to find the image's blur.")
    basis_field: str | None = Param(
        None, title="Field of the basis", help="Take the blur of this field as it was measured, by label."
    )
    blind: str | None = Param(None, title="Blind", help="Id of the model that estimates the PSF.")
    pixel_size_um: float | None = Param(
        None, gt=0, le=100, title="PSF's pixel size", help="Where its file is silent or wrong.", unit="µm"
    )
    z_step_um: float | None = Param(
        None, gt=0, le=1000, title="PSF's z step", help="Where its file is silent or wrong.", unit="µm"
    )

    @property
    def sources(self) -> list[str]:
        """Names of the sources that are given; one at most makes sense."""
        return [name for name in ("file", "map", "basis", "blind") if getattr(self, name) is not None]


def psf_of_record(psf: Mapping[str, Any], *, mapped: bool) -> tuple[PsfChoice, Optics | None]:
    """Return the choice that repeats a record's PSF; a map estimated by a step before needs none."""
    source, path = psf.get("source"), psf.get("path")
    if source == "optics":
        return PsfChoice(), _optics(psf)
    if source == "psf-map":
        if path is not None and (field := psf.get("basis_field")) is not None:
            return PsfChoice(basis=str(path), basis_field=str(field)), None
        if path is not None:
            return PsfChoice(map=str(path)), None
        return (PsfChoice() if mapped else PsfChoice(blind=str(psf.get("model")))), None
    if source == "psf-basis":
        if path is not None:
            return PsfChoice(basis=str(path)), None
        if psf.get("simulated"):
            return PsfChoice(blind=str(psf["model"])), None
        rule = "must be in a file to be used again: save it and name it under psf: basis"
        raise InvalidInputError("psf", rule, "a PSF basis that was only in memory")
    if source == "kernel":
        if path is None:
            rule = "must be in a file to be used again: save it and name it under psf: file"
            raise InvalidInputError("psf", rule, "a kernel that was only in memory")
        sizes = {name: psf.get(name) for name in ("pixel_size_um", "z_step_um")}
        return PsfChoice(**{"file": str(path), **sizes}), None
    return PsfChoice(), None


def _optics(values: Mapping[str, Any]) -> Optics:
    """Return the optics that a record describes, beside what else it says."""
    return Optics(**{name: values[name] for name in Optics.model_fields if name in values})


def channels_of(values: Any) -> tuple[Optics, ...]:
    """Return the optics of each channel."""
    if not isinstance(values, list | tuple) or not all(isinstance(one, Mapping) for one in values):
        raise InvalidInputError("channels", "must be a list of optics, one per channel", repr(values))
    return tuple(_optics(one) for one in values)
