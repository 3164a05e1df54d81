"""Deep-Blur: unrolled Douglas–Rachford deblurring with a trained proximal network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from napari_deblur.core.params import Param
from napari_deblur.methods import camera_noise
from napari_deblur.methods.base import Method
from napari_deblur.methods.normalisation import MEAN_LEVEL, contrast

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from napari_deblur.blur.base import Blur
    from napari_deblur.core.run import Run
    from napari_deblur.nets.unrolled import Observation, UnrolledDouglasRachford

DEBLURRING = "deep-blur-deblurring"
# How much more than it was trained for is still taken without a remark.
_TOLERANCE = 1.1
_BRIGHTEST = 0.999
_LEAST_CONTRAST = 1e-6


class DeepBlur(Method):
    """A few steps of an optimisation whose prior is a trained network (Debarnot & Weiss 2024).

    Each step takes with a network out of the image what is unlikely, and puts back in what the data say. The
    network knows natural images, micrographs and rendered scenes, not this sample: what it fills in is
    plausible and need not be there. The noise that it is told is measured in the image where it is not given.
    """

    kind: Literal["deep-blur"] = "deep-blur"
    title: ClassVar[str] = "Deep-Blur"
    summary: ClassVar[str] = "Learned, in seconds: an unrolled network that knows noise; check the residual."
    reference: ClassVar[str] = "Debarnot & Weiss 2024, doi:10.1017/S2633903X24000096"
    family: ClassVar[Literal["linear", "iterative", "zero-shot", "learned"]] = "learned"
    learned: ClassVar[bool] = True
    non_negative: ClassVar[bool] = False
    # The network's coarser pixels start where a tile starts.
    tiles_agree: ClassVar[bool] = False
    settles_in_solve: ClassVar[bool] = True
    default_one_psf: ClassVar[bool] = True

    noise_factor: float = Param(
        1.0,
        ge=0.1,
        le=10,
        step=0.1,
        title="Noise factor",
        help="Factor on the noise's standard deviation: above 1 the result is smoother, below 1 sharper.",
    )
    photon_gain: float | None = camera_noise.photon_gain(ge=0)
    read_noise: float | None = camera_noise.read_noise()
    mean_level: float | None = MEAN_LEVEL
    contrast: float | None = contrast("without")
    precision: Literal["automatic", "float32"] = Param(
        "automatic",
        title="Precision",
        help="Automatic: the network computes in bfloat16 where the hardware does it fast.",
        advanced=True,
    )
    clip_negative: bool = Param(
        True, title="No negative values", help="Set negative intensities of the result to zero."
    )

    def network_ids(self) -> tuple[str, ...]:
        """Return the id of the network that makes the pixels."""
        return (DEBLURRING,)

    def settle(self, y: Tensor, blur: Blur, run: Run) -> Self:
        """Measure noise, level and contrast on the whole where they are not given."""
        from napari_deblur.nets.unrolled import observed
        from napari_deblur.optics.noise import measure_noise
        from napari_deblur.optics.noise_floor import with_white_noise

        y = with_white_noise(y)
        gain, read = self.photon_gain, self.read_noise
        if gain is None or read is None:
            known = None if read is None else read**2
            gain, variance = measure_noise(y, photon_gain=gain, read_variance=known)
            read = variance**0.5
        seen = observed(y, gain, read**2)
        level = float(seen.level) if self.mean_level is None else self.mean_level
        contrast = self.contrast or max(float(seen.signal_variance.sqrt()), _LEAST_CONTRAST)
        _, card = self._network(y.device)
        _note_limits(card.get("trained_for", {}), y, blur, gain, read, run)
        return self.model_copy(
            update={"photon_gain": gain, "read_noise": read, "mean_level": level, "contrast": contrast}
        )

    def halo_px(self, psf_radius_px: int) -> int:
        """Return the halo: that of the conjugate gradients, and how far the proximal networks look."""
        return 4 * psf_radius_px + 96

    def bytes_per_px(self, n_kernels: int) -> float:
        """Return the memory per pixel of the grid: the network's widest level and a blur's transforms."""
        from napari_deblur.core.errors import UnknownNameError
        from napari_deblur.nets.weights import find_model

        try:
            proximal = find_model(DEBLURRING).card["config"]["proximal"]
        except UnknownNameError:
            return 4.0 * (40 + 6 * n_kernels)
        features = float(proximal["channels"][0]) / float(proximal["stem"]) ** 2
        return 4.0 * (24 + 6 * features + 6 * n_kernels)

    def solve(self, y: Tensor, blur: Blur, run: Run) -> Tensor:
        """Restore one plane by the network's steps."""
        from napari_deblur.optics.noise_floor import with_white_noise

        settled, given, y = self, y, with_white_noise(y)
        if y is not given:
            run.note(
                "The image was enlarged: its noise stops short of the finest detail that its pixels could "
                "hold. Noise of the same strength was added there before the network restored it, or it "
                "would have taken the grain for detail."
            )
        if None in (self.photon_gain, self.read_noise, self.mean_level, self.contrast):
            settled = self.settle(given, blur, run)
        network, _ = self._network(y.device)

        def show(done: int, images: Tensor) -> None:
            shown = self._finished(blur.crop(images))
            run.step(done, network.steps, f"{self.title}, step {done}", shown)

        half = self.precision == "automatic" and _has_fast_half(y.device)
        images = network(y[None], blur, settled._seen(y), on_step=show, half=half)
        return self._finished(images[-1][0])

    def _seen(self, like: Tensor) -> Observation:
        import torch

        from napari_deblur.nets.unrolled import Observation

        def one(value: float | None) -> Tensor:
            assert value is not None
            return torch.full((1, 1, 1), value, dtype=like.dtype, device=like.device)

        factor = self.noise_factor**2
        level, contrast, gain, read = (
            one(value) for value in (self.mean_level, self.contrast, self.photon_gain, self.read_noise)
        )
        return Observation(level, contrast.square(), factor * gain, factor * read.square())

    def _network(self, device: torch.device) -> tuple[UnrolledDouglasRachford, dict[str, Any]]:
        from napari_deblur.core.errors import WeightsError
        from napari_deblur.engine.shared import get_engine
        from napari_deblur.nets.unrolled import UnrolledDouglasRachford

        network, card = get_engine().network(DEBLURRING, device=str(device))
        if not isinstance(network, UnrolledDouglasRachford):
            raise WeightsError(f"the weights {DEBLURRING!r} are of another kind: {card['config']}")
        return network, card

    def _finished(self, x: Tensor) -> Tensor:
        return x.clamp_min(0) if self.clip_negative else x


def _has_fast_half(device: torch.device) -> bool:
    from napari_deblur.nets.zero_shot import has_fast_bfloat16

    return has_fast_bfloat16(device)


def _note_limits(trained: dict[str, Any], y: Tensor, blur: Blur, gain: float, read: float, run: Run) -> None:
    """Tell the user where an image or its PSF is unlike what the network was trained on, by its card."""
    from napari_deblur.methods.self_deblur import kernel_of
    from napari_deblur.optics.widths import half_energy_radius_px

    nth = max(1, int(_BRIGHTEST * y.numel()))
    # On the CPU: Apple's GPUs learned this late.
    brightest = max(float(y.flatten().cpu().kthvalue(nth).values), _LEAST_CONTRAST)
    noise = (gain * max(brightest, 0.0) + read**2) ** 0.5 / brightest
    radius = half_energy_radius_px(kernel_of(blur, y).cpu().numpy())
    run.fact("noise_share_of_brightest", noise)
    run.fact("psf_half_energy_radius_px", radius)
    photons, reads = trained.get("photons"), trained.get("read_noise_share")
    if photons and reads and noise > _TOLERANCE * (most := (1 / photons[0] + reads[1] ** 2) ** 0.5):
        run.note(
            f"The noise is {noise:.0%} of the brightest intensities; the network was trained on up to "
            f"{most:.0%}. What it makes of such an image may not be there."
        )
    radii = trained.get("half_energy_radius_px")
    if radii and radius > _TOLERANCE * radii[1]:
        run.note(
            f"Half of the PSF's light falls within {radius:.1f} pixels; the network was trained on up to "
            f"{radii[1]:.1f}. Bin the image, or take a method without training."
        )
