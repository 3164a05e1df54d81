"""The microscope's optical settings, declared once."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from napari_deblur.core.params import Declared, Param

VOLUME_FIELDS = ("z_step_um", "theory", "sample_index", "depth_um")
"""Fields of `Optics` that count for PSFs in 3D only."""


class Optics(Declared):
    """Objective, light and camera: what fixes the finest detail that an image can hold.

    The cut-off is the radius of the objective's pupil in cycles per pixel of the image; an incoherent image
    holds nothing above twice that frequency. With a distance of planes they describe a stack, and PSFs made
    from them are 3D.
    """

    na: float = Param(
        title="NA", help="Numerical aperture of the objective, as engraved on it.", gt=0, le=1.7, step=0.01
    )
    wavelength_um: float = Param(
        title="Wavelength", help="Emission wavelength in vacuum.", ge=0.1, le=5, step=0.005, unit="µm"
    )
    pixel_size_um: float = Param(
        title="Pixel size", help="Size of a pixel in the sample plane.", gt=0, le=1000, step=0.001, unit="µm"
    )
    refractive_index: float = Param(
        1.515,
        title="Refractive index",
        help="Index of the immersion medium: air 1.0, water 1.33, oil 1.515.",
        ge=1,
        le=2,
        step=0.005,
    )

    z_step_um: float | None = Param(
        None,
        title="Distance of planes",
        help="Distance of neighbouring planes of a stack, as the stage moves; with it the PSF is 3D.",
        gt=0,
        le=1000,
        step=0.05,
        unit="µm",
    )
    theory: Literal["vectorial", "scalar"] = Param(
        "vectorial",
        title="Theory",
        help="Of the 3D PSF: vectorial is exact at high NA, scalar is the textbook's Airy pattern.",
        advanced=True,
    )
    sample_index: float | None = Param(
        None,
        title="Sample index",
        help="Refractive index of what the sample lies in; the immersion's when not given.",
        ge=1,
        le=2,
        step=0.005,
        advanced=True,
    )
    depth_um: float = Param(
        0.0,
        title="Depth",
        help="Depth of the sample below the coverslip; it counts where the sample's index differs.",
        ge=0,
        le=10000,
        step=1.0,
        unit="µm",
        advanced=True,
    )

    @model_validator(mode="after")
    def _na_at_most_index(self) -> Optics:
        if self.na > self.refractive_index:
            rule = f"must not exceed the refractive index {self.refractive_index:g}"
            detail = InitErrorDetails(
                type=PydanticCustomError("na_above_index", rule), loc=("na",), input=self.na
            )
            raise ValidationError.from_exception_data("Optics", [detail])
        return self

    @property
    def cutoff_cycles_per_px(self) -> float:
        """Radius of the pupil in cycles per pixel: NA · pixel size / wavelength."""
        return self.na * self.pixel_size_um / self.wavelength_um

    @property
    def voxel_size_um(self) -> tuple[float, float, float] | None:
        """Size of a voxel along z, y and x; None without a distance of planes."""
        return None if self.z_step_um is None else (self.z_step_um, self.pixel_size_um, self.pixel_size_um)

    @property
    def defocus_waves_per_um(self) -> float:
        """Noll-normalised defocus in waves per µm of axial distance, to second order in the aperture.

        The exact path difference (z n / λ)(1 - cos α) has the leading term z NA² ρ² / (2 n λ); Noll's defocus
        is √3 (2ρ² - 1), hence NA² / (4 √3 n λ).
        """
        return self.na**2 / (4 * math.sqrt(3) * self.refractive_index * self.wavelength_um)
