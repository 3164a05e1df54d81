"""Networks with a deformable latent space: how far kernels move the features, and what time it all takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from napari_deblur.methods.latent_image import FAMILIES, NETWORKS
from napari_deblur.nets.deformable import REFERENCES, DeformableNet, Scale
from napari_deblur.nets.weights import load_network
from napari_deblur.train.deformation_data import Case, degraded

SIZE_PX = 256
EPOCH_IMAGES, BATCH, GROUPS = 10_000, 8, 4
_REPEATS = 3


def load(network: str) -> DeformableNet:
    """Return the network on the CPU."""
    net, _ = load_network(NETWORKS[network])
    assert isinstance(net, DeformableNet)
    return net


@torch.inference_mode()
def latent_shift(network: str, crops: Tensor, cases: list[Case], seed: int) -> dict[str, dict[str, float]]:
    """Return how far features lie from those of the reference kernel's image, before and after the deformer.

    In units of the features' own spread. Afterwards both have passed the deformer, each with its own
    parameters. ``before`` and ``after`` are of two images with noise of their own, as in the training, so
    that even two of the reference kernel lie apart: the floor. In ``kernel alone`` both have the same noise.

    Parameters
    ----------
    network : str
    crops : Tensor, shape (n, crop, crop)
    cases : list of Case
        All of one noise.
    seed : int
        Of the noise.
    """
    net, model = load(network), FAMILIES[network]
    reference = Case(tuple(REFERENCES[model]), cases[0].noise)

    def features(case: Case, seed: int) -> tuple[Tensor, Tensor]:
        """Return features before and after the deformer."""
        images = degraded(crops, case, model, seed)[0]
        scales = [Scale.of(y) for y in images]
        normal = torch.stack([(y - s.mean) / s.spread for y, s in zip(images, scales, strict=True)])
        values = torch.tensor([case.parameters]).expand(len(images), -1)
        told = net.conditions(values, torch.tensor([scale.noise for scale in scales]))
        latent = net.encode(normal)
        return latent, net.deform(latent, told)

    wanted = features(reference, seed)
    spreads = [(part - part.mean(dim=(2, 3), keepdim=True)).square().mean().sqrt() for part in wanted]

    def shift(case: Case) -> dict[str, float]:
        found = {}
        for suffix, own_seed in (("", seed + 1), (", kernel alone", seed)):
            parts = zip(("before", "after"), features(case, own_seed), wanted, spreads, strict=True)
            for name, one, other, spread in parts:
                found[name + suffix] = round(float((one - other).square().mean().sqrt() / spread), 4)
        return found

    return {"floor": shift(reference)} | {case.name: shift(case) for case in cases}


def speed(network: str, device: str) -> dict[str, float]:
    """Return the time of inference on an image of 256², and of an epoch of 10,000 of them, by stage.

    An epoch is the best of a few steps of eight images, times their number in it; a step is forward and
    backward, without the optimiser's own part and without making the images.
    """
    place = torch.device(device)
    net = load(network).to(place).requires_grad_(True)
    images = torch.randn(BATCH, SIZE_PX, SIZE_PX, device=place)
    conditions = torch.zeros(GROUPS, net.conditions.count, device=place)

    def seconds(compute: Callable[[], Any]) -> float:
        compute()
        best = float("inf")
        for _ in range(_REPEATS):
            _wait(place)
            started = time.perf_counter()
            compute()
            _wait(place)
            best = min(best, time.perf_counter() - started)
        return best

    def trained(compute: Callable[[], Tensor]) -> Callable[[], None]:
        def step() -> None:
            net.zero_grad(set_to_none=True)
            with torch.autocast(place.type, torch.bfloat16):
                made = compute()
            made.float().square().mean().backward()

        return step

    epoch = EPOCH_IMAGES / BATCH
    autoencoder = seconds(trained(lambda: net.decode(net.encode(images))))
    for fixed in (net.encoder, net.decoder):
        fixed.requires_grad_(False)
    deformer = seconds(trained(lambda: net(images, conditions)))
    net.requires_grad_(False)
    with torch.inference_mode():
        one, condition = images[:1], conditions[:1]
        latent = net.encode(one)
        encode = seconds(lambda: net.encode(one))
        rest = seconds(lambda: net.decode(net.deform(latent, condition)))
    return {
        "epoch, encoder and decoder, s": round(autoencoder * epoch, 1),
        "epoch, deformer, s": round(deformer * epoch, 1),
        "inference, encode, s": round(encode, 5),
        "inference, deform and decode, s": round(rest, 5),
    }


def _wait(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize()
