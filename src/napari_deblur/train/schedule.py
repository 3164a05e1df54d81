"""What the recipes of all networks trained by the common loop declare alike."""

from __future__ import annotations

import math
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


def annealed(done: float, warm_up: float, *, first: float, last: float) -> float:
    """Return the learning rate as a share of the highest: it rises over the warm-up, then falls as a cosine.

    Parameters
    ----------
    done : float
        Share of the training, or of its stage, that is done.
    warm_up : float
        Share with a rising rate.
    first : float
        How far into the warm-up the first step counts as being.
    last : float
        Least share after the warm-up.
    """
    if done < warm_up:
        return (done + first) / warm_up
    left = min((done - warm_up) / max(1 - warm_up, 1e-9), 1.0)
    return max(0.5 * (1 + math.cos(math.pi * left)), last)
