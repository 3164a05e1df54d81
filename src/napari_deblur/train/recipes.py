"""Training recipes: what a network is trained on and for how long, declared once."""

from __future__ import annotations

from typing import Any

from napari_deblur.core.errors import UnknownNameError
from napari_deblur.core.params import Param
from napari_deblur.train.schedule import Schedule

ALL_FAMILIES = "identification"
TOGETHER: dict[str, tuple[str, ...]] = {
    ALL_FAMILIES: ("gaussian-1", "gaussian-2", "zernike-1", "zernike-2", "zernike-3"),
    "gaussian": ("gaussian-1", "gaussian-2"),
    "zernike": ("zernike-1", "zernike-2", "zernike-3"),
    "deep-blur-identification": ("zernike-7",),
}
"""Recipes whose name is not that of the one family that they train; of several, the branches are shared."""


class Recipe(Schedule):
    """How the weights of one PSF family, or of all together, are trained."""

    id: str = Param(title="Id", help="That of the PSF family it trains, or of several together.")
    minutes: float = Param(
        60.0, title="Time", help="Training time; the learning rate falls to 0 over it.", gt=0
    )
    batch_size: int = Param(64, title="Batch", help="Patches per step.", ge=2)
    learning_rate: float = Param(
        2e-3, title="Learning rate", help="Highest learning rate of the cycle.", gt=0
    )
    warm_up: float = Param(
        0.05, title="Warm-up", help="Share of the training with a rising learning rate.", ge=0, le=1
    )
    weight_decay: float = Param(
        0.02, title="Weight decay", help="Of the weights, per unit of learning rate.", ge=0
    )
    n_scenes: int = Param(1600, title="Scenes", help="Number of procedural scenes rendered beforehand.", ge=1)
    new_scenes: float = Param(
        0.0,
        title="New scenes",
        help="Scenes that other processes render anew per step, for a GPU that would wear out a fixed set.",
        ge=0,
    )
    micrograph_share: float = Param(
        0.5, title="Micrographs", help="Share of patches from the data folder's micrographs.", ge=0, le=0.9
    )
    validity_weight: float = Param(
        0.3, title="Validity", help="Weight of the validity term in the loss.", ge=0
    )
    kernel_weight: float = Param(
        0.0, title="Kernels", help="Weight of the kernels' logarithmic error in the loss.", ge=0
    )
    gaussian_noise_high: float = Param(
        0.0,
        title="Gaussian noise",
        help="Highest standard deviation of noise beside that of photons, relative to the signal's peak.",
        ge=0,
    )
    shake_share: float = Param(
        0.03,
        title="Shake",
        help="Share of patches blurred by motion along a curve, to be called invalid.",
        ge=0,
        le=0.5,
    )
    enlarged_share: float = Param(
        0.08,
        title="Enlarged",
        help="Share of patches enlarged twofold after they were taken, with noise that is not white.",
        ge=0,
        le=0.5,
    )
    n_validation: int = Param(1024, title="Validation patches", help="Patches per held-out set.", ge=16)

    @property
    def models(self) -> tuple[str, ...]:
        """PSF families that it trains."""
        return TOGETHER.get(self.id, (self.id,))


_MINUTES = {
    "gaussian-1": 20.0,
    "gaussian-2": 30.0,
    "zernike-1": 30.0,
    "zernike-2": 40.0,
    "zernike-3": 70.0,
    "gaussian": 30.0,
    "zernike": 120.0,
    ALL_FAMILIES: 180.0,
}

RECIPES: dict[str, Recipe] = {id: Recipe(id=id, minutes=minutes) for id, minutes in _MINUTES.items()}
# The strongest noise of Debarnot & Weiss 2024 is about 0.1 of an image's range.
RECIPES["deep-blur-identification"] = Recipe(
    id="deep-blur-identification",
    minutes=60.0,
    kernel_weight=0.3,
    gaussian_noise_high=0.12,
    # Coma and trefoil bend a kernel as a shake does.
    shake_share=0.0,
    enlarged_share=0.0,
)
"""One network each, and several together."""


def recipe(id: str) -> Recipe:
    """Return the recipe of that id.

    Raises
    ------
    UnknownNameError
    """
    if id not in RECIPES:
        raise UnknownNameError("recipe", id, list(RECIPES))
    return RECIPES[id]


def network_config(chosen: Recipe, model: str) -> dict[str, Any]:
    """Return the architecture that a recipe trains for one of its families."""
    from napari_deblur.nets.identification import default_config

    config = default_config(model)
    if chosen.size == "full":
        # With the heads of all five families 11 MB in fp16.
        config |= {"widths": [48, 96, 160, 224], "blocks": [2, 2, 3, 2], "spectral_width": 20}
    return config
