"""Which formats results can be written in, and how a path and a wish choose one."""

from __future__ import annotations

from pathlib import Path

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.params import Declared, Param
from napari_deblur.io.numbers import Dtype

# Format, and the suffixes under which it is written.
FORMATS: dict[str, tuple[str, ...]] = {
    "ome-tiff": (".tif", ".tiff"),
    "imagej-tiff": (".tif", ".tiff"),
    "ome-zarr-0.4": (".zarr",),
    "ome-zarr-0.5": (".zarr",),
    "npy": (".npy",),
    "png": (".png",),
}
BLOCKWISE = ("ome-tiff", "ome-zarr-0.4", "ome-zarr-0.5")
WRITE_SUFFIXES = tuple(dict.fromkeys(suffix for suffixes in FORMATS.values() for suffix in suffixes))


class Output(Declared):
    """How images are written."""

    format: str | None = Param(
        None, title="Format", help=f"Format of the images: one of {', '.join(FORMATS)}; else by the suffix."
    )
    dtype: Dtype = Param(
        "float32",
        title="Numbers",
        help="Numbers of the result; uint16 takes half the room: rounded to whole grey values, and refused "
        "where the result does not fit.",
    )


def is_zarr(kind: str) -> bool:
    """Return whether a format is a folder of chunks."""
    return kind.startswith("ome-zarr")


def output_format(
    path: Path, wanted: str | None = None, *, blockwise: bool = False, argument: str = "output"
) -> str:
    """Return the format of a result.

    Parameters
    ----------
    path : Path
    wanted : str, optional
        One of `FORMATS`; by default the first that goes with the suffix.
    blockwise : bool
        Whether it must be one that can be written block by block.
    argument : str
        Name used in errors.

    Raises
    ------
    InvalidInputError
        If the suffix or the format is unknown, or they do not go together.
    """
    known = [name for name in FORMATS if not blockwise or name in BLOCKWISE]
    suffixes = [suffix for suffix in WRITE_SUFFIXES if any(suffix in FORMATS[name] for name in known)]
    suffix = path.suffix.lower()
    if suffix not in suffixes:
        why = " to be written block by block" if blockwise else ""
        raise InvalidInputError(argument, f"must end in one of {', '.join(suffixes)}{why}", repr(str(path)))
    if wanted is None:
        return next(name for name in known if suffix in FORMATS[name])
    if wanted not in known:
        raise InvalidInputError("format", f"must be one of {', '.join(known)}", repr(wanted))
    if suffix not in FORMATS[wanted]:
        rule = f"must end in {' or '.join(FORMATS[wanted])} for the format {wanted}"
        raise InvalidInputError(argument, rule, repr(str(path)))
    return wanted
