"""The generator of zero-shot restoration: an hourglass with skips, optimised anew for every image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_SLOPE = 0.2
_SKIP_CHANNELS = 16


class NonLocal(nn.Module):
    """Global context by inner products, without a softmax: memory and time are linear in the pixels.

    y = x + BN(W θ(x) (φ(x)ᵀ g(x)) / N), after Wang et al. 2018 (doi:10.1109/CVPR.2018.00813), with φ and g
    on N positions of half the resolution. As there is no softmax, φᵀg (C/2 × C/2) is formed first. The batch
    norm starts at zero, so the block starts as the identity.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.out = nn.Conv2d(inner, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, C, h, w)`` to the same shape."""
        theta = self.theta(x)
        phi, g = (functional.max_pool2d(part(x), 2, ceil_mode=True).flatten(2) for part in (self.phi, self.g))
        context = phi @ g.transpose(1, 2) / phi.shape[-1]
        mixed = context.transpose(1, 2) @ theta.flatten(2)
        out: Tensor = x + self.norm(self.out(mixed.unflatten(2, theta.shape[-2:])))
        return out


def _block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.LeakyReLU(_SLOPE, inplace=True))


class _Scale(nn.Module):
    """One scale of the hourglass, with everything coarser inside it."""

    def __init__(self, inputs: int, channels: Sequence[int], non_local: Sequence[bool]) -> None:
        super().__init__()
        width = channels[0]
        self.skip = _block(inputs, _SKIP_CHANNELS, 1)
        self.down = _block(inputs, width, 3, stride=2)
        self.context = NonLocal(width) if non_local[0] else nn.Identity()
        self.mix = _block(width, width, 3)
        self.inner = _Scale(width, channels[1:], non_local[1:]) if len(channels) > 1 else nn.Identity()
        coming_up = channels[1] if len(channels) > 1 else width
        self.norm = nn.BatchNorm2d(_SKIP_CHANNELS + coming_up)
        self.up = _block(_SKIP_CHANNELS + coming_up, width, 3)
        self.last = _block(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        deep = self.inner(self.mix(self.context(self.down(x))))
        deep = functional.interpolate(deep, size=x.shape[-2:], mode="bilinear", align_corners=False)
        out: Tensor = self.last(self.up(self.norm(torch.cat([self.skip(x), deep], dim=1))))
        return out


class Generator(nn.Module):
    """An hourglass with skip connections (Ulyanov et al. 2018, doi:10.1007/s11263-020-01303-4).

    The default is the generator of Chobola et al. 2023 (CiDeR): 322,913 parameters. It returns what the
    closing sigmoid takes, so that a start may be added before it. Statistics of its batch norms are those of
    the one image it works on.

    Parameters
    ----------
    inputs : int
        Channels of the input.
    channels : sequence of int
        Channels per scale, from fine to coarse.
    non_local_from : int
        Index of the first scale with a non-local block.
    """

    def __init__(
        self, inputs: int = 16, channels: Sequence[int] = (32, 32, 64, 64), non_local_from: int = 2
    ) -> None:
        super().__init__()
        self.scales = _Scale(inputs, channels, [index >= non_local_from for index in range(len(channels))])
        self.head = nn.Conv2d(channels[0], 1, 1)
        self._multiple = 2 ** len(channels)

    def start_at_zero(self) -> None:
        """Make the first output zero, whatever the input."""
        with torch.no_grad():
            for parameter in self.head.parameters():
                parameter.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(1, inputs, h, w)`` to logits ``(1, 1, h, w)``; any size."""
        height, width = features.shape[-2:]
        extra = [-side % self._multiple for side in (width, height)]
        padded = functional.pad(features, (0, extra[0], 0, extra[1]), mode="replicate")
        logits: Tensor = self.head(self.scales(padded))
        return logits[..., :height, :width]


def seeded(network: nn.Module, generator: torch.Generator) -> nn.Module:
    """Draw a network's weights from a generator, as torch's own layers would from the global one."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            bound = fan_in**-0.5
            with torch.no_grad():
                module.weight.uniform_(-bound, bound, generator=generator)
                if module.bias is not None:
                    module.bias.uniform_(-bound, bound, generator=generator)
        if isinstance(module, NonLocal):
            nn.init.zeros_(module.norm.weight)
    return network
