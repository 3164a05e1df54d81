"""PSF map in one pass: its time against separate patches, and what the pass does to the answers.

Time: a 1024² plane at a stride of 64 (225 patches). Separate patches are read in batches in float32, with all
eight mirrored and turned views and with as many as the pass averages; the pass shares layers between patches,
in the precision that the device is fast at. All run in turn; medians. The lower bound is what the pass's
multiplications alone would take at the rate of a large matrix product in the same precision, without the
Fourier transforms and everything else.

Answers: held-out micrographs of the validation sources, 256² fields of one blur each, nine patches a field;
separate patches with eight views against the pass as it is.

    python -m benchmarks.map_speed --data ../shared/data
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.common import arguments, report
from napari_deblur.nets.dense import estimate_planes
from napari_deblur.nets.identification import PATCH_PX, Estimate, IdentificationNet
from napari_deblur.nets.prepared import fast_dtype, prepared
from napari_deblur.nets.weights import list_models, load_network
from napari_deblur.samples import tilted_cells
from napari_deblur.steps.psf_map import VIEWS
from napari_deblur.train.degrade import Degradation, crop_size_px
from napari_deblur.train.evaluate import held_out
from napari_deblur.train.tiles import micrograph_pool

STRIDE_PX, FIELD_PX, ALL_VIEWS = 64, 256, 8
SEED = 5
_BATCH = 64


def separate(net: IdentificationNet, plane: Tensor, starts: list[int], views: int) -> Estimate:
    """Return the estimate of patches that are cut out one by one."""
    windows = plane.unfold(0, PATCH_PX, 1).unfold(1, PATCH_PX, 1)
    patches = torch.stack([windows[y, x] for y in starts for x in starts])
    parts = [net.regress(batch, views) for batch in patches.split(_BATCH)]
    return net.as_estimate(*(torch.cat(part) for part in zip(*parts, strict=True)))


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Return how long a piece of work takes."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def products(net: IdentificationNet, size: int, starts: list[int], dtype: torch.dtype) -> float:
    """Return the multiplications of convolutions and matrices in one pass."""
    spatial, spectral = prepared(net, dtype)
    total = 0.0

    def count(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        positions = output.shape[-1] * output.shape[-2] if isinstance(module, nn.Conv2d) else 1
        total += weight.numel() * positions

    hooks = [
        module.register_forward_hook(count)
        for branch in (spatial, spectral)
        for module in branch.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    device = next(net.parameters()).device
    spatial.maps(torch.zeros((1, 1, size, size), dtype=dtype, device=device))
    whole, total = total, 0.0
    spectral.read(torch.zeros((1, 4, PATCH_PX, PATCH_PX // 2), dtype=dtype, device=device))
    for hook in hooks:
        hook.remove()
    return VIEWS * whole + min(VIEWS, 4) * len(starts) ** 2 * total


def rate(dtype: torch.dtype, device: torch.device, side: int = 2048) -> float:
    """Return the multiplications per second of a large matrix product."""
    one = torch.randn((side, side), device=device).to(dtype)
    return side**3 / min(seconds(lambda: one @ one, device) for _ in range(4))


def timing(model: str, size: int, repeats: int) -> dict[str, Any]:
    """Return the times of one network."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net, _ = load_network(model, device)
    assert isinstance(net, IdentificationNet)
    plane = torch.from_numpy(tilted_cells(size).image.data).to(device)
    starts = list(range(0, size - PATCH_PX + 1, STRIDE_PX))
    ways: dict[str, Callable[[], Any]] = {
        "separate_eight_views": lambda: separate(net, plane, starts, ALL_VIEWS),
        "separate": lambda: separate(net, plane, starts, VIEWS),
        "one_pass": lambda: estimate_planes(net, plane[None], starts, starts, VIEWS),
        "one_pass_one_view": lambda: estimate_planes(net, plane[None], starts, starts, 1),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    ways["one_pass_one_view"]()  # makes the folded copies
    for _ in range(repeats):
        for name, way in ways.items():
            spent[name].append(seconds(way, device))
    median = {name: statistics.median(values) for name, values in spent.items()}
    dtype = fast_dtype(device)
    bound = products(net, size, starts, dtype) / rate(dtype, device)
    return {
        "patches": len(starts) ** 2,
        "precision": str(dtype).removeprefix("torch."),
        **{f"{name}_s": round(value, 5) for name, value in median.items()},
        "views": VIEWS,
        "separate_over_one_pass": round(median["separate"] / median["one_pass"], 2),
        "separate_eight_views_over_one_pass": round(median["separate_eight_views"] / median["one_pass"], 2),
        "lower_bound_s": round(bound, 5),
        "share_of_lower_bound": round(bound / median["one_pass"], 3),
    }


def answers(model: str, data_dir: Path, n_fields: int) -> dict[str, Any]:
    """Return R² of both ways, and how far the pass moves the answers in units of their predicted error."""
    net, card = load_network(model)
    assert isinstance(net, IdentificationNet)
    pool = micrograph_pool(crop_size_px(model, FIELD_PX), data_dir, "validation")
    settings = Degradation(**card["degradation"])
    batches = held_out(pool, model, n_fields, SEED, settings, patch_px=FIELD_PX)
    starts = list(range(0, FIELD_PX - PATCH_PX + 1, STRIDE_PX))
    rows: dict[str, list[Tensor]] = {"true": [], "separate": [], "one_pass": [], "error": []}
    agree: list[Tensor] = []
    with torch.inference_mode():
        for batch in batches:
            for patches, parameters, valid in zip(batch.patches, batch.parameters, batch.valid, strict=True):
                if not valid:
                    continue
                one = separate(net, patches, starts, ALL_VIEWS)
                other = estimate_planes(net, patches[None], starts, starts, VIEWS)
                rows["true"].append(parameters.expand_as(one.parameters))
                rows["separate"].append(one.parameters)
                rows["one_pass"].append(other.parameters)
                rows["error"].append(one.predicted_error)
                agree.append((one.valid_probability >= 0.5) == (other.valid_probability >= 0.5))
    known = {name: torch.cat(parts).double().numpy() for name, parts in rows.items()}
    straight = [index for index, name in enumerate(card["parameter_names"]) if name != "axis_rad"]
    true = known["true"][:, straight]
    spread = ((true - true.mean(axis=0)) ** 2).sum(axis=0)
    scores = {
        name: 1 - ((true - known[name][:, straight]) ** 2).sum(axis=0) / spread
        for name in ("separate", "one_pass")
    }
    moved = (known["one_pass"] - known["separate"])[:, straight]
    return {
        "fields": len(rows["true"]),
        **{f"r2_{name}": round(float(score.mean()), 4) for name, score in scores.items()},
        "moved_over_predicted_error": round(
            float(np.sqrt((moved**2).mean() / (known["error"][:, straight] ** 2).mean())), 3
        ),
        "validity_agreement": round(float(torch.cat(agree).double().mean()), 4),
    }


def main() -> None:
    """Run every identification network."""
    known = [info.id for info in list_models() if info.card.get("task") == "psf-identification"]
    args = arguments(
        __doc__,
        data={"type": Path, "help": "folder with train_micro; without it time alone"},
        size={"type": int, "default": 1024},
        repeats={"type": int, "default": 3},
        fields={"type": int, "default": 128},
        models={"nargs": "+", "default": known},
    )
    figures: dict[str, Any] = {}
    bars: dict[str, tuple[float, str, float]] = {}
    for model in args.models:
        with torch.inference_mode():
            figures[model] = timing(model, args.size, args.repeats)
        bars[f"{model}: separate patches over one pass"] = (
            figures[model]["separate_over_one_pass"],
            "at least",
            4.0,
        )
        if args.data:
            found = answers(model, args.data, args.fields)
            figures[model] |= found
            lost = round(found["r2_separate"] - found["r2_one_pass"], 4)
            bars[f"{model}: R² lost by the pass"] = (lost, "at most", 0.005)
    report("PSF map in one pass", {"size_px": args.size} | figures, args.json, bars)


if __name__ == "__main__":
    main()
