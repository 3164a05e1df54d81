"""A list of steps as YAML: written from results, replayed on an image, run over a folder of files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_deblur.core.errors import InvalidInputError, UnknownNameError
from napari_deblur.core.image import Image, as_image
from napari_deblur.core.params import Declared, Param, declare
from napari_deblur.core.record import Record
from napari_deblur.core.run import Run
from napari_deblur.methods.base import make_method
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.background import RemoveBackground
from napari_deblur.steps.base import Step
from napari_deblur.steps.deblur import Deblur
from napari_deblur.steps.depth import EstimateDepth
from napari_deblur.steps.psf_map import EstimatePsfMap

if TYPE_CHECKING:
    from napari_deblur.engine.engine import Engine
    from napari_deblur.recipe_run import RecipeResult

VERSION = 1
_STEPS: tuple[type[Step], ...] = (RemoveBackground, EstimatePsfMap, Deblur, EstimateDepth)
_KEYS = ("version", "steps", "psf", "optics", "calibration")


class PsfChoice(Declared):
    """Where deblurring takes its PSF from; without any, the map estimated before, or the method's default."""

    file: str | None = Param(None, title="PSF file", help="An image or .npy with the kernel.")
    map: str | None = Param(None, title="PSF map file", help="A map that was saved before.")
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
        return [name for name in ("file", "map", "blind") if getattr(self, name) is not None]


@dataclass(frozen=True)
class Recipe:
    """Steps in the order in which they run, each on what the one before gave.

    Attributes
    ----------
    steps : tuple of Step
        Each kind at most once.
    psf : PsfChoice
    optics : Optics or None
        Helps a blind estimate; is the PSF itself where nothing else says what it is.
    calibration : str or dict or None
        File with the calibration of depth, or what such a file holds.
    folder : Path
        What relative paths are relative to; the recipe file's folder.
    """

    steps: tuple[Step, ...]
    psf: PsfChoice = field(default_factory=PsfChoice)
    optics: Optics | None = None
    calibration: str | dict[str, Any] | None = None
    folder: Path = field(default_factory=Path)

    def __post_init__(self) -> None:
        kinds = [_kind(type(step)) for step in self.steps]
        if not kinds:
            raise InvalidInputError("steps", "must hold at least one step", "none")
        if len(set(kinds)) < len(kinds):
            raise InvalidInputError("steps", "must hold each kind once", ", ".join(kinds))
        if len(chosen := self.psf.sources) > 1:
            raise InvalidInputError("psf", "must name one source", ", ".join(chosen))
        if self.psf.file is None and (self.psf.pixel_size_um or self.psf.z_step_um):
            raise InvalidInputError("psf", "must name the file whose voxel size it tells", "a size alone")
        depth, estimate = _kind(EstimateDepth), _kind(EstimatePsfMap)
        has_map = (
            self.psf.map is not None or estimate in kinds[: kinds.index(depth)] if depth in kinds else True
        )
        if not has_map:
            raise InvalidInputError("steps", f"must hold {estimate} before {depth}", ", ".join(kinds))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], folder: Path | None = None) -> Recipe:
        """Build a recipe from what its YAML holds.

        Raises
        ------
        InvalidInputError
            Naming the step and parameter that breaks its rule.
        """
        if not isinstance(values, Mapping) or "steps" not in values:
            raise InvalidInputError("recipe", "must be a mapping with 'version' and 'steps'", repr(values))
        if unknown := [str(key) for key in values if key not in _KEYS]:
            raise InvalidInputError(unknown[0], f"is not known in a recipe (known: {', '.join(_KEYS)})", "it")
        if values.get("version") != VERSION:
            raise InvalidInputError("version", f"must be {VERSION}", repr(values.get("version")))
        steps = values["steps"]
        if not isinstance(steps, Sequence) or isinstance(steps, str):
            raise InvalidInputError("steps", "must be a list", repr(steps))
        optics, psf = values.get("optics"), values.get("psf")
        for name, given in (("optics", optics), ("psf", psf)):
            if given is not None and not isinstance(given, Mapping):
                raise InvalidInputError(name, "must be a mapping", repr(given))
        calibration = values.get("calibration")
        return cls(
            tuple(make_step(step) for step in steps),
            declare(PsfChoice, dict(psf or {})),
            declare(Optics, dict(optics)) if optics else None,
            _checked_calibration(calibration),
            folder or Path(),
        )

    @classmethod
    def from_records(cls, records: Sequence[Record | Mapping[str, Any]]) -> Recipe:
        """Build the recipe that repeats what results record.

        Parameters
        ----------
        records : sequence of Record or dict
            In the order of the runs; of the same kind, the last counts.

        Raises
        ------
        InvalidInputError
            If a record names no step, or a PSF that was only ever in memory.
        """
        plain = [record.to_dict() if isinstance(record, Record) else dict(record) for record in records]
        steps: dict[str, Step] = {}
        psf, optics, calibration = PsfChoice(), None, None
        for record in plain:
            step = make_step(record.get("step"))
            steps[_kind(type(step))] = step
            described = (record.get("input") or {}).get("optics")
            optics = declare(Optics, described) if described else optics
            if isinstance(step, Deblur):
                psf, own = _psf_of(record.get("psf") or {}, mapped=_kind(EstimatePsfMap) in steps)
                optics = own or optics
            if isinstance(step, EstimateDepth):
                calibration = _checked_calibration((record.get("facts") or {}).get("calibration"))
        return cls(tuple(steps.values()), psf, optics, calibration)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Recipe:
        """Read a recipe file.

        Raises
        ------
        InvalidInputError
            If it is missing, not YAML, or breaks a rule.
        """
        import yaml

        source = Path(path).expanduser()
        if not source.is_file():
            raise InvalidInputError("recipe", "must be a file that exists", repr(str(source)))
        try:
            values = yaml.safe_load(source.read_text(encoding="utf-8"))
        except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
            rule = f"must be a YAML file ({' '.join(str(error).split())})"
            raise InvalidInputError("recipe", rule, repr(str(source))) from error
        return cls.from_dict(values, source.resolve().parent)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the recipe as YAML.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        import yaml

        from napari_deblur.core.atomic import atomic_path

        with atomic_path(path, overwrite, "recipe") as temporary:
            text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
            temporary.write_text(text, encoding="utf-8")
        return Path(path).expanduser()

    def to_dict(self) -> dict[str, Any]:
        """Return what the YAML holds."""
        found: dict[str, Any] = {"version": VERSION}
        if psf := self.psf.model_dump(exclude_none=True):
            found["psf"] = psf
        if self.optics:
            found["optics"] = self.optics.model_dump(mode="json")
        if self.calibration:
            found["calibration"] = self.calibration
        found["steps"] = [step.model_dump(mode="json") for step in self.steps]
        return found

    def run(self, image: Image, *, engine: Engine, run: Run | None = None) -> RecipeResult:
        """Run all steps on one image.

        Parameters
        ----------
        image : Image, shape (…, y, x)
        engine : Engine
        run : Run, optional

        Raises
        ------
        InvalidInputError
            If the image does not fit a step.
        CancelledError
            If cancelled before there was anything to keep.
        """
        from napari_deblur.recipe_run import RecipeRun

        return RecipeRun(self, as_image(image), engine, run or Run()).all()

    def path(self, name: str) -> Path:
        """Return a path that the recipe names."""
        return self.folder / Path(name).expanduser()


def make_step(values: Any) -> Step:
    """Return a step from its declaration as a dict with a ``kind``.

    Raises
    ------
    InvalidInputError
        If there is no such step, or a parameter breaks its rule.
    """
    if not isinstance(values, Mapping) or "kind" not in values:
        raise InvalidInputError("step", "must be a mapping with a 'kind'", repr(values))
    kinds = {_kind(cls): cls for cls in _STEPS}
    if values["kind"] not in kinds:
        raise UnknownNameError("kind", str(values["kind"]), list(kinds))
    cls, given = kinds[values["kind"]], dict(values)
    if cls is Deblur and "method" in given:
        given["method"] = make_method(given["method"])
    return declare(cls, given)


def _kind(cls: type[Step]) -> str:
    return str(cls.model_fields["kind"].default)


def _psf_of(psf: Mapping[str, Any], *, mapped: bool) -> tuple[PsfChoice, Optics | None]:
    """Return the choice that repeats a record's PSF; a map estimated by a step before needs none."""
    source, path = psf.get("source"), psf.get("path")
    if source == "optics":
        return PsfChoice(), declare(Optics, {name: psf[name] for name in Optics.model_fields if name in psf})
    if source == "psf-map":
        if path is not None:
            return PsfChoice(map=str(path)), None
        return (PsfChoice() if mapped else PsfChoice(blind=str(psf.get("model")))), None
    if source == "kernel":
        if path is None:
            rule = "must be in a file to be used again: save it and name it under psf: file"
            raise InvalidInputError("psf", rule, "a kernel that was only in memory")
        sizes = {name: psf.get(name) for name in ("pixel_size_um", "z_step_um")}
        return declare(PsfChoice, {"file": str(path), **sizes}), None
    return PsfChoice(), None


def _checked_calibration(value: Any) -> str | dict[str, Any] | None:
    """Return the file, or the calibration itself once it is known to be one."""
    if value is None or isinstance(value, str):
        return value
    from pydantic import ValidationError

    from napari_deblur.steps.calibration import DepthCalibration

    try:
        return DepthCalibration.model_validate(value).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        rule = f"must be a file or a calibration ({first['msg']} at {'.'.join(map(str, first['loc']))})"
        raise InvalidInputError("calibration", rule, repr(value)) from None
