r"""Networks with a deformable latent space against classical methods that are given the true PSF.

Images of source repositories that no training has seen, 256², blurred by one kernel of the family at a time,
with noise; PSNR (range 1, estimates clipped to it) and SSIM per kernel. For the zone plate: the six published
distances with the published noise (variance 0.02; Guan et al. 2022, §4.1), others between them, and some
slightly outside. Ablations are weights of their own, trained with ``--deformer none`` and ``--deformer
simple``: the first, as published, has seen the reference kernel alone.

    python -m benchmarks.latent_deformation --data DATA --network zone-plate \
        --ablation none=FOLDER simple=FOLDER --json benchmarks/results/latent_deformation_zone_plate.json

Of the published figures only the order and the distances are comparable: their images are others.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import report
from napari_deblur.core.image import Image
from napari_deblur.engine.engine import get_engine, use_device
from napari_deblur.methods.base import Method, make_method
from napari_deblur.methods.latent_deformation import LatentDeformation
from napari_deblur.methods.latent_image import FAMILIES, NETWORKS, PARAMETERS
from napari_deblur.nets.deformable import REFERENCES, DeformableNet, Scale
from napari_deblur.nets.weights import WEIGHTS_VARIABLE, find_model, load_network
from napari_deblur.optics.psf import family
from napari_deblur.quality import psnr_db, ssim
from napari_deblur.steps.deblur import Deblur
from napari_deblur.train.deformation_data import (
    Case,
    cases,
    degraded,
    fixed_crops,
    held_out_pools,
)

SIZE_PX = 256
SEED = 20_220_104
PUBLISHED_NOISE = 0.02**0.5
BETWEEN = (1.5, 4.0, 6.0, 8.5, 12.5)
OUTSIDE = (16.0, 17.0)
RIVALS: dict[str, dict[str, Any]] = {
    "wiener": {"kind": "wiener"},
    "hyper-laplacian": {"kind": "hyper-laplacian"},
    "hyper-laplacian, λ = 2000": {"kind": "hyper-laplacian", "data_weight": 2000.0},
    "richardson-lucy": {"kind": "richardson-lucy"},
    "tv-richardson-lucy": {"kind": "tv-richardson-lucy"},
}
PUBLISHED_RIVAL = "hyper-laplacian, λ = 2000"
LEAST_GAIN_DB, MOST_LOSS_BETWEEN_DB = 1.5, 0.3
FROM_UM = 5.0
EPOCH_IMAGES = 10_000


def all_cases(network: str) -> dict[str, list[Case]]:
    """Return the cases by what they are to the training."""
    found = {"trained": cases(FAMILIES[network])}
    if network == "zone-plate":
        for name, values in (("between", BETWEEN), ("outside", OUTSIDE)):
            found[name] = [Case((value,), PUBLISHED_NOISE) for value in values]
    return found


def restored(method: Method, y: Tensor, kernel: Tensor) -> np.ndarray[Any, Any]:
    """Return the image that a method makes."""
    psf = None if isinstance(method, LatentDeformation) else kernel.numpy()
    result = Deblur(method=method).run(Image(y.numpy()), psf, engine=get_engine())
    return np.clip(result.image.data, 0, 1)


def told(network: str, case: Case) -> LatentDeformation:
    """Return the method for a case."""
    values = dict(zip(PARAMETERS[network], case.parameters, strict=True))
    return LatentDeformation.model_validate({"network": network, **values})


def scores(make: Callable[[Tensor], np.ndarray[Any, Any]], images: Tensor, sharp: Tensor) -> dict[str, float]:
    """Return mean PSNR and SSIM over images, and the time for one."""
    rows = []
    started = time.perf_counter()
    made = [make(y) for y in images]
    seconds = (time.perf_counter() - started) / len(images)
    for one, true in zip(made, sharp.numpy(), strict=True):
        rows.append((psnr_db(one, true, 1.0), ssim(one, true, 1.0)))
    mean = np.mean(rows, axis=0)
    return {
        "psnr_db": round(float(mean[0]), 3),
        "ssim": round(float(mean[1]), 4),
        "seconds": round(seconds, 3),
    }


def with_weights(folder: Path | None, compute: Callable[[], Any]) -> Any:
    """Compute with the weights of another folder."""
    before = os.environ.get(WEIGHTS_VARIABLE)
    if folder is not None:
        os.environ[WEIGHTS_VARIABLE] = str(folder)
    try:
        return compute()
    finally:
        if before is None:
            os.environ.pop(WEIGHTS_VARIABLE, None)
        else:
            os.environ[WEIGHTS_VARIABLE] = before


def compare(
    network: str, crops: Tensor, case: Case, ablations: dict[str, Path], rivals: list[str]
) -> dict[str, Any]:
    """Return the figures of all methods for one case on one set of images."""
    images, sharp, kernel = degraded(crops, case, FAMILIES[network], SEED)
    found = {"blurred": scores(lambda y: y.clamp(0, 1).numpy(), images, sharp)}
    own = told(network, case)
    for name, folder in {"complete": None, **ablations}.items():
        found[name] = with_weights(folder, lambda: scores(lambda y: restored(own, y, kernel), images, sharp))
    for name in rivals:
        method = make_method(RIVALS[name])
        found[name] = scores(lambda y, m=method: restored(m, y, kernel), images, sharp)  # type: ignore[misc]
    return found


def load(network: str) -> DeformableNet:
    """Return the network on the CPU."""
    net, _ = load_network(NETWORKS[network])
    assert isinstance(net, DeformableNet)
    return net


@torch.inference_mode()
def latent_shift(network: str, crops: Tensor) -> dict[str, dict[str, float]]:
    """Return how far features lie from those of the reference kernel's image, before and after the deformer.

    In units of the features' own spread. Afterwards both have passed the deformer, each with its own
    parameters. Noise differs between the images, so that even two of the reference kernel lie apart: the
    floor.
    """
    net, model = load(network), FAMILIES[network]
    trained = all_cases(network)["trained"]
    reference = Case(tuple(REFERENCES[model]), trained[0].noise)

    def features(case: Case, seed: int) -> tuple[Tensor, Tensor]:
        """Return features before and after the deformer."""
        images = degraded(crops, case, model, seed)[0]
        scales = [Scale.of(y) for y in images]
        normal = torch.stack([(y - s.mean) / s.spread for y, s in zip(images, scales, strict=True)])
        values = torch.tensor([case.parameters]).expand(len(images), -1)
        told = net.conditions(values, torch.tensor([scale.noise for scale in scales]))
        latent = net.encode(normal)
        return latent, net.deform(latent, told)

    wanted = features(reference, SEED)
    spreads = [(part - part.mean(dim=(2, 3), keepdim=True)).square().mean().sqrt() for part in wanted]

    def shift(case: Case) -> dict[str, float]:
        found = zip(("before", "after"), features(case, SEED + 1), wanted, spreads, strict=True)
        return {
            name: round(float((one - other).square().mean().sqrt() / spread), 4)
            for name, one, other, spread in found
        }

    return {"floor": shift(reference)} | {case.name: shift(case) for case in trained}


def speed(network: str, device: str) -> dict[str, float]:
    """Return the time of inference on an image of 256², and of an epoch of 10,000 of them, by stage."""
    place = torch.device(device)
    net = load(network).to(place).requires_grad_(True)
    images = torch.randn(8, SIZE_PX, SIZE_PX, device=place)
    conditions = torch.zeros(4, net.conditions.count, device=place)
    found: dict[str, float] = {}

    def measure(name: str, compute: Callable[[], Any], per: float) -> None:
        compute()
        best = float("inf")
        for _ in range(3):
            if place.type == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            compute()
            if place.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - started)
        found[name] = round(best * per, 4)

    def trained(compute: Callable[[], Tensor]) -> Callable[[], None]:
        def step() -> None:
            net.zero_grad(set_to_none=True)
            with torch.autocast(place.type, torch.bfloat16):
                made = compute()
            made.float().square().mean().backward()

        return step

    epoch = EPOCH_IMAGES / len(images)
    measure("epoch, encoder and decoder, s", trained(lambda: net.decode(net.encode(images))), epoch)
    net.encoder.requires_grad_(False)
    net.decoder.requires_grad_(False)
    measure("epoch, deformer, s", trained(lambda: net(images, conditions)), epoch)
    net.requires_grad_(False)
    with torch.inference_mode():
        one, condition = images[:1], conditions[:1]
        latent = net.encode(one)
        measure("inference, encode, s", lambda: net.encode(one), 1)
        measure("inference, deform and decode, s", lambda: net.decode(net.deform(latent, condition)), 1)
    return found


def losses_between(rows: dict[str, Any]) -> dict[str, float]:
    """Return how far the PSNR of kernels between the trained ones lies below the line through these."""
    known = {float(name.split(";")[0]): row["complete"]["psnr_db"] for name, row in rows["trained"].items()}
    at, values = list(known), list(known.values())
    return {
        name: round(float(np.interp(float(name.split(";")[0]), at, values)) - row["complete"]["psnr_db"], 3)
        for name, row in rows.get("between", {}).items()
    }


def mean_of(rows: dict[str, Any], name: str, key: str) -> float:
    """Return the mean over the trained cases."""
    return round(float(np.mean([row[name][key] for row in rows["trained"].values()])), 3)


def bars(network: str, figures: dict[str, Any]) -> dict[str, tuple[float, str, float]]:
    """Return what must be reached, on each set of images."""
    held: dict[str, tuple[float, str, float]] = {}
    for source, rows in figures.items():
        trained = rows["trained"]
        some = next(iter(trained.values()))
        if "none" in some:
            lead = mean_of(rows, "complete", "psnr_db") - mean_of(rows, "none", "psnr_db")
            held[f"{source}: complete over no deformer, dB"] = (round(lead, 3), "at least", LEAST_GAIN_DB)
        if "simple" in some:
            lead = mean_of(rows, "complete", "psnr_db") - mean_of(rows, "simple", "psnr_db")
            held[f"{source}: complete over simple, dB"] = (round(lead, 3), "at least", 0.0)
        if network != "zone-plate":
            continue
        far = [row for name, row in trained.items() if float(name.split(";")[0]) >= FROM_UM]
        for key, unit in (("psnr_db", "dB"), ("ssim", "SSIM")):
            if PUBLISHED_RIVAL in some:
                lead = min(row["complete"][key] - row[PUBLISHED_RIVAL][key] for row in far)
                name = f"{source}: least lead over hyper-Laplacian from {FROM_UM:g} µm, {unit}"
                held[name] = (round(lead, 4), "at least", 0.0)
        worst = max(losses_between(rows).values())
        held[f"{source}: most lost between distances, dB"] = (worst, "at most", MOST_LOSS_BETWEEN_DB)
    return held


def main() -> None:
    """Run all cases of one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train_micro and train_natural")
    parser.add_argument("--network", choices=list(NETWORKS), default="zone-plate")
    parser.add_argument("--ablation", nargs="*", default=[], metavar="NAME=FOLDER", help="none=… simple=…")
    parser.add_argument("--rivals", nargs="*", default=list(RIVALS), choices=list(RIVALS))
    parser.add_argument("--images", type=int, default=20, help="images per set")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    use_device(args.device)
    model, network = FAMILIES[args.network], args.network
    ablations = {name: Path(folder) for name, folder in (entry.split("=", 1) for entry in args.ablation)}
    pools = held_out_pools(SIZE_PX + family(model).size_px() - 1, args.data, "test", SEED)
    sets = {name: fixed_crops(pool, args.images, SEED) for name, pool in pools.items()}
    figures: dict[str, Any] = {}
    for source, crops in sets.items():
        figures[source] = {}
        for group, some in all_cases(network).items():
            rows = figures[source][group] = {}
            for case in some:
                rows[case.name] = compare(network, crops, case, ablations, args.rivals)
                line = ", ".join(f"{name} {row['psnr_db']:.2f}" for name, row in rows[case.name].items())
                print(f"{source}, {group}, {case.name}: {line}", flush=True)
    held = bars(network, figures)
    for source, crops in sets.items():
        if network == "zone-plate":
            figures[source]["lost between, dB"] = losses_between(figures[source])
        figures[source]["latent shift"] = latent_shift(network, crops)
    card = find_model(NETWORKS[network]).card
    figures["speed"] = speed(network, get_engine().device)
    figures["network"] = {"id": card["id"], "sha256": card["sha256"], "training": card.get("training")}
    report(f"latent deformation, {network}", figures, args.json, held)


if __name__ == "__main__":
    main()
