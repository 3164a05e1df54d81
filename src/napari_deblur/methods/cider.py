"""CiDeR: zero-shot restoration by a small network that is optimised on the one image at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from napari_deblur.core.params import Param
from napari_deblur.methods.base import Method
from napari_deblur.methods.descent import AVERAGING, LEARNING_RATE
from napari_deblur.methods.hyper_laplacian import error_variance
from napari_deblur.methods.starts import Start, classical_start, clean_share

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.blur.base import Blur
    from napari_deblur.core.run import Run

FEATURES = "cider-features"
# How far the network's image may rise above the brightest point of the start.
_HEADROOM = 1.3
# The network's first images follow the start; how well they explain the data says nothing yet.
_FEWEST_ITERATIONS = 30
_SQUARED_WEIGHT = 0.01
# Share of the progress bar that the start and the features take, in percent.
_START_PERCENT, _PREPARED_PERCENT = 6, 10


@dataclass(frozen=True, eq=False)
class _Given:
    r"""What all networks of a run share.

    Attributes
    ----------
    y : Tensor, shape (y, x)
    blur : Blur
    start : Tensor or None, shape ``blur.object_shape``
    features : Tensor, shape ``(channels, *blur.object_shape)``
    brightest : float
        Upper end of the intensities that a network can make.
    structure_share : float
        How much structural similarity counts, against squared error.
    """

    y: Tensor
    blur: Blur
    start: Tensor | None
    features: Tensor
    brightest: float
    structure_share: float

    def seen(self, blurred: Tensor) -> Tensor:
        """Return what a blurred object looks like in the data, which hold the blur's pedestal."""
        return blurred + self.blur.pedestal if self.blur.pedestal else blurred

    def likeness(self) -> Callable[[Tensor], Tensor]:
        """Return the loss of a reblurred image: 1 − SSIM, and squared errors in units of their variance."""
        from napari_deblur.nets.zero_shot import Dissimilarity

        dissimilarity = Dissimilarity(self.y)
        share = self.structure_share
        precision = _SQUARED_WEIGHT / error_variance(self.y)

        def loss(reblurred: Tensor) -> Tensor:
            squared = precision * (reblurred - self.y).square().mean()
            return squared if share == 0 else share * dissimilarity(reblurred) + (1 - share) * squared

        return loss


class _Blend:
    """Mixes the network's image with the start by how well each explains the data.

    Their errors differ, so a mean has less of both. Shares are the inverse mean squares of what each leaves
    of the data when blurred again: early on the start rules.
    """

    _DECAY = 0.9

    def __init__(self, given: _Given) -> None:
        self._start, self._y = given.start, given.y
        left = None if given.start is None else given.seen(given.blur.forward(given.start)) - given.y
        self._start_square = 0.0 if left is None else float(left.square().mean())
        self._square: float | None = None
        self.share = 1.0

    def explains(self, variance: float) -> bool:
        """Return whether the network's images leave no more of the data than noise of a variance would."""
        return self._square is not None and self._square <= variance

    def __call__(self, made: Tensor, reblurred: Tensor) -> Tensor:
        """Return the mean of the network's image and the start."""
        now = float((reblurred - self._y).square().mean())
        self._square = now if self._square is None else self._DECAY * self._square + (1 - self._DECAY) * now
        if self._start is None:
            return made
        self.share = self._start_square / max(self._start_square + self._square, 1e-30)
        return self._start + self.share * (made - self._start)


class Cider(Method):
    """Zero-shot restoration from deconvolved features (Chobola et al. 2023).

    Features of the image are deconvolved by Richardson–Lucy; from them a generator, optimised on this image
    alone, makes an image that explains the data when it is blurred again. Beyond the publication: a
    classical result guides the generator and is averaged with its image, structural similarity counts only
    as far as the noise allows, late iterates are averaged, and the run ends before noise is learned, by
    Morozov's principle.
    """

    kind: Literal["cider"] = "cider"
    title: ClassVar[str] = "CiDeR"
    summary: ClassVar[str] = "Zero-shot: a small network learns this one image; slow, needs no training set."
    reference: ClassVar[str] = "Chobola et al. 2023, Zero-Shot Image Restoration (CiDeR), ICCV workshops"
    family: ClassVar[Literal["linear", "iterative", "zero-shot", "learned"]] = "zero-shot"
    non_negative: ClassVar[bool] = False
    knows_pedestal: ClassVar[bool] = True
    # Each tile has a network of its own.
    tiles_agree: ClassVar[bool] = False

    n_iterations: int = Param(
        250, ge=1, le=10_000, title="Iterations", help="Most steps of the optimisation; published: 3000."
    )
    stop: Literal["automatic", "iterations"] = Param(
        "automatic",
        title="Stop",
        help="End once the network leaves no more of the data than noise, which it would learn next, or run "
        "all iterations.",
    )
    start: Start = Param(
        "automatic",
        title="Start",
        help="Classical result that guides the network; automatic mixes two by the noise in the image.",
    )
    guidance: float = Param(
        300.0,
        ge=0,
        le=10_000,
        step=10.0,
        title="Guidance",
        help="Weight of the squared distance from the start; it brings the network near in few iterations.",
        shown_if={"start": ("automatic", "hyper-laplacian", "tv-richardson-lucy")},
    )
    data_term: Literal["automatic", "ssim", "squared"] = Param(
        "automatic",
        title="Likeness",
        help="What compares the reblurred image: structure (published), squared error, or both by the noise.",
    )
    hessian_weight: float = Param(
        0.05, ge=0, le=10, step=0.01, title="Smoothness", help="Weight of the second derivatives."
    )
    sparsity_weight: float = Param(
        0.0,
        ge=0,
        le=50,
        step=0.5,
        title="Sparsity",
        help="Weight of the mean intensity: 5 suits sparse micrographs, but it turns other images dark.",
    )
    n_networks: int = Param(
        1, ge=1, le=32, title="Networks", help="Networks of different seeds whose images are averaged."
    )
    averaging: float = AVERAGING
    learning_rate: float = LEARNING_RATE
    feature_iterations: int = Param(
        50,
        ge=0,
        le=1000,
        title="Feature iterations",
        help="Richardson–Lucy iterations on the features.",
        advanced=True,
    )

    def network_ids(self) -> tuple[str, ...]:
        """Return the id of the network whose features the image is made of."""
        return (FEATURES,)

    def halo_px(self, psf_radius_px: int) -> int:
        """Return the halo: far enough for the start and for the finer scales of the network."""
        return 6 * psf_radius_px + 48

    def bytes_per_px(self, n_kernels: int) -> float:
        """Return the memory taken per pixel: the network's activations and their gradients."""
        return 4.0 * (530 + 34 * n_kernels)

    def solve(self, y: Tensor, blur: Blur, run: Run) -> Tensor:
        """Restore one plane."""
        import torch

        from napari_deblur.engine.shared import get_engine
        from napari_deblur.nets.features import deconvolved

        # Gradients cannot pass through tensors made in inference mode, in which methods are called.
        with torch.inference_mode(False), torch.no_grad():
            y = y.clone()
            start = classical_start(y, blur, self.start, run.part(0, _START_PERCENT, 100))
            extractor, _ = get_engine().network(FEATURES, device=str(y.device))
            run.fact("zero_shot", True)
            part = run.part(_START_PERCENT, _PREPARED_PERCENT, 100)
            features, plain = deconvolved(extractor, y, blur, self.feature_iterations, part)
            brightest = plain if start is None else start
            given = _Given(
                y, blur, start, features, _HEADROOM * float(brightest.max()), self._structure_share(y)
            )
            fit = run.part(_PREPARED_PERCENT, 100, 100)
            total = torch.zeros_like(plain)
            for index in range(self.n_networks):
                part = fit.part(index, index + 1, self.n_networks)
                part.seed = run.seed + index
                total += self._fit(given, total / max(index, 1), index, part)
            return total / self.n_networks

    def _structure_share(self, y: Tensor) -> float:
        """Return how much structural similarity counts, against squared error."""
        return {"ssim": 1.0, "squared": 0.0}.get(self.data_term, clean_share(y))

    def _fit(self, given: _Given, before: Tensor, n_before: int, run: Run) -> Tensor:
        """Optimise one network; return its image."""
        import torch

        from napari_deblur.nets.generator import Generator, seeded
        from napari_deblur.nets.repeated import Repeated
        from napari_deblur.nets.zero_shot import Average, Descent, autocast, reblur, roughness
        from napari_deblur.optics.noise_floor import noise_variance

        generator = run.torch_generator(given.y.device)
        network = Generator(len(given.features)).to(given.y.device)
        seeded(network, generator)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        inputs = given.features[None].contiguous(memory_format=torch.channels_last)
        descent = Descent([(network.parameters(), self.learning_rate)], self.n_iterations)
        average, likeness, blend = Average(self.averaging), given.likeness(), _Blend(given)
        noise = noise_variance(given.y) if self.stop == "automatic" else 0.0

        def step() -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                with autocast(given.y.device):
                    logits = network(inputs)[0, 0]
                x = given.brightest * torch.sigmoid(logits.float())
                reblurred = given.seen(reblur(x, given.blur))
                loss = likeness(reblurred) + self.hessian_weight * roughness(x)
                if given.start is not None and self.guidance:
                    loss = loss + self.guidance * (x - given.start).square().mean()
                if self.sparsity_weight:
                    loss = loss + self.sparsity_weight * x.mean()
                descent.follow(loss)
            return x.detach(), reblurred.detach()

        repeated = Repeated(step, given.y.device, run)
        for done in range(1, self.n_iterations + 1):
            descent.advance()
            x, reblurred = repeated()
            image = blend(average.add(x), reblurred)
            shown = (n_before * before + image) / (n_before + 1)
            text = f"{self.title}, network {n_before + 1} of {self.n_networks}, iteration {done}"
            run.step(done, self.n_iterations, text, given.blur.crop(shown)[None])
            if done >= _FEWEST_ITERATIONS and blend.explains(noise):
                break
        run.fact("iterations", done)
        run.fact("share_of_the_network", blend.share)
        return image
