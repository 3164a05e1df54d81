"""What the recipes of all networks trained by the common loop declare alike."""

from __future__ import annotations

from typing import Literal

from napari_deblur.core.params import Declared, Param


class Schedule(Declared):
    """How long a network is trained and how often it is kept."""

    size: Literal["compact", "full"] = Param(
        "compact", title="Network", help="Compact for shipping, full for a longer training on a GPU."
    )
    steps: int | None = Param(None, title="Steps", help="Number of steps instead of a time.", ge=1)
    ema: float = Param(
        0.998, title="Averaging", help="Decay of the average of the weights per step.", ge=0, le=1
    )
    seed: int = Param(0, title="Seed", help="Seed of everything random.", ge=0)
    checkpoint_minutes: float = Param(5.0, title="Checkpoint", help="Time between checkpoints.", gt=0)
    patience: int = Param(
        0,
        title="Patience",
        help="Evaluations without a better one after which the training ends; 0: it runs to its time.",
        ge=0,
    )
