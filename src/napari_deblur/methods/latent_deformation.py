"""Restoration by a network that is told the blur's parameters, such as the distance from focus."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError, UnknownNameError
from napari_deblur.core.params import Param
from napari_deblur.engine.tiling import ALIGN_PX
from napari_deblur.methods.base import Method
from napari_deblur.methods.latent_checks import check_agreement, check_distance, say_limits, say_sampling
from napari_deblur.methods.latent_image import FAMILIES, NETWORKS, PARAMETERS, LatentImage, available
from napari_deblur.methods.normalisation import MEAN_LEVEL, contrast

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.blur.base import Blur
    from napari_deblur.core.run import Run

_AUTOMATIC = "automatic"
_STEPS = 3
_CLEARLY_NEARER = 0.02
_DEFAULT_HALO_PX = 160


class LatentDeformation(Method):
    """Restoration in a latent space that the PSF's parameters deform (Guan et al. 2022).

    A network for a whole family of PSFs: an encoder that knows no blur, a deformer steered by the family's
    parameters, and a decoder. The parameters are given, or fitted to the given PSF; a PSF outside the family
    is refused. Beyond the publication the noise in the image steers the deformer too, and there are networks
    for optical defocus and for defocus with astigmatism.
    """

    kind: Literal["latent-deformation"] = "latent-deformation"
    title: ClassVar[str] = "Latent deformation"
    summary: ClassVar[str] = (
        "Learned, for blur of a known distance from focus; instant, and the distance slides."
    )
    reference: ClassVar[str] = "Guan et al. 2022, Non-Blind Deblurring for Fluorescence, WACV"
    family: ClassVar[Literal["linear", "iterative", "zero-shot", "learned"]] = "learned"
    learned: ClassVar[bool] = True
    space_varying: ClassVar[bool] = False
    non_negative: ClassVar[bool] = False
    default_psf: ClassVar[str | None] = None

    network: Literal["automatic", "zone-plate", "defocus", "astigmatism"] = Param(
        "automatic",
        title="Blur",
        help="Family of PSFs; automatic takes the one that the given PSF is nearest to.",
    )
    defocus_um: float | None = Param(
        None,
        ge=0,
        le=30,
        step=0.1,
        title="Defocus",
        help="Distance from the zone plate's focus; fitted to the given PSF when not given.",
        unit="µm",
        shown_if={"network": ("zone-plate",)},
    )
    defocus_waves: float | None = Param(
        None,
        ge=0,
        le=1,
        step=0.01,
        title="Defocus",
        help="Defocus of the objective (rms over the pupil); fitted to the given PSF when not given.",
        unit="waves",
        shown_if={"network": ("defocus", "astigmatism")},
    )
    astigmatism_waves: float | None = Param(
        None,
        ge=0,
        le=1,
        step=0.01,
        title="Astigmatism",
        help="Astigmatism (rms over the pupil); fitted to the given PSF when not given.",
        unit="waves",
        shown_if={"network": ("astigmatism",)},
    )
    axis_rad: float | None = Param(
        None,
        ge=0,
        le=3.1416,
        step=0.01,
        title="Axis",
        help="Axis of the astigmatism; fitted to the given PSF when not given.",
        unit="rad",
        shown_if={"network": ("astigmatism",)},
    )
    tolerance: float = Param(
        0.2,
        gt=0,
        le=1,
        step=0.01,
        title="Tolerance",
        help="Largest relative distance of a given PSF from the family; beyond it the PSF is refused.",
        advanced=True,
    )
    mean_level: float | None = MEAN_LEVEL
    contrast: float | None = contrast("with")
    noise: float | None = Param(
        None,
        ge=0,
        le=1e9,
        step=0.1,
        title="Noise",
        help="Standard deviation of the noise; measured when not given.",
        unit="grey values",
        advanced=True,
    )

    def network_ids(self) -> tuple[str, ...]:
        """Return the id of the network that makes the pixels; none while it is left to the PSF which."""
        told = self.told()
        chosen = self.network if told is None else told[0]
        return () if chosen == _AUTOMATIC else (NETWORKS[chosen],)

    def told(self) -> tuple[str, tuple[float, ...]] | None:
        """Return the network and the parameters of its family that were given; None if none were.

        Raises
        ------
        InvalidInputError
            If they belong to different networks, or some are missing.
        """
        values = {name: getattr(self, name) for names in PARAMETERS.values() for name in names}
        given = {name for name, value in values.items() if value is not None}
        if not given:
            return None
        chosen = self.network if self.network != _AUTOMATIC else _network_of(given)
        wanted = PARAMETERS[chosen]
        if foreign := sorted(given - set(wanted)):
            raise InvalidInputError(foreign[0], f"must be left out for {chosen}", values[foreign[0]])
        if missing := [name for name in wanted if name not in given]:
            raise InvalidInputError(
                missing[0], f"must be given together with {', '.join(sorted(given))}", "none"
            )
        return chosen, tuple(values[name] for name in wanted)

    def start_psf(self) -> NDArray[np.float32] | None:
        """Return the kernel of the given parameters, which blurs the result where no PSF is given."""
        if (told := self.told()) is None:
            return None
        from napari_deblur.optics.psf import make_psf

        return make_psf(FAMILIES[told[0]], list(told[1]))

    def settle(self, y: Tensor, blur: Blur, run: Run) -> Self:
        """Fix network, parameters and normalisation on the whole plane."""
        from napari_deblur.nets.deformable import Scale

        kernel, told = _kernel(blur), self.told()
        if told is None:
            told = self._fitted(kernel, run)
        else:
            check_agreement(*told, kernel, self.tolerance)
            say_sampling(told[0], run)
        chosen, values = told
        found = Scale.of(y)
        spread = self.contrast if self.contrast is not None else found.spread
        noise = self.noise if self.noise is not None else found.noise * found.spread
        settled = self.model_copy(
            update={
                "network": chosen,
                **dict(zip(PARAMETERS[chosen], values, strict=True)),
                "mean_level": self.mean_level if self.mean_level is not None else found.mean,
                "contrast": spread,
                "noise": noise,
            }
        )
        run.fact("latent_network", NETWORKS[chosen])
        run.fact(
            "latent_parameters",
            dict(zip(PARAMETERS[chosen], (float(value) for value in values), strict=True)),
        )
        run.fact("noise_to_contrast", noise / spread)
        say_limits(chosen, values, noise / spread, run)
        return settled

    def _fitted(self, kernel: NDArray[np.float32], run: Run) -> tuple[str, tuple[float, ...]]:
        """Return the network whose family a PSF is nearest to, and its parameters there."""
        from napari_deblur.optics.fitting import fit_family

        chosen, fit = "", None
        for name in available() if self.network == _AUTOMATIC else [self.network]:
            one = fit_family(FAMILIES[name], kernel)
            # A family with more parameters is never farther away: it must be worth them.
            if fit is None or one.distance < fit.distance - _CLEARLY_NEARER:
                chosen, fit = name, one
            if fit.distance <= _CLEARLY_NEARER:
                break
        assert fit is not None
        check_distance(fit, self.tolerance)
        run.fact("psf_distance", fit.distance)
        if fit.shift_px > 1:
            run.note(
                f"The PSF lies {fit.shift_px:.1f} pixels off its centre: the result is not moved by that."
            )
        return chosen, fit.parameters

    def halo_px(self, psf_radius_px: int) -> int:
        """Return the network's reach, on the grid on which tiles begin; the PSF does not matter."""
        del psf_radius_px
        from napari_deblur.nets.deformable import reach_px
        from napari_deblur.nets.weights import find_model

        try:
            names = available() if self.network == _AUTOMATIC else [self.network]
            reach = max(reach_px(find_model(NETWORKS[name]).card["config"]) for name in names)
        except UnknownNameError:  # said when the network is needed
            return _DEFAULT_HALO_PX
        return -(-reach // ALIGN_PX) * ALIGN_PX

    def bytes_per_px(self, n_kernels: int) -> float:
        """Return the memory taken per pixel: activations at half and at a quarter of the resolution."""
        return 4.0 * (60 + 4 * n_kernels)

    def solve(self, y: Tensor, blur: Blur, run: Run) -> Tensor:
        """Restore one plane."""
        from napari_deblur.nets.deformable import Scale

        method = self if self._is_settled() else self.settle(y, blur, run)
        told = method.told()
        assert told is not None
        assert method.mean_level is not None
        assert method.contrast is not None
        assert method.noise is not None
        scale = Scale(method.mean_level, method.contrast, method.noise / method.contrast)
        run.step(0, _STEPS, f"{self.title}, encoding")
        latent = LatentImage.encode(y, told[0], scale)
        run.step(1, _STEPS, f"{self.title}, encoded", y[None])
        made = latent.decode(told[1]).clamp_min(0)
        run.step(_STEPS, _STEPS, f"{self.title}, decoded", made[None])
        return blur.extend(made)

    def _is_settled(self) -> bool:
        measured = (self.mean_level, self.contrast, self.noise)
        return self.told() is not None and None not in measured


def _network_of(given: set[str]) -> str:
    """Return the network with the fewest parameters that knows all that were given."""
    for name in PARAMETERS:
        if given <= set(PARAMETERS[name]):
            return name
    names = ", ".join(sorted(given))
    raise InvalidInputError("network", "must be one that knows all parameters given", names)


def _kernel(blur: Blur) -> NDArray[np.float32]:
    kernel = getattr(blur, "kernel", None)
    if kernel is None:
        raise InvalidInputError("psf", "must be a single kernel for Latent deformation", "a PSF map")
    array: NDArray[np.float32] = kernel.detach().cpu().numpy()
    return array
