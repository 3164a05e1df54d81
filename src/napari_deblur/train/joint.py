"""Identification networks of several families that share both branches and differ in their heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from napari_deblur.nets.identification import IdentificationNet, build
from napari_deblur.nets.views import normalise

SHARED_PREFIXES = ("spatial.", "spectral.")
"""Beginnings of the names of the weights that families share."""

Output = tuple[Tensor, Tensor, Tensor]


class Networks(nn.Module):
    """Networks by family over one pair of branches.

    What blurs an image leaves the same traces whatever the family that describes it: branches that learn from
    all families see more images, and are stored once.

    Parameters
    ----------
    configs : sequence of dict
        One per family, of the same architecture.
    """

    def __init__(self, configs: list[dict[str, Any]]) -> None:
        super().__init__()
        self.by_model = nn.ModuleDict({str(config["model"]): build(config) for config in configs})
        first, *others = self.each().values()
        for network in others:
            network.spatial, network.spectral = first.spatial, first.spectral

    def each(self) -> dict[str, IdentificationNet]:
        """Return the network of each family."""
        return {name: net for name, net in self.by_model.items() if isinstance(net, IdentificationNet)}

    def forward(self, patches: Mapping[str, Tensor]) -> dict[str, Output]:
        """Run the branches once over the patches of all families, and each family's heads over its own.

        Parameters
        ----------
        patches : mapping of Tensor, shape (batch, patch, patch)
            By family.
        """
        networks = self.each()
        first = next(iter(networks.values()))
        x = normalise(torch.cat(list(patches.values())))
        features = torch.cat([first.spatial(x), first.spectral(x)], dim=1)
        counts = [len(part) for part in patches.values()]
        parts = zip(patches, features.split(counts), x.split(counts), strict=True)
        return {
            name: networks[name].heads(part, networks[name].asymmetry_of(own)) for name, part, own in parts
        }
