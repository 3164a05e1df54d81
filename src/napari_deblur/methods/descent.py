"""Parameters that every method has which optimises a network on the image at hand."""

from __future__ import annotations

from napari_deblur.core.params import Param

AVERAGING = Param(
    0.97,
    ge=0,
    le=0.999,
    step=0.01,
    title="Averaging",
    help="Share that the running mean over iterates keeps in each iteration; 0 takes the last iterate.",
    advanced=True,
)
LEARNING_RATE = Param(
    0.01, gt=0, le=1, step=0.001, title="Learning rate", help="First step size of NAdam.", advanced=True
)
