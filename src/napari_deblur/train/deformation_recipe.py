"""How the networks with a deformable latent space are trained, declared once."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from napari_deblur.core.params import Param
from napari_deblur.train.schedule import Schedule

MODELS = {
    "latent-deformation-zone-plate": "zone-plate",
    "latent-deformation-defocus": "zernike-1",
    "latent-deformation-astigmatism": "zernike-3",
}
"""Networks and the PSF families that they know."""


class DeformationRecipe(Schedule):
    """How one network is trained."""

    id: str = Param(title="Id", help="Id of the network that the recipe trains.")
    deformer: Literal["complete", "simple", "none"] = Param(
        "complete", title="Deformer", help="The complete one, or an ablation of the publication."
    )
    normalisation: Literal["l2", "softmax"] = Param(
        "l2", title="Coefficients", help="How the coefficients of dynamic convolutions are normalised."
    )
    minutes: float = Param(
        60.0, title="Time", help="Training time; the learning rate falls to 0 over each stage.", gt=0
    )
    batch_size: int = Param(16, title="Batch", help="Crops per step; four kernels share them.", ge=4)
    learning_rate: float = Param(
        1e-3, title="Learning rate", help="Highest learning rate of the first two stages.", gt=0
    )
    warm_up: float = Param(
        0.03, title="Warm-up", help="Share of the training with a rising learning rate.", ge=0, le=1
    )
    latent_share: float = Param(
        0.2,
        title="Latent stage",
        help="Share of the training that encoder and decoder spend on the reference kernel alone.",
        ge=0.01,
        le=1,
    )
    joint_share: float = Param(
        0.5,
        title="Joint stage",
        help="Share of the training, at its end, that adjusts all parts together; 0 as published.",
        ge=0,
        le=0.9,
    )
    latent_weight: float = Param(
        0.3,
        title="Latent loss",
        help="Weight of the distance to the reference's features against that of the images.",
        ge=0,
    )
    n_scenes: int = Param(600, title="Scenes", help="Number of procedural scenes rendered beforehand.", ge=1)
    micrograph_share: float = Param(
        0.45, title="Micrographs", help="Share of crops from the data folder's micrographs.", ge=0, le=0.6
    )
    n_validation: int = Param(10, title="Validation crops", help="Crops per held-out set and kernel.", ge=2)

    @property
    def model(self) -> str:
        """PSF family that the network knows."""
        return MODELS[self.id]

    def stage(self, fraction: float) -> Literal["latent", "deformer", "joint"]:
        """Return what is trained at a share of the training."""
        if self.deformer == "none" or fraction < self.latent_share:
            return "latent"
        return "joint" if fraction >= 1 - self.joint_share else "deformer"

    def stage_fraction(self, fraction: float) -> float:
        """Return how far the stage has come, 0 to 1."""
        if self.deformer == "none":
            return min(fraction, 1.0)
        edges = sorted({0.0, self.latent_share, max(1 - self.joint_share, self.latent_share), 1.0})
        for low, high in pairwise(edges):
            if low <= fraction < high:
                return (fraction - low) / (high - low)
        return 1.0


RECIPES = {id: DeformationRecipe(id=id) for id in MODELS}
