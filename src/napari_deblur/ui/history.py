"""What was run in a viewer, in order, so that it can be repeated on other files."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.record import Record

if TYPE_CHECKING:
    from napari import Viewer


class History:
    """Records of the runs on whole layers; of each kind of step the last one."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def add(self, record: Record | dict[str, Any]) -> None:
        """Keep a record in place of an earlier one of the same kind of step."""
        content = record.to_dict() if isinstance(record, Record) else dict(record)
        kind = (content.get("step") or {}).get("kind")
        self.records = [other for other in self.records if other["step"]["kind"] != kind]
        if kind is not None:
            self.records.append(content)

    def save_recipe(self, path: str | os.PathLike[str]) -> Path:
        """Write the recipe that repeats the steps, replacing a file that the dialog asked about.

        Raises
        ------
        InvalidInputError
            If nothing was run yet, or a step used a PSF that is in no file.
        OutputError
            If it cannot be written.
        """
        from napari_deblur.recipe import Recipe

        if not self.records:
            raise InvalidInputError("recipe", "must hold at least one step: run one on a whole layer", "none")
        return Recipe.from_records(self.records).save(Path(path).with_suffix(".yaml"), overwrite=True)


_histories: weakref.WeakKeyDictionary[Any, History] = weakref.WeakKeyDictionary()


def history(viewer: Viewer) -> History:
    """Return the history of a viewer, made at the first call."""
    if viewer not in _histories:
        _histories[viewer] = History()
    return _histories[viewer]
