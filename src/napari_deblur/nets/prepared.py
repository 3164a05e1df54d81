"""Branches of a trained network ready for inference: batch norms folded in, in the fast precision."""

from __future__ import annotations

import copy
import weakref
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from napari_deblur.nets.branches import SpatialBranch, SpectralBranch

if TYPE_CHECKING:
    from napari_deblur.nets.identification import IdentificationNet

_Branches = tuple[SpatialBranch, SpectralBranch]
_ready: weakref.WeakKeyDictionary[nn.Module, dict[torch.dtype, _Branches]] = weakref.WeakKeyDictionary()


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies it natively, else float32."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16
    if device.type == "cpu":
        known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        if any(getattr(torch.cpu, name, lambda: False)() for name in known):
            return torch.bfloat16
    return torch.float32


def reach_px(branch: SpatialBranch) -> int:
    """Return how far from a cell's own pixels the spatial branch looks."""
    reach, step = 0, 1
    for name, module in branch.named_modules():
        if isinstance(module, nn.Conv2d) and "shortcut" not in name:
            reach += int(module.kernel_size[0]) // 2 * step
            step *= int(module.stride[0])
    return reach


def prepared(net: IdentificationNet, dtype: torch.dtype) -> _Branches:
    """Return copies of the branches with batch norms folded into convolutions, made once per network."""
    kept = _ready.setdefault(net, {})
    if dtype not in kept:
        spatial, spectral = copy.deepcopy(net.spatial), copy.deepcopy(net.spectral)
        for branch in (spatial, spectral):
            _fold(branch.eval())
            branch.requires_grad_(False).to(dtype)
            branch.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's types
        kept[dtype] = spatial, spectral
    return kept[dtype]


def _fold(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        parts = list(child.children())
        if len(parts) == 2 and isinstance(parts[0], nn.Conv2d) and isinstance(parts[1], nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(parts[0], parts[1]))
        else:
            _fold(child)
