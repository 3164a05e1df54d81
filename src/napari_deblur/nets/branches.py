"""The two branches of the network that reads a PSF's parameters off a patch.

The spatial branch is a narrow residual network (He et al. 2016, doi:10.1109/CVPR.2016.90). The spectral
branch sees the logarithm of the windowed patch's power spectrum: all that a symmetric kernel does to an image
lies there, zeros included.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_SPECTRUM_FLOOR = 1e-2


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class _Block(nn.Module):
    """Residual block of two 3 × 3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, 3, stride)
        self.second = _conv(outputs, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if same else _conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.first(x))
        return functional.relu(self.second(inner) + self.shortcut(x))


def _stages(inputs: int, widths: list[int], blocks: list[int], first_stride: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for index in range(count):
            stride = (first_stride if level == 0 else 2) if index == 0 else 1
            layers.append(_Block(inputs, width, stride))
            inputs = width
    return nn.Sequential(*layers)


class SpatialBranch(nn.Module):
    """Fully convolutional trunk, stride 16, pooled to its mean and maximum."""

    def __init__(self, widths: list[int], blocks: list[int]) -> None:
        super().__init__()
        self.stem = _conv(1, widths[0], 5, 2)
        self.stages = _stages(widths[0], widths, blocks, 1)
        self.features = 2 * widths[-1]

    def maps(self, x: Tensor) -> Tensor:
        """Map (batch, 1, y, x) to (batch, features / 2, y / 16, x / 16)."""
        found: Tensor = self.stages(functional.relu(self.stem(x)))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 1, y, x) to (batch, features)."""
        maps = self.maps(x)
        return torch.cat([maps.mean(dim=(-2, -1)), maps.amax(dim=(-2, -1))], dim=1)


class SpectralBranch(nn.Module):
    """Convolutions over the half plane of the log power spectrum, with the frequencies as extra channels."""

    window: Tensor
    frequencies: Tensor

    def __init__(self, width: int, features: int, patch_px: int) -> None:
        super().__init__()
        hann = torch.hann_window(patch_px, periodic=True)
        self.register_buffer("window", hann[:, None] * hann[None, :], persistent=False)
        fy = torch.linspace(-1, 1 - 2 / patch_px, patch_px)[:, None].expand(patch_px, patch_px // 2)
        fx = torch.linspace(0, 1 - 2 / patch_px, patch_px // 2)[None, :].expand(patch_px, patch_px // 2)
        self.register_buffer("frequencies", torch.stack([fy, fx, torch.hypot(fy, fx)]), persistent=False)
        self.stem = _conv(4, width)
        self.stages = _stages(width, [2 * width, 4 * width, 6 * width, 8 * width], [1, 1, 1, 1], 2)
        self.squeeze = _conv(8 * width, 4 * width, 1)
        cells = (patch_px // 16) * (patch_px // 32)
        self.project = nn.Linear(4 * width * cells, features)
        self.features = features

    def spectrum(self, x: Tensor) -> Tensor:
        """Map (batch, 1, y, x) to (batch, 4, y, x / 2): log power, f_y, f_x, |f|."""
        with torch.autocast(x.device.type, enabled=False):
            transform = torch.fft.rfft2(x.float() * self.window)
            power = transform.real.square() + transform.imag.square()
            power = torch.fft.fftshift(power, dim=-2)[..., :-1]
            log_power = (torch.log(power + _SPECTRUM_FLOOR) - 2) / 4
        return torch.cat([log_power, self.frequencies.expand(len(x), -1, -1, -1)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, 1, y, x) to (batch, features)."""
        return self.read(self.spectrum(x))

    def read(self, spectrum: Tensor) -> Tensor:
        """Map what `spectrum` returns to (batch, features)."""
        maps = spectrum.contiguous(memory_format=torch.channels_last)
        maps = self.stages(functional.relu(self.stem(maps)))
        maps = functional.relu(self.squeeze(maps))
        return functional.relu(self.project(maps.flatten(1)))
