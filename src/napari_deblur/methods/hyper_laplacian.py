"""Deconvolution with a hyper-Laplacian prior, for one PSF or many."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from napari_deblur.core.params import Param
from napari_deblur.methods.base import GREY_VALUES, Method

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.blur.base import Blur
    from napari_deblur.core.run import Run

_ALPHA = 2 / 3
_RAMP = 0.1
# The couplings between gradients and their shrunken copies, from loose to tight: the paper's 1 to 256 by 2√2.
_COUPLINGS = tuple(8 ** (step / 2) for step in range(6))
_MOST_CG_STEPS = 12
_RELATIVE_RESIDUAL = 1e-4
_DARKEST = 1e-12
_SMALLEST_WEIGHT, _LARGEST_WEIGHT = 1.0, 1e5
_WEIGHT_FACTOR = 0.9
_AREAS, _AREA_PX = 16, 1000
_NOISY_SHARE, _NOISY_EXPONENT = 0.05, 0.7
PSF_ERROR = 0.02
"""Share of an image's contrast that its PSF is assumed to get wrong."""


class HyperLaplacian(Method):
    """Fast deconvolution with a prior of sparse gradients: min λ/2 ‖A x − y‖² + Σ |∇x|^⅔.

    Half-quadratic splitting (Krishnan & Fergus 2009, *Fast image deconvolution using hyper-Laplacian
    priors*, NeurIPS 22): gradients are shrunk in closed form (Cao, Sun & Xu 2013,
    doi:10.1016/j.jvcir.2012.10.006), then the image follows from normal equations. Instead of dividing
    spectra, which assumes a periodic image and one PSF, these are solved by conjugate gradients,
    preconditioned by that division. Horizontal and vertical gradients count separately, as in the paper.
    """

    kind: Literal["hyper-laplacian"] = "hyper-laplacian"
    title: ClassVar[str] = "Hyper-Laplacian"
    summary: ClassVar[str] = "Few, strong edges under even noise; fast, and sharper than TV on photographs."
    reference: ClassVar[str] = "Krishnan & Fergus 2009, Fast image deconvolution using hyper-Laplacian priors"
    family: ClassVar[Literal["linear", "iterative", "zero-shot", "learned"]] = "iterative"

    data_weight: float | None = Param(
        None,
        gt=0,
        le=_LARGEST_WEIGHT,
        step=100.0,
        title="Data weight",
        help="Weight λ of the data for intensities up to 1; measured from the image's noise when not given.",
    )
    peak: float | None = Param(
        None,
        gt=0,
        le=1e9,
        title="Peak",
        help="Grey value that counts as 1; that of the plane's brightest pixel when not given.",
        unit=GREY_VALUES,
        advanced=True,
    )
    clip_negative: bool = Param(
        True, title="No negative values", help="Set negative intensities of the result to zero."
    )
    non_negative: ClassVar[bool] = False
    # As with Wiener, the frame around the image is only weakly tied to the data.
    tiles_agree: ClassVar[bool] = False

    settles_in_solve: ClassVar[bool] = True

    def settle(self, y: Tensor, blur: Blur, run: Run) -> Self:
        """Measure peak and weight of the data on the whole plane where they are not given."""
        del blur
        peak = self._peak(y)
        return self.model_copy(update={"peak": peak, "data_weight": self._weight(y / peak, run)})

    def _peak(self, y: Tensor) -> float:
        # Couplings and weight are meant for intensities up to 1, and y may be one dim plane of many.
        return self.peak if self.peak is not None else max(float(y.max()), _DARKEST)

    def _weight(self, y: Tensor, run: Run) -> float:
        if self.data_weight is not None:
            return self.data_weight
        weight = measure_data_weight(y)
        run.fact("data_weight", weight)
        return weight

    def halo_px(self, psf_radius_px: int) -> int:
        """Return the halo: that of a linear filter with long tails."""
        return 6 * psf_radius_px + 48

    def solve(self, y: Tensor, blur: Blur, run: Run) -> Tensor:
        """Restore one plane, tightening the coupling of image and shrunken gradients step by step."""
        peak = self._peak(y)
        y = y / peak
        weight = self._weight(y, run)
        system = _NormalEquations(blur, y)
        x = blur.extend(y)
        back = blur.adjoint(y)
        for done, coupling in enumerate(_COUPLINGS, start=1):
            wanted = [shrink(part, coupling) for part in gradient(x)]
            right_side = back + coupling / weight * gradient_adjoint(*wanted)
            x = system.solve(right_side, x, coupling / weight)
            shown = peak * self._finished(blur.crop(x))[None]
            run.step(done, len(_COUPLINGS), f"{self.title}, step {done}", shown)
        return peak * self._finished(x)

    def _finished(self, x: Tensor) -> Tensor:
        return x.clamp_min(0) if self.clip_negative else x


class _NormalEquations:
    """(AᵀA + c ∇ᵀ∇) x = b by preconditioned conjugate gradients."""

    def __init__(self, blur: Blur, like: Tensor) -> None:
        from napari_deblur.blur.convolution import fft_shape

        self.blur = blur
        self.shape = fft_shape(blur.object_shape)
        self.power = blur.mean_otf_power(self.shape)
        self.prior = _gradient_power(self.shape, like)

    def solve(self, right_side: Tensor, x: Tensor, strength: float) -> Tensor:
        """Return the solution for c = ``strength``, starting from ``x``."""
        filter_ = 1 / (self.power + strength * self.prior)
        residual = right_side - self._apply(x, strength)
        z = self._precondition(residual, filter_)
        direction, inner = z, (residual * z).sum()
        enough = _RELATIVE_RESIDUAL**2 * float((right_side * self._precondition(right_side, filter_)).sum())
        for _ in range(_MOST_CG_STEPS):
            if float(inner) <= enough:
                break
            image_of = self._apply(direction, strength)
            step = inner / (direction * image_of).sum().clamp_min(1e-30)
            x = x + step * direction
            residual = residual - step * image_of
            z = self._precondition(residual, filter_)
            inner, previous = (residual * z).sum(), inner
            direction = z + inner / previous.clamp_min(1e-30) * direction
        return x

    def _apply(self, x: Tensor, strength: float) -> Tensor:
        return self.blur.adjoint(self.blur.forward(x)) + strength * gradient_adjoint(*gradient(x))

    def _precondition(self, x: Tensor, filter_: Tensor) -> Tensor:
        from napari_deblur.blur.convolution import cut, filter_with

        return cut(filter_with(x, filter_, self.shape), tuple(x.shape[-2:]))


def gradient(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return forward differences along y ``(…, h − 1, w)`` and x ``(…, h, w − 1)``."""
    import torch

    return torch.diff(x, dim=-2), torch.diff(x, dim=-1)


def gradient_adjoint(along_y: Tensor, along_x: Tensor) -> Tensor:
    """Apply the exact transpose of `gradient`."""
    from torch.nn.functional import pad

    back_y = pad(along_y, (0, 0, 1, 0)) - pad(along_y, (0, 0, 0, 1))
    back_x = pad(along_x, (1, 0)) - pad(along_x, (0, 1))
    return back_y + back_x


def shrink(v: Tensor, coupling: float) -> Tensor:
    """Return the w that minimises |w|^⅔ + coupling/2 · (w − v)², in closed form.

    Cao, Sun & Xu 2013 (doi:10.1016/j.jvcir.2012.10.006), with their λ = 2 / coupling. The minimiser jumps
    from 0 to half the threshold where |v| passes it; here it rises over the last tenth below the threshold,
    so that no rounding error decides which side a gradient is on.
    """
    import torch

    strength = 2 / coupling
    size = v.abs()
    threshold = 2 / 3 * (3 * strength**3) ** 0.25
    inner = torch.acosh((27 / 16 * strength**-1.5 * size.square()).clamp_min(1))
    a = 2 / 3**0.5 * strength**0.25 * torch.cosh(inner / 3).sqrt()
    kept = ((a + (2 * size / a - a.square()).clamp_min(0).sqrt()) / 2) ** 3
    share = ((size / threshold - 1 + _RAMP) / _RAMP).clamp(0, 1)
    shrunken: Tensor = torch.sign(v) * kept * share
    return shrunken


def estimate_noise(y: Tensor) -> float:
    """Return the standard deviation of white noise in an image, by its mean variance.

    The median of what a difference of two Laplacians leaves (Immerkær 1996, doi:10.1006/cviu.1996.0060):
    blind to smooth structure, and as a median to the few edges. Photon noise is not the same all over: areas
    of like brightness give one variance each, and if their mean is larger, it counts. Where most pixels hold
    no photon, the median is zero and the mean square takes its place. Of an image that was enlarged it is the
    noise among the signal's frequencies.
    """
    import torch
    from torch.nn.functional import avg_pool2d

    from napari_deblur.optics.noise_floor import with_white_noise

    y = with_white_noise(y)
    d = y[:-2] - 2 * y[1:-1] + y[2:]
    d = d[:, :-2] - 2 * d[:, 1:-1] + d[:, 2:]
    # White noise in the mean of 3 × 3 pixels says nothing of that in the difference.
    order = avg_pool2d(y[None, None], 3, 1).flatten().argsort()
    areas = torch.tensor_split(d.abs().flatten()[order], max(1, min(_AREAS, len(order) // _AREA_PX)))
    medians = torch.stack([part.median() for part in (d.abs().flatten(), *areas)])
    squares = torch.stack([part.square().mean() for part in areas])
    even, *by_area = medians.square() / (0.6745 * 6) ** 2
    uneven = torch.where(medians[1:] > 0, torch.stack(by_area), squares / 36).mean()
    return float(torch.maximum(even, uneven).sqrt())


def error_variance(y: Tensor) -> float:
    """Return the variance of what no model explains: noise, and 2 % of the contrast for the PSF's errors."""
    return max(estimate_noise(y) ** 2 + (PSF_ERROR * float(y.std())) ** 2, 1e-12)


def measure_data_weight(y: Tensor) -> float:
    """Return the λ that noise and contrast of an image call for: 0.9 s^⅔ r / (σ² + (0.02 s)²).

    λ weighs a squared intensity against an intensity to the power ⅔, so with the noise's standard deviation σ
    and the image's s it keeps its meaning when the image is scaled. The second term stands for what the PSF
    gets wrong: where there is hardly any noise, no image fits the data better than its PSF is known. Factors
    were chosen on photographs blurred by random motions, with noise of 0.2 to 2 % of the range, and with PSFs
    that were exact or turned by a few degrees over the field. r = (σ / 0.05 s)^0.7, where that is above 1,
    keeps structure under noise of 3 to 40 % of the range, as rendered cells, filaments and leaves want it:
    the prior alone would flatten them.
    """
    contrast = float(y.std())
    relief = max(estimate_noise(y) / max(_NOISY_SHARE * contrast, 1e-12), 1.0) ** _NOISY_EXPONENT
    weight: float = _WEIGHT_FACTOR * contrast**_ALPHA * relief / error_variance(y)
    return min(max(weight, _SMALLEST_WEIGHT), _LARGEST_WEIGHT)


def _gradient_power(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return the spectrum of ∇ᵀ∇ on the rfft grid of ``shape``."""
    import torch

    fy = torch.fft.fftfreq(shape[0], device=like.device)
    fx = torch.fft.rfftfreq(shape[1], device=like.device)
    sin_y, sin_x = torch.sin(torch.pi * fy), torch.sin(torch.pi * fx)
    return 4 * (sin_y[:, None] ** 2 + sin_x[None, :] ** 2) + 1e-6
