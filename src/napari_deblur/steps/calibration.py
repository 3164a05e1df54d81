"""From PSF parameters to a signed distance from focus: the quantity, and its calibration in µm."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.steps.calibrate import (
    Shape,
    checked_maps,
    counted_from_focus,
    distances_um,
    fit_calibration,
    known_cutoff,
    known_pixel_size,
)
from napari_deblur.steps.curve_fit import fitted_azimuth
from napari_deblur.steps.defocus import Grid, Rule, defocus_signal, defocus_waves_per_um
from napari_deblur.steps.lookup import LookupTable, has_readings, readings

if TYPE_CHECKING:
    from napari_deblur.optics.settings import Optics

_FORMAT = 1
_LARGEST_CUTOFF_CHANGE = 0.05


class DepthCalibration(BaseModel):
    """How a PSF map's defocus translates to µm, for one microscope and one cylinder lens.

    Attributes
    ----------
    model : str
        PSF family of the maps it holds for.
    rule : {'astigmatism', 'paper'}
    axis_rad : float
        Axis of astigmatism for what lies beyond focus; 0 or π/2 (a sign) for gaussian-2 and the paper's rule.
    curve : tuple of (float, float)
        Points (quantity, depth in µm), both strictly increasing; linear between them, and beyond them with
        the mean slope: a flat end of the curve would fling what lies beyond it far away.
    table : LookupTable or None
        What maps read over depth; where it is there, depth comes from it and not from the curve.
    residual_um : float or None
        Spread of the calibration's own data around it.
    cutoff_cycles_per_px : float or None
        Cut-off assumed in the maps; a map with another has other waves.
    source : dict
        Where it comes from (JSON types).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str
    rule: Rule = "astigmatism"
    axis_rad: float
    curve: tuple[tuple[float, float], ...] = Field(min_length=2)
    table: LookupTable | None = None
    residual_um: float | None = None
    cutoff_cycles_per_px: float | None = None
    source: dict[str, Any] = Field(default_factory=dict)

    @field_validator("curve")
    @classmethod
    def _increasing(cls, curve: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        if (np.diff(np.array(curve), axis=0) <= 0).any():
            raise ValueError("must increase from point to point in both values")
        return curve

    @property
    def scale_um(self) -> float:
        """µm per unit of the quantity, averaged over the curve."""
        (low, z_low), (high, z_high) = self.curve[0], self.curve[-1]
        return (z_high - z_low) / (high - low)

    @property
    def depth_range_um(self) -> tuple[float, float]:
        """Depths between which the calibration was seen to hold."""
        if self.table is not None:
            return self.table.depth_um[0], self.table.depth_um[-1]
        return self.curve[0][1], self.curve[-1][1]

    def depth_um(self, quantity: ArrayLike) -> Grid:
        """Translate the signed quantity (see `DefocusSignal.along`) to µm."""
        at, to = np.array(self.curve).T
        values = np.asarray(quantity, dtype=np.float64)
        depth = np.interp(values, at, to)
        depth += (np.minimum(values - at[0], 0) + np.maximum(values - at[-1], 0)) * self.scale_um
        return np.asarray(depth)

    def depths_of(self, psf_map: PsfMap, quantity: Grid) -> tuple[Grid, Grid | None]:
        """Return the depths in µm of a map's positions, and their standard deviations from the table.

        Parameters
        ----------
        psf_map : PsfMap
        quantity : ndarray, shape (rows, cols)
            Its signed quantity along this calibration's axis.
        """
        if self.table is None or not has_readings(psf_map):
            return self.depth_um(quantity), None
        return self.table.look_up(*readings(psf_map, self.axis_rad))

    def check_fits(self, psf_map: PsfMap, rule: Rule) -> None:
        """Refuse a map of another family, rule or cut-off.

        Raises
        ------
        InvalidInputError
        """
        if psf_map.model != self.model:
            rule_text = f"must be for maps of the family {psf_map.model}"
            raise InvalidInputError("calibration", rule_text, f"one for {self.model}")
        if rule != self.rule:
            raise InvalidInputError("rule", f"must be {self.rule!r}, as the calibration's", repr(rule))
        cutoff = self.cutoff_cycles_per_px
        if cutoff and abs(psf_map.cutoff_cycles_per_px / cutoff - 1) > _LARGEST_CUTOFF_CHANGE:
            rule_text = f"must be for maps with the cut-off {psf_map.cutoff_cycles_per_px:g} cycles per pixel"
            raise InvalidInputError("calibration", rule_text, f"one for {cutoff:g}")

    @classmethod
    def from_tilted_plane(
        cls,
        psf_map: PsfMap | Sequence[PsfMap],
        *,
        tilt_deg: float,
        azimuth_deg: float,
        fit_azimuth: bool = False,
        pixel_size_um: tuple[float, float] | float | None = None,
        zero_at_px: tuple[float, float] | None = None,
        rule: Rule = "astigmatism",
        shape: Shape | None = None,
    ) -> DepthCalibration:
        """Calibrate with a flat, textured sample that is tilted by a known angle, or with several.

        Parameters
        ----------
        psf_map : PsfMap or sequence of PsfMap
            Of several samples, tilted alike: what their textures do to the readings averages out.
        tilt_deg : float
            Angle between the sample and the focal plane.
        azimuth_deg : float
            Direction in the image in which the sample goes away from the objective: 0 along the columns' axis
            (x, to the right), 90 along the rows' (y, downwards).
        fit_azimuth : bool
            Whether to find the direction from the map; ``azimuth_deg`` then only says which of the two
            opposite ones, which no image can tell.
        pixel_size_um : tuple of float or float, optional
            Along y and x; the map's own when not given.
        zero_at_px : tuple of float, optional
            Point (y, x) of the sample that counts as depth 0; when not given, where the sample is in focus.
        rule : {'astigmatism', 'paper'}
        shape : {'linear', 'monotone', 'lookup'}, optional
            Straight line, rising curve, or a table of all readings, which is the default for maps that hold
            them; a straight line for others.

        Raises
        ------
        InvalidInputError
            For a missing pixel size, an angle without meaning, or a map in which defocus does not change.
        """
        if not 0 < abs(tilt_deg) < 80:
            raise InvalidInputError("tilt_deg", "must lie between 0 and 80", tilt_deg)
        maps = checked_maps([psf_map] if isinstance(psf_map, PsfMap) else psf_map)
        places = [distances_um(one, pixel_size_um, zero_at_px) for one in maps]
        signals = [defocus_signal(one, rule) for one in maps]
        azimuth = math.radians(azimuth_deg)
        if fit_azimuth:
            azimuth = fitted_azimuth(signals[0], *places[0], azimuth)
        rise = math.tan(math.radians(tilt_deg))
        heights = [rise * (x * math.cos(azimuth) + y * math.sin(azimuth)) for y, x in places]
        if zero_at_px is None:
            heights = counted_from_focus(signals, heights)
        source = {
            "kind": "tilted plane",
            "tilt_deg": tilt_deg,
            "azimuth_deg": math.degrees(azimuth),
            "pixel_size_um": list(known_pixel_size(pixel_size_um, maps[0])),
            "samples": len(maps),
        }
        fields = fit_calibration(
            maps,
            signals,
            heights,
            rule=rule,
            shape=shape,
            without_readings="linear",
            focus_is_zero=zero_at_px is None,
        )
        return cls._made(maps[0], rule, fields, source)

    @classmethod
    def from_stack(
        cls,
        psf_maps: Sequence[PsfMap],
        z_um: Sequence[float],
        *,
        rule: Rule = "astigmatism",
        shape: Shape | None = None,
    ) -> DepthCalibration:
        """Calibrate with images of a flat sample (beads, or any texture) at known distances from focus.

        Parameters
        ----------
        psf_maps : sequence of PsfMap
            One per image, all of one family and cut-off.
        z_um : sequence of float
            Depth of the sample in each: positive where it lies beyond the focal plane.
        rule : {'astigmatism', 'paper'}
        shape : {'linear', 'monotone', 'lookup'}, optional
            As for a tilted plane; a rising curve for maps without readings.

        Raises
        ------
        InvalidInputError
            For fewer than two depths, maps of different families, or no change of defocus with depth.
        """
        depths = [float(z) for z in z_um]
        if len(depths) != len(psf_maps):
            raise InvalidInputError("z_um", f"must have one depth per map ({len(psf_maps)})", len(depths))
        if len(set(depths)) < 2 or not np.isfinite(depths).all():
            raise InvalidInputError("z_um", "must hold at least two different depths", depths)
        checked_maps(psf_maps)
        signals = [defocus_signal(psf_map, rule) for psf_map in psf_maps]
        heights = [np.full(signal.u.shape, z) for signal, z in zip(signals, depths, strict=True)]
        source = {"kind": "stack", "z_um": depths}
        fields = fit_calibration(
            psf_maps,
            signals,
            heights,
            rule=rule,
            shape=shape,
            without_readings="monotone",
            focus_is_zero=False,
        )
        return cls._made(psf_maps[0], rule, fields, source)

    @classmethod
    def from_optics(cls, optics: Optics, *, axis_deg: float) -> DepthCalibration:
        """Calibrate zernike-3 maps by theory alone: no spherical aberration, no mismatch of indices.

        Parameters
        ----------
        optics : Optics
        axis_deg : float
            Axis of astigmatism for what lies beyond focus.
        """
        waves = defocus_waves_per_um(optics)
        return cls(
            model="zernike-3",
            axis_rad=math.radians(axis_deg) % math.pi,
            curve=((-waves, -1.0), (waves, 1.0)),
            cutoff_cycles_per_px=optics.cutoff_cycles_per_px,
            source={"kind": "optics", **optics.model_dump(mode="json")},
        )

    @classmethod
    def _made(
        cls, psf_map: PsfMap, rule: Rule, fields: dict[str, Any], source: dict[str, Any]
    ) -> DepthCalibration:
        more = {"model": psf_map.model, "rule": rule, "cutoff_cycles_per_px": known_cutoff(psf_map)}
        return cls(**{**fields, **more, "source": source | fields["source"]})

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the calibration as JSON.

        Raises
        ------
        OutputError
            If the file exists and ``overwrite`` is false, or cannot be written.
        """
        from napari_deblur.core.atomic import atomic_path

        text = json.dumps({"format": _FORMAT, **self.model_dump(mode="json")}, indent=2, ensure_ascii=False)
        with atomic_path(path, overwrite, "path") as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        return Path(path).expanduser()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DepthCalibration:
        """Read a calibration that `save` wrote.

        Raises
        ------
        InvalidInputError
            If the file is missing or holds something else.
        """
        source = Path(path).expanduser()
        if not source.is_file():
            raise InvalidInputError("calibration", "must be an existing file", str(source))
        try:
            values = json.loads(source.read_text(encoding="utf-8"))
            if values.pop("format") != _FORMAT:
                raise ValueError("unknown format")
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            rule_text = "must be a depth calibration saved by napari-deblur"
            raise InvalidInputError("calibration", rule_text, str(source)) from error
