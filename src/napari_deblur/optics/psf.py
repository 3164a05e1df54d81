"""Families of point spread functions, computed in batches.

Every kernel is for true convolution: odd-sized, centred at ``size // 2``, sum 1, float32.

Gaussian families are sampled at pixel centres: their second moments are then the squares of the widths down
to about half a pixel, and a narrower one tends to a single pixel. Zernike families are the squared modulus of
the Fourier transform of a circular pupil; pixels sample it at their centres. Pupil phase in waves, with polar
coordinates ρ = frequency / cut-off and φ = atan2(y, x) in image axes (y down the rows):
``defocus · √3 (2ρ² - 1) + astigmatism · √6 ρ² cos 2(φ - axis)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError, UnknownNameError
from napari_deblur.optics.checks import LARGEST_SIZE_PX, checked_cutoff, checked_parameters, checked_size
from napari_deblur.optics.rendering import (
    gaussian_kernels,
    intensity,
    oversampling,
    sample_pupil,
    zernike_kernels,
)
from napari_deblur.optics.settings import Optics

if TYPE_CHECKING:
    import torch

DEFAULT_CUTOFF_CYCLES_PER_PX = 0.22
"""Assumed where the optics are unknown: the intensity then ends at 0.44 cycles/px, just inside Nyquist."""
_SMALLEST_DEFAULT_PX = 15


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
    """

    id: str
    title: str
    parameter_names: tuple[str, ...]
    parameter_units: tuple[str, ...]
    parameter_ranges: dict[str, tuple[float, float]]
    needs_cutoff: bool
    default_size_px: int
    _render: Callable[[torch.Tensor, int, float], torch.Tensor]

    def size_px(self, cutoff_cycles_per_px: float = DEFAULT_CUTOFF_CYCLES_PER_PX) -> int:
        """Return the default kernel size; wave-optical kernels grow as the cut-off falls."""
        if not self.needs_cutoff:
            return self.default_size_px
        scaled = self.default_size_px * DEFAULT_CUTOFF_CYCLES_PER_PX / checked_cutoff(cutoff_cycles_per_px)
        return min(max(2 * math.ceil((scaled - 1) / 2 - 1e-6) + 1, _SMALLEST_DEFAULT_PX), LARGEST_SIZE_PX)

    def kernels(
        self,
        parameters: torch.Tensor,
        size_px: int | None = None,
        cutoff_cycles_per_px: float = DEFAULT_CUTOFF_CYCLES_PER_PX,
    ) -> torch.Tensor:
        """Render kernels on the parameters' device.

        Parameters
        ----------
        parameters : Tensor, shape (…, N)
            In the order of `parameter_names`.
        size_px : int, optional
            Odd height and width.
        cutoff_cycles_per_px : float
            Radius of the pupil; ignored by families that do not need it.

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
        kernels = self._render(flat, size, checked_cutoff(cutoff_cycles_per_px))
        kernels = kernels / kernels.sum(dim=(-2, -1), keepdim=True)
        return kernels.reshape(*parameters.shape[:-1], size, size)


def _render_gaussian_1(parameters: torch.Tensor, size: int, cutoff: float) -> torch.Tensor:
    return gaussian_kernels(parameters[:, 0], parameters[:, 0], size)


def _render_gaussian_2(parameters: torch.Tensor, size: int, cutoff: float) -> torch.Tensor:
    return gaussian_kernels(parameters[:, 0], parameters[:, 1], size)


def _render_zernike_1(parameters: torch.Tensor, size: int, cutoff: float) -> torch.Tensor:
    zero = parameters[:, 0] * 0
    return zernike_kernels(parameters[:, 0], zero, zero, size, cutoff)


def _render_zernike_2(parameters: torch.Tensor, size: int, cutoff: float) -> torch.Tensor:
    return zernike_kernels(parameters[:, 0] * 0, parameters[:, 0], parameters[:, 1], size, cutoff)


def _render_zernike_3(parameters: torch.Tensor, size: int, cutoff: float) -> torch.Tensor:
    return zernike_kernels(parameters[:, 0], parameters[:, 1], parameters[:, 2], size, cutoff)


_WIDTH = (0.5, 5.0)
_DEFOCUS = (0.0, 0.6)
_ASTIGMATISM = (0.0, 0.4)
_AXIS = (0.0, math.pi)

FAMILIES: dict[str, PsfFamily] = {
    entry.id: entry
    for entry in (
        PsfFamily(
            "gaussian-1",
            "Gaussian",
            ("sigma_px",),
            ("px",),
            {"sigma_px": _WIDTH},
            False,
            41,
            _render_gaussian_1,
        ),
        PsfFamily(
            "gaussian-2",
            "Gaussian, two widths",
            ("sigma_y_px", "sigma_x_px"),
            ("px", "px"),
            {"sigma_y_px": _WIDTH, "sigma_x_px": _WIDTH},
            False,
            41,
            _render_gaussian_2,
        ),
        PsfFamily(
            "zernike-1",
            "Defocus",
            ("defocus_waves",),
            ("waves",),
            {"defocus_waves": _DEFOCUS},
            True,
            65,
            _render_zernike_1,
        ),
        PsfFamily(
            "zernike-2",
            "Astigmatism",
            ("astigmatism_waves", "axis_rad"),
            ("waves", "rad"),
            {"astigmatism_waves": _ASTIGMATISM, "axis_rad": _AXIS},
            True,
            65,
            _render_zernike_2,
        ),
        PsfFamily(
            "zernike-3",
            "Defocus and astigmatism",
            ("defocus_waves", "astigmatism_waves", "axis_rad"),
            ("waves", "waves", "rad"),
            {"defocus_waves": _DEFOCUS, "astigmatism_waves": _ASTIGMATISM, "axis_rad": _AXIS},
            True,
            65,
            _render_zernike_3,
        ),
    )
}


def family(id: str) -> PsfFamily:
    """Return the family of that id.

    Raises
    ------
    UnknownNameError
    """
    if id not in FAMILIES:
        raise UnknownNameError("model", id, list(FAMILIES))
    return FAMILIES[id]


def make_psf(
    model: str,
    parameters: Sequence[float] | Mapping[str, float],
    size_px: int | None = None,
    *,
    optics: Optics | None = None,
    cutoff_cycles_per_px: float | None = None,
) -> NDArray[np.float32]:
    """Make one kernel of a family.

    Parameters
    ----------
    model : str
        Id of the family.
    parameters : sequence or mapping of float
        In the family's order, or by name.
    size_px : int, optional
        Odd height and width.
    optics : Optics, optional
        Gives the cut-off; otherwise ``cutoff_cycles_per_px``, otherwise 0.22.

    Returns
    -------
    ndarray, float32, shape (size, size), sum 1

    Raises
    ------
    UnknownNameError, InvalidInputError
    """
    import torch

    chosen = family(model)
    values = torch.tensor(checked_parameters(chosen.parameter_names, parameters))
    if optics is not None and cutoff_cycles_per_px is not None:
        raise InvalidInputError(
            "cutoff_cycles_per_px", "must be left out where optics are given", cutoff_cycles_per_px
        )
    cutoff = DEFAULT_CUTOFF_CYCLES_PER_PX if cutoff_cycles_per_px is None else cutoff_cycles_per_px
    if optics is not None:
        cutoff = optics.cutoff_cycles_per_px
    kernel: NDArray[np.float32] = chosen.kernels(values, size_px, cutoff).numpy()
    return kernel


def optics_psf(optics: Optics, defocus_um: float = 0.0, size_px: int | None = None) -> NDArray[np.float32]:
    """Make the kernel of a perfect objective at an axial distance from focus.

    Scalar theory, uniform pupil, exact path difference ``z √(n² - NA² ρ²) / λ``.

    Parameters
    ----------
    optics : Optics
    defocus_um : float
        Axial distance in the immersion medium; its sign has no effect.
    size_px : int, optional
        Odd height and width; by default it holds the Airy pattern and the geometric blur.

    Returns
    -------
    ndarray, float32, shape (size, size), sum 1
    """
    import torch

    if not math.isfinite(defocus_um):
        raise InvalidInputError("defocus_um", "must be finite", defocus_um)
    cutoff = checked_cutoff(optics.cutoff_cycles_per_px)
    step = oversampling(cutoff)
    aperture = min(optics.na / optics.refractive_index, 0.999)
    blur_px = abs(defocus_um) * aperture / math.sqrt(1 - aperture**2) / optics.pixel_size_um
    if size_px is None:
        size_px = min(2 * math.ceil(blur_px + 2.5 / cutoff) + 1, LARGEST_SIZE_PX)
    size = checked_size(size_px)
    pupil = sample_pupil(size * step, cutoff / step, blur_px * step, torch.device("cpu"))
    inside = (optics.refractive_index**2 - (optics.na * pupil.rho.double()) ** 2).clamp(min=0)
    phase = defocus_um / optics.wavelength_um * (inside.sqrt() - optics.refractive_index)
    kernel = intensity(pupil, phase.float()[None], size, step)[0]
    result: NDArray[np.float32] = (kernel / kernel.sum()).numpy()
    return result
