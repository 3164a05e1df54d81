"""Starting a training from a network that is already trained, for the same family or another."""

from __future__ import annotations

from typing import Any

import torch

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.nets.identification import IdentificationNet
from napari_deblur.nets.weights import load_network

_THIRD = "asymmetry."
_HEADS = ("mean.weight", "mean.bias", "spread.2.weight", "spread.2.bias")


def take_weights(network: IdentificationNet, model: str) -> dict[str, Any]:
    """Copy a trained network's weights into one of the same architecture.

    Of the heads' last layers, which have a row for each regressed quantity, those rows are copied that both
    regress with the same name. The branch for asymmetry stays as it is where the other has none.

    Parameters
    ----------
    network : IdentificationNet
        Changed in place.
    model : str
        Id of the trained network.

    Returns
    -------
    dict
        Where the weights came from, for the card.

    Raises
    ------
    UnknownNameError, WeightsError
        If there is no such network, or its file is damaged.
    InvalidInputError
        If its layers differ.
    """
    other, card = load_network(model)
    if not isinstance(other, IdentificationNet):
        raise InvalidInputError("start_from", "must name a network that reads PSF parameters", model)
    mine, theirs = network.state_dict(), other.state_dict()
    fresh = {name for name in mine if name.startswith(_THIRD) and name not in theirs}
    known = [name for name in mine if name not in fresh]
    unlike = [name for name in known if name not in theirs or _size(name, mine) != _size(name, theirs)]
    if unlike:
        raise InvalidInputError("start_from", "must name a network of the same architecture", model)
    shared = [name for name in network.targets.names if name in other.targets.names]
    to = [network.targets.names.index(name) for name in shared]
    source = [other.targets.names.index(name) for name in shared]
    with torch.no_grad():
        for name, value in ((name, mine[name]) for name in known):
            if name in _HEADS:
                value[to] = theirs[name][source].to(value)
            else:
                value.copy_(theirs[name])
    facts = {"id": model, "sha256": card["sha256"], "quantities": shared}
    return facts | {"patches": card.get("training", {}).get("patches")}


def _size(name: str, state: dict[str, torch.Tensor]) -> tuple[int, ...]:
    """Return a tensor's shape, without the rows of a head."""
    return tuple(state[name].shape[1:] if name in _HEADS else state[name].shape)
