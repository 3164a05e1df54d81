"""What a streamed run shall do: all that the user chose, and how it differs from what was begun before."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_deblur.core.atomic import check_output
from napari_deblur.core.errors import InvalidInputError, OutputError
from napari_deblur.io.formats import output_format
from napari_deblur.io.lazy import LazyImage
from napari_deblur.io.numbers import Dtype, check_dtype
from napari_deblur.optics.settings import Optics
from napari_deblur.stream.part import Part
from napari_deblur.stream.plan import Streaming
from napari_deblur.stream.seen import digest

if TYPE_CHECKING:
    from napari_deblur.steps.deblur import Deblur
    from napari_deblur.steps.psf_rules import PsfSource

_SMALLEST_PX = 16
# Parts of the identity that do not go by the name of an option.
_NAMES = {
    "source": "input",
    "fingerprint": "content of the input",
    "image": "axes or voxel size",
    "sinks": "names, formats or numbers of the results",
}


@dataclass(frozen=True)
class Wanted:
    """What a run shall do; see `napari_deblur.stream.run.deblur_file`.

    Attributes
    ----------
    step : Deblur
    image : LazyImage
    targets : dict of Path
        ``output`` and, if asked for, ``residual``.
    formats : dict of str
        Of the same names.
    psf : PsfSource
    optics : Optics or None
    dtype : {"float32", "uint16"}
    overwrite : bool
        Whether results that exist, or were begun with other settings, may be replaced.
    settings : Streaming
    """

    step: Deblur
    image: LazyImage
    targets: dict[str, Path]
    formats: dict[str, str]
    psf: PsfSource = None
    optics: Optics | None = None
    dtype: Dtype = "float32"
    overwrite: bool = False
    settings: Streaming = field(default_factory=Streaming)

    @classmethod
    def checked(
        cls,
        step: Deblur,
        image: LazyImage,
        output: str | os.PathLike[str],
        residual: str | os.PathLike[str] | None,
        format: str | None,
        **more: Any,
    ) -> Wanted:
        """Check the outputs and the image's shape, which takes no time.

        Raises
        ------
        InvalidInputError, OutputError
            As `napari_deblur.stream.run.deblur_file`.
        """
        targets = {"output": Path(output)} | ({"residual": Path(residual)} if residual is not None else {})
        for name, path in targets.items():
            targets[name] = check_output(path, overwrite=more["overwrite"], argument=name).absolute()
        formats = {name: output_format(path, format, blockwise=True) for name, path in targets.items()}
        check_dtype(more["dtype"], image.source, formats["output"])
        if min(image.shape[-2:]) < _SMALLEST_PX:
            rule = f"must be at least {_SMALLEST_PX} × {_SMALLEST_PX} pixels"
            raise InvalidInputError("image", rule, f"shape {image.shape}")
        for path in targets.values():
            if path.resolve() == image.path.resolve():
                raise InvalidInputError("output", "must not be the input", repr(str(path)))
        return cls(step, image, targets, formats, **more)

    def dtype_of(self, name: str) -> Dtype:
        """Return the numbers of a result; what is left over has values below zero and fractions."""
        return self.dtype if name == "output" else "float32"

    def identity(self) -> dict[str, Any]:
        """Return what tells this job from every other (JSON types)."""
        image = self.image
        found = {
            "source": str(image.path.resolve()),
            "fingerprint": image.fingerprint(),
            "image": [image.series, image.axes, image.shape, image.pixel_size_um, image.z_step_um],
            "step": self.step.model_dump(mode="json"),
            "psf": digest(self.psf),
            "optics": self.optics.model_dump(mode="json") if self.optics else None,
            "block_px": self.settings.block_px,
            "sinks": [self.formats, {name: path.name for name, path in self.targets.items()}, self.dtype],
        }
        return dict(json.loads(json.dumps(found)))

    def begun_otherwise(self, part: Part, before: dict[str, Any], identity: dict[str, Any]) -> str:
        """Return what was begun with other settings, in words; empty if it was begun with these."""
        if before == identity:
            return ""
        kept = len(part.finished("deblur"))
        names = ", ".join(dict.fromkeys(_differences(before, identity)))
        return f"{part.folder.name} was begun with another {names} and holds {kept} finished blocks"

    def refuse(self, otherwise: str) -> None:
        """Refuse to discard what was begun otherwise, unless that is allowed.

        Raises
        ------
        OutputError
        """
        if not self.overwrite:
            rule = "output must not discard what was begun with other settings (allow it with overwrite)"
            raise OutputError(f"{rule}; received {str(self.targets['output'])!r}, where {otherwise}")


def _differences(before: Any, now: Any, name: str = "setting") -> Iterator[str]:
    """Name what differs, as far down as it has names of its own."""
    if before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict) and name not in _NAMES:
        for key in dict.fromkeys([*now, *before]):
            yield from _differences(before.get(key), now.get(key), str(key))
        return
    yield _NAMES.get(name, name)
