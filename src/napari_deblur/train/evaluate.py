"""Held-out figures: R² of every quantity and the kernels' signal-to-noise ratio, by set and photon level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from napari_deblur.nets.identification import PATCH_PX, IdentificationNet
from napari_deblur.nets.targets import Targets
from napari_deblur.optics.psf import family
from napari_deblur.train.degrade import Batch, Degradation, Sampler, central_crops, crop_size_px, degrade
from napari_deblur.train.tiles import Pool

_BATCH = 64
PHOTON_LEVELS = (50.0, 200.0, 1000.0, 5000.0, 20000.0)


@dataclass(frozen=True)
class Predictions:
    """What a network said of a held-out set, beside what was true.

    Attributes
    ----------
    true, predicted, error : ndarray, shape (n, K)
        Regressed quantities in their units, and predicted standard errors.
    valid : ndarray of bool, shape (n,)
    valid_probability, photons : ndarray, shape (n,)
    """

    true: np.ndarray[Any, Any]
    predicted: np.ndarray[Any, Any]
    error: np.ndarray[Any, Any]
    valid: np.ndarray[Any, Any]
    valid_probability: np.ndarray[Any, Any]
    photons: np.ndarray[Any, Any]


def held_out(
    pool: Pool,
    model: str,
    count: int,
    seed: int,
    settings: Degradation,
    photons: float | None = None,
    *,
    patch_px: int = PATCH_PX,
) -> list[Batch]:
    """Render ``count`` held-out patches from a pool; the same seed gives the same patches."""
    rng = np.random.default_rng(seed)
    sampler = Sampler(torch.Generator().manual_seed(seed))
    batches = []
    for start in range(0, count, _BATCH):
        size = min(_BATCH, count - start)
        crops = central_crops(torch.from_numpy(pool.crops(size, rng)), crop_size_px(model, patch_px))
        level = None if photons is None else torch.full((size,), photons)
        batches.append(degrade(crops, model, sampler, settings, photons=level))
    return batches


@torch.no_grad()
def predict(network: IdentificationNet, batches: list[Batch], views: int = 1) -> Predictions:
    """Run a network in evaluation mode over held-out batches, averaging over ``views`` of each patch."""
    device = next(network.parameters()).device
    columns: list[list[Tensor]] = [[], [], [], [], [], []]
    for batch in batches:
        values, errors, logit = network.regress(batch.patches.to(device), views)
        true = network.targets.encode(batch.parameters)
        row = (true, values, errors, batch.valid, torch.sigmoid(logit), batch.photons)
        for column, value in zip(columns, row, strict=True):
            column.append(value.cpu())
    return Predictions(*(torch.cat(column).numpy() for column in columns))


def r_squared(regressed: Targets, found: Predictions) -> dict[str, float]:
    """Return R² of each quantity over valid patches; of signed coefficients, of them and not their products.

    As ``mean``, that over the quantities which the parameters follow from: a product regressed beside them is
    no further parameter.
    """
    columns = (torch.from_numpy(values[found.valid]) for values in (found.true, found.predicted))
    true, predicted = (regressed.scored(values).numpy().astype(np.float64) for values in columns)
    residual = ((true - predicted) ** 2).sum(axis=0)
    total = ((true - true.mean(axis=0)) ** 2).sum(axis=0)
    scores = 1 - residual / np.maximum(total, 1e-12)
    result = {name: float(score) for name, score in zip(regressed.scored_names, scores, strict=True)}
    return {**result, "mean": float(np.mean([result[name] for name in regressed.of_parameters]))}


def psf_snr_db(regressed: Targets, found: Predictions) -> np.ndarray[Any, Any]:
    """Return −10 log₁₀(‖ĥ − h‖² / ‖h‖²) of the kernels of valid patches, shape (n,).

    Both have sum 1 and the family's own centre; they are not registered to each other.
    """
    columns = (torch.from_numpy(values[found.valid]) for values in (found.true, found.predicted))
    true, predicted = (family(regressed.model).kernels(regressed.coefficients(values)) for values in columns)
    error = (predicted - true).square().sum(dim=(-2, -1)) / true.square().sum(dim=(-2, -1))
    ratio: np.ndarray[Any, Any] = -10 * torch.log10(error.clamp(min=1e-12)).numpy()
    return ratio


def figures(regressed: Targets, found: Predictions) -> dict[str, float]:
    """Return figures for a card, rounded.

    R²; the kernels' signal-to-noise ratio in dB, mean and standard deviation over patches; the validity's
    accuracy; and the ratio of actual to predicted error.
    """
    agreed = float(((found.valid_probability >= 0.5) == found.valid).mean())
    standard = (found.true - found.predicted)[found.valid] / found.error[found.valid]
    scores = r_squared(regressed, found)
    ratio = psf_snr_db(regressed, found)
    extra = {
        "psf_snr_db": float(ratio.mean()),
        "psf_snr_db_deviation": float(ratio.std()),
        "validity_accuracy": agreed,
        "valid_share": float(found.valid.mean()),
        "error_ratio": float(np.sqrt((standard**2).mean())),
        "n_patches": float(len(found.valid)),
    }
    return {name: round(value, 4) for name, value in {**scores, **extra}.items()}
