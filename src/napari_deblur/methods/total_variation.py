"""Total variation on grids of any spacing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def curvature(x: Tensor, smoothing: Tensor | float, steps: tuple[float, ...] = (1.0, 1.0)) -> Tensor:
    """Return div(∇x/|∇x|) with forward differences and their exact adjoint, over the last axes.

    |∇x| is √(|∇x|² + smoothing²), so that flat areas stay finite. Differences are divided by the axes' steps:
    with planes three times as far apart as pixels, a jump along z counts as a third of the same one along x.

    Parameters
    ----------
    x : Tensor, shape (…, y, x) or (…, z, y, x)
    smoothing : Tensor or float
    steps : tuple of float
        Distance of samples along each of the last axes.

    Returns
    -------
    Tensor, same shape
    """
    import torch

    dims = range(-len(steps), 0)
    norm: Tensor = torch.as_tensor(smoothing, dtype=x.dtype, device=x.device).square()
    slopes = []
    for dim, step in zip(dims, steps, strict=True):
        size = x.shape[dim]
        slope = torch.zeros_like(x)
        inner = slope.narrow(dim, 0, size - 1)
        inner.copy_(x.narrow(dim, 1, size - 1)).sub_(x.narrow(dim, 0, size - 1)).div_(step)
        norm = norm.addcmul_(slope, slope) if norm.shape == x.shape else norm + slope * slope
        slopes.append(slope)
    inverse = norm.rsqrt_()
    total = torch.zeros_like(x)
    for dim, step in zip(dims, steps, strict=True):
        normal = slopes.pop(0).mul_(inverse).div_(step)
        total.add_(normal)
        size = x.shape[dim]
        total.narrow(dim, 1, size - 1).sub_(normal.narrow(dim, 0, size - 1))
    return total
