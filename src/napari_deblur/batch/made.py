"""What results are made with beside their input: recipe, files that it names, format and numbers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from napari_deblur.batch.hashed import state_of
from napari_deblur.batch.outcome import BatchSettings
from napari_deblur.recipe import Recipe


@dataclass(frozen=True)
class Made:
    """What results are made with (JSON types).

    Attributes
    ----------
    recipe : dict
        With absolute paths, so that it means the same wherever its record lies.
    written : dict
        The same as it was given.
    output : dict
        ``format`` and ``dtype``.
    files : dict
        sha256 of the files that the recipe names, by path; ``None`` of one that is not there.
    """

    recipe: dict[str, Any]
    written: dict[str, Any]
    output: dict[str, str]
    files: dict[str, str | None]

    @classmethod
    def of(cls, recipe: Recipe, settings: BatchSettings) -> Made:
        """Read the files that a recipe names."""
        absolute = recipe.anchored()
        files = {
            str(path): (state_of(path, hashed=True) or {}).get("sha256") for path in absolute.files.values()
        }
        output = {"format": settings.output.format or "ome-tiff", "dtype": settings.output.dtype}
        return cls(_plain(absolute.to_dict()), _plain(recipe.to_dict()), output, files)

    def record(self) -> dict[str, Any]:
        """Return what a record keeps of it."""
        return {"recipe": self.recipe, "output": self.output, "files": self.files}

    def differs(self, record: Mapping[str, Any]) -> str:
        """Return what results with a record were made with otherwise, in words; empty if nothing.

        Files may have moved since: their content counts. Records of earlier versions, which know nothing but
        the recipe, are compared by that.
        """
        before = record.get("recipe")
        if not is_complete(record):
            return "" if before in (self.recipe, self.written) else "made with another recipe"
        if _by_content(before, {}) != _by_content(self.recipe, {}):
            return "made with another recipe"
        if _by_content(before, record["files"]) != _by_content(self.recipe, self.files):
            changed = sorted(
                path for path, found in self.files.items() if found not in record["files"].values()
            )
            return f"made with another content of {', '.join(changed) or 'the files of the recipe'}"
        for name, value in self.output.items():
            if record["output"].get(name) != value:
                return f"made with the {name} {record['output'].get(name)}"
        return ""


def is_complete(record: Mapping[str, Any]) -> bool:
    """Return whether a record tells files and formats, as those of earlier versions do not."""
    return all(isinstance(record.get(name), dict) for name in ("output", "files"))


def _by_content(recipe: Any, files: Mapping[str, Any]) -> Any:
    """Return a recipe whose files stand as their content, or as nothing where that is not told."""
    if not isinstance(recipe, dict):
        return recipe
    return with_files(recipe, lambda path: f"sha256 {files.get(path)}")


def with_files(recipe: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Return what a recipe's YAML holds, with every file that it names changed."""
    found = copy.deepcopy(dict(recipe))
    places = [(found, "calibration"), *((found.get("psf") or {}, name) for name in ("file", "map", "basis"))]
    for place, name in places:
        if isinstance(place.get(name), str):
            place[name] = change(place[name])
    return found


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(values)))
