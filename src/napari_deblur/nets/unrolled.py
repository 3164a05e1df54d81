"""Deep-Blur's deblurring network: a few Douglas–Rachford steps with a learned proximal network.

Debarnot & Weiss 2024 (doi:10.1017/S2633903X24000096). With R(r) the minimiser of ‖A x − y‖² + λ ‖x − r‖²,
by conjugate gradients: x = R(r₀), then T times z = PN(x), x ← x − z + R(2z − x); the last z is the result.

Ours are: one proximal network for all steps unless told otherwise; r₀ is the image itself, smoothed by its
blur and continued into the frame, where the published algorithm pulls towards 0; λ and the noise that the
network is told follow the measured noise by learned factors; and conjugate gradients are preconditioned. All
of it is equivariant to the scale of the image and to an offset.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from napari_deblur.blur.base import Blur
from napari_deblur.nets.proximal import COMPACT, ProximalNet
from napari_deblur.nets.regularised import RegularisedInverse

ARCHITECTURE = "unrolled-douglas-rachford"
_LEAST_NOISE_SHARE, _MOST_NOISE_SHARE = 1e-5, 10.0
_LEAST_LAMBDA, _MOST_LAMBDA = 1e-4, 10.0
_FIRST_LAMBDA, _LAMBDA_POWER = 0.3, 0.5

OnStep = Callable[[int, Tensor], None]


@dataclass(frozen=True, eq=False)
class Observation:
    """What is fixed of an image before it is restored, once for all of its tiles.

    Each is a tensor that broadcasts against images ``(batch, y, x)``.

    Attributes
    ----------
    level : Tensor
        Mean of the image.
    signal_variance : Tensor
        Variance of the image without its noise.
    gain, read_variance : Tensor
        The noise's variance is ``gain · mean + read_variance``.
    """

    level: Tensor
    signal_variance: Tensor
    gain: Tensor
    read_variance: Tensor

    def noise_share(self) -> Tensor:
        """Return the variance of the noise over that of the signal, kept within what λ can follow."""
        noise = self.gain * self.level.clamp_min(0) + self.read_variance
        share = noise / self.signal_variance.clamp_min(1e-12)
        return share.clamp(_LEAST_NOISE_SHARE, _MOST_NOISE_SHARE)

    def noise_map(self, smooth: Tensor) -> Tensor:
        """Return the noise's standard deviation where the image without noise is about ``smooth``."""
        least = _LEAST_NOISE_SHARE * self.signal_variance.clamp_min(1e-12)
        return (self.gain * smooth.clamp_min(0) + self.read_variance).clamp_min(least).sqrt()


def observed(y: Tensor, gain: Tensor | float, read_variance: Tensor | float) -> Observation:
    """Return what is fixed of images ``(…, y, x)`` with noise of a known gain and read variance."""
    level = y.mean(dim=(-2, -1), keepdim=True)
    gain, read = (torch.as_tensor(value, dtype=y.dtype, device=y.device) for value in (gain, read_variance))
    noise = gain * level.clamp_min(0) + read
    variance = y.var(dim=(-2, -1), keepdim=True, unbiased=False)
    # Of an image that is all noise something is left to divide by.
    return Observation(level, torch.maximum(variance - noise, 0.02 * variance), gain, read)


class UnrolledDouglasRachford(nn.Module):
    """Unrolled Douglas–Rachford deblurring on any blur operator.

    Parameters
    ----------
    config : dict
        ``proximal``: a `ProximalNet`'s; ``steps``: T; ``shared``: whether the steps share one proximal
        network; ``cg_first`` and ``cg_step``: conjugate gradients at the start and in every step.
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.config = {**default_config(), **(config or {})}
        self.steps = int(self.config["steps"])
        proximal = dict(self.config["proximal"])
        count = 1 if self.config["shared"] else self.steps
        self.proximal = nn.ModuleList(ProximalNet(proximal) for _ in range(count))
        first = torch.full((self.steps,), _FIRST_LAMBDA).log()
        self.log_lambda = nn.Parameter(first)
        self.lambda_power = nn.Parameter(torch.full((self.steps,), _LAMBDA_POWER))
        self.log_noise = nn.Parameter(torch.zeros(self.steps))

    def network(self, step: int) -> ProximalNet:
        """Return the proximal network of a step."""
        found = self.proximal[step % len(self.proximal)]
        assert isinstance(found, ProximalNet)
        return found

    @property
    def reach_px(self) -> int:
        """How far a pixel can have an effect through the proximal networks of all steps."""
        return sum(self.network(step).reach_px for step in range(self.steps))

    def lambdas(self, seen: Observation) -> list[Tensor]:
        """Return the weight of the pull of each step."""
        share = seen.noise_share().log()
        return [
            (offset + power * share).exp().clamp(_LEAST_LAMBDA, _MOST_LAMBDA)
            for offset, power in zip(self.log_lambda, self.lambda_power, strict=True)
        ]

    def forward(
        self,
        y: Tensor,
        blur: Blur,
        seen: Observation,
        *,
        steps: int | None = None,
        on_step: OnStep | None = None,
        half: bool = False,
    ) -> list[Tensor]:
        """Restore images.

        Parameters
        ----------
        y : Tensor, shape ``(batch, *blur.image_shape)``
        blur : Blur
            One for all, or one that knows each image's own kernel.
        seen : Observation
        steps : int, optional
            End after that many steps.
        on_step : callable, optional
            Called with the number of steps done and the image.
        half : bool
            Whether the proximal networks compute in bfloat16; all else stays in float32.

        Returns
        -------
        list of Tensor, each of shape ``(batch, *blur.object_shape)``
            The image after every step; the last one is the result.
        """
        steps = self.steps if steps is None else steps
        lambdas = self.lambdas(seen)
        inverse = RegularisedInverse(blur, y)
        smooth = blur.extend(blur.forward(blur.extend(y)))
        noise = seen.noise_map(smooth)
        x = inverse(smooth, lambdas[0], smooth, int(self.config["cg_first"]))
        images: list[Tensor] = []
        for step in range(steps):
            told = noise * self.log_noise[step].exp()
            # Not every device knows autocast, be it switched off.
            with torch.autocast(y.device.type, torch.bfloat16) if half else nullcontext():
                z = self.network(step)(x - seen.level, told) + seen.level
            images.append(z)
            if on_step is not None:
                on_step(step + 1, z)
            if step + 1 < steps:
                pull = 2 * z - x
                # The minimiser lies near where it is pulled to.
                x = x - z + inverse(pull, lambdas[step + 1], z.detach(), int(self.config["cg_step"]))
        return images


def default_config() -> dict[str, Any]:
    """Return the compact network: 1.0 million parameters, one proximal network for four steps."""
    return {
        "architecture": ARCHITECTURE,
        "proximal": dict(COMPACT),
        "steps": 4,
        "shared": True,
        "cg_first": 6,
        "cg_step": 4,
    }


def build(config: dict[str, Any]) -> UnrolledDouglasRachford:
    """Build the network that a card's configuration describes."""
    network = UnrolledDouglasRachford(config)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network
