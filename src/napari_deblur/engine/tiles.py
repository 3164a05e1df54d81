"""Compute on windows of an image on a device, and put what comes of them together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from napari_deblur.core.errors import CancelledError
from napari_deblur.core.image import FloatArray
from napari_deblur.core.run import Run
from napari_deblur.engine.tiling import Tiling, Window

if TYPE_CHECKING:
    from torch import Tensor

Compute = Callable[["Tensor", Window, Run], "Tensor"]
BytesOf = Callable[[tuple[int, ...]], float]


def over_windows(
    block: FloatArray, compute: Compute, run: Run, tiling: Tiling, n_out: int, device: str
) -> FloatArray:
    """Compute on all windows of a plane or a volume, one after the other, and blend what comes of them.

    Raises
    ------
    CancelledError
        With ``partial`` as the canvas so far, NaN where nothing was computed.
    """
    windows = tiling.windows
    alone = len(windows) == 1
    canvas = np.zeros((n_out, *block.shape), np.float32) if not alone else None
    weight = np.zeros(block.shape, np.float32) if not alone else None
    for index, window in enumerate(windows):
        part = run.part(index, index + 1, len(windows))
        try:
            result = computed(block[window.read], compute, part, window, device)
        except CancelledError as error:
            if error.partial is not None and canvas is not None and weight is not None:
                _add(canvas, weight, tiling, window, error.partial)
            if canvas is not None and weight is not None:
                error.partial = _finish(canvas, weight) if weight.any() else None
            elif error.partial is not None:
                error.partial = to_numpy(error.partial)
            raise
        if canvas is None or weight is None:
            return to_numpy(result)
        _add(canvas, weight, tiling, window, result)
    assert canvas is not None
    assert weight is not None
    return _finish(canvas, weight)


def computed(part: FloatArray, compute: Compute, run: Run, window: Window, device: str) -> Tensor:
    """Compute on a part of an image on a device."""
    import torch

    tile = torch.from_numpy(np.ascontiguousarray(part)).to(device)
    with torch.inference_mode():
        return compute(tile, window, run)


def to_numpy(result: Tensor) -> FloatArray:
    """Bring a result back from its device, as float32."""
    array: FloatArray = result.float().cpu().numpy()
    return array


def _add(canvas: FloatArray, weight: FloatArray, tiling: Tiling, window: Window, result: Tensor) -> None:
    ramp = tiling.weights(window)
    canvas[(slice(None), *window.keep)] += to_numpy(result)[(slice(None), *window.inner)] * ramp
    weight[window.keep] += ramp


def _finish(canvas: FloatArray, weight: FloatArray) -> FloatArray:
    done = weight > 0
    return np.where(done, canvas / np.where(done, weight, 1), np.float32(np.nan)).astype(np.float32)
