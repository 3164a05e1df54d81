"""The proximal network of Deep-Blur: a small bias-free U-Net that takes what is unlikely out of an image.

After DRUNet (Zhang et al. 2022, doi:10.1109/TPAMI.2021.3088914): residual blocks without normalisation on a
pyramid with strided 2 × 2 convolutions, joined by sums. Without biases it is homogeneous: an image and its
noise twice as bright give a result twice as bright (Mohan et al. 2020, *Robust and interpretable blind image
denoising via bias-free convolutional neural networks*, ICLR).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

PUBLISHED: dict[str, Any] = {"channels": [32, 64, 128, 256], "blocks": [4, 4, 4, 4], "stem": 1, "inputs": 1}
"""The proximal network of Debarnot & Weiss 2024 (doi:10.1017/S2633903X24000096): 8,159,808 parameters."""
COMPACT: dict[str, Any] = {"channels": [32, 64, 128], "blocks": [2, 2, 2], "stem": 2, "inputs": 2}
FULL: dict[str, Any] = {"channels": [32, 64, 128, 192], "blocks": [4, 4, 4, 3], "stem": 1, "inputs": 2}

_RESIDUAL_GAIN = 0.2


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        with torch.no_grad():
            # Deep stacks of residual blocks start near the identity.
            self.second.weight.mul_(_RESIDUAL_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(self.first(x).relu_())
        return out


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_Block(channels) for _ in range(count)))


class ProximalNet(nn.Module):
    """A U-Net of residual blocks that maps an image and its noise to what is to be taken off the image.

    Parameters
    ----------
    config : dict
        ``channels`` and ``blocks`` of each level from fine to coarse; ``stem``: side of the pixel blocks that
        become channels before the first level (1: none); ``inputs``: 1 for the image alone, 2 with a map of
        the noise's standard deviation.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        channels = [int(width) for width in config["channels"]]
        self.blocks = blocks = [int(count) for count in config["blocks"]]
        self.stem, self.inputs = int(config["stem"]), int(config["inputs"])
        cells = self.stem**2
        self.head = nn.Conv2d(self.inputs * cells, channels[0], 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            nn.Sequential(_blocks(fine, count), nn.Conv2d(fine, coarse, 2, stride=2, bias=False))
            for fine, coarse, count in zip(channels[:-1], channels[1:], blocks[:-1], strict=True)
        )
        self.body = _blocks(channels[-1], blocks[-1])
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(coarse, fine, 2, stride=2, bias=False), _blocks(fine, count))
            for fine, coarse, count in zip(channels[:-1], channels[1:], blocks[:-1], strict=True)
        )
        self.tail = nn.Conv2d(channels[0], cells, 3, padding=1, bias=False)
        nn.init.zeros_(self.tail.weight)  # it starts as the identity

    @property
    def multiple_px(self) -> int:
        """What height and width are brought to a multiple of."""
        return int(self.stem * 2 ** len(self.down))

    @property
    def reach_px(self) -> int:
        """How far away a pixel can have an effect, over all layers."""
        # First and last layer, and that a coarse pixel is fed by all of its fine ones.
        scale, reach = self.stem, 2 * self.stem + self.multiple_px - 1
        for count in self.blocks[:-1]:
            # Going down and coming up again, two convolutions a block.
            reach += scale * 4 * count
            scale *= 2
        return reach + scale * 2 * len(self.body)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Return cleaned images.

        Parameters
        ----------
        x : Tensor, shape (batch, y, x)
            Zero on average.
        noise : Tensor, broadcastable to ``x``
            Standard deviation of the noise; ignored by a network of one input.
        """
        height, width = x.shape[-2:]
        planes = [x, noise.expand_as(x)][: self.inputs]
        stack = torch.stack(planes, dim=1)
        rest = [-size % self.multiple_px for size in (height, width)]
        if any(rest):
            stack = functional.pad(stack, (0, rest[1], 0, rest[0]), mode="replicate")
        change = self._change(stack)[:, 0, :height, :width]
        return x - change.to(x.dtype)

    def _change(self, stack: Tensor) -> Tensor:
        fine = functional.pixel_unshuffle(stack, self.stem) if self.stem > 1 else stack
        if stack.device.type == "cpu":
            fine = fine.contiguous(memory_format=torch.channels_last)
        level = self.head(fine)
        kept = []
        for down in self.down:
            kept.append(level)
            level = down(level)
        level = self.body(level)
        for up, before in zip(reversed(self.up), reversed(kept), strict=True):
            assert isinstance(up, nn.Sequential)
            level = up[1](up[0](level) + before)
        change: Tensor = self.tail(level)
        return functional.pixel_shuffle(change, self.stem) if self.stem > 1 else change
