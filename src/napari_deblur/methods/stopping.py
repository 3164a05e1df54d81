"""Criteria that end an iteration, each by its name and with its curve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_deblur.methods.emission import log_likelihood

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_PATIENCE = 3
_HELD_OUT_SHARE = 0.1


@dataclass
class Criterion:
    """Watches the iterations of one run.

    Attributes
    ----------
    name : str
    curve : list of float
        The criterion's value after each iteration.
    """

    name: str = ""
    curve: list[float] = field(default_factory=list)

    def of_model(self, model: Tensor) -> bool:
        """Look at the blurred estimate of the latest iteration; tell whether to stop there."""
        del model
        return False

    def of_change(self, before: Tensor, after: Tensor) -> bool:
        """Look at what the latest iteration changed; tell whether to stop there."""
        del before, after
        return False

    def best(self, done: int) -> int:
        """Return the number of iterations to take when it ended after ``done``."""
        return done

    def to_dict(self, iterations: int) -> dict[str, Any]:
        """Return criterion, iterations and curve for the record (JSON types)."""
        return {
            "criterion": self.name,
            "iterations": iterations,
            "curve": [float(f"{value:.6g}") for value in self.curve],
        }


@dataclass
class NoProgress(Criterion):
    """Stops once an iteration changes the estimate by less than a share of it."""

    name: str = "no-progress"
    tolerance: float = 0.002

    def of_change(self, before: Tensor, after: Tensor) -> bool:
        """Compare the change's norm with the estimate's."""
        import torch

        change = float(torch.dist(after, before)) / max(float(before.norm()), 1e-30)
        self.curve.append(change)
        return change < self.tolerance


@dataclass
class Discrepancy(Criterion):
    """Stops once the residual is as large as the noise: χ² per pixel reaches 1.

    Morozov's principle for photon noise (Bertero et al. 2010, doi:10.1088/0266-5611/26/10/105004), with the
    variance of photons and read noise in place of the photons' alone.
    """

    name: str = "discrepancy"
    y: Any = None
    photon_gain: float = 0.0
    read_variance: float = 0.0

    def of_model(self, model: Tensor) -> bool:
        """Compare the residual with the noise that the model predicts."""
        variance = model.clamp_min(0) * self.photon_gain + self.read_variance
        chi2 = float(((self.y - model).square() / variance.clamp_min(1e-12)).mean())
        self.curve.append(chi2)
        return chi2 <= 1


@dataclass
class CrossValidation(Criterion):
    """Stops where the estimate from some pixels predicts the others best.

    The other pixels' Poisson log-likelihood rises while structure is restored and falls once noise is
    fitted; neither needs a noise level (Wahba 1990, *Spline Models for Observational Data*, §4).
    """

    name: str = "cross-validation"
    y: Any = None
    held_out: Any = None

    def of_model(self, model: Tensor) -> bool:
        """Predict the pixels that were left out."""
        left = self.held_out
        self.curve.append(log_likelihood(self.y[left], model[left]) / max(int(left.sum()), 1))
        done, best = len(self.curve), self.best(len(self.curve))
        return done - best >= max(_LEAST_PATIENCE, best // 2)

    def best(self, done: int) -> int:
        """Return the iteration that predicted best."""
        del done
        return max(range(len(self.curve)), key=self.curve.__getitem__, default=0) + 1


def held_out_pixels(y: Tensor, seed: int) -> Tensor:
    """Return a random tenth of an image's pixels, as a mask."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(tuple(y.shape), generator=generator) < _HELD_OUT_SHARE).to(y.device)
