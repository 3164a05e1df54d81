"""How the deblurring network of Deep-Blur is trained, declared once."""

from __future__ import annotations

from typing import Literal

from napari_deblur.core.params import Declared, Param

RESTORATION = "deep-blur-deblurring"


class RestorationRecipe(Declared):
    """How the deblurring network is trained."""

    id: str = Param(RESTORATION, title="Id", help="Id of the model that the recipe trains.")
    size: Literal["compact", "full"] = Param(
        "compact", title="Network", help="Compact for shipping, full for a longer training on a GPU."
    )
    proximal: Literal["shared", "per-step"] = Param(
        "shared", title="Proximal network", help="One for all steps, or one for each as published."
    )
    minutes: float = Param(
        60.0, title="Time", help="Training time; the learning rate falls to 0 over it.", gt=0
    )
    steps: int | None = Param(None, title="Steps", help="Number of steps instead of a time.", ge=1)
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
    ema: float = Param(
        0.998, title="Averaging", help="Decay of the average of the weights per step.", ge=0, le=1
    )
    seed: int = Param(0, title="Seed", help="Seed of everything random.", ge=0)
    n_scenes: int = Param(1000, title="Scenes", help="Number of procedural scenes rendered beforehand.", ge=1)
    micrograph_share: float = Param(
        0.45, title="Micrographs", help="Share of crops from the data folder's micrographs.", ge=0, le=0.9
    )
    checkpoint_minutes: float = Param(5.0, title="Checkpoint", help="Time between checkpoints.", gt=0)
    patience: int = Param(
        0,
        title="Patience",
        help="Evaluations without a better one after which the training ends; 0: it runs to its time.",
        ge=0,
    )
    n_validation: int = Param(
        32, title="Validation crops", help="Crops per held-out set and noise level.", ge=4
    )
