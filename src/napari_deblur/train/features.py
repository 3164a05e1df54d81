"""Training of CiDeR's feature extractor inside a learned Wiener deconvolution, thrown away afterwards.

After Dong, Roth & Schiele 2020 (*Deep Wiener deconvolution*, NeurIPS 33): features of the blurred image are
deconvolved by Wiener filters, a small network makes an image of them, and the mean absolute error to the
sharp image trains both. Good features are those that survive deconvolution.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from napari_deblur.core.record import versions
from napari_deblur.core.run import Run
from napari_deblur.nets.features import FeatureExtractor
from napari_deblur.nets.weights import save_network
from napari_deblur.optics.noise import poisson_gaussian
from napari_deblur.optics.psf import family
from napari_deblur.train.card import hardware
from napari_deblur.train.degrade import Sampler, draw_parameters, valid_convolution
from napari_deblur.train.feature_recipe import FeatureRecipe
from napari_deblur.train.tiles import (
    TEST_SOURCES,
    VALIDATION_SOURCES,
    Pool,
    micrograph_pool,
    scene_pool,
    training_pool,
)

_PATCH_PX, _MOTION_PX = 96, 23
_FAMILIES = ("gaussian-2", "zernike-3")
_PHOTONS = (100.0, 50_000.0)
_READ_NOISE = 3.0
_CLIP_NORM = 1.0
_HELD_OUT_SEED = 123_457
_WALK_STEPS = 300


class LearnedWiener(nn.Module):
    """Extractor, Wiener filters on its features, and a small network that makes an image of the results."""

    _WIDTH = 24

    def __init__(self) -> None:
        super().__init__()
        self.features = FeatureExtractor()
        channels = int(self.features.config["channels"])
        self.log_noise = nn.Parameter(torch.full((channels + 1, 1, 1), -4.0))
        self.enter = nn.Conv2d(channels + 1, self._WIDTH, 3, padding=1)
        self.body = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(self._WIDTH, self._WIDTH, 3, padding=1), nn.ReLU()) for _ in range(3))
        )
        self.leave = nn.Conv2d(self._WIDTH, 1, 3, padding=1)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)  # it starts as the plain filter

    def forward(self, blurred: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(batch, y, x)`` and ``(batch, k, k)`` to the restored image and the plain Wiener image."""
        margin = kernels.shape[-1] // 2
        framed = functional.pad(blurred[:, None], [margin] * 4, mode="reflect")
        stack = torch.cat([self.features(framed), framed], dim=1)
        shape = stack.shape[-2:]
        padded = functional.pad(kernels, (0, shape[1] - kernels.shape[-1], 0, shape[0] - kernels.shape[-2]))
        transfer = torch.fft.rfft2(torch.roll(padded, (-margin, -margin), (-2, -1)))[:, None]
        spectrum = torch.fft.rfft2(stack)
        inverse = transfer.conj() / (transfer.abs().square() + self.log_noise.exp())
        restored = torch.fft.irfft2(spectrum * inverse, s=shape)
        inner = restored[..., margin : shape[0] - margin, margin : shape[1] - margin]
        plain = inner[:, -1]
        return plain + self.leave(self.body(self.enter(inner).relu()))[:, 0], plain


def motion_kernels(count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw camera-shake kernels ``(count, 23, 23)``: a walk of slowly turning speed, centred, sum 1."""
    from scipy.ndimage import gaussian_filter

    found = np.zeros((count, _MOTION_PX, _MOTION_PX))
    middle = _MOTION_PX // 2
    for kernel in found:
        turning = rng.normal(0, 0.15, _WALK_STEPS).cumsum() + rng.uniform(0, 2 * np.pi)
        pace = np.abs(rng.normal(1, 0.5, _WALK_STEPS))
        path = np.stack([pace * np.sin(turning), pace * np.cos(turning)]).cumsum(axis=1)
        path -= path.mean(axis=1, keepdims=True)
        path *= rng.uniform(0.2, 0.9) * (middle - 1) / np.abs(path).max()
        at = np.round(path + middle).astype(int)
        np.add.at(kernel, (at[0], at[1]), 1)
        kernel[:] = gaussian_filter(kernel, rng.uniform(0.4, 0.8))
    found /= found.sum(axis=(1, 2), keepdims=True)
    return found.astype(np.float32)


def degraded(pool: Pool, count: int, rng: np.random.Generator, sampler: Sampler) -> tuple[Tensor, ...]:
    """Return (blurred, kernels, sharp) with a maximum near 1; one kind of kernel per batch."""
    kind = int(rng.integers(len(_FAMILIES) + 1))
    if kind == len(_FAMILIES):
        kernels = torch.from_numpy(motion_kernels(count, rng)).to(sampler.device)
    else:
        parameters = draw_parameters(_FAMILIES[kind], count, sampler)
        kernels = family(_FAMILIES[kind]).kernels(parameters)
    margin = kernels.shape[-1] // 2
    size = _PATCH_PX + 2 * margin
    crops = torch.from_numpy(pool.crops(count, rng)[..., :size, :size]).to(sampler.device)
    sharp = crops[..., margin : size - margin, margin : size - margin]
    photons = sampler.log_uniform(*_PHOTONS, count, 1, 1)
    expected = (valid_convolution(crops, kernels).clamp(min=0) + 0.01) * photons
    noisy = poisson_gaussian(expected, sampler.uniform(0, _READ_NOISE, count, 1, 1), sampler.generator)
    return noisy / photons - 0.01, kernels, sharp


def _crop_px() -> int:
    return _PATCH_PX + max(_MOTION_PX, *(family(name).default_size_px for name in _FAMILIES)) - 1


def _psnr(estimate: Tensor, sharp: Tensor) -> float:
    error = (estimate - sharp).square().mean(dim=(-2, -1)).clamp(min=1e-10)
    return float((-10 * error.log10()).mean())


@torch.no_grad()
def figures(network: LearnedWiener, pool: Pool, count: int, device: torch.device) -> dict[str, float]:
    """Return mean PSNR of held-out patches: blurred, plain Wiener, and with features."""
    rng = np.random.default_rng(_HELD_OUT_SEED)
    sampler = Sampler(torch.Generator(device=device).manual_seed(_HELD_OUT_SEED))
    rows = []
    for _ in range(count // 4):
        blurred, kernels, sharp = degraded(pool, 4, rng, sampler)
        restored, plain = network(blurred, kernels)
        rows.append([_psnr(image, sharp) for image in (blurred, plain, restored)])
    names = ("psnr_blurred_db", "psnr_wiener_db", "psnr_features_db")
    return {name: round(float(value), 3) for name, value in zip(names, np.mean(rows, axis=0), strict=True)}


def train_features(
    out_dir: str | Path,
    *,
    data_dir: str | Path | None = None,
    run: Run | None = None,
    device: str | None = None,
    **changes: Any,
) -> Path:
    """Train the feature extractor and write its weights and card.

    Parameters
    ----------
    out_dir : path
    data_dir : path, optional
        Folder with ``train_micro`` and ``train_natural``; without it procedural scenes alone are used.
    run : Run, optional
        Progress and cancellation; a cancel writes nothing.
    device : str, optional
        CUDA where there is one, else the CPU.
    **changes
        Fields of the recipe.

    Returns
    -------
    Path
        The weight file.

    Raises
    ------
    InvalidInputError, CancelledError
    """
    run = run or Run()
    chosen = FeatureRecipe(**changes)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    data = Path(data_dir) if data_dir is not None else None
    run.step(0, 1, "preparing scenes")
    pool = training_pool(
        _crop_px(),
        data_dir=data,
        n_scenes=chosen.n_scenes,
        seed=chosen.seed,
        micrograph_share=chosen.micrograph_share,
    )
    torch.manual_seed(chosen.seed)
    network = LearnedWiener().to(place)
    steps, seconds = _optimise(network, chosen, pool, run, place)
    held_out = {"scenes": scene_pool(_crop_px(), 24, chosen.seed + _HELD_OUT_SEED)}
    if data is not None:
        held_out["micrographs (validation sources)"] = micrograph_pool(_crop_px(), data, "validation")
    scores = {name: figures(network, held, chosen.n_validation, place) for name, held in held_out.items()}
    run.fact("held_out", scores)
    training = {
        "complete": True,
        "steps": steps,
        "patches": steps * chosen.batch_size,
        "minutes": round(seconds / 60, 1),
        "hardware": hardware(place),
    }
    return save_network(
        network.features.state_dict(), _card(network, chosen, pool, training, scores), Path(out_dir)
    )


def _optimise(
    network: LearnedWiener, chosen: FeatureRecipe, pool: Pool, run: Run, place: torch.device
) -> tuple[int, float]:
    """Train for the recipe's time or steps; return steps and seconds."""
    optimizer = torch.optim.Adam(network.parameters(), lr=chosen.learning_rate)
    rng = np.random.default_rng(chosen.seed)
    sampler = Sampler(torch.Generator(device=place).manual_seed(chosen.seed))
    started, step, smooth, fraction = time.monotonic(), 0, 0.0, 0.0
    while fraction < 1:
        blurred, kernels, sharp = degraded(pool, chosen.batch_size, rng, sampler)
        for group in optimizer.param_groups:
            group["lr"] = chosen.learning_rate * 0.5 * (1 + np.cos(np.pi * fraction))
        loss = (network(blurred, kernels)[0] - sharp).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), _CLIP_NORM)
        optimizer.step()
        step += 1
        spent = time.monotonic() - started
        fraction = step / chosen.steps if chosen.steps is not None else spent / (60 * chosen.minutes)
        smooth = float(loss.detach()) if step == 1 else 0.98 * smooth + 0.02 * float(loss.detach())
        run.step(min(int(1e4 * fraction), 10_000), 10_000, f"step {step}: mean error {smooth:.4f}")
    return step, time.monotonic() - started


def _card(
    network: LearnedWiener,
    chosen: FeatureRecipe,
    pool: Pool,
    training: dict[str, Any],
    held_out: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """Return the card without its sha256."""
    return {
        "id": chosen.id,
        "title": "Features for zero-shot restoration (CiDeR)",
        "task": "features",
        "licence": "BSD-3-Clause",
        "config": network.features.config,
        "parameter_names": [],
        "parameter_ranges": {},
        "n_parameters": sum(parameter.numel() for parameter in network.features.parameters()),
        "photons": list(_PHOTONS),
        "kernels": [*_FAMILIES, "camera shake"],
        "recipe": chosen.model_dump(),
        "data": {
            "groups": {name: len(images) for name, images in pool.images.items()},
            "held_out_for_validation": list(VALIDATION_SOURCES),
            "held_out_for_test": list(TEST_SOURCES),
        },
        "training": training,
        "held_out": held_out,
        "versions": versions(),
    }
