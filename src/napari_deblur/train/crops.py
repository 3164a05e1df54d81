"""Drawing sharp crops for training on the device that trains, and renewing the rendered scenes among them."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from napari_deblur.nets.views import view
from napari_deblur.train.scenes import draw_scenes
from napari_deblur.train.tiles import CONTENT_SHARE, SCENE_GROUP, Pool

_GRID_PX = 8
_SCENES_PER_TASK = 32
_TASKS_AHEAD = 2


@dataclass
class _Group:
    """Images of one group on the device, with the places in each that hold content."""

    images: list[Tensor]
    places: list[NDArray[np.int64]]
    chances: NDArray[np.float64]


class CropSampler:
    """Draws batches of crops from a pool whose images lie on a device.

    As `Pool.crop` does, it prefers places with content; where those are is found once for every image, so
    that a batch costs a few slices.

    Parameters
    ----------
    pool : Pool
    device : torch.device
    """

    def __init__(self, pool: Pool, device: torch.device) -> None:
        self.crop_px, self.device = pool.crop_px, device
        self.names = list(pool.images)
        shares = np.array([pool.shares[name] for name in self.names])
        self.shares = shares / shares.sum()
        self.groups = {name: self._group(images) for name, images in pool.images.items()}

    def _group(self, images: list[NDArray[np.float16]]) -> _Group:
        area = np.sqrt([image.size for image in images])
        return _Group(
            [torch.from_numpy(image).to(self.device) for image in images],
            [content_places(image, self.crop_px) for image in images],
            area / area.sum(),
        )

    def replace(self, name: str, index: int, image: NDArray[np.floating]) -> None:
        """Put another image in the place of one."""
        group = self.groups[name]
        index %= len(group.images)
        half = image.astype(np.float16)
        group.images[index] = torch.from_numpy(half).to(self.device, non_blocking=True)
        group.places[index] = content_places(half, self.crop_px)

    def crops(self, count: int, rng: np.random.Generator) -> Tensor:
        """Draw crops, each mirrored and turned at random.

        Returns
        -------
        Tensor, float32, shape (count, crop, crop), 0 to 1
        """
        groups = rng.choice(len(self.names), count, p=self.shares)
        return torch.stack([self._crop(self.names[index], rng) for index in groups]).float()

    def _crop(self, name: str, rng: np.random.Generator) -> Tensor:
        group, size = self.groups[name], self.crop_px
        index = int(rng.choice(len(group.images), p=group.chances))
        image, places = group.images[index], group.places[index]
        row, col = places[rng.integers(len(places))] + rng.integers(0, _GRID_PX, 2)
        row, col = min(int(row), image.shape[0] - size), min(int(col), image.shape[1] - size)
        tile = image[row : row + size, col : col + size]
        return view(tile, int(rng.integers(8)))


def content_places(image: NDArray[np.floating], crop_px: int) -> NDArray[np.int64]:
    """Return the corners (n, 2), on a coarse grid, of crops whose middle holds content; all, if none does.

    Content is a standard deviation of at least two fifths of the whole image's.
    """
    margin = crop_px // 6
    size = crop_px - 2 * margin
    rows, cols = (np.arange(0, side - crop_px + 1, _GRID_PX) for side in image.shape)
    values = image.astype(np.float64)
    mean, square = (_window_means(part, rows + margin, cols + margin, size) for part in (values, values**2))
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    good = np.argwhere(spread >= CONTENT_SHARE * float(values[::4, ::4].std()))
    chosen = good if len(good) else np.argwhere(np.ones(spread.shape, bool))
    return np.asarray(chosen * _GRID_PX, dtype=np.int64)


def _window_means(
    values: NDArray[np.float64], rows: NDArray[np.int64], cols: NDArray[np.int64], size: int
) -> NDArray[np.float64]:
    total = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    low, high, left, right = rows[:, None], rows[:, None] + size, cols[None, :], cols[None, :] + size
    sums = total[high, right] - total[low, right] - total[high, left] + total[low, left]
    means: NDArray[np.float64] = sums / size**2
    return means


class SceneRenewal:
    """Renders new scenes in other processes while a training runs, and puts them in the place of old ones.

    Which scenes arrive at which step depends on the seed alone, so a resumed training draws the same ones
    from there on; it begins with the first scenes again, though.

    Parameters
    ----------
    sampler : CropSampler
    per_step : float
        Scenes that each step renews.
    size_px : int
    seed : int
    processes : int
    """

    def __init__(
        self, sampler: CropSampler, per_step: float, size_px: int, seed: int, processes: int
    ) -> None:
        self.sampler, self.per_step, self.size_px, self.seed = sampler, per_step, size_px, seed
        # Forking a process that holds a GPU or threads is not safe.
        context = multiprocessing.get_context("spawn")
        self._workers = ProcessPoolExecutor(processes, mp_context=context)
        self._ahead: dict[int, Future[Any]] = {}
        self._ahead_by = _TASKS_AHEAD * processes
        self._count: dict[str, int] = {}

    def step(self, step: int) -> None:
        """Bring in the scenes that are due at a step; wait for them where they are late."""
        task = int(step * self.per_step / _SCENES_PER_TASK)
        if task == int((step - 1) * self.per_step / _SCENES_PER_TASK) or step == 0:
            return
        for number in range(task, task + self._ahead_by):
            if number not in self._ahead:
                self._ahead[number] = self._workers.submit(
                    draw_scenes, _SCENES_PER_TASK, self.size_px, (self.seed, number)
                )
        for kind, scene in self._ahead.pop(task).result():
            name = SCENE_GROUP + kind
            if name in self.sampler.groups:
                self._count[name] = self._count.get(name, -1) + 1
                self.sampler.replace(name, self._count[name], scene)

    def close(self) -> None:
        """Stop rendering."""
        self._workers.shutdown(wait=False, cancel_futures=True)
