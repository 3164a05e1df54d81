"""The probe of an X-ray zone plate: intensity in a plane at a distance from its focus.

In the paraxial field near the first-order focus a zone plate is an annular pupil: zones out to the frequency
1 / (2 Δr), Δr the width of the outermost zone, with the central stop blocking the inner ones (Attwood &
Sakdinawat 2017, *X-Rays and Extreme Ultraviolet Radiation*, ch. 10). A distance d from focus is Fresnel's
phase, so

``probe = |FT{1[s ≤ 2 Δr |q| ≤ 1] · exp(−iπ λ d |q|²)}|²``

with s the diameter of the stop over that of the plate. The sign of d has no effect. Fluorescence excited by
the probe is incoherent: the image is the object convolved with this intensity (Guan et al. 2022, WACV).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.params import Declared, Param
from napari_deblur.optics.checks import LARGEST_SIZE_PX, checked_size
from napari_deblur.optics.rendering import Pupil, intensity, oversampling

if TYPE_CHECKING:
    import torch

KEV_TIMES_UM = 1.239841984e-3
"""Planck's constant times the speed of light, in keV µm."""
PUBLISHED_DEFOCUS_UM = (0.1, 3.0, 5.0, 7.0, 10.0, 15.0)
"""Distances from focus in Guan et al. 2022, §4.1."""
REFERENCE_DEFOCUS_UM = 3.0
"""Of these the one whose latent space is the reference there."""
_LEAST_GRID = 1024
_LARGEST_GRID = 4096
_PUPIL_RADIUS_SAMPLES = 24
_CHUNK = 16
_RINGS = 4.0


class ZonePlate(Declared):
    """A zone plate, the light on it, and the pixels of the scan.

    The publication states six distances and a band limit of 0.35, nothing else. The other defaults are chosen
    here: with them the zones pass just that band, the probe at 15 µm is a disc of 23 of the 64 pixels, and
    the depth of focus (3.7 µm) lies well below it. Coarser zones of the same disc, such as 30 nm at 3 nm per
    pixel, have a depth of focus of 13 µm, so that all six probes would be alike.
    """

    energy_kev: float = Param(9.0, title="Energy", help="Photon energy.", ge=0.1, le=200, unit="keV")
    outermost_zone_um: float = Param(
        0.016, title="Outermost zone", help="Width of the outermost zone.", ge=0.005, le=1, unit="µm"
    )
    diameter_um: float = Param(
        150.0, title="Diameter", help="Diameter of the zone plate.", gt=0, le=10_000, unit="µm"
    )
    central_stop_um: float = Param(
        60.0, title="Central stop", help="Diameter of the central stop; 0 for none.", ge=0, unit="µm"
    )
    pixel_size_um: float = Param(
        0.0056,
        title="Pixel size",
        help="Distance of neighbouring points of the scan.",
        gt=0,
        le=10,
        unit="µm",
    )
    band_limit: float = Param(
        0.35,
        title="Band limit",
        help="Largest frequency of the probe's field, as a share of the Nyquist frequency.",
        gt=0,
        le=1,
    )

    @model_validator(mode="after")
    def _stop_inside_the_plate(self) -> ZonePlate:
        if self.central_stop_um >= self.diameter_um:
            rule = f"must be smaller than the diameter {self.diameter_um:g} µm"
            detail = InitErrorDetails(
                type=PydanticCustomError("stop_too_large", rule),
                loc=("central_stop_um",),
                input=self.central_stop_um,
            )
            raise ValidationError.from_exception_data("ZonePlate", [detail])
        return self

    @property
    def wavelength_um(self) -> float:
        """Wavelength of the light."""
        return KEV_TIMES_UM / self.energy_kev

    @property
    def stop_share(self) -> float:
        """Diameter of the stop over that of the plate."""
        return self.central_stop_um / self.diameter_um

    @property
    def zones_cycles_per_px(self) -> float:
        """Largest frequency that the zones pass: pixel size / (2 Δr)."""
        return self.pixel_size_um / (2 * self.outermost_zone_um)

    @property
    def cutoff_cycles_per_px(self) -> float:
        """Radius of the pupil: the zones' frequency, or the band limit where that is lower."""
        return min(self.zones_cycles_per_px, 0.5 * self.band_limit)

    @property
    def focal_length_um(self) -> float:
        """Distance of the first-order focus: diameter · Δr / λ."""
        return self.diameter_um * self.outermost_zone_um / self.wavelength_um

    @property
    def depth_of_focus_um(self) -> float:
        """Distance from focus over which the probe hardly grows: 2 Δr² / λ."""
        return 2 * self.outermost_zone_um**2 / self.wavelength_um

    def disc_diameter_px(self, defocus_um: float) -> float:
        """Return the diameter of the geometric cone of light: |d| · λ / Δr, in pixels."""
        return abs(defocus_um) * self.wavelength_um / self.outermost_zone_um / self.pixel_size_um


def zone_plate_psf(
    plate: ZonePlate, defocus_um: float = 0.0, size_px: int | None = None
) -> NDArray[np.float32]:
    """Make the probe of a zone plate at a distance from its focus.

    Parameters
    ----------
    plate : ZonePlate
    defocus_um : float
        Its sign has no effect.
    size_px : int, optional
        Odd height and width; by default it holds the geometric cone and the rings around it.

    Returns
    -------
    ndarray, float32, shape (size, size), sum 1

    Raises
    ------
    InvalidInputError
    """
    import torch

    if not math.isfinite(defocus_um):
        raise InvalidInputError("defocus_um", "must be finite", defocus_um)
    if size_px is None:
        reach = plate.disc_diameter_px(defocus_um) / 2 + _RINGS / plate.cutoff_cycles_per_px
        size_px = min(2 * math.ceil(reach) + 1, LARGEST_SIZE_PX)
    kernel = render_probes(torch.tensor([float(defocus_um)]), checked_size(size_px), plate)[0]
    result: NDArray[np.float32] = (kernel / kernel.sum()).numpy()
    return result


def render_probes(
    defocus_um: torch.Tensor, size_px: int, plate: ZonePlate | None = None, least_grid: int = _LEAST_GRID
) -> torch.Tensor:
    """Render probes.

    Parameters
    ----------
    defocus_um : Tensor, shape (batch,)
    size_px : int
        Odd height and width.
    plate : ZonePlate, optional
    least_grid : int
        Least number of points, along each side, of the grid on which the field is computed.

    Returns
    -------
    Tensor, float32, shape (batch, size, size)
        Centre at ``size // 2``, not normalised.
    """
    import torch

    plate = plate or ZonePlate()
    step = oversampling(plate.cutoff_cycles_per_px)
    given = defocus_um.detach()
    reach = float(given.abs().max()) if given.numel() else 0.0
    pupil = _annulus(
        plate, size_px * step, step, plate.disc_diameter_px(reach) * step, least_grid, given.device
    )
    # Frequencies are per fine pixel, of which one is pixel size / step.
    q = pupil.rho * plate.cutoff_cycles_per_px / plate.pixel_size_um
    curvature = -0.5 * plate.wavelength_um * q.square()
    probes = [
        intensity(pupil, part[:, None, None] * curvature, size_px, step) for part in defocus_um.split(_CHUNK)
    ]
    return torch.cat(probes) if probes else defocus_um.new_zeros((0, size_px, size_px))


def _annulus(
    plate: ZonePlate, size: int, step: int, disc_px: float, least_grid: int, device: torch.device
) -> Pupil:
    """Sample the open zones; both rims are softened over one frequency sample, as for circular pupils."""
    import torch

    cutoff = plate.cutoff_cycles_per_px / step
    inner = plate.stop_share * plate.zones_cycles_per_px / step
    needed = max(least_grid, 2 * size, 3 * disc_px, _PUPIL_RADIUS_SAMPLES / cutoff)
    n = min(1 << math.ceil(math.log2(needed)), max(_LARGEST_GRID, least_grid))
    reach = math.floor(cutoff * n + 0.5)
    frequency = torch.arange(-reach, reach + 1, device=device, dtype=torch.float64) / n
    side = frequency.float()
    radius = torch.hypot(side[:, None], side[None, :])
    phi = torch.atan2(side[:, None].expand_as(radius), side[None, :].expand_as(radius))
    open_ = ((cutoff - radius) * n + 0.5).clamp(0, 1)
    if inner > 0:
        open_ = open_ * ((radius - inner) * n + 0.5).clamp(0, 1)
    return Pupil(open_, radius / cutoff, phi, frequency)
