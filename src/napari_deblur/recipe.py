"""A list of steps as YAML: written from results, replayed on an image, run over a folder of files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_deblur.core.errors import InvalidInputError, UnknownNameError
from napari_deblur.core.image import Image, as_image
from napari_deblur.core.record import Record
from napari_deblur.core.run import Run
from napari_deblur.methods.base import make_method
from napari_deblur.optics.settings import Optics
from napari_deblur.recipe_psf import (
    PsfChoice,
    channels_of,
    check_background,
    estimate_of_record,
    psf_of_record,
)
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
_KEYS = ("version", "steps", "psf", "optics", "channels", "calibration")


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
    channels : tuple of Optics
        In place of ``optics`` as the PSF: those of each channel, where they differ.
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
    channels: tuple[Optics, ...] = ()

    def __post_init__(self) -> None:
        kinds = [_kind(type(step)) for step in self.steps]
        if not kinds:
            raise InvalidInputError("steps", "must hold at least one step", "none")
        if len(set(kinds)) < len(kinds):
            raise InvalidInputError("steps", "must hold each kind once", ", ".join(kinds))
        if len(chosen := self.psf.sources) > 1:
            raise InvalidInputError("psf", "must name one source", ", ".join(chosen))
        if self.channels and chosen:
            raise InvalidInputError("channels", "must be left out where psf names a source", chosen[0])
        if self.psf.basis is None and self.psf.basis_field is not None:
            raise InvalidInputError("psf", "must name the basis whose field it tells", self.psf.basis_field)
        if self.psf.blind is None and self.psf.one_psf:
            raise InvalidInputError("psf", "must name the model that reads one PSF: blind", "one_psf alone")
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
            PsfChoice(**(psf or {})),
            Optics(**optics) if optics else None,
            _checked_calibration(calibration),
            folder or Path(),
            channels_of(values.get("channels") or ()),
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
            If a record names no step, or a PSF that was only ever in memory, or a background was taken off
            that no step before estimated.
        """
        plain = [record.to_dict() if isinstance(record, Record) else dict(record) for record in records]
        steps: dict[str, Step] = {}
        psf, optics, calibration = PsfChoice(), None, None
        channels: tuple[Optics, ...] = ()
        for record in plain:
            step, given = make_step(record.get("step")), record.get("psf") or {}
            if isinstance(step, Deblur) and (estimate := estimate_of_record(given)) is not None:
                steps[_kind(EstimatePsfMap)] = make_step(estimate)  # of several maps, the one that was used
            steps[_kind(type(step))] = step
            described = (record.get("input") or {}).get("optics")
            optics = Optics(**described) if described else optics
            if isinstance(step, Deblur):
                check_background(record, taken=_kind(RemoveBackground) in steps)
                mapped = _kind(EstimatePsfMap) in steps
                psf, own, channels = psf_of_record(given, step.method, mapped=mapped)
                optics = own or optics
            if isinstance(step, EstimateDepth):
                calibration = _checked_calibration((record.get("facts") or {}).get("calibration"))
        return cls(tuple(steps.values()), psf, optics, calibration, channels=channels)

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
        """Write the recipe as YAML; paths in it become absolute if it is written to another folder.

        Raises
        ------
        OutputError
            If it cannot be written.
        """
        import yaml

        from napari_deblur.core.atomic import atomic_path

        stays = self.folder.resolve() == Path(path).expanduser().resolve().parent
        values = (self if stays else self.anchored()).to_dict()
        with atomic_path(path, overwrite, "recipe") as temporary:
            text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
            temporary.write_text(text, encoding="utf-8")
        return Path(path).expanduser()

    def to_dict(self) -> dict[str, Any]:
        """Return what the YAML holds."""
        found: dict[str, Any] = {"version": VERSION}
        if psf := self.psf.model_dump(exclude_none=True):
            found["psf"] = psf
        if self.optics:
            found["optics"] = self.optics.model_dump(mode="json")
        if self.channels:
            found["channels"] = [one.model_dump(mode="json") for one in self.channels]
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

    @property
    def files(self) -> dict[str, Path]:
        """Files that the recipe names, by the place where it names them."""
        named = {f"psf.{name}": getattr(self.psf, name) for name in ("file", "map", "basis")}
        named["calibration"] = self.calibration if isinstance(self.calibration, str) else None
        return {place: self.path(name) for place, name in named.items() if name is not None}

    def anchored(self) -> Recipe:
        """Return the recipe with absolute paths, with which it means the same from every folder."""
        found = {place: str(path.resolve()) for place, path in self.files.items()}
        psf = {name.removeprefix("psf."): path for name, path in found.items() if name.startswith("psf.")}
        calibration = found.get("calibration", self.calibration)
        return replace(self, psf=self.psf.model_copy(update=psf), calibration=calibration)

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
    return cls(**given)


def _kind(cls: type[Step]) -> str:
    return str(cls.model_fields["kind"].default)


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
