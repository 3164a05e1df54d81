"""A PSF as the user chose it, for the worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.record import Record
from napari_deblur.optics.settings import Optics


@dataclass(frozen=True, eq=False)
class ChosenPsf:
    """A PSF as the worker will get it.

    Attributes
    ----------
    load : callable
        Returns what `Deblur.run` takes as ``psf``; called in the worker's thread.
    optics : Optics or None
        Help for a blind estimate.
    path : Path or None
        File that it came from, for the record.
    """

    load: Callable[[], Any]
    optics: Optics | None = None
    path: Path | None = None

    def noted_in(self, record: Record) -> Record:
        """Return a record that also says from which file and with which optics."""
        psf, given = dict(record.psf), dict(record.input)
        if self.path is not None:
            psf["path"] = str(self.path)
        if self.optics is not None:
            given["optics"] = self.optics.model_dump(mode="json")
        return replace(record, psf=psf, input=given)


def from_optics(optics: Optics | None, *, volumes: bool) -> ChosenPsf:
    """Return the PSF of optics, in 3D where that is asked for and else without what counts there only."""
    if optics is not None and not volumes:
        optics = optics.model_copy(update={"z_step_um": None})
    elif optics is not None and optics.z_step_um is None:
        rule = "must be given to restore in 3D: the layer's z axis has no unit of length"
        raise InvalidInputError("distance of planes", rule, "nothing")
    return ChosenPsf(lambda: optics)


def checked(psf: Any, *, volumes: bool) -> Any:
    """Refuse a PSF with a z axis where planes are restored one by one."""
    shape = [size for size in (psf.data if isinstance(psf, Image) else psf).shape if size > 1]
    if not volumes and len(shape) > 2:
        rule = "must be 2D (y, x) unless 'In 3D' is ticked, for a stack and a method that works in 3D"
        raise InvalidInputError("PSF", rule, f"shape {tuple(shape)}")
    return psf
