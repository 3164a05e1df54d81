"""Families of point spread functions, computed in batches.

Every kernel is for true convolution: odd-sized, centred at ``size // 2``, sum 1, float32.

Gaussian families are sampled at pixel centres: their second moments are then the squares of the widths down
to about half a pixel, and a narrower one tends to a single pixel. Zernike families are the squared modulus of
the Fourier transform of a circular pupil; pixels sample it at their centres. Pupil phase in waves, with polar
coordinates ρ = frequency / cut-off and φ = atan2(y, x) in image axes (y down the rows):
``defocus · √3 (2ρ² - 1) + astigmatism · √6 ρ² cos 2(φ - axis)``. ``zernike-7`` has one signed coefficient for
each of Noll's polynomials 4 to 10. Reversing the signs of all even orders (defocus and astigmatism) at once
gives the same kernel, so its defocus is 0 or more; reversing all signs turns the kernel by 180°.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError, UnknownNameError
from napari_deblur.optics.checks import LARGEST_SIZE_PX, checked_cutoff, checked_parameters, checked_size
from napari_deblur.optics.probes import render_probes
from napari_deblur.optics.psf_family import DEFAULT_CUTOFF_CYCLES_PER_PX, PsfFamily
from napari_deblur.optics.rendering import (
    gaussian_kernels,
    intensity,
    noll_kernels,
    oversampling,
    sample_pupil,
    zernike_kernels,
)
from napari_deblur.optics.settings import Optics
from napari_deblur.optics.zernike import (
    DEFOCUS,
    HORIZONTAL_COMA,
    OBLIQUE_ASTIGMATISM,
    OBLIQUE_TREFOIL,
    VERTICAL_ASTIGMATISM,
    VERTICAL_COMA,
    VERTICAL_TREFOIL,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "DEFAULT_CUTOFF_CYCLES_PER_PX",
    "FAMILIES",
    "PROBES",
    "PsfFamily",
    "family",
    "make_psf",
    "optics_psf",
]

_HIGH_NA_CUTOFF = 0.261
"""Of an oil immersion lens: NA 1.41, 540 nm, 100 nm per pixel (Debarnot & Weiss 2024)."""


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


def _render_zone_plate(parameters: torch.Tensor, size: int, cutoff: float) -> torch.Tensor:
    return render_probes(parameters[:, 0], size)


def _render_zernike_7(parameters: torch.Tensor, size: int, cutoff: float) -> torch.Tensor:
    return noll_kernels(parameters, tuple(_ZERNIKE_7.values()), size, cutoff)


_WIDTH = (0.5, 5.0)
_DEFOCUS = (0.0, 0.6)
_ASTIGMATISM = (0.0, 0.4)
_AXIS = (0.0, math.pi)
_ABERRATION = 0.15
_ZERNIKE_7 = {
    "defocus_waves": DEFOCUS,
    "oblique_astigmatism_waves": OBLIQUE_ASTIGMATISM,
    "vertical_astigmatism_waves": VERTICAL_ASTIGMATISM,
    "vertical_coma_waves": VERTICAL_COMA,
    "horizontal_coma_waves": HORIZONTAL_COMA,
    "vertical_trefoil_waves": VERTICAL_TREFOIL,
    "oblique_trefoil_waves": OBLIQUE_TREFOIL,
}

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
            # Without defocus the axes θ and θ + π/2 give the same kernel.
            {"astigmatism_waves": _ASTIGMATISM, "axis_rad": (0.0, math.pi / 2)},
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
        PsfFamily(
            "zernike-7",
            "Seven aberrations",
            tuple(_ZERNIKE_7),
            ("waves",) * len(_ZERNIKE_7),
            {
                name: (0.0 if index == DEFOCUS else -_ABERRATION, _ABERRATION)
                for name, index in _ZERNIKE_7.items()
            },
            True,
            31,
            _render_zernike_7,
            default_cutoff_cycles_per_px=_HIGH_NA_CUTOFF,
            noll_indices=tuple(_ZERNIKE_7.values()),
        ),
    )
}

"""Families that networks read from images."""

PROBES: dict[str, PsfFamily] = {
    "zone-plate": PsfFamily(
        "zone-plate",
        "Zone-plate probe",
        ("defocus_um",),
        ("µm",),
        {"defocus_um": (0.0, 15.0)},
        False,
        65,
        _render_zone_plate,
    )
}
"""Families whose parameters are known from the instrument; `optics.probes` holds the default settings."""


def family(id: str) -> PsfFamily:
    """Return the family of that id.

    Raises
    ------
    UnknownNameError
    InvalidInputError
        For product-convolution, which is a space of operators.
    """
    known = FAMILIES | PROBES
    if id == "product-convolution":
        rule = "must be a family of single PSFs; this one is a space of operators: use nd.PsfBasis"
        raise InvalidInputError("model", rule, repr(id))
    if id not in known:
        raise UnknownNameError("model", id, list(known))
    return known[id]


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
        Gives the cut-off; otherwise ``cutoff_cycles_per_px``, otherwise the family's default (0.22, but 0.261
        for ``zernike-7``).

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
    cutoff = cutoff_cycles_per_px if optics is None else optics.cutoff_cycles_per_px
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
