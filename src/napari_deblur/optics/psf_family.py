"""A family of point spread functions: its parameters, their ranges, and its kernels, in batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.checks import LARGEST_SIZE_PX, checked_cutoff, checked_size

if TYPE_CHECKING:
    import torch

DEFAULT_CUTOFF_CYCLES_PER_PX = 0.22
"""Assumed where the optics are unknown: the intensity then ends at 0.44 cycles/px, just inside Nyquist."""
_SMALLEST_DEFAULT_PX = 15
_AXIS_NAME = "axis_rad"


@dataclass(frozen=True)
class PsfFamily:
    """A family of kernels with a few parameters.

    Attributes
    ----------
    id, title : str
    parameter_names, parameter_units : tuple of str
    parameter_ranges : dict of (low, high)
        Ranges of trained networks and of sliders; kernels exist beyond the upper ends too.
    needs_cutoff : bool
        Whether the kernel depends on the optics' cut-off.
    default_size_px : int
        Kernel size at the default cut-off that holds the family over its ranges.
    default_cutoff_cycles_per_px : float
        What is assumed where the optics are unknown.
    noll_indices : tuple of int
        Of the polynomials whose coefficients the parameters are, one each; empty where they are others.
    """

    id: str
    title: str
    parameter_names: tuple[str, ...]
    parameter_units: tuple[str, ...]
    parameter_ranges: dict[str, tuple[float, float]]
    needs_cutoff: bool
    default_size_px: int
    _render: Callable[[torch.Tensor, int, float], torch.Tensor]
    default_cutoff_cycles_per_px: float = DEFAULT_CUTOFF_CYCLES_PER_PX
    noll_indices: tuple[int, ...] = ()

    @property
    def axis_period_rad(self) -> float:
        """How far an astigmatism's axis turns until the kernel is the same again; π without an axis."""
        return self.parameter_ranges.get(_AXIS_NAME, (0.0, math.pi))[1]

    def size_px(self, cutoff_cycles_per_px: float | None = None) -> int:
        """Return the default kernel size; wave-optical kernels grow as the cut-off falls."""
        if not self.needs_cutoff:
            return self.default_size_px
        cutoff = self._cutoff(cutoff_cycles_per_px)
        scaled = self.default_size_px * self.default_cutoff_cycles_per_px / cutoff
        return min(max(2 * math.ceil((scaled - 1) / 2 - 1e-6) + 1, _SMALLEST_DEFAULT_PX), LARGEST_SIZE_PX)

    def kernels(
        self,
        parameters: torch.Tensor,
        size_px: int | None = None,
        cutoff_cycles_per_px: float | None = None,
    ) -> torch.Tensor:
        """Render kernels on the parameters' device, differentiable in them.

        Parameters
        ----------
        parameters : Tensor, shape (…, N)
            In the order of `parameter_names`.
        size_px : int, optional
            Odd height and width.
        cutoff_cycles_per_px : float, optional
            Radius of the pupil, by default the family's own; ignored by families that do not need it.

        Returns
        -------
        Tensor, float32, shape (…, size, size), each of sum 1
        """
        if parameters.shape[-1] != len(self.parameter_names):
            rule = (
                f"must hold {len(self.parameter_names)} values per kernel: {', '.join(self.parameter_names)}"
            )
            raise InvalidInputError("parameters", rule, f"shape {tuple(parameters.shape)}")
        size = checked_size(self.size_px(cutoff_cycles_per_px) if size_px is None else size_px)
        flat = parameters.reshape(-1, parameters.shape[-1]).float()
        kernels = self._render(flat, size, self._cutoff(cutoff_cycles_per_px))
        kernels = kernels / kernels.sum(dim=(-2, -1), keepdim=True)
        return kernels.reshape(*parameters.shape[:-1], size, size)

    def _cutoff(self, given: float | None) -> float:
        return self.default_cutoff_cycles_per_px if given is None else checked_cutoff(given)
