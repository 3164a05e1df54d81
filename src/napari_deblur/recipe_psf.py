"""Where a recipe takes its PSF from, and how a record says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.params import Declared, Param
from napari_deblur.methods.base import Method, method_id
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
    one_psf: bool | None = Param(
        None, title="One PSF", help="Whether that model reads all patches as one PSF of the whole field."
    )
    default: bool | None = Param(
        None, title="Default", help="Take the method's own default, whatever optics or map there are."
    )
    pixel_size_um: float | None = Param(
        None, gt=0, le=100, title="PSF's pixel size", help="Where its file is silent or wrong.", unit="µm"
    )
    z_step_um: float | None = Param(
        None, gt=0, le=1000, title="PSF's z step", help="Where its file is silent or wrong.", unit="µm"
    )

    @property
    def sources(self) -> list[str]:
        """Names of the sources that are given; one at most makes sense."""
        named = [name for name in ("file", "map", "basis", "blind") if getattr(self, name) is not None]
        return [*named, "default"] if self.default else named


def psf_of_record(
    psf: Mapping[str, Any], method: Method, *, mapped: bool
) -> tuple[PsfChoice, Optics | None, tuple[Optics, ...]]:
    """Return the choice that repeats a record's PSF, or its optics, or those of each channel.

    Parameters
    ----------
    psf : mapping
        What the record of deblurring says of it.
    method : Method
    mapped : bool
        Whether a step before estimated a map, which then needs no choice.

    Raises
    ------
    InvalidInputError
        If the PSF was only ever in memory and no step repeats it.
    """
    psf = _given(psf, method)
    choice, optics = _chosen(psf, method, mapped)
    return choice, optics, channels_of(psf.get("channels") or ()) if optics is not None else ()


def _given(psf: Mapping[str, Any], method: Method) -> Mapping[str, Any]:
    """Return what was given: that from which the search started, where the method found its own PSF."""
    if "started_from" not in psf:
        return psf
    if psf.get("source") != method_id(type(method)):
        raise _only_in_memory("file", "a kernel that another method found")
    found: dict[str, Any] = dict(psf["started_from"])
    if "channels" in psf:
        found["channels"] = [one.get("started_from", one) for one in psf["channels"]]
    return found | ({"path": psf["path"]} if "path" in psf else {})


def _only_in_memory(kind: str, what: str) -> InvalidInputError:
    rule = f"must be in a file to be used again: save it and name it under psf: {kind}"
    return InvalidInputError("psf", rule, what)


def _chosen(psf: Mapping[str, Any], method: Method, mapped: bool) -> tuple[PsfChoice, Optics | None]:
    source, path = psf.get("source"), psf.get("path")
    if source == "none":
        if method.start_psf() is None:
            raise _only_in_memory("file", "the kernel that another method started from")
        return PsfChoice(default=True), None
    if source == "optics":
        return PsfChoice(), _optics(psf)
    if source == "psf-map":
        return _of_map(psf, path, mapped), None
    if source == "psf-basis":
        if path is not None:
            return PsfChoice(basis=str(path)), None
        if psf.get("simulated"):
            return PsfChoice(blind=str(psf["model"])), None
        raise _only_in_memory("basis", "a PSF basis that was only in memory")
    if source == "kernel":
        if path is None:
            raise _only_in_memory("file", "a kernel that was only in memory")
        sizes = {name: psf.get(name) for name in ("pixel_size_um", "z_step_um")}
        return PsfChoice(**{"file": str(path), **sizes}), None
    return PsfChoice(), None


def _of_map(psf: Mapping[str, Any], path: Any, mapped: bool) -> PsfChoice:
    if path is not None and (field := psf.get("basis_field")) is not None:
        return PsfChoice(basis=str(path), basis_field=str(field))
    if path is not None:
        return PsfChoice(map=str(path))
    if (made := psf.get("made")) is not None:
        raise _only_in_memory("map", f"a PSF map that was {made} and only in memory")
    if mapped and not psf.get("blind"):
        return PsfChoice()
    one_psf = (psf.get("estimated") or {}).get("one_psf") or None
    return PsfChoice(blind=str(psf.get("model")), one_psf=one_psf)


def _optics(values: Mapping[str, Any]) -> Optics:
    """Return the optics that a record describes, beside what else it says."""
    return Optics(**{name: values[name] for name in Optics.model_fields if name in values})


def channels_of(values: Any) -> tuple[Optics, ...]:
    """Return the optics of each channel."""
    if not isinstance(values, list | tuple) or not all(isinstance(one, Mapping) for one in values):
        raise InvalidInputError("channels", "must be a list of optics, one per channel", repr(values))
    return tuple(_optics(one) for one in values)


def estimate_of_record(psf: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the step that estimated the map which was used, where it was a step and no blind estimate."""
    psf = psf.get("started_from") or psf
    alone = psf.get("source") == "psf-map" and "path" not in psf and not psf.get("blind")
    return psf.get("estimated") if alone else None


def check_background(record: Mapping[str, Any], *, taken: bool) -> None:
    """Refuse a record of deblurring without a background that no step before estimates.

    Raises
    ------
    InvalidInputError
        If one was taken off: it belongs to that one image.
    """
    background = (record.get("input") or {}).get("background")
    if background is not None and not taken:
        rule = "must be estimated by a step before, to be taken off other images too: name its result first"
        raise InvalidInputError("background", rule, f"a result of the step deblur alone, with {background}")
