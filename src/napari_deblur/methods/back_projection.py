"""Back projectors other than the blur's own transpose."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.blur.base import Blur

_WIENER = 0.05
_AT_CUTOFF = 0.3
_ORDER = 10


class WienerButterworth:
    """Transpose, then a Wiener and a Butterworth filter (Guo et al. 2020, doi:10.1038/s41587-020-0560-x).

    With the transpose the product of blur and back projection passes little of the high frequencies, and each
    of them takes many iterations. With OTF* / (|OTF|² + α) it is nearly flat up to the resolution limit,
    where a Butterworth filter ends it: a few iterations then do what takes the transpose a dozen. The
    likelihood may fall, so few iterations are the regularisation.

    Parameters
    ----------
    blur : Blur
        Of any kind; a PSF map counts with its mean |OTF|².
    """

    def __init__(self, blur: Blur) -> None:
        self.blur = blur
        power = blur.mean_otf_power(blur.grid_shape)
        filter_ = (1 + _WIENER) / (power + _WIENER)
        self.filter = filter_ * _butterworth(power, blur.grid_shape)

    def __call__(self, on_grid: Tensor) -> Tensor:
        """Back-project an image on the grid."""
        import torch

        dims = tuple(range(-self.filter.ndim, 0))
        spectrum = torch.fft.rfftn(self.blur.adjoint_on_grid(on_grid), dim=dims).mul_(self.filter)
        back: Tensor = torch.fft.irfftn(spectrum, s=self.blur.grid_shape, dim=dims)
        return back


def _butterworth(power: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return a low-pass that falls to 0.3 where the blur's modulation ends along each axis."""
    import torch

    radius = torch.zeros((), device=power.device)
    for axis, size in enumerate(shape):
        last = axis == len(shape) - 1
        frequencies = torch.fft.rfftfreq(size) if last else torch.fft.fftfreq(size)
        along = power[tuple(slice(None) if a == axis else 0 for a in range(len(shape)))]
        cutoff = _resolution_limit(along.cpu(), frequencies)
        view = [-1 if a == axis else 1 for a in range(len(shape))]
        radius = radius + (frequencies.to(power.device).reshape(view) / cutoff) ** 2
    return (1 + (1 / _AT_CUTOFF**2 - 1) * radius**_ORDER).rsqrt()


def _resolution_limit(power: Tensor, frequencies: Tensor) -> float:
    """Return the frequency 1 / FWHM of the Gaussian whose modulation falls to one half with this one's.

    A Gaussian of standard deviation σ passes half at √(2 ln 2) / (2π σ) = 0.1874 / σ, and 1 / FWHM is
    0.4247 / σ: 2.266 times that.
    """
    half = frequencies >= 0
    order = frequencies[half].argsort()
    modulation, positive = power[half][order].sqrt(), frequencies[half][order]
    below = (modulation < 0.5 * modulation[0]).nonzero()
    edge = float(positive[int(below[0])]) if len(below) else 0.5
    return min(2.266 * edge, 0.5)
