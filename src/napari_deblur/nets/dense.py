"""Identification over whole planes in one pass.

Overlapping patches share the spatial branch: it is fully convolutional, so it runs once over the plane and
each patch pools its own window of the result. Two things differ from patches that are cut out one by one. A
patch sees its true surroundings where a cut-out has zeros; and as the branch wants images of mean 0 and
variance 1, the plane is brought there by the patches' own means and deviations, interpolated between their
centres. Networks that were trained on cut-outs bear both; ``benchmarks/map_speed.py`` measures how well.

Mirrored and turned views share the spectral branch: the power spectrum of a real image does not change when
the image is turned by 180°, so that eight views have four spectra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from napari_deblur.nets.asymmetry import Asymmetry
from napari_deblur.nets.identification import Estimate
from napari_deblur.nets.prepared import fast_dtype, prepared, reach_px
from napari_deblur.nets.views import check_views, normalise, view, view_back
from napari_deblur.nets.windows import CELL_PX, cells, interpolation, spans, window_means, windows

if TYPE_CHECKING:
    from napari_deblur.nets.identification import IdentificationNet

# Larger planes are read in tiles, to bound the memory.
_TILE_PX = 1536
# Feature maps of a batch should stay in a processor's cache; a GPU wants larger batches.
_CPU_BATCH, _GPU_BATCH = 16, 512
# Below this overlap (patches' area / plane's area) patches one by one cost less, and are exact.
_LEAST_OVERLAP = 1.2

Progress = Callable[[int, int], None]


def estimate_planes(
    net: IdentificationNet,
    planes: Tensor,
    rows: Sequence[int],
    cols: Sequence[int],
    views: int = 1,
    *,
    progress: Progress | None = None,
    dtype: torch.dtype | None = None,
    dense: bool | None = None,
) -> Estimate:
    """Estimate the patches that start at every row and column given.

    Parameters
    ----------
    net : IdentificationNet
        In evaluation mode.
    planes : Tensor, shape (planes, y, x)
        On the network's device.
    rows, cols : sequence of int
        First pixels of the patches, ascending.
    views : {1, 2, 4, 8}
        Number of mirrored and transposed views to average over.
    progress : callable, optional
        Called with (done, total); what it raises ends the pass.
    dtype : torch.dtype, optional
        Of the convolutions; by default bfloat16 where the device is fast at it, else float32.
    dense : bool, optional
        Whether patches share the spatial branch; by default where they overlap enough to save time.

    Returns
    -------
    Estimate
        Of planes · rows · cols patches, the last index running fastest.

    Raises
    ------
    InvalidInputError
        For another number of views.
    """
    check_views(views)
    overlap = len(rows) * len(cols) * net.patch_px**2 / (planes.shape[-2] * planes.shape[-1])
    reading = _Pass(net, planes.float(), list(rows), list(cols), progress, dtype or fast_dtype(planes.device))
    found = reading.estimate(views, shared=overlap > _LEAST_OVERLAP if dense is None else dense)
    return net.as_estimate(*(torch.stack(parts).mean(dim=0) for parts in zip(*found, strict=True)))


@dataclass
class _Pass:
    """One pass over some planes.

    Attributes
    ----------
    net : IdentificationNet
    planes : Tensor, shape (planes, y, x)
    rows, cols : list of int
    progress : callable or None
    dtype : torch.dtype
    """

    net: IdentificationNet
    planes: Tensor
    rows: list[int]
    cols: list[int]
    progress: Progress | None
    dtype: torch.dtype
    _done: int = 0
    _total: int = 0
    _places: Tensor = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        device, index = self.planes.device, torch.tensor
        # In the order in which the answers are wanted.
        self._places = torch.cartesian_prod(
            torch.arange(len(self.planes)), index(self.rows), index(self.cols)
        ).to(device)
        self.on_cpu = device.type == "cpu"
        self.batch = _CPU_BATCH if self.on_cpu else _GPU_BATCH
        self.spatial, self.spectral = prepared(self.net, self.dtype)

    def estimate(self, views: int, *, shared: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return quantities, errors and validity logits by view."""
        n_batches = -(-len(self._places) // self.batch)
        spectra = min(views, 4)
        # The third branch's part of the patches, once for all views.
        spectra_and_more = spectra + (self.net.asymmetry is not None)
        self._total = spectra_and_more * n_batches + views * (len(self._tiles()) if shared else n_batches)
        self._tell(0)
        plane = self.normalised() if shared else None
        spectral = [self._spectral_features(number) for number in range(spectra)]
        leaning = self._asymmetry()
        found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for group in self._groups(views):
            if plane is None:
                features = [self._patch_features(number) for number in group]
            else:
                features = self._shared_features(plane, group)
            for number, spatial in zip(group, features, strict=True):
                # Mirroring x does to the power spectrum what mirroring y does.
                alike = number ^ 0b110 if number & 0b100 else number
                seen = None if leaning is None else leaning.view(number)
                output = self.net.heads(torch.cat([spatial, spectral[alike]], dim=1), seen)
                found[number] = self.net.from_view(output, number)
        return [found[number] for number in range(views)]

    def _groups(self, views: int) -> list[list[int]]:
        """Return which views go through the spatial branch together: one by one where a cache counts."""
        if self.on_cpu:
            return [[number] for number in range(views)]
        sides = {(y.stop - y.start, x.stop - x.start) for y, x in self._tiles()}
        if len(sides) == 1 and len(set(*sides)) == 1 and len(self._tiles()) == 1:
            return [list(range(views))]
        halves = [list(range(0, views, 2)), list(range(1, views, 2))]
        return [half for half in halves if half]

    def _tell(self, steps: int) -> None:
        self._done += steps
        if self.progress is not None:
            self.progress(self._done, self._total)

    def _patches(self, number: int) -> Iterator[Tensor]:
        """Yield batches (batch, 1, patch, patch) of a view of the patches, normalised."""
        size = self.net.patch_px
        windows = self.planes.unfold(1, size, 1).unfold(2, size, 1)
        for places in self._places.split(self.batch):
            yield normalise(view(windows[places.unbind(1)], number))
            self._tell(1)

    def _spectral_features(self, number: int) -> Tensor:
        spectra = (self.net.spectral.spectrum(batch) for batch in self._patches(number))
        return torch.cat([self.spectral.read(spectrum.to(self.dtype)).float() for spectrum in spectra])

    def _asymmetry(self) -> Asymmetry | None:
        """Return what the third branch sees of all patches as they are; its maps turn with the views."""
        if self.net.asymmetry is None:
            return None
        parts = [self.net.asymmetry.statistics(batch) for batch in self._patches(0)]
        return Asymmetry(
            *(torch.cat([getattr(part, name) for part in parts]) for name in ("maps", "scalars"))
        )

    def _patch_features(self, number: int) -> Tensor:
        """Return the spatial features (planes · rows · cols, features) of patches one by one."""
        return torch.cat([self.spatial(batch.to(self.dtype)).float() for batch in self._patches(number)])

    # The spatial branch over whole planes -----------------------------------------------------------------

    def _tiles(self) -> list[tuple[slice, slice]]:
        """Return the parts of the planes, in cells of the spatial branch's maps."""
        return [
            (y, x)
            for y in spans(-(-self.planes.shape[-2] // CELL_PX), _TILE_PX)
            for x in spans(-(-self.planes.shape[-1] // CELL_PX), _TILE_PX)
        ]

    def normalised(self) -> Tensor:
        """Return the planes (planes, y, x) brought to local mean 0 and variance 1, sides multiples of a cell.

        At a patch's centre this is what `normalise` does to the patch.
        """
        size = self.net.patch_px
        offset = self.planes.mean(dim=(-2, -1), keepdim=True)
        centred = self.planes - offset
        mean = window_means(centred, self.rows, self.cols, size)
        square = window_means(centred.square(), self.rows, self.cols, size)
        deviation = (square - mean.square()).clamp(min=0).sqrt() + 1e-6 * (mean + offset).abs() + 1e-30
        height, width = self.planes.shape[-2:]
        by_row = interpolation(height, self.rows, size).to(centred)
        by_col = interpolation(width, self.cols, size).to(centred)
        even = (centred - by_row @ mean @ by_col.T) / (by_row @ deviation @ by_col.T)
        # Zeros beyond the border, as the convolutions themselves continue it.
        return functional.pad(even, (0, -width % CELL_PX, 0, -height % CELL_PX))

    def _shared_features(self, plane: Tensor, numbers: list[int]) -> list[Tensor]:
        """Return by view the spatial features (planes · rows · cols, features), pooled from shared maps."""
        reach = -(-reach_px(self.spatial) // CELL_PX)
        height, width = (side // CELL_PX for side in plane.shape[-2:])
        maps: Tensor | None = None
        for y, x in self._tiles():
            outer = (
                slice(max(0, y.start - reach), y.stop + reach),
                slice(max(0, x.start - reach), x.stop + reach),
            )
            pixels = tuple(slice(span.start * CELL_PX, span.stop * CELL_PX) for span in outer)
            seen = torch.stack([view(plane[:, *pixels], number) for number in numbers]).flatten(0, 1)
            seen = seen[:, None].to(self.dtype).contiguous(memory_format=torch.channels_last)
            together = self.spatial.maps(seen).unflatten(0, (len(numbers), len(plane)))
            top, left = y.start - outer[0].start, x.start - outer[1].start
            inner = slice(top, top + y.stop - y.start), slice(left, left + x.stop - x.start)
            for index, number in enumerate(numbers):
                found = view_back(together[index], number)
                if maps is None:
                    maps = found.new_empty((len(numbers), len(plane), found.shape[1], height, width))
                maps[index][..., y, x] = found[..., *inner]
            self._tell(len(numbers))
        assert maps is not None
        return list(self._pooled(maps.flatten(0, 1).float()).chunk(len(numbers)))

    def _pooled(self, maps: Tensor) -> Tensor:
        """Pool the window of each patch, to the nearest cell: (maps · rows · cols, features)."""
        tall, wide = (cells(size, starts, self.net.patch_px) for size, starts in self._axes())
        mean = windows(windows(maps, tall, -2).mean(dim=-1), wide, -1).mean(dim=-1)
        most = windows(windows(maps, tall, -2).amax(dim=-1), wide, -1).amax(dim=-1)
        return torch.cat([mean, most], dim=1).permute(0, 2, 3, 1).flatten(0, 2)

    def _axes(self) -> list[tuple[int, list[int]]]:
        return [(self.planes.shape[-2], self.rows), (self.planes.shape[-1], self.cols)]
