"""Add a deblurring method of your own: one class, and every form, option and record knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import napari_deblur as nd
from napari_deblur.core.params import Param
from napari_deblur.methods.base import Method
from napari_deblur.samples import CAMERA_OFFSET, tilted_cells

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.blur.base import Blur


class Landweber(Method):
    """Gradient descent on ‖A x − y‖² (Landweber 1951, doi:10.2307/2372313)."""

    kind: Literal["landweber"] = "landweber"
    title: ClassVar[str] = "Landweber"
    summary: ClassVar[str] = "Plain gradient descent."
    reference: ClassVar[str] = "Landweber 1951, doi:10.2307/2372313"
    family: ClassVar[Literal["linear", "iterative", "zero-shot", "learned"]] = "iterative"

    n_iterations: int = Param(30, ge=1, le=2000, title="Iterations", help="More iterations sharpen further.")

    def halo_px(self, psf_radius_px: int) -> int:
        return 4 * psf_radius_px + 16

    def solve(self, y: Tensor, blur: Blur, run: nd.Run) -> Tensor:
        x = blur.extend(y)
        for done in range(1, self.n_iterations + 1):
            x = (x - blur.adjoint(blur.forward(x) - y)).clamp_min(0)
            run.step(done, self.n_iterations, f"Landweber, iteration {done}", blur.crop(x)[None])
        return x


sample = tilted_cells(192)
result = nd.deblur(sample.image, Landweber(n_iterations=10), sample.psf_map(), camera_offset=CAMERA_OFFSET)
print(result.record.step)
