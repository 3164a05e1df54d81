"""The feature extractor of CiDeR: sixteen filtered versions of an image, to be deconvolved one by one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from napari_deblur.blur.base import Blur
from napari_deblur.core.run import Run

ARCHITECTURE = "residual-features"
_IMAGE_CHANNELS = 3
_TINY = 1e-6
_LEAST_SENSITIVITY = 0.01
_START = 0.5


class _Residual(nn.Module):
    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, padding_mode="reflect")
        self.second = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, padding_mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.second(self.first(x).relu())
        return out


class FeatureExtractor(nn.Module):
    """One convolution and residual blocks, without normalisation (Dong et al. 2020; He et al. 2016).

    Parameters
    ----------
    config : dict
        ``channels``, ``kernel_px`` and ``blocks``; the defaults make 39,712 parameters.

    Notes
    -----
    Colour channels are the architecture's, of the photographs it was first trained on; a grey image takes
    all three.
    """

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.config = {**default_config(), **(config or {})}
        channels, kernel = int(self.config["channels"]), int(self.config["kernel_px"])
        self.head = nn.Conv2d(_IMAGE_CHANNELS, channels, kernel, padding=kernel // 2, padding_mode="reflect")
        self.blocks = nn.Sequential(*(_Residual(channels, kernel) for _ in range(int(self.config["blocks"]))))

    def forward(self, grey: Tensor) -> Tensor:
        """Map grey images ``(batch, 1, h, w)`` to features ``(batch, channels, h, w)``."""
        features: Tensor = self.blocks(self.head(grey.expand(-1, _IMAGE_CHANNELS, -1, -1)).relu())
        return features


def default_config() -> dict[str, Any]:
    """Return the architecture of CiDeR's extractor."""
    return {"architecture": ARCHITECTURE, "channels": 16, "kernel_px": 5, "blocks": 3}


def build(config: dict[str, Any]) -> FeatureExtractor:
    """Build the extractor that a card's configuration describes."""
    return FeatureExtractor(config)


def deconvolved(
    extractor: nn.Module, y: Tensor, blur: Blur, n_iterations: int, run: Run
) -> tuple[Tensor, Tensor]:
    """Deconvolve an image's features by Richardson–Lucy, all in one batch: Eq. 4 of Chobola et al. 2023.

    Parameters
    ----------
    extractor : Module
        Maps ``(1, 1, y, x)`` to features ``(1, channels, y, x)``.
    y : Tensor, shape (y, x)
        With the blur's pedestal.
    blur : Blur
        One PSF or a map.
    n_iterations : int
    run : Run

    Returns
    -------
    features : Tensor, shape ``(channels, *blur.object_shape)``
        Each scaled to 0 to 1 before, and started from 0.5.
    image : Tensor, shape ``blur.object_shape``
        The image itself, deconvolved along with them.
    """
    features = extractor(y[None, None])[0]
    low, high = features.amin(dim=(-2, -1), keepdim=True), features.amax(dim=(-2, -1), keepdim=True)
    data = torch.cat([(features - low) / (high - low).clamp_min(_TINY), y[None].clamp_min(0)])
    ground = torch.zeros((len(data), 1, 1), device=y.device)
    ground[-1] = blur.pedestal
    sensitivity = blur.adjoint(torch.ones_like(y))
    seen = sensitivity > _LEAST_SENSITIVITY
    scale = seen / sensitivity.clamp_min(_LEAST_SENSITIVITY)
    x = torch.full((len(data), *blur.object_shape), _START, device=y.device)
    for done in range(1, n_iterations + 1):
        model = (blur.forward(x) + ground).clamp_min(_TINY)
        x = x * blur.adjoint(data / model).clamp_min(0) * scale
        run.step(done, n_iterations, f"features, iteration {done}", blur.crop(x[-1])[None])
    return x[:-1], x[-1]
