"""Where a method takes what it needs from the data, and what it gives with the same blurred again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_deblur.core.errors import CancelledError, InvalidInputError
from napari_deblur.core.run import Run
from napari_deblur.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.blur.base import Blur

# Data-dependent choices are made on at most this much of a plane or a volume, around its centre.
_SETTLE_PX = 1024
_SETTLE_VOXELS = 2**22


def settle_window(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the central part of a plane or a volume on which data-dependent choices are made."""
    depth = shape[0] if len(shape) == 3 else 1
    side = max(64, min(_SETTLE_PX, int((_SETTLE_VOXELS / depth) ** 0.5)))
    spans = []
    for axis, size in enumerate(shape):
        most = size if axis < len(shape) - 2 else side
        start = max(0, (size - most) // 2)
        spans.append(slice(start, min(start + most, size)))
    return tuple(spans)


def with_reblurred(method: Method, tile: Tensor, blur: Blur, run: Run) -> Tensor:
    """Return the restored tile and the same blurred again, as ``(2, …)``."""
    import torch

    try:
        x = method.solve(tile, blur, run)
    except CancelledError as error:
        if error.partial is not None:
            unknown = torch.full_like(error.partial[0], float("nan"))
            error.partial = torch.stack([error.partial[0], unknown])
        raise
    restored = blur.crop(x)
    if not bool(torch.isfinite(restored).all()):
        raise InvalidInputError("psf", "must let the method converge on this image", "a result with NaN")
    return torch.stack([restored, blur.forward(x)])
