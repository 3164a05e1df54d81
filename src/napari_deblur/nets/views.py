"""Patches as networks read them: at mean 0 and variance 1, in eight mirrored and transposed views."""

from __future__ import annotations

from torch import Tensor

from napari_deblur.core.errors import InvalidInputError


def check_views(views: int) -> None:
    """Refuse a number of views that is no half of the eight, or half of that.

    Raises
    ------
    InvalidInputError
    """
    if views not in (1, 2, 4, 8):
        raise InvalidInputError("views", "must be 1, 2, 4 or 8", views)


def view(images: Tensor, number: int) -> Tensor:
    """Return one of the eight views of images (…, y, x): bit 0 exchanges the axes, then 1 mirrors y, 2 x."""
    seen = images.transpose(-2, -1) if number & 1 else images
    mirrored = [axis for bit, axis in ((2, -2), (4, -1)) if number & bit]
    return seen.flip(mirrored) if mirrored else seen


def view_back(maps: Tensor, number: int) -> Tensor:
    """Undo `view`."""
    mirrored = [axis for bit, axis in ((2, -2), (4, -1)) if number & bit]
    maps = maps.flip(mirrored) if mirrored else maps
    return maps.transpose(-2, -1) if number & 1 else maps


def normalise(patches: Tensor) -> Tensor:
    """Bring each patch to mean 0 and variance 1, shape (batch, 1, y, x); a constant patch becomes 0."""
    x = patches.float()
    x = x[:, None] if x.ndim == 3 else x
    mean = x.mean(dim=(-2, -1), keepdim=True)
    x = x - mean
    deviation = x.square().mean(dim=(-2, -1), keepdim=True).sqrt()
    # Below this the deviation is rounding, not texture.
    return x / (deviation + 1e-6 * mean.abs() + 1e-30)
