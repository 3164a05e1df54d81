"""The network that reads a PSF's parameters off a patch of an image.

Two branches look at the same normalised patch, one at its pixels and one at its power spectrum; see
`branches`. Of coma and trefoil a power spectrum shows the strength only; for their direction there is a third
branch, in networks of families that have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_deblur.core.errors import InvalidInputError, WeightsError
from napari_deblur.nets.aberrations import odd_names
from napari_deblur.nets.asymmetry import Asymmetry, AsymmetryBranch
from napari_deblur.nets.branches import SpatialBranch, SpectralBranch
from napari_deblur.nets.targets import targets
from napari_deblur.nets.views import check_views, normalise, view
from napari_deblur.optics.psf import family

PATCH_PX = 128
ARCHITECTURE = "identification"


@dataclass(frozen=True)
class Estimate:
    """What the network says of a batch of patches.

    Attributes
    ----------
    parameters : Tensor, shape (batch, N)
        In the family's order and units, within its ranges.
    predicted_error : Tensor, shape (batch, N)
        Expected standard error of each, in the same units.
    valid_probability : Tensor, shape (batch,)
        Probability that the patch holds enough to tell.
    signed_defocus, signed_defocus_error : Tensor, shape (batch, 2), or None
        Defocus · cos 2θ and · sin 2θ in waves, and their expected standard errors, where regressed.
    quantities, quantity_errors : Tensor, shape (batch, K), or None
        What was regressed, unscaled, of which the parameters are made.
    """

    parameters: Tensor
    predicted_error: Tensor
    valid_probability: Tensor
    signed_defocus: Tensor | None = None
    signed_defocus_error: Tensor | None = None
    quantities: Tensor | None = None
    quantity_errors: Tensor | None = None


class IdentificationNet(nn.Module):
    """Regress a family's parameters, their errors and the patch's validity.

    Parameters
    ----------
    config : dict
        ``model`` (family id), ``regressed`` (names of the quantities), ``widths``, ``blocks``,
        ``spectral_width``, ``spectral_features``, ``hidden``, ``patch_px``, and for families with odd orders
        ``asymmetry``; see `default_config`.
    """

    center: Tensor
    scale: Tensor
    error_scale: Tensor

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = dict(config)
        self.model = str(config["model"])
        self.patch_px = int(config["patch_px"])
        self.spatial = SpatialBranch(list(config["widths"]), list(config["blocks"]))
        self.spectral = SpectralBranch(
            int(config["spectral_width"]), int(config["spectral_features"]), self.patch_px
        )
        features, hidden = self.spatial.features + self.spectral.features, int(config["hidden"])
        self.targets = targets(self.model, config["regressed"])
        self.n_targets = len(self.targets.names)
        self.hidden = nn.Linear(features, hidden)
        self.mean = nn.Linear(hidden, self.n_targets)
        self.validity = nn.Linear(hidden, 1)
        self.spread = nn.Sequential(
            nn.Linear(features, hidden // 2), nn.ReLU(), nn.Linear(hidden // 2, self.n_targets)
        )
        self.asymmetry: AsymmetryBranch | None = None
        self._odd = [self.targets.names.index(name) for name in odd_names(family(self.model))]
        if third := config.get("asymmetry"):
            self.asymmetry = AsymmetryBranch(self.patch_px, context=hidden, outputs=len(self._odd), **third)
        self.register_buffer("center", torch.tensor(self.targets.center), persistent=False)
        self.register_buffer("scale", torch.tensor(self.targets.scale), persistent=False)
        self.register_buffer("error_scale", torch.ones(self.n_targets), persistent=False)

    def set_error_scale(self, factors: Mapping[str, float]) -> None:
        """Set the factors of the predicted errors, by quantity, that a calibration on held-out images found.

        Raises
        ------
        WeightsError
            If a quantity has no factor.
        """
        missing = [name for name in self.targets.names if name not in factors]
        if missing:
            raise WeightsError(f"the card's error_scale lacks {', '.join(missing)}")
        known = torch.tensor([float(factors[name]) for name in self.targets.names])
        self.error_scale.copy_(known)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return scaled means (batch, K), log-variances (batch, K) and validity logits (batch,).

        Parameters
        ----------
        patches : Tensor, shape (batch, 1, patch, patch) or (batch, patch, patch)
            In any unit and with any offset: each patch is brought to mean 0 and variance 1 here.
        """
        if tuple(patches.shape[-2:]) != (self.patch_px, self.patch_px):
            rule = f"must be {self.patch_px} × {self.patch_px} pixels"
            raise InvalidInputError("patches", rule, f"shape {tuple(patches.shape)}")
        x = normalise(patches)
        return self.heads(torch.cat([self.spatial(x), self.spectral(x)], dim=1), self.asymmetry_of(x))

    def asymmetry_of(self, x: Tensor) -> Asymmetry | None:
        """Return what the third branch sees of normalised patches (batch, 1, y, x); None without one."""
        return None if self.asymmetry is None else self.asymmetry.statistics(x)

    def heads(self, features: Tensor, asymmetry: Asymmetry | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `forward` does, from the features (batch, features) of two branches and the third's."""
        hidden = functional.relu(self.hidden(features))
        # The error's head learns from features that it does not shape, so it cannot cost accuracy.
        log_variance = self.spread(features.detach()).float().clamp(-9, 3)
        mean = self.mean(hidden).float()
        if self.asymmetry is not None and asymmetry is not None:
            leaning = self.asymmetry(asymmetry, hidden).float()
            mean = mean.index_add(1, torch.tensor(self._odd, device=mean.device), leaning)
        return mean, log_variance, self.validity(hidden).float().squeeze(1)

    def estimate(self, patches: Tensor, views: int = 1) -> Estimate:
        """Return parameters, errors and validity of patches (batch, [1,] patch, patch).

        Parameters
        ----------
        patches : Tensor
        views : {1, 2, 4, 8}
            Number of mirrored and transposed views to average over: more accurate, and as many times slower.
        """
        return self.as_estimate(*self.regress(patches, views))

    def estimate_planes(
        self, planes: Tensor, rows: Sequence[int], cols: Sequence[int], views: int = 1, **more: Any
    ) -> Estimate:
        """Return parameters, errors and validity of the patches of planes; see `dense.estimate_planes`."""
        from napari_deblur.nets.dense import estimate_planes

        return estimate_planes(self, planes, rows, cols, views, **more)

    def as_estimate(self, values: Tensor, errors: Tensor, logit: Tensor) -> Estimate:
        """Turn regressed quantities and errors (batch, K), unscaled, and validity logits into an estimate."""
        parameters, spread = self.targets.decode(values, errors)
        signed, signed_error = (self.targets.signed_defocus(part) for part in (values, errors))
        return Estimate(parameters, spread, torch.sigmoid(logit), signed, signed_error, values, errors)

    def combined(self, estimate: Estimate, weights: Tensor, independent: float) -> Estimate:
        """Return the one estimate of patches that are known to be blurred alike.

        Quantities are averaged with the inverse squares of their predicted errors, and parameters are made of
        the outcome: that keeps what an average of the parameters would lose, such as an axis or a sign.

        Parameters
        ----------
        estimate : Estimate
        weights : Tensor, shape (batch,)
            Of each patch; 0 for those that do not count.
        independent : float
            As how many patches they count, for they overlap: the errors fall by its root.

        Returns
        -------
        Estimate
            Of one patch.
        """
        values, errors = estimate.quantities, estimate.quantity_errors
        if values is None or errors is None:
            raise ValueError("the estimate does not hold what was regressed")
        share = weights[:, None] / errors.square().clamp(min=1e-12)
        share = share / share.sum(dim=0)
        mean = (share * values).sum(dim=0, keepdim=True)
        error = ((share * errors.square()).sum(dim=0, keepdim=True) / max(independent, 1.0)).sqrt()
        valid = (weights * estimate.valid_probability).sum() / weights.sum()
        return self.as_estimate(mean, error, torch.logit(valid.clamp(1e-6, 1 - 1e-6))[None])

    def regress(self, patches: Tensor, views: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Return regressed quantities and errors (batch, K), unscaled, and validity logits (batch,)."""
        check_views(views)
        found = [self._view(patches, number) for number in range(views)]
        values, errors, logits = (torch.stack(parts).mean(dim=0) for parts in zip(*found, strict=True))
        return values, errors, logits

    def _view(self, patches: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Regress one of the eight views and map its quantities back to the patch as it is."""
        return self.from_view(self(view(patches, number)), number)

    def from_view(self, output: tuple[Tensor, Tensor, Tensor], number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Turn what `forward` says of a view into quantities and errors, unscaled, of the patch as it is."""
        mean, log_variance, logit = output
        transposed, mirrored = bool(number & 1), [axis for bit, axis in ((2, -2), (4, -1)) if number & bit]
        values, errors = mean * self.scale + self.center, torch.exp(log_variance / 2) * self.scale
        for axis in mirrored:
            values = self.targets.mirror(values, axis)
        if transposed:
            values, errors = self.targets.transpose(values), self.targets.transpose(errors).abs()
        return values, errors * self.error_scale, logit


def default_config(model: str) -> dict[str, Any]:
    """Return the compact architecture, about 2 million weights."""
    third = {"asymmetry": {"reach_px": 10, "width": 96}} if odd_names(family(model)) else {}
    return third | {
        "architecture": ARCHITECTURE,
        "model": model,
        "regressed": list(targets(model).names),
        "widths": [32, 64, 128, 192],
        "blocks": [1, 2, 2, 1],
        "spectral_width": 16,
        "spectral_features": 128,
        "hidden": 256,
        "patch_px": PATCH_PX,
    }


def build(config: dict[str, Any]) -> IdentificationNet:
    """Build the network that a card describes.

    Raises
    ------
    WeightsError
        If the description is not of this architecture.
    """
    if config.get("architecture") != ARCHITECTURE:
        raise WeightsError(
            f"the card describes the architecture {config.get('architecture')!r}, not {ARCHITECTURE!r}"
        )
    try:
        return IdentificationNet(config)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"the card's config does not describe a network: {error!r}") from None
