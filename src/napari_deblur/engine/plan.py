"""What a run will take, known before it starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class TilePlan:
    """How a plane or a volume is cut into tiles, and the memory that the largest of them takes.

    Attributes
    ----------
    shape : tuple of int
        Shape (y, x) or (z, y, x) of the whole.
    tile : tuple of int
        Size of a tile along each axis.
    window : tuple of int
        Shape of the largest window: a tile with its blend zone and halo.
    n_tiles : int
    device : str
        Name of the device for torch.
    device_bytes : int
        Memory on the device at a time.
    budget_bytes : int
        What a run may take there now.
    """

    shape: tuple[int, ...]
    tile: tuple[int, ...]
    window: tuple[int, ...]
    n_tiles: int
    device: str
    device_bytes: int
    budget_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the largest window fits the budget; smaller tiles are not made."""
        return self.device_bytes <= self.budget_bytes


@dataclass(frozen=True)
class MemoryPlan:
    """What one run takes in all.

    Attributes
    ----------
    tiles : TilePlan
    n_blocks : int
        How many planes or volumes follow one another.
    host_bytes : int
        Main memory for the input, the results and what lies between them.
    device_name : str
        What a person calls the device.
    at_once : int
        How many planes or volumes are computed together.
    """

    tiles: TilePlan
    n_blocks: int
    host_bytes: int
    device_name: str
    at_once: int = 1

    @property
    def device_bytes(self) -> int:
        """Memory on the device at a time."""
        return self.at_once * self.tiles.device_bytes

    @property
    def bytes(self) -> int:
        """Main memory in all: a device without memory of its own takes its share there too."""
        return self.host_bytes + (0 if self.tiles.device == "cuda" else self.device_bytes)

    @property
    def fits(self) -> bool:
        """Whether the run fits the memory there is now."""
        return self.tiles.fits

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        return {
            "device": self.device_name,
            "bytes": self.bytes,
            "device_bytes": self.device_bytes,
            "budget_bytes": self.tiles.budget_bytes,
            "fits": self.fits,
            "blocks": self.n_blocks,
            "blocks_at_once": self.at_once,
            "block_shape": list(self.tiles.shape),
            "tiles_per_block": self.tiles.n_tiles,
            "tile_shape": list(self.tiles.tile),
            "window_shape": list(self.tiles.window),
        }

    def __str__(self) -> str:
        tiles = self.tiles
        unit = "volume" if len(tiles.shape) == 3 else "plane"
        what = f"{self.n_blocks} {unit}s" if self.n_blocks > 1 else f"one {unit}"
        pieces = " in one piece" if tiles.n_tiles == 1 else f" in {tiles.n_tiles} tiles"
        if self.at_once > 1:
            pieces = f", {self.at_once} at a time"
        own = f", {human_bytes(self.device_bytes)} on the card" if tiles.device == "cuda" else ""
        tight = "" if self.fits else "; more than is free now, smaller tiles are not possible"
        return f"{what}{pieces}: {human_bytes(self.bytes)} of memory{own}{tight}"


def human_bytes(count: float) -> str:
    """Return a number of bytes for people: two digits or three, decimal units."""
    size = float(count)
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size:.0f} {unit}" if size >= 10 or unit in ("B", "kB") else f"{size:.1f} {unit}"
