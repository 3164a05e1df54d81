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
    ndim: ClassVar[tuple[int, ...]] = (2, 3)
    non_negative: ClassVar[bool] = False
    # The frame around the image is only weakly tied to the data; what it holds reaches far into a tile.
    tiles_agree: ClassVar[bool] = False

    def settle(self, y: Tensor, blur: Blur, run: Run) -> Self:
        """Measure noise to signal on the whole where it is not given."""
        if self.noise_to_signal is not None:
            return self
        ratio = measure_noise_to_signal(y, blur)
        run.fact("noise_to_signal", ratio)
        return self.model_copy(update={"noise_to_signal": ratio})

    def halo_px(self, psf_radius_px: int) -> int:
        """Return the halo: the filter's tails are longer than those of a few iterations."""
        return 6 * psf_radius_px + 48

    def bytes_per_px(self, n_kernels: int) -> float:
        """Return the memory per voxel of the grid: four objects of the gradients and what a blur takes."""
        return 4.0 * (18 + 4 * n_kernels)

    def solve(self, y: Tensor, blur: Blur, run: Run) -> Tensor:
        """Restore one plane or volume by preconditioned conjugate gradients."""
        from napari_deblur.blur.convolution import fft_shape

        weight = self.noise_to_signal
        if weight is None:
            weight = measure_noise_to_signal(y, blur)
        shape = fft_shape(blur.object_shape)
        filter_ = 1 / (blur.mean_otf_power(shape) + weight * _gradient_power(shape, y, blur.steps))

        def normal(v: Tensor) -> Tensor:
            return blur.adjoint(blur.forward(v)).add_(_gradient_gram(v, blur.steps), alpha=weight)

        x = blur.extend(y)
        right_side = blur.adjoint(y)
        residual = right_side - normal(x)
        z = _apply(filter_, residual, shape)
        direction, inner = z, (residual * z).sum()
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
    mean power. The criterion takes noise for white, and so it is made.
    """
    import torch

    from napari_deblur.optics.noise_floor import with_white_noise

    y = with_white_noise(y)
    shape = tuple(int(size) for size in y.shape)
    dims = tuple(range(-len(shape), 0))
    windowed = y - y.mean()
    for axis, size in enumerate(shape):
        # Inner samples only: a window of few planes must not be all zeros.
        window = torch.hann_window(size + 2, periodic=False, device=y.device)[1:-1]
        windowed = windowed * window.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    spectrum = torch.fft.rfftn(windowed, dim=dims).abs() ** 2
    power, prior = blur.mean_otf_power(shape), _gradient_power(shape, y, blur.steps)
    best, best_score = _RATIOS[0], float("inf")
    for ratio in _RATIOS:
        left_out = ratio * prior / (power + ratio * prior)
        score = float((left_out**2 * spectrum).mean() / left_out.mean() ** 2)
        if score < best_score:
            best, best_score = ratio, score
    return best


def _gradient_gram(x: Tensor, steps: tuple[float, ...]) -> Tensor:
    """Return ∇ᵀ∇ x with forward differences and free borders."""
    import torch

    total = torch.zeros_like(x)
    for dim, step in zip(range(-len(steps), 0), steps, strict=True):
        slope = torch.diff(x, dim=dim)
        zero = torch.zeros_like(x.narrow(dim, 0, 1))
        total.sub_(torch.diff(slope, dim=dim, prepend=zero, append=zero), alpha=step**-2)
    return total


def _gradient_power(shape: tuple[int, ...], like: Tensor, steps: tuple[float, ...]) -> Tensor:
    """Return the spectrum of ∇ᵀ∇ on the rfft grid of ``shape``."""
    import torch

    total = torch.full((), 1e-6, device=like.device)
    for axis, (size, step) in enumerate(zip(shape, steps, strict=True)):
        frequencies = torch.fft.rfftfreq if axis == len(shape) - 1 else torch.fft.fftfreq
        power = 4 / step**2 * torch.sin(torch.pi * frequencies(size, device=like.device)) ** 2
        total = total + power.reshape([-1 if other == axis else 1 for other in range(len(shape))])
    return total


def _apply(transfer: Tensor, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Filter an object on a grid of ``shape``."""
    from napari_deblur.blur.convolution import cut, filter_with

    return cut(filter_with(x, transfer, shape), tuple(x.shape[-len(shape) :]))
