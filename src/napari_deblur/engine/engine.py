"""The one engine that every dock, the Python API and the command line share."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_deblur.core.errors import CancelledError, DeviceError
from napari_deblur.core.image import FloatArray
from napari_deblur.core.run import Run
from napari_deblur.engine.device import DeviceReport, choose_device, is_out_of_memory, memory_budget_bytes
from napari_deblur.engine.tiling import Tiling, Window

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_SMALLEST_TILE_PX = 64
_MODELS_KEPT = 4
_WAIT_S = 0.05

Compute = Callable[["Tensor", Window, Run], "Tensor"]


class Engine:
    """Owns the device, its memory, the loaded networks and the queue.

    Parameters
    ----------
    device : {"auto", "cuda", "mps", "cpu"}
    budget_bytes : int, optional
        Memory that a run may take; by default a share of what is free.
    """

    def __init__(self, device: str = "auto", budget_bytes: int | None = None) -> None:
        self.report: DeviceReport = choose_device(device)
        self._budget_bytes = budget_bytes
        self._busy = threading.Lock()
        self._networks: OrderedDict[tuple[str, str], tuple[torch.nn.Module, dict[str, Any]]] = OrderedDict()
        self._networks_lock = threading.Lock()

    @property
    def device(self) -> str:
        """Name of the device for torch."""
        return self.report.device

    def describe(self) -> str:
        """Return the device and the reason for it, for a status line."""
        return str(self.report)

    @property
    def busy(self) -> bool:
        """Whether a job is running."""
        return self._busy.locked()

    @contextmanager
    def job(self, run: Run) -> Iterator[None]:
        """Hold the device for one job; others wait their turn and can be cancelled while they do.

        Raises
        ------
        CancelledError
            If the run is cancelled while it waits.
        """
        while not self._busy.acquire(timeout=_WAIT_S):
            run.step(0, 1, "waiting for the job before")
        try:
            yield
        finally:
            self._busy.release()
            if self.device == "cuda":
                import torch

                torch.cuda.empty_cache()

    def network(self, model: str) -> tuple[torch.nn.Module, dict[str, Any]]:
        """Return a network and its card, loaded and checked once.

        Raises
        ------
        UnknownNameError
            If there is no such model.
        WeightsError
            If its file is missing or does not match its card.
        """
        from napari_deblur.nets.weights import load_network

        key = (model, self.device)
        with self._networks_lock:
            if key not in self._networks:
                self._networks[key] = load_network(model, self.device)
                while len(self._networks) > _MODELS_KEPT:
                    self._networks.popitem(last=False)
            self._networks.move_to_end(key)
            return self._networks[key]

    def tile_px(self, shape: tuple[int, int], halo_px: int, bytes_per_px: float) -> int:
        """Return the largest tile that fits the memory budget; the whole plane where that does."""
        budget = self._budget_bytes or memory_budget_bytes(self.device)
        if shape[0] * shape[1] * bytes_per_px <= budget:
            return max(shape)
        side = int((budget / bytes_per_px) ** 0.5) - 2 * halo_px
        return max(side, _SMALLEST_TILE_PX)

    def over_tiles(
        self,
        plane: FloatArray,
        compute: Compute,
        run: Run,
        *,
        n_out: int = 1,
        halo_px: int,
        blend_px: int = 16,
        bytes_per_px: float,
        tile_px: int | None = None,
    ) -> FloatArray:
        """Compute on a plane tile by tile, with smaller tiles when memory runs out.

        Parameters
        ----------
        plane : ndarray, float32, shape (y, x)
        compute : callable
            Maps a tensor ``(h, w)`` on the device, its window and a run to a tensor ``(n_out, h, w)``.
        n_out : int
            Number of images that ``compute`` returns.
        halo_px, blend_px, bytes_per_px
            What the computation reads around a tile, how tiles fade, and what memory a pixel takes.
        tile_px : int, optional
            Side length of a tile; by default what fits the memory.

        Returns
        -------
        ndarray, float32, shape (n_out, y, x)

        Raises
        ------
        CancelledError
            With ``partial`` as the canvas ``(n_out, y, x)``, NaN where nothing was computed.
        DeviceError
            If memory runs out even with the smallest tile on the CPU.
        """
        shape = (int(plane.shape[0]), int(plane.shape[1]))
        size = min(tile_px or self.tile_px(shape, halo_px, bytes_per_px), max(shape))
        device = self.device
        while True:
            tiling = Tiling(shape, size, halo_px, blend_px)
            try:
                return _compute_all(plane, compute, run, tiling, n_out, device)
            except (RuntimeError, MemoryError) as error:
                if isinstance(error, DeviceError) or not is_out_of_memory(error):
                    raise
            size, device = self._back_off(size, device, run)

    def _back_off(self, tile_px: int, device: str, run: Run) -> tuple[int, str]:
        """Return a smaller tile, or the CPU when tiles cannot shrink further."""
        if device == "cuda":
            import torch

            torch.cuda.empty_cache()
        if tile_px > _SMALLEST_TILE_PX:
            smaller = max(tile_px // 2, _SMALLEST_TILE_PX)
            run.note(f"Memory ran out on {device}: continued with tiles of {smaller} pixels.")
            return smaller, device
        if device != "cpu":
            run.note(f"Memory ran out on {device} even with the smallest tiles: continued on the CPU.")
            return tile_px, "cpu"
        raise DeviceError(
            f"memory ran out even with tiles of {tile_px} pixels on the CPU: close other programs or crop"
        )


def _compute_all(
    plane: FloatArray, compute: Compute, run: Run, tiling: Tiling, n_out: int, device: str
) -> FloatArray:
    import torch

    windows = tiling.windows
    canvas = np.zeros((n_out, *plane.shape), np.float32)
    weight = np.zeros(plane.shape, np.float32)
    for index, window in enumerate(windows):
        part = run.part(index, index + 1, len(windows))
        tile = torch.from_numpy(np.ascontiguousarray(plane[window.read])).to(device)
        try:
            with torch.inference_mode():
                result = compute(tile, window, part)
        except CancelledError as error:
            if error.partial is not None:
                _add(canvas, weight, tiling, window, error.partial)
            error.partial = _finish(canvas, weight) if weight.any() else None
            raise
        _add(canvas, weight, tiling, window, result)
    return _finish(canvas, weight)


def _add(canvas: FloatArray, weight: FloatArray, tiling: Tiling, window: Window, result: Tensor) -> None:
    ramp = tiling.weights(window)
    canvas[(slice(None), *window.keep)] += result.float().cpu().numpy()[(slice(None), *window.inner)] * ramp
    weight[window.keep] += ramp


def _finish(canvas: FloatArray, weight: FloatArray) -> FloatArray:
    done = weight > 0
    return np.where(done, canvas / np.where(done, weight, 1), np.float32(np.nan)).astype(np.float32)


_shared: Engine | None = None
_shared_lock = threading.Lock()


def get_engine() -> Engine:
    """Return the process-wide engine, made at the first call."""
    global _shared  # noqa: PLW0603 - one engine per process is the point
    with _shared_lock:
        if _shared is None:
            _shared = Engine()
        return _shared


def use_device(device: str) -> Engine:
    """Replace the process-wide engine by one on another device."""
    global _shared  # noqa: PLW0603
    engine = Engine(device)
    with _shared_lock:
        _shared = engine
    return engine


def elapsed_s(since: float) -> float:
    """Return the seconds since a `time.perf_counter` reading, to the millisecond."""
    return round(time.perf_counter() - since, 3)
