"""SelfDeblur: image and PSF found together by two networks optimised on the one image at hand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr

from napari_deblur.core.params import Param
from napari_deblur.methods.base import Method
from napari_deblur.methods.descent import AVERAGING, LEARNING_RATE
from napari_deblur.methods.starts import classical_start

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from napari_deblur.blur.base import Blur
    from napari_deblur.core.run import Run
    from napari_deblur.nets.generator import Generator
    from napari_deblur.nets.kernel_generator import KernelGenerator

_INPUTS = 8
_HEADROOM = 1.3
_DARKEST = 1e-4
_KERNEL_RATE = 1e-4
# Of the random input, so that the network does not rely on its single values.
_JITTER = 1e-3
# Differences within a PSF below this are rounding: nothing is known then.
_FLAT = 1e-6
_START_PERCENT = 5
_CHANNELS = {"compact": (32, 32, 64, 64), "published": (128, 128, 128, 128, 128)}


@dataclass(frozen=True, eq=False)
class _Pair:
    """The two networks, and what they work from.

    Attributes
    ----------
    image, kernel : Module
    inputs : Tensor, shape ``(1, channels, *object_shape)``
        Noise, of which the image is made.
    base : Tensor
        What the closing sigmoid takes for the start; 0 without one.
    brightest : float
        Upper end of the intensities.
    generator : torch.Generator
    """

    image: Generator
    kernel: KernelGenerator
    inputs: Tensor
    base: Tensor
    brightest: float
    generator: torch.Generator


class SelfDeblur(Method):
    """Blind zero-shot deblurring (Ren et al. 2020, doi:10.1109/CVPR42600.2020.00340).

    One network makes the image from noise, another the PSF; both are optimised until the image blurred with
    the PSF is the data: by squared error at first, then by structure. A PSF that is given is where the search
    starts, together with a classical result for it. Where image and PSF lie cannot be told apart: the PSF
    is returned with its centre of mass in the middle.
    """

    kind: Literal["self-deblur"] = "self-deblur"
    title: ClassVar[str] = "SelfDeblur"
    summary: ClassVar[str] = "Blind and zero-shot: two networks find image and PSF together; slow, uncertain."
    reference: ClassVar[str] = "Ren et al. 2020, doi:10.1109/CVPR42600.2020.00340"
    family: ClassVar[Literal["linear", "iterative", "zero-shot", "learned"]] = "zero-shot"
    blind: ClassVar[bool] = True
    space_varying: ClassVar[bool] = False
    tiles_agree: ClassVar[bool] = False
    default_psf: ClassVar[str | None] = None

    psf_size_px: int = Param(
        25,
        ge=3,
        le=255,
        step=2,
        title="PSF size",
        help="Side length of the PSF where none is given; an even one counts as the next odd one.",
        unit="px",
    )
    n_iterations: int = Param(
        600, ge=1, le=20_000, title="Iterations", help="Steps of the optimisation; published: 5000."
    )
    network: Literal["compact", "published"] = Param(
        "compact",
        title="Network",
        help="Compact is CiDeR's generator; the published one is ten times as slow and meant for a GPU.",
    )
    structure_from: float = Param(
        0.2,
        ge=0,
        le=1,
        step=0.05,
        title="Structure from",
        help="Share of the iterations after which structural similarity replaces squared error.",
        advanced=True,
    )
    hessian_weight: float = Param(
        0.02, ge=0, le=10, step=0.01, title="Smoothness", help="Weight of the second derivatives."
    )
    averaging: float = AVERAGING
    learning_rate: float = LEARNING_RATE
    _found: tuple[Any, Any] | None = PrivateAttr(None)

    @property
    def found_psf(self) -> NDArray[np.float32] | None:
        """The kernel that `settle` found."""
        return None if self._found is None else self._found[0].cpu().numpy()

    def start_psf(self) -> NDArray[np.float32]:
        """Return a flat kernel: nothing is known."""
        size = self.psf_size_px | 1
        return np.full((size, size), 1 / size**2, np.float32)

    def halo_px(self, psf_radius_px: int) -> int:
        """Return the halo: far enough for the finer scales of the network."""
        return 2 * psf_radius_px + 48

    def bytes_per_px(self, n_kernels: int) -> float:
        """Return the memory taken per pixel: the network's activations and their gradients."""
        return 4.0 * (530 if self.network == "compact" else 2100) + 4.0 * n_kernels

    def settle(self, y: Tensor, blur: Blur, run: Run) -> Self:
        """Find image and PSF together; the PSF then holds for all tiles."""
        import torch

        from napari_deblur.nets.kernel_generator import centred

        # Gradients cannot pass through tensors made in inference mode, in which methods are called.
        with torch.inference_mode(False), torch.no_grad():
            kernel, x = self._joint(y.clone(), blur, run, fixed=False)
            found = self.model_copy()
            found._found = centred(kernel, x)
        run.fact("zero_shot", True)
        return found

    def solve(self, y: Tensor, blur: Blur, run: Run) -> Tensor:
        """Return the image that `settle` found, or restore another part with the PSF found there."""
        import torch

        with torch.inference_mode(False), torch.no_grad():
            if self._found is not None and tuple(self._found[1].shape) == blur.object_shape:
                image: Tensor = self._found[1]
                return image
            return self._joint(y.clone(), blur, run, fixed=True)[1]

    def _joint(self, y: Tensor, blur: Blur, run: Run, *, fixed: bool) -> tuple[Tensor, Tensor]:
        """Optimise both networks, or with ``fixed`` the image's alone; return the PSF and the object."""
        import torch

        from napari_deblur.nets.kernel_generator import centred, valid_convolution
        from napari_deblur.nets.repeated import Repeated
        from napari_deblur.nets.zero_shot import Average, Descent, Dissimilarity, autocast, roughness

        pair = self._networks(y, blur, run)
        groups = [(pair.image.parameters(), self.learning_rate)]
        if not fixed:
            groups.append((pair.kernel.parameters(), _KERNEL_RATE))
        descent, dissimilarity = Descent(groups, self.n_iterations), Dissimilarity(y)
        images, kernels = Average(self.averaging), Average(self.averaging)
        noise = torch.empty(pair.inputs.shape, device=y.device)

        def step(by_structure: bool) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                with autocast(y.device):
                    logits = pair.image(pair.inputs + _JITTER * noise)[0, 0]
                x = pair.brightest * torch.sigmoid(logits.float() + pair.base)
                kernel = pair.kernel()
                reblurred = valid_convolution(x, kernel.detach() if fixed else kernel)
                loss = dissimilarity(reblurred) if by_structure else (reblurred - y).square().mean()
                descent.follow(loss + self.hessian_weight * roughness(x))
            return x.detach(), kernel.detach()

        by_error, by_structure = (Repeated(partial(step, kind), y.device, run) for kind in (False, True))
        part = run.part(_START_PERCENT, 100, 100)
        for done in range(1, self.n_iterations + 1):
            noise.normal_(generator=pair.generator)
            descent.advance()
            x, kernel = (by_structure if done > self.structure_from * self.n_iterations else by_error)()
            image, found = images.add(x), kernels.add(kernel)
            shown = blur.crop(centred(found, image)[1])[None]
            part.step(done, self.n_iterations, f"{self.title}, iteration {done}", shown)
        return found, image

    def _networks(self, y: Tensor, blur: Blur, run: Run) -> _Pair:
        """Make both networks, from what the blur's PSF says where that says anything."""
        import torch

        from napari_deblur.nets.generator import Generator, seeded
        from napari_deblur.nets.kernel_generator import KernelGenerator

        first = kernel_of(blur, y)
        known = float(first.max() - first.min()) > _FLAT
        start = (
            classical_start(y, blur, "hyper-laplacian", run.part(0, _START_PERCENT, 100)) if known else None
        )
        generator = run.torch_generator(y.device)
        kernel = KernelGenerator((int(first.shape[0]), int(first.shape[1]))).to(y.device)
        seeded(kernel, generator)
        kernel.start_from(first if known else None, generator)
        image = Generator(_INPUTS, _CHANNELS[self.network]).to(y.device)
        seeded(image, generator)
        image.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        brightest = _HEADROOM * float((y if start is None else start).max())
        base = torch.zeros((), device=y.device)
        if start is not None:
            base = torch.logit((start / brightest).clamp(_DARKEST, 1 - _DARKEST))
            image.start_at_zero()  # the first image is then the start itself
        inputs = torch.rand((1, _INPUTS, *blur.object_shape), generator=generator, device=y.device)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        return _Pair(image, kernel, inputs, base, brightest, generator)


def kernel_of(blur: Blur, like: Tensor) -> Tensor:
    """Return the PSF of a blur that has one: the adjoint of a point in the middle, turned around."""
    point = like.new_zeros(blur.image_shape)
    middle = tuple(size // 2 for size in blur.image_shape)
    point[middle] = 1
    spread = blur.adjoint(point)
    rows, cols = (slice(at, at + 2 * m + 1) for at, m in zip(middle, blur.margin, strict=True))
    kernel = spread[rows, cols].flip(0, 1).clamp_min(0)
    return kernel / kernel.sum()
