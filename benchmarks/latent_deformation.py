r"""Networks with a deformable latent space against classical methods that are given the true PSF.

Images of source repositories that no training has seen, 256², blurred by one kernel of the family at a time,
with noise; PSNR (range 1, estimates clipped to it) and SSIM per kernel. For the zone plate: the six published
distances with the published noise (variance 0.02; Guan et al. 2022, §4.1), the same with 0.02 as the standard
deviation, others between them, and some slightly outside. Noise of variance 0.02 hides most of what the
kernels differ in; 0.02 as a standard deviation is what the published weight of their first rival, λ = 2000,
suits. Ablations are weights of their own, trained with ``--deformer none`` and ``--deformer simple``. The
first, as published, has seen the reference kernel alone and is told nothing; neither has the linear filter
that is made of the known PSF.

    python -m benchmarks.latent_deformation --data DATA --network zone-plate \
        --ablation none=FOLDER simple=FOLDER --json benchmarks/results/latent_deformation_zone_plate.json

Of the published figures only the order and the distances are comparable: their images are others.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.common import report
from benchmarks.latent_space import SIZE_PX, latent_shift, speed
from napari_deblur.core.image import Image
from napari_deblur.engine.shared import get_engine, use_device
from napari_deblur.methods.base import Method, make_method
from napari_deblur.methods.latent_deformation import LatentDeformation
from napari_deblur.methods.latent_image import FAMILIES, NETWORKS, PARAMETERS
from napari_deblur.nets.weights import WEIGHTS_VARIABLE, find_model
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

SEED = 20_220_104
PUBLISHED_NOISE, LESS_NOISE = 0.02**0.5, 0.02
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
TRAINED, LESS = "trained", "trained, noise 0.02"
OWN = ("complete", "simple", "none")


def all_cases(network: str) -> dict[str, list[Case]]:
    """Return the cases by what they are to the training."""
    found = {TRAINED: cases(FAMILIES[network])}
    if network == "zone-plate":
        found[LESS] = [Case(case.parameters, LESS_NOISE) for case in found[TRAINED]]
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


def ablation(entry: str) -> tuple[str, Path]:
    """Return name and folder of an ablation's weights, which must be of that ablation."""
    name, _, place = entry.partition("=")
    folder = Path(place)
    cards = [
        json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("latent-deformation-*.json")
    ]
    if name not in OWN or [card["config"]["deformer"] for card in cards] != [name]:
        raise argparse.ArgumentTypeError(f"{entry} must be none=FOLDER or simple=FOLDER, with its weights")
    return name, folder


def about(network: str) -> dict[str, Any]:
    """Return which weights were used, and how they were trained."""
    card = find_model(NETWORKS[network]).card
    return {name: card.get(name) for name in ("id", "sha256", "config", "recipe", "training")}


def compare(
    network: str, crops: Tensor, case: Case, own: dict[str, Path | None], rivals: list[str]
) -> dict[str, Any]:
    """Return the figures of all methods for one case on one set of images."""
    images, sharp, kernel = degraded(crops, case, FAMILIES[network], SEED)
    found = {"blurred": scores(lambda y: y.clamp(0, 1).numpy(), images, sharp)}
    method = told(network, case)
    for name, folder in own.items():
        found[name] = with_weights(
            folder, lambda: scores(lambda y: restored(method, y, kernel), images, sharp)
        )
    for name in rivals:
        rival = make_method(RIVALS[name])
        found[name] = scores(lambda y, m=rival: restored(m, y, kernel), images, sharp)  # type: ignore[misc]
    return found


def distance(name: str) -> float:
    """Return the distance from focus in the name of a zone plate's case."""
    return float(name.split(";", maxsplit=1)[0])


def losses_between(rows: dict[str, Any]) -> dict[str, float]:
    """Return how far the PSNR of kernels between the trained ones lies below the line through these."""
    known = {distance(name): row["complete"]["psnr_db"] for name, row in rows[TRAINED].items()}
    at, values = list(known), list(known.values())
    return {
        name: round(float(np.interp(distance(name), at, values)) - row["complete"]["psnr_db"], 3)
        for name, row in rows.get("between", {}).items()
    }


def means(rows: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the mean PSNR and SSIM of every method over some cases."""
    names = next(iter(rows.values()))
    return {
        name: {
            key: round(float(np.mean([row[name][key] for row in rows.values()])), digits)
            for key, digits in (("psnr_db", 3), ("ssim", 4))
        }
        for name in names
    }


def leads(rows: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by case how far the network lies above the best rival in dB, and which one that is."""
    found = {}
    for name, row in rows.items():
        rivals = {rival: one["psnr_db"] for rival, one in row.items() if rival not in ("blurred", *OWN)}
        if not rivals:
            continue
        best = max(rivals, key=lambda rival: float(rivals[rival]))
        found[name] = {"rival": best, "db": round(row["complete"]["psnr_db"] - rivals[best], 3)}
    return found


def bars(network: str, figures: dict[str, Any]) -> dict[str, tuple[float, str, float]]:
    """Return what must be reached, on each set of images."""
    held: dict[str, tuple[float, str, float]] = {}
    for source, rows in figures.items():
        for group in (TRAINED, LESS):
            if group in rows:
                held |= _bars_of(f"{source}, {group}", rows[group], published=network == "zone-plate")
        if network == "zone-plate":
            worst = max(losses_between(rows).values())
            held[f"{source}: most lost between distances, dB"] = (worst, "at most", MOST_LOSS_BETWEEN_DB)
    return held


def _bars_of(where: str, rows: dict[str, Any], *, published: bool) -> dict[str, tuple[float, str, float]]:
    held: dict[str, tuple[float, str, float]] = {}
    mean = means(rows)
    for name, title, least in (("none", "no deformer", LEAST_GAIN_DB), ("simple", "simple", 0.0)):
        if name in mean:
            lead = round(mean["complete"]["psnr_db"] - mean[name]["psnr_db"], 3)
            held[f"{where}: complete over {title}, dB"] = (lead, "at least", least)
    if not published or PUBLISHED_RIVAL not in mean:
        return held
    far = [row for name, row in rows.items() if distance(name) >= FROM_UM]
    for key, unit in (("psnr_db", "dB"), ("ssim", "SSIM")):
        least_lead = min(row["complete"][key] - row[PUBLISHED_RIVAL][key] for row in far)
        name = f"{where}: least lead over hyper-Laplacian from {FROM_UM:g} µm, {unit}"
        held[name] = (round(least_lead, 4), "at least", 0.0)
    return held


def summed_up(
    network: str, crops: Tensor, rows: dict[str, Any], ablations: dict[str, Path | None]
) -> dict[str, Any]:
    """Return means, leads, losses between the trained kernels, and shifts of the features."""
    groups = all_cases(network)
    found: dict[str, Any] = {
        "means": {group: means(rows[group]) for group in (TRAINED, LESS) if group in rows},
        "lead over the best rival": {group: leads(part) for group, part in rows.items()},
    }
    if network == "zone-plate":
        found["lost between, dB"] = losses_between(rows)
    for group in (TRAINED, LESS):
        some = [case for case in groups.get(group, []) if case.noise == groups[group][0].noise]
        if some:
            found[f"latent shift, {group}"] = {
                name: with_weights(folder, lambda s=some: latent_shift(network, crops, s, SEED))  # type: ignore[misc]
                for name, folder in ablations.items()
                if name != "none"
            }
    return found


def main() -> None:
    """Run all cases of one network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train_micro and train_natural")
    parser.add_argument("--network", choices=list(NETWORKS), default="zone-plate")
    parser.add_argument(
        "--ablation", nargs="*", default=[], type=ablation, metavar="NAME=FOLDER", help="none=… simple=…"
    )
    parser.add_argument("--rivals", nargs="*", default=list(RIVALS), choices=list(RIVALS))
    parser.add_argument("--images", type=int, default=20, help="images per set")
    parser.add_argument("--speed", action=argparse.BooleanOptionalAction, default=True, help="measure times")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    use_device(args.device)
    model, network = FAMILIES[args.network], args.network
    own: dict[str, Path | None] = {"complete": None, **dict(args.ablation)}
    pools = held_out_pools(SIZE_PX + family(model).size_px() - 1, args.data, "test", SEED)
    sets = {name: fixed_crops(pool, args.images, SEED) for name, pool in pools.items()}
    figures: dict[str, Any] = {}
    for source, crops in sets.items():
        figures[source] = {}
        for group, some in all_cases(network).items():
            rows = figures[source][group] = {}
            for case in some:
                rows[case.name] = compare(network, crops, case, own, args.rivals)
                line = ", ".join(f"{name} {row['psnr_db']:.2f}" for name, row in rows[case.name].items())
                print(f"{source}, {group}, {case.name}: {line}", flush=True)
    held = bars(network, figures)
    for source, crops in sets.items():
        figures[source] |= summed_up(network, crops, figures[source], own)
    if args.speed:
        figures["speed"] = speed(network, get_engine().device)
    figures["networks"] = {name: with_weights(folder, lambda: about(network)) for name, folder in own.items()}
    report(f"latent deformation, {network}", figures, args.json, held)


if __name__ == "__main__":
    main()
