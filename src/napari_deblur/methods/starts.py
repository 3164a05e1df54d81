"""Classical images that zero-shot methods start from, chosen by how noisy the data are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from napari_deblur.methods.hyper_laplacian import PSF_ERROR, HyperLaplacian, error_variance
from napari_deblur.methods.richardson_lucy import TVRichardsonLucy

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.blur.base import Blur
    from napari_deblur.core.run import Run

Start = Literal["automatic", "hyper-laplacian", "tv-richardson-lucy", "nothing"]
_TV_ITERATIONS = 200
# A share of TV-RL below this changes the start by less than it costs.
_LEAST_SHARE = 0.03


def clean_share(y: Tensor) -> float:
    """Return which share of the data's error is the PSF's, not noise: 1 without noise, near 0 with much.

    The PSF's error is taken as 2 % of the image's contrast, as in `measure_data_weight`.
    """
    return min(1.0, (PSF_ERROR * float(y.std())) ** 2 / error_variance(y))


def classical_start(y: Tensor, blur: Blur, kind: Start, run: Run) -> Tensor | None:
    """Return an object to start from, or None for ``nothing``.

    ``automatic`` is the hyper-Laplacian result, which follows the noise by itself, mixed with TV-RL for half
    of `clean_share`: their artefacts differ where the PSF is wrong, and a mean of both has less of each, but
    TV-RL with many iterations is no good where noise rules. The data hold the blur's pedestal.
    """
    if kind == "nothing":
        return None
    tv = TVRichardsonLucy(n_iterations=_TV_ITERATIONS)
    if kind == "tv-richardson-lucy":
        return tv.solve(y.clamp_min(0), blur, run)
    share = 0.5 * clean_share(y) if kind == "automatic" else 0.0
    sparse = HyperLaplacian().solve(y - blur.pedestal, blur, run.part(0, 1, 2))
    if share < _LEAST_SHARE:
        return sparse
    return (1 - share) * sparse + share * tv.solve(y.clamp_min(0), blur, run.part(1, 2, 2))
