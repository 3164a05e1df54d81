"""Wiener deconvolution without wrap-around, for one PSF or many."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from napari_deblur.core.params import Param
from napari_deblur.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.blur.base import Blur
    from napari_deblur.core.run import Run

_MOST_STEPS = 60
# Relative size of the residual, in the norm of the filter, at which the image has stopped changing visibly.
_RELATIVE_RESIDUAL = 1e-7
_RATIOS = [10 ** (exponent / 8) for exponent in range(-40, 9)]


class Wiener(Method):
    """Linear restoration against noise: min ‖A x − y‖² + K ‖∇x‖².

    With a spectrum of the object that falls as 1/f² and white noise this is Wiener's filter (Wiener 1949;
    Gonzalez & Woods, *Digital Image Processing*, §5.8). Instead of dividing spectra, which wraps around at
    the border and knows only one PSF, the normal equations are solved by conjugate gradients, preconditioned
    by the filter of the mean PSF.
    """

    kind: Literal["wiener"] = "wiener"
    title: ClassVar[str] = "Wiener"
    summary: ClassVar[str] = "Linear and instant; the strength follows the noise measured in the image."
    reference: ClassVar[str] = "Wiener 1949, Extrapolation, Interpolation, and Smoothing of Time Series"
    family: ClassVar[Literal["linear", "iterative", "zero-shot", "learned"]] = "linear"

    noise_to_signal: float | None = Param(
        None,
        gt=0,
        le=10,
        step=0.001,
        title="Noise to signal",
        help="Noise variance over the variance of the object's gradient; measured when not given.",
    )
    clip_negative: bool = Param(
        True, title="No negative values", help="Set negative intensities of the result to zero."
    )
    non_negative: ClassVar[bool] = False
    # The frame around the image is only weakly tied to the data; what it holds reaches far into a tile.
    tiles_agree: ClassVar[bool] = False

    def settle(self, y: Tensor, blur: Blur, run: Run) -> Self:
        """Measure noise to signal on the whole plane where it is not given."""
        if self.noise_to_signal is not None:
            return self
        ratio = measure_noise_to_signal(y, blur)
        run.fact("noise_to_signal", ratio)
        return self.model_copy(update={"noise_to_signal": ratio})

    def halo_px(self, psf_radius_px: int) -> int:
        """Return the halo: the filter's tails are longer than those of a few iterations."""
        return 6 * psf_radius_px + 48

    def solve(self, y: Tensor, blur: Blur, run: Run) -> Tensor:
        """Restore one plane by preconditioned conjugate gradients."""
        from napari_deblur.blur.convolution import fft_shape

        weight = self.noise_to_signal
        if weight is None:
            weight = measure_noise_to_signal(y, blur)
        shape = fft_shape(blur.object_shape)
        filter_ = 1 / (blur.mean_otf_power(shape) + weight * _gradient_power(shape, y))

        def normal(v: Tensor) -> Tensor:
            return blur.adjoint(blur.forward(v)) + weight * _gradient_gram(v)

        x = blur.extend(y)
        residual = blur.adjoint(y) - normal(x)
        z = _apply(filter_, residual, shape)
        direction, inner = z, (residual * z).sum()
        right_side = blur.adjoint(y)
        enough = _RELATIVE_RESIDUAL * float((right_side * _apply(filter_, right_side, shape)).sum())
        for done in range(1, _MOST_STEPS + 1):
            image_of = normal(direction)
            step = inner / (direction * image_of).sum().clamp_min(1e-30)
            x = x + step * direction
            residual = residual - step * image_of
            z = _apply(filter_, residual, shape)
            inner, previous = (residual * z).sum(), inner
            direction = z + inner / previous.clamp_min(1e-30) * direction
            run.step(done, _MOST_STEPS, f"{self.title}, step {done}", self._finished(blur.crop(x))[None])
            if float(inner) < enough:
                break
        return self._finished(x)

    def _finished(self, x: Tensor) -> Tensor:
        return x.clamp_min(0) if self.clip_negative else x


def measure_noise_to_signal(y: Tensor, blur: Blur) -> float:
    """Return the ratio K that generalised cross-validation prefers for an image.

    K minimises ‖(1 − F_K) y‖² / (mean of 1 − F_K)², where F_K = |OTF|² / (|OTF|² + K |∇|²) predicts the image
    from itself (Golub, Heath & Wahba 1979, doi:10.1080/00401706.1979.10489751; for image restoration Reeves &
    Mersereau 1990, doi:10.1117/12.55628). A Hann window keeps the borders out; a PSF map counts with its
    mean power.
    """
    import torch

    shape = (int(y.shape[0]), int(y.shape[1]))
    window = [torch.hann_window(size, periodic=False, device=y.device) for size in shape]
    spectrum = torch.fft.rfft2((y - y.mean()) * window[0][:, None] * window[1][None, :]).abs() ** 2
    power, prior = blur.mean_otf_power(shape), _gradient_power(shape, y)
    best, best_score = _RATIOS[0], float("inf")
    for ratio in _RATIOS:
        left_out = ratio * prior / (power + ratio * prior)
        score = float((left_out**2 * spectrum).mean() / left_out.mean() ** 2)
        if score < best_score:
            best, best_score = ratio, score
    return best


def _gradient_gram(x: Tensor) -> Tensor:
    """Return ∇ᵀ∇ x with forward differences and free borders."""
    import torch

    dy, dx = torch.diff(x, dim=-2), torch.diff(x, dim=-1)
    zero_row, zero_col = torch.zeros_like(x[..., :1, :]), torch.zeros_like(x[..., :1])
    along_y = torch.diff(dy, dim=-2, prepend=zero_row, append=zero_row)
    along_x = torch.diff(dx, dim=-1, prepend=zero_col, append=zero_col)
    return -(along_y + along_x)


def _gradient_power(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Return the spectrum of ∇ᵀ∇ on the rfft grid of ``shape``."""
    import torch

    fy = torch.fft.fftfreq(shape[0], device=like.device)
    fx = torch.fft.rfftfreq(shape[1], device=like.device)
    sin_y, sin_x = torch.sin(torch.pi * fy), torch.sin(torch.pi * fx)
    return 4 * (sin_y[:, None] ** 2 + sin_x[None, :] ** 2) + 1e-6


def _apply(transfer: Tensor, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Filter an object on a grid of ``shape``."""
    from napari_deblur.blur.convolution import cut, filter_with

    return cut(filter_with(x, transfer, shape), tuple(x.shape[-2:]))
