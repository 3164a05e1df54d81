"""How the feature extractor of CiDeR is trained, declared once."""

from __future__ import annotations

from napari_deblur.core.params import Declared, Param

FEATURES = "cider-features"


class FeatureRecipe(Declared):
    """How the feature extractor is trained."""

    id: str = Param(FEATURES, title="Id", help="Id of the model that the recipe trains.")
    minutes: float = Param(
        12.0, title="Time", help="Training time; the learning rate falls to 0 over it.", gt=0
    )
    steps: int | None = Param(None, title="Steps", help="Number of steps instead of a time.", ge=1)
    batch_size: int = Param(4, title="Batch", help="Patches per step.", ge=1)
    learning_rate: float = Param(1e-3, title="Learning rate", help="Learning rate at the start.", gt=0)
    seed: int = Param(0, title="Seed", help="Seed of everything random.", ge=0)
    n_scenes: int = Param(200, title="Scenes", help="Number of procedural scenes rendered beforehand.", ge=1)
    micrograph_share: float = Param(
        0.45, title="Micrographs", help="Share of patches from the data folder's micrographs.", ge=0, le=0.9
    )
    n_validation: int = Param(32, title="Validation patches", help="Patches per held-out set.", ge=4)
