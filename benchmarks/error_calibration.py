"""Is the predicted error right? Predicted against actual errors in bins, per network and quantity.

Patches are sorted by the error that the network predicts and split into bins of equal numbers; where errors
are calibrated, the root mean square of the actual errors in each bin is that of the predicted ones. Factors
per quantity are fitted on micrographs of the validation sources alone and, with ``--update-cards``, written
into the card, from where `load_network` applies them; figures with and without them are of the test sources.

    python -m benchmarks.error_calibration --data ../shared/data --json error-calibration.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import arguments, report
from napari_deblur.nets.identification import PATCH_PX, IdentificationNet
from napari_deblur.nets.weights import find_model, list_models, load_network
from napari_deblur.steps.psf_map import VIEWS
from napari_deblur.train.degrade import Degradation, crop_size_px
from napari_deblur.train.evaluate import Predictions, held_out, predict
from napari_deblur.train.tiles import micrograph_pool

SEED, N_BINS = 97_531, 8

Array = NDArray[np.float64]


def rms(values: Array) -> float:
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(np.asarray(values, np.float64) ** 2)))


def ratios(found: Predictions) -> Array:
    """Return actual over predicted error by quantity: the factors that calibrate it."""
    score = (found.true - found.predicted)[found.valid] / found.error[found.valid]
    return np.sqrt(np.mean(score.astype(np.float64) ** 2, axis=0))


def curve(predicted: Array, actual: Array) -> dict[str, Any]:
    """Return the calibration curve of one quantity.

    As ``calibration_error``, the mean over bins of |actual - predicted| / predicted (Levi et al. 2022,
    doi:10.3390/s22155540).
    """
    order = np.array_split(np.argsort(predicted), N_BINS)
    expected = [rms(predicted[part]) for part in order]
    seen = [rms(actual[part]) for part in order]
    gap = np.abs(np.array(seen) - expected) / expected
    return {
        "predicted": [round(value, 4) for value in expected],
        "actual": [round(value, 4) for value in seen],
        "calibration_error": round(float(gap.mean()), 3),
        "rank_correlation": round(_rank_correlation(predicted, np.abs(actual)), 3),
    }


def _rank_correlation(one: Array, other: Array) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(*ranks)[0, 1])


def curves(names: tuple[str, ...], found: Predictions, factors: Array) -> dict[str, Any]:
    """Return the curves of all quantities, errors multiplied by factors."""
    actual = (found.true - found.predicted)[found.valid].astype(np.float64)
    predicted = found.error[found.valid].astype(np.float64) * factors
    return {name: curve(predicted[:, index], actual[:, index]) for index, name in enumerate(names)}


def calibrate(model: str, data_dir: Path, count: int) -> dict[str, Any]:
    """Return factors from the validation sources and curves of the test sources."""
    net, card = load_network(model)
    assert isinstance(net, IdentificationNet)
    settings = Degradation(**card["degradation"])
    found = {
        split: predict(
            net,
            held_out(
                micrograph_pool(crop_size_px(model, PATCH_PX), data_dir, split), model, count, SEED, settings
            ),
            VIEWS,
        )
        for split in ("validation", "test")
    }
    names, factors = net.targets.names, ratios(found["validation"])
    in_use = net.error_scale.double().numpy()
    test = found["test"]
    return {
        "sha256": card["sha256"],
        "views": VIEWS,
        "valid_patches": int(test.valid.sum()),
        "error_scale": {
            name: round(float(old * new), 4) for name, old, new in zip(names, in_use, factors, strict=True)
        },
        "actual_over_predicted": {
            "as_trained": _named(names, ratios(test) * in_use),
            "in_use": _named(names, ratios(test)),
            "with_error_scale": _named(names, ratios(test) / factors),
        },
        "test_curves_as_trained": curves(names, test, 1 / in_use),
        "test_curves": curves(names, test, factors),
    }


def _named(names: tuple[str, ...], values: Array) -> dict[str, float]:
    return {name: round(float(value), 3) for name, value in zip(names, values, strict=True)}


def write_into_card(model: str, result: dict[str, Any]) -> None:
    """Put the factors and the curves into the card of the very weights that were measured."""
    path = find_model(model).path.with_suffix(".json")
    card = json.loads(path.read_text(encoding="utf-8"))
    if card["sha256"] != result["sha256"]:
        raise RuntimeError(f"the card {path} changed during the benchmark")
    card["error_scale"] = result["error_scale"]
    kept = ("views", "valid_patches", "actual_over_predicted", "test_curves")
    card["error_calibration"] = {name: result[name] for name in kept}
    path.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Calibrate every identification network."""
    known = [info.id for info in list_models() if info.card.get("task") == "psf-identification"]
    args = arguments(
        __doc__,
        data={"type": Path, "required": True, "help": "folder with train_micro"},
        patches={"type": int, "default": 2048, "help": "patches per split"},
        models={"nargs": "+", "default": known},
        update_cards={"action": "store_true", "help": "write the factors into the cards"},
    )
    figures = {model: calibrate(model, args.data, args.patches) for model in args.models}
    bars: dict[str, tuple[float, str, float]] = {}
    for model, found in figures.items():
        worst = max(
            abs(np.log(value)) for value in found["actual_over_predicted"]["with_error_scale"].values()
        )
        off = round(float(np.exp(worst)), 3)
        bars[f"{model}: worst ratio of actual to predicted error"] = (off, "at most", 1.25)
    report("calibration of the predicted error", figures, args.json, bars)
    if args.update_cards:
        for model, found in figures.items():
            write_into_card(model, found)


if __name__ == "__main__":
    main()
