"""Find the operator of a PSF basis from one image alone, by the likelihood of its local power spectra.

Over a region of the field the image is a scene blurred by the local PSF h, plus white noise: its power
spectrum is ``A(f) |H(f)|² + σ²``. Averaged over windows (Welch 1967, doi:10.1109/TAU.1967.1161901) it
follows a Gamma law, whose likelihood Whittle (1953, doi:10.1007/BF02590998) maximises. Of the scene it is
assumed that log A is a smooth function of frequency and direction, another one in every region; the
coefficients of the basis, which all regions share, have the normal law of the fields that the basis was
learned from. The mode over all of them is found by L-BFGS.

A power spectrum does not tell a PSF from the same turned by 180°. Of several modes that explain the spectra
about as well that one is taken whose restored regions have the sparsest gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.run import Run
from napari_deblur.optics.basis_spectra import Spectra, measure_spectra, window_px
from napari_deblur.optics.psf_basis import PsfBasis

if TYPE_CHECKING:
    from torch import Tensor

# Of the scenes' log spectra: the power of frequency that they fall with, and standard deviations of that and
# of the terms that bend them and make them depend on direction.
_SLOPE, _SLOPE_SPREAD, _BEND_SPREAD = -2.5, 1.0, 0.4
# A scene is no realisation of a smooth spectrum: a power counts as that many.
_WEIGHT = 0.1
_ITERATIONS = 80
_RANDOM_STARTS = 2
# Modes that are less likely by so much (logarithm) are no rivals, however sparse what they restore.
_RIVAL = 10.0
_FINDING = "finding the blur in the basis"


@dataclass(frozen=True, eq=False)
class FoundOperator:
    """Coefficients (I, J) that an image tells, and the standard deviations that are left of them."""

    coefficients: NDArray[np.float32]
    errors: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class _Mode:
    """One maximum of the likelihood: minus its logarithm, coefficients, scenes' terms and noise."""

    cost: float
    coefficients: Tensor
    scenes: Tensor
    noise: Tensor


class SpectralLikelihood:
    """The likelihood of a basis' coefficients given one plane.

    Parameters
    ----------
    plane : ndarray, shape (y, x)
    basis : PsfBasis

    Raises
    ------
    InvalidInputError
        If the plane is too small or constant.
    """

    def __init__(self, plane: NDArray[np.float32], basis: PsfBasis, weight: float = _WEIGHT) -> None:
        import torch

        self.basis, self.weight = basis, weight
        scaled = plane / max(float(np.abs(plane).max()), 1e-30)
        self.seen: Spectra = measure_spectra(scaled.astype(np.float32), basis)
        mean, covariance = basis.prior
        self._mean = torch.from_numpy(mean).float()
        self._root = torch.from_numpy(np.linalg.cholesky(covariance)).float()
        spreads = torch.full((len(self.seen.terms),), _BEND_SPREAD)
        spreads[0], spreads[1] = math.inf, _SLOPE_SPREAD
        self._scene_precision = spreads.square().reciprocal()
        self._scene_mean = torch.zeros(len(self.seen.terms))
        self._scene_mean[1] = _SLOPE

    def find(self, run: Run, seed: int = 0) -> FoundOperator:
        """Return the most plausible coefficients."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        count = _RANDOM_STARTS + 3
        run.step(0, count, _FINDING)
        modes = [self._mode(torch.zeros_like(self._mean), run, (0, count))]
        starts = [self._turned(modes[0].coefficients)]
        starts += [torch.randn(self._mean.shape, generator=generator) for _ in range(_RANDOM_STARTS)]
        for number, start in enumerate(starts, 1):
            modes.append(self._mode(start, run, (number, count)))
        best = min(modes, key=lambda mode: mode.cost)
        modes.append(self._mode(self._turned(best.coefficients), run, (count - 1, count)))
        least = min(mode.cost for mode in modes)
        rivals = [mode for mode in modes if mode.cost - least < _RIVAL]
        chosen = min(rivals, key=self._gradients)
        run.step(count, count, "blur found")
        run.fact("rival_operators", len(rivals))
        shape = (self.basis.n_psfs, self.basis.n_maps)
        errors = self._errors(chosen).reshape(shape).numpy()
        return FoundOperator(chosen.coefficients.reshape(shape).numpy(), errors)

    def _transfer(self, coefficients: Tensor) -> Tensor:
        """Return the transfer functions (R, F) of the regions."""
        import torch

        strengths = self.seen.maps @ coefficients.reshape(self.basis.n_psfs, self.basis.n_maps).T
        return (
            self.seen.transfer[0]
            + torch.complex(strengths, torch.zeros_like(strengths)) @ self.seen.transfer[1:]
        )

    def _cost(self, z: Tensor, scenes: Tensor, noise: Tensor) -> Tensor:
        """Return minus the logarithm of the posterior."""
        import torch

        transfer = self._transfer(self._mean + self._root @ z)
        power = transfer.real.square() + transfer.imag.square()
        expected = torch.exp((scenes @ self.seen.terms).clamp(-60, 60)) * power + torch.exp(noise)[:, None]
        misfit = (torch.log(expected) + self.seen.power / expected) * self.seen.share
        penalty = self._scene_precision * (scenes - self._scene_mean).square()
        return self.weight * misfit.sum() + 0.5 * penalty.sum() + 0.5 * z.square().sum()

    def _mode(self, start: Tensor, run: Run, place: tuple[int, int]) -> _Mode:
        import torch

        beyond = self.seen.frequencies.norm(dim=0) > 0.45
        noise = self.seen.power[:, beyond].mean(dim=1).clamp_min(1e-12).log()
        scenes = self._scene_mean.repeat(len(noise), 1)
        near = self.seen.frequencies.norm(dim=0).sub(0.1).abs() < 0.03
        scenes[:, 0] = self.seen.power[:, near].mean(dim=1).clamp_min(1e-12).log()
        with torch.enable_grad(), torch.inference_mode(False):
            unknowns = [tensor.clone().requires_grad_() for tensor in (start, scenes, noise)]
            optimizer = torch.optim.LBFGS(
                unknowns, max_iter=_ITERATIONS, history_size=20, line_search_fn="strong_wolfe"
            )

            def closure() -> Tensor:
                run.step(*place, _FINDING)
                optimizer.zero_grad()
                cost = self._cost(*unknowns)
                cost.backward()
                return cost

            optimizer.step(closure)
        z, scenes, noise = (tensor.detach() for tensor in unknowns)
        return _Mode(float(self._cost(z, scenes, noise)), self._mean + self._root @ z, scenes, noise)

    def _turned(self, coefficients: Tensor) -> Tensor:
        """Return a start near the operator whose PSFs are turned by 180°, as far as the basis holds it."""
        import torch

        kernels = torch.from_numpy(self.basis.kernels.reshape(len(self.basis.kernels), -1)).double()
        turned = kernels.flip(1)
        eigen = kernels[1:]
        strengths = coefficients.double().reshape(self.basis.n_psfs, self.basis.n_maps)
        back = eigen / eigen.square().sum(dim=1, keepdim=True)
        moved = (turned[1:] @ back.T).T @ strengths
        constant = back @ (turned[0] - kernels[0])
        level = self.seen.maps.double().mean(dim=0)
        moved = moved + constant[:, None] * level[None] / level.square().sum().clamp_min(1e-12)
        off = moved.flatten().float() - self._mean
        start: Tensor = torch.linalg.solve_triangular(self._root, off[:, None], upper=False)[:, 0]
        return start.clamp(-3, 3)

    def _gradients(self, mode: _Mode) -> float:
        """Return the mean size of the gradients of restored windows over their root mean square."""
        import torch

        transfer = self._transfer(mode.coefficients)
        scene = torch.exp((mode.scenes @ self.seen.terms).clamp(-60, 60))
        power = transfer.abs().square()
        restored = (
            self.seen.windows * transfer.conj() * scene / (power * scene + torch.exp(mode.noise)[:, None])
        )
        side = window_px(self.basis)
        radius = self.seen.frequencies.norm(dim=0)
        steps = (2j * math.pi * self.seen.frequencies) * (radius < 0.5)
        taken = _places(self.seen.frequencies, side)
        total = 0.0
        for step in steps:
            grid = torch.zeros((len(restored), side * (side // 2 + 1)), dtype=restored.dtype)
            grid[:, taken] = restored * step
            slope = torch.fft.irfft2(grid.reshape(-1, side, side // 2 + 1), s=(side, side))
            total += float((slope.abs().mean(dim=(-2, -1)) / slope.square().mean(dim=(-2, -1)).sqrt()).mean())
        return total

    def _errors(self, mode: _Mode) -> Tensor:
        """Return the standard deviations that the mode's curvature leaves, the scenes' terms unknown too."""
        import torch

        transfer = self._transfer(mode.coefficients)
        power = transfer.abs().square()
        scene = torch.exp((mode.scenes @ self.seen.terms).clamp(-60, 60))
        floor = torch.exp(mode.noise)[:, None]
        expected = scene * power + floor
        # d log(expected) / d strength of an eigen-PSF, / d scene term, / d noise, all (…, R, F)
        by_strength = (
            2 * scene * (transfer.conj()[:, None] * self.seen.transfer[1:]).real.transpose(0, 1) / expected
        )
        signal = scene * power / expected
        weight = self.weight * self.seen.share
        precision = torch.eye(len(self._mean), dtype=torch.float64)
        root = self._root.double()
        shared = torch.zeros_like(precision)
        for region in range(len(power)):
            by_psf = by_strength[:, region]
            maps = self.seen.maps[region]
            rows = (by_psf[:, None, :] * maps[None, :, None]).flatten(0, 1).double()
            own = torch.cat(
                [signal[region] * self.seen.terms, (floor[region] / expected[region])[None]]
            ).double()
            nuisance = (own * weight) @ own.T + torch.diag(
                torch.cat([self._scene_precision, torch.zeros(1)]).double() + 1e-9
            )
            cross = (rows * weight) @ own.T
            shared += (rows * weight) @ rows.T - cross @ torch.linalg.solve(nuisance, cross.T)
        precision = precision + root.T @ shared @ root
        covariance = root @ torch.linalg.inv(precision) @ root.T
        errors: Tensor = covariance.diagonal().clamp_min(0).sqrt().float()
        return errors


def _places(frequencies: Tensor, side: int) -> Tensor:
    """Return where frequencies lie on the flattened half plane of a transform."""
    rows = (frequencies[0] * side).round().long() % side
    cols = (frequencies[1] * side).round().long()
    return rows * (side // 2 + 1) + cols
