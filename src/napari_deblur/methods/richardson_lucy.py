"""Richardson–Lucy deconvolution, plain and with a total-variation prior."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from napari_deblur.core.params import Param
from napari_deblur.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.blur.base import Blur
    from napari_deblur.core.run import Run

# Object points that send less than this share of their light into the image are not estimated.
_LEAST_SENSITIVITY = 0.01
# Guards divisions; far below the photon noise of an image scaled to a maximum of 1.
_TINY = 1e-7
_LEAST_SMOOTHING = 1e-3


class _Multiplicative(Method):
    """The loop that Richardson–Lucy and its regularised forms share."""

    n_iterations: int = Param(
        20, ge=1, le=2000, title="Iterations", help="More iterations sharpen further and amplify noise."
    )
    stop: Literal["iterations", "no-progress"] = Param(
        "iterations",
        title="Stop",
        help="Run all iterations, or stop once an iteration changes the image by less than the tolerance.",
    )
    tolerance: float = Param(
        0.002,
        gt=0,
        le=0.1,
        step=0.001,
        title="Tolerance",
        help="Relative change of the image per iteration below which the run stops.",
        advanced=True,
        shown_if={"stop": ("no-progress",)},
    )

    def settle(self, y: Tensor, blur: Blur, run: Run) -> Self:
        """Find the number of iterations once, on the whole plane, so that no tile stops before another."""
        if self.stop == "iterations":
            return self
        _, used = self._iterate(y, blur, run)
        run.fact("iterations", used)
        return self.model_copy(update={"n_iterations": used, "stop": "iterations"})

    def halo_px(self, psf_radius_px: int) -> int:
        """Return the halo: what a tile misses beyond a few PSF radii stays below 1e-4 of the range."""
        return 4 * psf_radius_px + 16

    def solve(self, y: Tensor, blur: Blur, run: Run) -> Tensor:
        """Restore one plane."""
        return self._iterate(y, blur, run)[0]

    def _iterate(self, y: Tensor, blur: Blur, run: Run) -> tuple[Tensor, int]:
        """Return the estimate and the number of iterations used."""
        sensitivity = blur.adjoint(y.new_ones(y.shape))
        seen = sensitivity > _LEAST_SENSITIVITY
        # A flat start lets every structure come from the data.
        x = y.mean().clamp_min(_TINY) * seen
        for done in range(1, self.n_iterations + 1):
            ratio = y / blur.forward(x).clamp_min(_TINY)
            penalty = self._penalty(x, sensitivity).clamp_min(_LEAST_SENSITIVITY)
            before, x = x, x * blur.adjoint(ratio).clamp_min(0) / penalty * seen
            run.step(done, self.n_iterations, f"{self.title}, iteration {done}", blur.crop(x)[None])
            if self.stop == "no-progress" and float((x - before).norm()) < self.tolerance * float(
                before.norm()
            ):
                return x, done
        return x, self.n_iterations

    def _penalty(self, x: Tensor, sensitivity: Tensor) -> Tensor:
        """Return the denominator of the update."""
        del x
        return sensitivity


class RichardsonLucy(_Multiplicative):
    """Richardson–Lucy (Richardson 1972, doi:10.1364/JOSA.62.000055; Lucy 1974, doi:10.1086/111605)."""

    kind: Literal["richardson-lucy"] = "richardson-lucy"
    title: ClassVar[str] = "Richardson–Lucy"
    summary: ClassVar[str] = "Maximum likelihood under photon noise; sharp, noise grows with iterations."
    reference: ClassVar[str] = "Richardson 1972, doi:10.1364/JOSA.62.000055"
    family: ClassVar[Literal["linear", "iterative", "zero-shot", "learned"]] = "iterative"


class TVRichardsonLucy(_Multiplicative):
    """Richardson–Lucy with a total-variation prior (Dey et al. 2006, doi:10.1002/jemt.20294)."""

    kind: Literal["tv-richardson-lucy"] = "tv-richardson-lucy"
    title: ClassVar[str] = "TV Richardson–Lucy"
    summary: ClassVar[str] = "Photon noise and a prior for smooth areas with sharp edges; the first choice."
    reference: ClassVar[str] = "Dey et al. 2006, doi:10.1002/jemt.20294"
    family: ClassVar[Literal["linear", "iterative", "zero-shot", "learned"]] = "iterative"

    tv_weight: float = Param(
        0.002,
        ge=0,
        le=0.1,
        step=0.001,
        title="Smoothness",
        help="Weight of the total variation; higher is smoother.",
    )

    def _penalty(self, x: Tensor, sensitivity: Tensor) -> Tensor:
        """Return sensitivity − λ div(∇x/|∇x|): Eq. 13 of Shajkofci & Liebling 2020, borders included."""
        if self.tv_weight == 0:
            return sensitivity
        # A checkerboard of height δ changes the curvature by up to 8 δ / smoothing, and the update then moves
        # x by x λ / sensitivity times that. It shrinks only with a smoothing above 4 λ x / sensitivity, and
        # twice that where a brighter neighbour shares the edge; below it rounding errors grow without end.
        stable = 8 * self.tv_weight * x / sensitivity.clamp_min(_LEAST_SENSITIVITY)
        return sensitivity - self.tv_weight * curvature(x, _LEAST_SMOOTHING + stable)


def curvature(x: Tensor, smoothing: Tensor | float) -> Tensor:
    """Return div(∇x/|∇x|) with forward differences and their exact adjoint, over the last two axes.

    |∇x| is √(|∇x|² + smoothing²), so that flat areas stay finite.
    """
    import torch

    dy = torch.diff(x, dim=-2, append=x[..., -1:, :])
    dx = torch.diff(x, dim=-1, append=x[..., -1:])
    norm = torch.sqrt(dy * dy + dx * dx + smoothing * smoothing)
    ny, nx = dy / norm, dx / norm
    zero_row, zero_col = torch.zeros_like(ny[..., :1, :]), torch.zeros_like(nx[..., :1])
    return torch.diff(ny, dim=-2, prepend=zero_row) + torch.diff(nx, dim=-1, prepend=zero_col)
