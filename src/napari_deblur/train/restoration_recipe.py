"""How the deblurring network of Deep-Blur is trained, declared once."""

from __future__ import annotations

from typing import Literal

from napari_deblur.core.params import Param
from napari_deblur.train.schedule import Schedule

RESTORATION = "deep-blur-deblurring"


class RestorationRecipe(Schedule):
    """How the deblurring network is trained."""

    id: str = Param(RESTORATION, title="Id", help="Id of the model that the recipe trains.")
    proximal: Literal["shared", "per-step"] = Param(
        "shared", title="Proximal network", help="One for all steps, or one for each as published."
    )
    minutes: float = Param(
        60.0, title="Time", help="Training time; the learning rate falls to 0 over it.", gt=0
    )
    batch_size: int = Param(16, title="Batch", help="Crops per step.", ge=1)
    learning_rate: float = Param(
        1.5e-3, title="Learning rate", help="Highest learning rate of the cycle.", gt=0
    )
    warm_up: float = Param(
        0.03, title="Warm-up", help="Share of the training with a rising learning rate.", ge=0, le=1
    )
    first_stage: float = Param(
        0.3,
        title="First stage",
        help="Share of the training with one step instead of all: cheap, and most of what is to be learned.",
        ge=0,
        le=1,
    )
    n_scenes: int = Param(1000, title="Scenes", help="Number of procedural scenes rendered beforehand.", ge=1)
    micrograph_share: float = Param(
        0.45, title="Micrographs", help="Share of crops from the data folder's micrographs.", ge=0, le=0.9
    )
    n_validation: int = Param(
        32, title="Validation crops", help="Crops per held-out set and noise level.", ge=4
    )
