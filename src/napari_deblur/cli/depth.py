"""The command ``depth``."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from napari_deblur.cli.options import Option, Values, from_declaration, given
from napari_deblur.cli.session import (
    AXES,
    DEVICE,
    INPUT,
    JSON,
    OPTICS,
    OUTPUT,
    OVERWRITE,
    PIXEL_SIZE,
    check_outputs,
    check_suffix,
    engine_for,
    number,
    optics_from,
    read_input,
    report,
    report_step,
    session,
    shown,
)
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.calibration import DepthCalibration
from napari_deblur.steps.depth import EstimateDepth
from napari_deblur.steps.psf_map import EstimatePsfMap

if TYPE_CHECKING:
    from napari_deblur.core.run import Run
    from napari_deblur.optics.psf_map import PsfMap

_SAME_SIZE = 0.01


def depth_options() -> list[Option]:
    """Return the options of the command ``depth``."""
    own = from_declaration(EstimateDepth)
    taken = {option.name for option in own}
    mapping = [option for option in from_declaration(EstimatePsfMap) if option.name not in taken]
    return [
        replace(INPUT, help="Image, or a PSF map that psf-map wrote (.npz)."),
        replace(OUTPUT, help="File for the depth: float32 OME-TIFF (.tif), in µm if calibrated."),
        Option(
            "calibration",
            "Calibration that calibrate wrote. Else optics and --axis-deg give µm, or the depth is relative.",
            "FILE",
        ),
        Option("confidence", "File for the confidence, 0 to 1.", "FILE"),
        Option("surface", "File for the surface in µm: .ply, .obj or .stl.", "FILE"),
        Option(
            "relative_height_um", "How tall to draw a surface whose depth is not calibrated, in µm.", "NUMBER"
        ),
        *own,
        *mapping,
        *OPTICS,
        AXES,
        PIXEL_SIZE,
        OVERWRITE,
        JSON,
        DEVICE,
    ]


def depth(values: Values) -> int | None:
    """Estimate the depth of a surface."""
    import numpy as np

    from napari_deblur.io.write import check_image_path, write_depth

    step = EstimateDepth(**given(values, EstimateDepth))
    outputs = check_outputs(values, "output", "confidence", "surface", image=values["image"])
    overwrite = bool(values.get("overwrite"))
    for name in ("output", "confidence"):
        if name in outputs:
            check_image_path(outputs[name], overwrite=overwrite, argument=shown(name))
    if "surface" in outputs:
        check_suffix("surface", outputs["surface"], ".ply", ".obj", ".stl")
    height = number(values, "relative_height_um")
    calibration = _calibration_file(values)
    with session("depth") as run:
        found, image, optics = _map(values, calibration, run.part(0, 9, 10))
        result = step.run(found, calibration=calibration, optics=optics, image=image, run=run.part(9, 10, 10))
    # Before anything is written: the surface may lack a scale.
    surface = result.surface(relative_height_um=height) if "surface" in outputs else None
    for name in ("output", "confidence"):
        if name in outputs:
            write_depth(
                result,
                outputs[name],
                confidence=name == "confidence",
                overwrite=overwrite,
            )
    if surface is not None:
        from napari_deblur.io.mesh import write_mesh

        write_mesh(surface, outputs["surface"], overwrite, shown("surface"))
    low, high = float(np.nanmin(result.depth_um)), float(np.nanmax(result.depth_um))
    report_step(values, outputs, result.record, [f"depth {low:.3g} to {high:.3g} {result.unit}"])
    return None


def _calibration_file(values: Values) -> DepthCalibration | None:
    from napari_deblur.io.read import existing

    if "calibration" not in values:
        return None
    return DepthCalibration.load(existing(values["calibration"], "calibration"))


def _map(
    values: Values, calibration: DepthCalibration | None, run: Run
) -> tuple[PsfMap, Image | None, Optics | None]:
    from napari_deblur.io.read import existing
    from napari_deblur.optics.psf_map import PsfMap

    if Path(values["image"]).suffix.lower() == ".npz":
        return _saved_map(values, PsfMap.load(existing(values["image"], "image")))
    image = read_input(values)
    if image.data.ndim > 2:
        raise InvalidInputError("image", "must be one plane (y, x) for depth", f"shape {image.data.shape}")
    settings = given(values, EstimatePsfMap)
    if calibration is not None:
        settings.setdefault("model", calibration.model)
    optics = optics_from(values, image)
    found = EstimatePsfMap(**settings).run(image, engine=engine_for(values), run=run, optics=optics)
    assert not isinstance(found, list)
    return found, image, optics


def _saved_map(values: Values, found: PsfMap) -> tuple[PsfMap, None, Optics | None]:
    """Return a saved map with its pixel size, and the optics that the user gives."""
    for name in given(values, EstimatePsfMap).keys() - EstimateDepth.model_fields.keys():
        raise InvalidInputError(name, "must be left out for a saved PSF map", repr(values[name]))
    size = number(values, "pixel_size_um")
    if size is not None and found.pixel_size_um is None:
        found = replace(found, pixel_size_um=(size, size))
    elif size is not None and found.pixel_size_um and abs(size / found.pixel_size_um[1] - 1) > _SAME_SIZE:
        rule = f"must agree with the map's {found.pixel_size_um[1]:g} µm"
        raise InvalidInputError("pixel_size_um", rule, f"{size:g} µm")
    described = {option.name: values[option.name] for option in OPTICS if option.name in values}
    if described and found.pixel_size_um is not None:
        described["pixel_size_um"] = found.pixel_size_um[1]
    return found, None, Optics(**described) if described else None


def calibrate_options() -> list[Option]:
    """Return the options of the command ``calibrate``."""
    return [
        Option(
            "psf_maps",
            "PSF maps of flat, textured samples, tilted alike (.npz): of several, what their textures "
            "do to a map averages out.",
            "MAP...",
            "positions",
        ),
        Option("output", "File for the calibration (.json).", "OUT", short="-o", required=True),
        Option("tilt_deg", "Angle between the sample and the focal plane.", "NUMBER", required=True),
        Option(
            "azimuth_deg",
            "Direction in which the sample goes away from the objective: 0 to the right, 90 downwards.",
            "NUMBER",
            required=True,
        ),
        Option(
            "fit_azimuth",
            "Find the direction in the map; --azimuth-deg then says only which way.",
            kind="flag",
        ),
        PIXEL_SIZE,
        OVERWRITE,
        JSON,
    ]


def calibrate(values: Values) -> int | None:
    """Calibrate depth with a tilted sample."""
    from napari_deblur.io.read import existing
    from napari_deblur.optics.psf_map import PsfMap

    outputs = check_outputs(values, "output")
    check_suffix("output", outputs["output"], ".json")
    files = [existing(name, "psf_maps") for name in values["psf_maps"]]
    if not files:
        raise InvalidInputError("psf_maps", "must name at least one PSF map", "none")
    found = DepthCalibration.from_tilted_plane(
        [PsfMap.load(file) for file in files],
        tilt_deg=number(values, "tilt_deg") or 0.0,
        azimuth_deg=number(values, "azimuth_deg") or 0.0,
        fit_azimuth=bool(values.get("fit_azimuth")),
        pixel_size_um=number(values, "pixel_size_um"),
    )
    found.save(outputs["output"], overwrite=bool(values.get("overwrite")))
    low, high = found.depth_range_um
    spread = f", residual {found.residual_um:.3g} µm" if found.residual_um is not None else ""
    told = {
        "output": str(outputs["output"]),
        "axis_deg": math.degrees(found.axis_rad),
        "depth_range_um": [low, high],
        "residual_um": found.residual_um,
    }
    line = f"lens axis {math.degrees(found.axis_rad):.3g}°, depths {low:.3g} to {high:.3g} µm{spread}"
    report(values, told, [f"output: {outputs['output']}", line])
    return None
