"""Richardson–Lucy deconvolution in 2D and 3D: plain, accelerated, and with a total-variation prior."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from napari_deblur.core.params import Param
from napari_deblur.methods import camera_noise
from napari_deblur.methods.base import Method
from napari_deblur.methods.emission import LEAST_SENSITIVITY, Emission
from napari_deblur.methods.total_variation import curvature

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from napari_deblur.blur.base import Blur
    from napari_deblur.core.run import Run
    from napari_deblur.methods.stopping import Criterion

# Weights of the total variation that the noise may choose from.
_LEAST_WEIGHT, _LARGEST_WEIGHT = 0.002, 0.1
# A smaller image tells too little of its noise.
_FEWEST_PX = 16
_LEAST_SMOOTHING = 1e-3
# What an unmatched back projector leaves of an object point in one iteration: below 0 it has no meaning.
_LEAST_FACTOR = 0.01


class _Multiplicative(Method):
    """The loop that Richardson–Lucy and its regularised forms share."""

    ndim: ClassVar[tuple[int, ...]] = (2, 3)
    settles_in_solve: ClassVar[bool] = True
    knows_pedestal: ClassVar[bool] = True

    n_iterations: int = Param(
        20, ge=1, le=2000, title="Iterations", help="More iterations sharpen further and amplify noise."
    )
    stop: Literal["iterations", "no-progress", "discrepancy", "cross-validation"] = Param(
        "iterations",
        title="Stop",
        help="Run all iterations, or stop before: once the image hardly changes, once the residual is as "
        "small as the noise, or where some pixels predict the others best.",
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
    photon_gain: float | None = camera_noise.photon_gain(gt=0, shown_if={"stop": ("discrepancy",)})
    read_noise: float | None = camera_noise.read_noise(shown_if={"stop": ("discrepancy",)})

    def settle(self, y: Tensor, blur: Blur, run: Run) -> Self:
        """Find the number of iterations once, on the whole, so that no tile stops before another."""
        if self.stop == "iterations":
            return self
        criterion = self._criterion(y, run)
        _, used = self._watched(y, blur, run, criterion)
        self._report(run, criterion, used)
        return self.model_copy(update={"n_iterations": used, "stop": "iterations"})

    @property
    def takes_several(self) -> bool:
        """Whether several images go together: not where one may stop before another."""
        return self.stop == "iterations"

    def halo_px(self, psf_radius_px: int) -> int:
        """Return the halo: what a tile misses beyond a few PSF radii stays below 1e-4 of the range."""
        return 4 * psf_radius_px + 16

    def bytes_per_px(self, n_kernels: int) -> float:
        """Return the memory per voxel of the grid: data, estimate, transfer functions and transforms."""
        return 4.0 * (10 + 2 * n_kernels)

    def solve(self, y: Tensor, blur: Blur, run: Run) -> Tensor:
        """Restore one plane or volume."""
        if self.stop == "iterations":
            return self._iterate(y, blur, run, None)[0]
        if self.stop == "cross-validation":
            return self.settle(y, blur, run)._iterate(y, blur, run, None)[0]
        criterion = self._criterion(y, run)
        x, used = self._iterate(y, blur, run, criterion)
        self._report(run, criterion, used)
        return x

    def _criterion(self, y: Tensor, run: Run) -> Criterion:
        from napari_deblur.methods.stopping import CrossValidation, Discrepancy, NoProgress, held_out_pixels
        from napari_deblur.optics.noise import measure_noise

        if self.stop == "no-progress":
            return NoProgress(tolerance=self.tolerance)
        if self.stop == "cross-validation":
            return CrossValidation(y=y, held_out=held_out_pixels(y, run.seed))
        gain, variance = self.photon_gain, None if self.read_noise is None else self.read_noise**2
        if gain is None or variance is None:
            measured_gain, measured_variance = measure_noise(y, photon_gain=gain, read_variance=variance)
            gain = measured_gain if gain is None else gain
            variance = measured_variance if variance is None else variance
        run.fact("photons_at_brightest", 1 / gain if gain > 0 else None)
        return Discrepancy(y=y, photon_gain=gain, read_variance=variance)

    def _watched(self, y: Tensor, blur: Blur, run: Run, criterion: Criterion) -> tuple[Tensor, int]:
        """Iterate until a criterion says so; cross-validation leaves its pixels out."""
        held_out = getattr(criterion, "held_out", None)
        weight = None if held_out is None else (~held_out).to(y.dtype)
        x, done = self._iterate(y, blur, run, criterion, weight)
        return x, criterion.best(done)

    def _report(self, run: Run, criterion: Criterion, used: int) -> None:
        run.fact("iterations", used)
        run.fact("stops", [*run.facts.get("stops", []), criterion.to_dict(used)])

    def _iterate(
        self, y: Tensor, blur: Blur, run: Run, criterion: Criterion | None, weight: Tensor | None = None
    ) -> tuple[Tensor, int]:
        """Return the estimate and the number of iterations used."""
        emission = self._emission(y, blur, weight)
        x = emission.start()
        if criterion is None:
            for done, after in enumerate(self._objects(x, emission), 1):
                run.step(done, self.n_iterations, f"{self.title}, iteration {done}", blur.crop(after)[None])
                x = after
            return emission.estimate(x), self.n_iterations
        for done in range(1, self.n_iterations + 1):
            model = emission.model(x)
            if done > 1 and criterion.of_model(blur.crop(model)):
                return emission.estimate(x), done - 1
            after = self._update_(x, emission.back(emission.ratio_(model)), emission)
            run.step(done, self.n_iterations, f"{self.title}, iteration {done}", blur.crop(after)[None])
            enough = criterion.of_change(x, after)
            x = after
            if enough:
                return emission.estimate(x), done
        return emission.estimate(x), self.n_iterations

    def _objects(self, x: Tensor, emission: Emission) -> Iterator[Tensor]:
        """Yield the object after each iteration."""
        for _ in range(self.n_iterations):
            x = self._update_(x, emission.comparison(x), emission)
            yield x

    def _emission(self, y: Tensor, blur: Blur, weight: Tensor | None) -> Emission:
        """Return what the update needs of image and blur."""
        return Emission(y, blur, weight)

    def _update_(self, x: Tensor, back: Tensor, emission: Emission) -> Tensor:
        """Turn the back projection into the next estimate, in place."""
        return emission.update_(x, back)


class RichardsonLucy(_Multiplicative):
    """Richardson–Lucy (Richardson 1972, doi:10.1364/JOSA.62.000055; Lucy 1974, doi:10.1086/111605)."""

    kind: Literal["richardson-lucy"] = "richardson-lucy"
    title: ClassVar[str] = "Richardson–Lucy"
    summary: ClassVar[str] = "Maximum likelihood under photon noise; sharp, noise grows with iterations."
    reference: ClassVar[str] = "Richardson 1972, doi:10.1364/JOSA.62.000055"
    family: ClassVar[Literal["linear", "iterative", "zero-shot", "learned"]] = "iterative"

    acceleration: Literal["none", "line-search"] = Param(
        "none",
        title="Acceleration",
        help="Line search goes as far as the likelihood allows: a fifth of the iterations for the same "
        "likelihood, each taking one and a half times as long.",
    )
    back_projector: Literal["matched", "wiener-butterworth"] = Param(
        "matched",
        title="Back projector",
        help="Wiener–Butterworth sharpens in 2 to 5 iterations what the matched one needs a dozen for; "
        "choose as few. It counts without acceleration.",
        advanced=True,
        shown_if={"acceleration": ("none",)},
    )

    @property
    def takes_several(self) -> bool:
        """Whether several images go together: a line search goes as far as one image wants."""
        return super().takes_several and self.acceleration == "none"

    def bytes_per_px(self, n_kernels: int) -> float:
        """Return the memory per voxel of the grid; a line search keeps its directions too."""
        more = 8 if self.acceleration != "none" else 3 if self.back_projector != "matched" else 0
        return super().bytes_per_px(n_kernels) + 4.0 * more

    def _iterate(
        self, y: Tensor, blur: Blur, run: Run, criterion: Criterion | None, weight: Tensor | None = None
    ) -> tuple[Tensor, int]:
        """Return the estimate and the number of iterations used."""
        if self.acceleration == "none":
            return super()._iterate(y, blur, run, criterion, weight)
        from napari_deblur.methods.acceleration import LineSearch

        if self.back_projector != "matched":
            run.note("The back projector counts without acceleration only; the matched one was taken.")
        search = LineSearch(y, Emission(y, blur, weight), weight)
        for done in range(1, self.n_iterations + 1):
            before = search.x
            search.advance()
            partial = blur.crop(search.x)[None]
            run.step(done, self.n_iterations, f"{self.title}, iteration {done}", partial)
            if criterion is not None and (
                criterion.of_model(search.model) or criterion.of_change(before, search.x)
            ):
                return search.emission.estimate(search.x), done
        return search.emission.estimate(search.x), self.n_iterations

    def _objects(self, x: Tensor, emission: Emission) -> Iterator[Tensor]:
        """Yield the object after each iteration; piece by piece where the blur can do that."""
        chain = emission.chain(x)
        if chain is None:
            return super()._objects(x, emission)
        return emission.rounds(x, chain, self.n_iterations)

    def _emission(self, y: Tensor, blur: Blur, weight: Tensor | None) -> Emission:
        """Return what the update needs of image and blur, with the back projector that was chosen."""
        if self.back_projector == "matched":
            return Emission(y, blur, weight)
        from napari_deblur.methods.back_projection import WienerButterworth

        return Emission(y, blur, weight, back=WienerButterworth(blur), least_factor=_LEAST_FACTOR)


class TVRichardsonLucy(_Multiplicative):
    """Richardson–Lucy with a total-variation prior (Dey et al. 2006, doi:10.1002/jemt.20294)."""

    kind: Literal["tv-richardson-lucy"] = "tv-richardson-lucy"
    title: ClassVar[str] = "TV Richardson–Lucy"
    summary: ClassVar[str] = "Photon noise and a prior for smooth areas with sharp edges; the first choice."
    reference: ClassVar[str] = "Dey et al. 2006, doi:10.1002/jemt.20294"
    family: ClassVar[Literal["linear", "iterative", "zero-shot", "learned"]] = "iterative"

    tv_weight: float | None = Param(
        None,
        ge=0,
        le=0.1,
        step=0.001,
        title="Smoothness",
        help="Weight of the total variation; higher is smoother. From the noise in the image when not given.",
    )

    def settle(self, y: Tensor, blur: Blur, run: Run) -> Self:
        """Fix the weight and the number of iterations on the whole, so that all tiles agree."""
        if self.tv_weight is not None:
            return super().settle(y, blur, run)
        weight = weight_from_noise(y)
        run.fact("tv_weight", weight)
        return self.model_copy(update={"tv_weight": weight}).settle(y, blur, run)

    def solve(self, y: Tensor, blur: Blur, run: Run) -> Tensor:
        """Restore one plane or volume."""
        if self.tv_weight is None:
            return self.settle(y, blur, run).solve(y, blur, run)
        return super().solve(y, blur, run)

    @property
    def takes_several(self) -> bool:
        """Whether several images go together: not where each has a weight of its own."""
        return super().takes_several and self.tv_weight is not None

    def bytes_per_px(self, n_kernels: int) -> float:
        """Return the memory per voxel of the grid; the prior's derivatives come on top."""
        return super().bytes_per_px(n_kernels) + 4.0 * 9

    def _update_(self, x: Tensor, back: Tensor, emission: Emission) -> Tensor:
        """Divide by sensitivity − λ div(∇x/|∇x|): Eq. 13 of Shajkofci & Liebling 2020, borders included."""
        if not self.tv_weight:
            return super()._update_(x, back, emission)
        steps, part = emission.blur.steps, emission.blur.object_part
        inside, sensitivity = part(x), part(emission.sensitivity)
        # A checkerboard of height δ changes the curvature by up to 4 Σ h⁻² δ / smoothing (h: the steps), and
        # the update then moves x by x λ / sensitivity times that. It shrinks only with a smoothing above half
        # of that, and twice as much where a brighter neighbour shares the edge; below it rounding errors grow
        # without end.
        reach = 4 * sum(step**-2 for step in steps)
        smoothing = (reach * self.tv_weight) * inside / sensitivity.clamp_min(LEAST_SENSITIVITY)
        penalty = curvature(inside, smoothing.add_(_LEAST_SMOOTHING), steps).mul_(-self.tv_weight)
        penalty.add_(sensitivity).clamp_(min=LEAST_SENSITIVITY)
        part(back).clamp_(min=0).div_(penalty)
        return back.mul_(x)


def weight_from_noise(y: Tensor) -> float:
    """Return the weight of the total variation that suits an image's noise.

    It is the noise's variance at a brightness of 1: one over the number of photons there, within bounds. On
    rendered cells, filaments and beads with 20 to 5,000 photons at the brightest pixel the best weight falls
    as one over the photons for cells, later for filaments, and beads want the least of all; this is between.

    Parameters
    ----------
    y : Tensor, shape (…, y, x)
        Scaled to a maximum near 1, the camera's offset taken off.
    """
    from napari_deblur.optics.noise import measure_noise
    from napari_deblur.optics.noise_floor import with_white_noise

    if min(y.shape[-2:]) < _FEWEST_PX:
        return _LEAST_WEIGHT
    # What counts is the noise among the signal's frequencies, which an enlarged image hides at the finest.
    photon_gain, read_variance = measure_noise(with_white_noise(y))
    return min(max(photon_gain + read_variance, _LEAST_WEIGHT), _LARGEST_WEIGHT)
