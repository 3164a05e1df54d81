"""How a batch is run, and what becomes of its files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.io.formats import FORMATS, Output
from napari_deblur.stream.plan import Streaming


@dataclass(frozen=True)
class FileOutcome:
    """What became of one input.

    Attributes
    ----------
    path : Path
    state : {"done", "skipped", "failed"}
    reason : str
        Why it failed or was skipped.
    outputs : tuple of Path
    """

    path: Path
    state: Literal["done", "skipped", "failed"]
    reason: str = ""
    outputs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class BatchSettings:
    """How a batch is run.

    Attributes
    ----------
    overwrite : bool
        Whether to do again what is done.
    stream : bool
        Whether to work block by block even where an image fits into memory.
    streaming : Streaming
        Memory and blocks.
    output : Output
        Format and numbers of images; OME-TIFF if not given.
    """

    overwrite: bool = False
    stream: bool = False
    streaming: Streaming = field(default_factory=Streaming)
    output: Output = field(default_factory=Output)

    @property
    def suffix(self) -> str:
        """What the names of images end in."""
        kind = self.output.format or "ome-tiff"
        if kind not in FORMATS:
            raise InvalidInputError("format", f"must be one of {', '.join(FORMATS)}", repr(kind))
        ome = ".ome" if kind.startswith("ome-") else ""
        return ome + FORMATS[kind][0]


def failed(path: Path, error: BaseException) -> FileOutcome:
    """Return the outcome of a file that failed."""
    reason = " ".join(str(error).split()) or type(error).__name__
    hint = getattr(error, "hint", "")
    return FileOutcome(path, "failed", f"{reason} ({hint})" if hint else reason)
