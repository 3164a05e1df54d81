"""One figure that shows every stage of a run, drawn with what the base installation has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.atomic import atomic_path
from napari_deblur.core.image import FloatArray

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_PANEL_PX = 380
_GAP_PX = 14
_TITLE_PX = 44
_BACKGROUND = (250, 250, 250)
_INK = (25, 25, 25)
_FAINT = (105, 105, 105)
# Dark blue over green to yellow: even in lightness, readable without red–green vision.
_DEPTH_COLOURS = np.array(
    [[32, 28, 90], [35, 100, 142], [31, 158, 137], [122, 209, 81], [253, 231, 37]], float
)


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture of the report.

    Attributes
    ----------
    title, caption : str
    values : ndarray, shape (y, x)
        NaN is left blank.
    low, high : float or None
        Values shown black and white (or first and last colour); by default the 0.5 and 99.8 percentiles.
    coloured : bool
        Whether the values are a map rather than an image.
    """

    title: str
    caption: str
    values: NDArray[np.floating]
    low: float | None = None
    high: float | None = None
    coloured: bool = False

    def pixels(self) -> NDArray[np.uint8]:
        """Return the values as colours, shape (y, x, 3)."""
        finite = self.values[np.isfinite(self.values)]
        low = float(np.percentile(finite, 0.5)) if self.low is None else self.low
        high = float(np.percentile(finite, 99.8)) if self.high is None else self.high
        share = np.clip((self.values - low) / max(high - low, 1e-12), 0, 1)
        if self.coloured:
            stops = np.linspace(0, 1, len(_DEPTH_COLOURS))
            channels = [np.interp(share, stops, _DEPTH_COLOURS[:, channel]) for channel in range(3)]
            colours = np.stack(channels, axis=-1)
        else:
            colours = np.repeat(255 * share[..., None], 3, axis=-1)
        colours[~np.isfinite(self.values)] = _BACKGROUND
        return np.round(colours).astype(np.uint8)


def mosaic(kernels: FloatArray) -> FloatArray:
    """Lay PSFs (rows, cols, h, w) side by side, each scaled to its own maximum, for display."""
    rows, cols, height, width = kernels.shape
    scaled = np.sqrt(kernels / kernels.max(axis=(-2, -1), keepdims=True))
    joined: FloatArray = scaled.transpose(0, 2, 1, 3).reshape(rows * height, cols * width)
    return joined


def write_report(
    path: Path, title: str, lines: Sequence[str], panels: Sequence[Panel], *, overwrite: bool = False
) -> Path:
    """Draw panels in rows of four under a title and a few lines of text, as PNG.

    Pillow's own font draws the text; it knows Latin letters but neither µ nor dashes nor arrows.

    Raises
    ------
    OutputError
        If the file exists and may not be overwritten, or cannot be written.
    """
    from PIL import Image as Pictures
    from PIL import ImageDraw, ImageFont

    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    head = 60 + 24 * len(lines)
    size = (
        columns * (_PANEL_PX + _GAP_PX) + _GAP_PX,
        head + rows * (_PANEL_PX + _TITLE_PX + _GAP_PX) + _GAP_PX,
    )
    sheet: Picture = Pictures.new("RGB", size, _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    large, normal, small = (ImageFont.load_default(points) for points in (26, 17, 14))
    draw.text((_GAP_PX, 14), title, _INK, font=large)
    for number, line in enumerate(lines):
        draw.text((_GAP_PX, 52 + 24 * number), line, _INK, font=normal)
    for index, panel in enumerate(panels):
        left = _GAP_PX + (index % columns) * (_PANEL_PX + _GAP_PX)
        top = head + (index // columns) * (_PANEL_PX + _TITLE_PX + _GAP_PX)
        draw.text((left, top), panel.title, _INK, font=normal)
        draw.text((left, top + 21), panel.caption, _FAINT, font=small)
        picture = Pictures.fromarray(panel.pixels())
        picture.thumbnail((_PANEL_PX, _PANEL_PX))
        if max(picture.size) < _PANEL_PX:
            factor = _PANEL_PX / max(picture.size)
            enlarged = (round(picture.width * factor), round(picture.height * factor))
            picture = picture.resize(enlarged, Pictures.Resampling.NEAREST)
        sheet.paste(picture, (left, top + _TITLE_PX))
    with atomic_path(path, overwrite=overwrite) as temporary:
        sheet.save(temporary, format="PNG")
    return path
