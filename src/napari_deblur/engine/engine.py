"""The one engine that every dock, the Python API and the command line share."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from napari_deblur.core.errors import CancelledError, DeviceError
from napari_deblur.core.image import FloatArray
from napari_deblur.core.run import Run
from napari_deblur.engine.device import (
    DeviceReport,
    choose_device,
    free_cache,
    is_out_of_memory,
    memory_budget_bytes,
)
from napari_deblur.engine.plan import TilePlan
from napari_deblur.engine.tiles import BytesOf, Compute, computed, over_windows, to_numpy
from napari_deblur.engine.tiling import Tiling, fit_tile, halved

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

BLEND_PX = 16
_MODELS_KEPT = 4
_WAIT_S = 0.05
# Voxels that keep a device busy: with more at once nothing is gained, and a cancel has to wait longer. On the
# CPU they still lie in the cache.
_BUSY_VOXELS = {"cpu": 2**16, "cuda": 2**24}


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
        self._networks: OrderedDict[tuple[str, ...], tuple[torch.nn.Module, dict[str, Any]]] = OrderedDict()
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
            free_cache(self.device)

    def network(self, model: str, *, device: str | None = None) -> tuple[torch.nn.Module, dict[str, Any]]:
        """Return a network and its card, loaded and checked once.

        Parameters
        ----------
        model : str
        device : str, optional
            Another device than the engine's own.

        Raises
        ------
        UnknownNameError
            If there is no such model.
        WeightsError
            If its file is missing or does not match its card.
        """
        import torch

        from napari_deblur.nets.weights import find_model, load_network

        place = device or self.device
        # With the checksum: the folder of weights may change, and with it what an id stands for.
        key = (model, place, find_model(model).sha256)
        with self._networks_lock:
            if key not in self._networks:
                with torch.inference_mode(False):
                    self._networks[key] = load_network(model, place)
                while len(self._networks) > _MODELS_KEPT:
                    self._networks.popitem(last=False)
            self._networks.move_to_end(key)
            return self._networks[key]

    def plan(
        self,
        shape: tuple[int, ...],
        *,
        halo_px: int | tuple[int, ...],
        blend_px: int = BLEND_PX,
        bytes_per_px: float | None = None,
        bytes_of: BytesOf | None = None,
        tile_px: int | None = None,
        device: str | None = None,
    ) -> TilePlan:
        """Choose the tiles of a plane or a volume: the whole where it fits the memory there is.

        Parameters
        ----------
        shape : tuple of int
            Shape (y, x) or (z, y, x).
        halo_px : int or tuple of int
            What the computation reads around a tile.
        blend_px : int
            How tiles fade.
        bytes_per_px : float, optional
            Memory on the device that a pixel of a window takes.
        bytes_of : callable, optional
            In its place: the memory that a window of a given shape takes.
        tile_px : int, optional
            Height and width of a tile, whatever the memory; all planes of a volume stay together then.
        device : str, optional
            Another device than the engine's own.
        """
        device = device or self.device
        halo = (halo_px,) * len(shape) if isinstance(halo_px, int) else halo_px
        if bytes_of is None:
            per_px = bytes_per_px or 0.0
            bytes_of = lambda window: math.prod(window) * per_px  # noqa: E731 - as short as it can be said
        budget = self._budget_bytes or memory_budget_bytes(device)
        if tile_px is not None:
            tile = (*shape[:-2], *(min(tile_px, size) for size in shape[-2:]))
        else:
            tile = fit_tile(shape, halo, blend_px, bytes_of, budget)
        tiling = Tiling(shape, tile, halo, blend_px)
        window = tiling.largest
        return TilePlan(shape, tile, window, len(tiling.windows), device, int(bytes_of(window)), int(budget))

    def at_once(self, shape: tuple[int, ...], bytes_of: BytesOf) -> int:
        """Return how many planes or volumes of a shape are best computed together: what memory allows.

        Parameters
        ----------
        shape : tuple of int
            Shape (y, x) or (z, y, x) of one.
        bytes_of : callable
            Memory on the device that one of a given shape takes.
        """
        budget = self._budget_bytes or memory_budget_bytes(self.device)
        busy = _BUSY_VOXELS.get(self.device, 0) // math.prod(shape)
        return max(1, min(busy, int(budget / max(bytes_of(shape), 1.0))))

    def together(
        self, blocks: FloatArray, compute: Compute, run: Run, *, n_out: int = 1
    ) -> FloatArray | None:
        """Compute on several planes or volumes at once, each as a whole.

        Parameters
        ----------
        blocks : ndarray, float32, shape (n, y, x) or (n, z, y, x)
        compute : callable
            As for `over_tiles`, from ``(n, …)`` to ``(n_out, n, …)``.
        n_out : int
            Number of images that ``compute`` returns for each.

        Returns
        -------
        ndarray, float32, shape (n_out, *blocks.shape), or None if memory ran out

        Raises
        ------
        CancelledError
            With ``partial`` as the images so far, where there are any.
        """
        shape = tuple(int(size) for size in blocks.shape[1:])
        whole = Tiling(shape, shape, 0, 0).windows[0]
        try:
            found = computed(blocks, compute, run, whole, self.device)
        except CancelledError as error:
            error.partial = None if error.partial is None else to_numpy(error.partial)
            raise
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, DeviceError) or not is_out_of_memory(error):
                raise
            free_cache(self.device)
            return None
        return to_numpy(found).reshape(n_out, *blocks.shape)

    def over_tiles(
        self,
        block: FloatArray,
        compute: Compute,
        run: Run,
        *,
        n_out: int = 1,
        halo_px: int | tuple[int, ...],
        blend_px: int = BLEND_PX,
        bytes_per_px: float | None = None,
        bytes_of: BytesOf | None = None,
        tile_px: int | None = None,
    ) -> FloatArray:
        """Compute on a plane or a volume tile by tile, with smaller tiles when memory runs out.

        Parameters
        ----------
        block : ndarray, float32, shape (y, x) or (z, y, x)
        compute : callable
            Maps a tensor of a window's shape on the device, the window and a run to ``(n_out, …)``.
        n_out : int
            Number of images that ``compute`` returns.
        halo_px, blend_px, bytes_per_px, bytes_of, tile_px
            As for `plan`.

        Returns
        -------
        ndarray, float32, shape (n_out, *block.shape)

        Raises
        ------
        CancelledError
            With ``partial`` as the canvas ``(n_out, *block.shape)``, NaN where nothing was computed.
        DeviceError
            If memory runs out even with the smallest tile on the CPU.
        """
        shape = tuple(int(size) for size in block.shape)
        halo = (halo_px,) * len(shape) if isinstance(halo_px, int) else halo_px
        plan = self.plan(
            shape,
            halo_px=halo,
            blend_px=blend_px,
            bytes_per_px=bytes_per_px,
            bytes_of=bytes_of,
            tile_px=tile_px,
        )
        tile, device = plan.tile, plan.device
        while True:
            tiling = Tiling(shape, tile, halo, blend_px)
            try:
                return over_windows(block, compute, run, tiling, n_out, device)
            except (RuntimeError, MemoryError) as error:
                if isinstance(error, DeviceError) or not is_out_of_memory(error):
                    raise
            tile, device = self._back_off(tile, device, run)

    def or_on_cpu(self, compute: Callable[[str], T], run: Run) -> T:
        """Compute something that cannot be tiled, on the CPU where the device's memory does not suffice.

        Parameters
        ----------
        compute : callable
            Takes the device.
        run : Run
        """
        try:
            return compute(self.device)
        except (RuntimeError, MemoryError) as error:
            if self.device == "cpu" or isinstance(error, DeviceError) or not is_out_of_memory(error):
                raise
        free_cache(self.device)
        run.note(f"Memory ran out on {self.device}: what looks at the whole image was done on the CPU.")
        return compute("cpu")

    def _back_off(self, tile: tuple[int, ...], device: str, run: Run) -> tuple[tuple[int, ...], str]:
        """Return a smaller tile, or the CPU when tiles cannot shrink further."""
        free_cache(device)
        smaller = halved(tile)
        if smaller is not None:
            pixels = " × ".join(str(side) for side in smaller)
            run.note(f"Memory ran out on {device}: continued with tiles of {pixels} pixels.")
            return smaller, device
        if device != "cpu":
            run.note(f"Memory ran out on {device} even with the smallest tiles: continued on the CPU.")
            return tile, "cpu"
        pixels = " × ".join(str(side) for side in tile)
        raise DeviceError(
            f"memory ran out even with tiles of {pixels} pixels on the CPU: close other programs or crop"
        )
