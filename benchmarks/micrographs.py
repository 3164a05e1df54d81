"""Real micrographs: resolution and what the result leaves unexplained, CiDeR beside the classical methods.

There is no truth, so for every method: the resolution by Fourier ring correlation, between restorations of
two shots of the same field, or with a super-resolved image of it where there is one; the residual's standard
deviation as a share of the image's; the residual's structure (the sum of its squared autocorrelations at
short lags: 0 is white noise); and the correlation with the super-resolved image. The PSF is the image's own
blind ``gaussian-2`` map. Where haze is taken off first, what that took too much is in the residual, too.

    python -m benchmarks.micrographs --data ../shared/data/real --figures FOLDER

DATA holds the images (see `FIELDS`); figures go to a folder of your own, for the images are not ours to ship.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import shift

from benchmarks.common import arguments, report
from napari_deblur.core.image import Image
from napari_deblur.engine.shared import get_engine
from napari_deblur.methods.base import make_method
from napari_deblur.quality import frc_resolution_px
from napari_deblur.report import Panel, write_report
from napari_deblur.steps.background import RemoveBackground
from napari_deblur.steps.deblur import Deblur, DeblurResult
from napari_deblur.steps.psf_map import EstimatePsfMap

Array = NDArray[np.float32]

_SIDE_PX = 256
_STRUCTURE_PX = 3
_EDGE_PX = 12
METHODS: dict[str, dict[str, Any]] = {
    "wiener": {"kind": "wiener"},
    "richardson-lucy": {"kind": "richardson-lucy", "n_iterations": 30},
    "tv-richardson-lucy": {"kind": "tv-richardson-lucy", "n_iterations": 30},
    "hyper-laplacian": {"kind": "hyper-laplacian"},
    "cider": {"kind": "cider"},
}
_SIM, _SHEET = "02_deepsim_microtubules/", "03_dfnn_lightsheet_defocus/"


@dataclass(frozen=True)
class Field:
    """One field of view: files and planes of its shots, its super-resolved image, whether there is haze."""

    shots: tuple[tuple[str, int], ...]
    reference: str | None = None
    haze: bool = False


FIELDS = {
    "microtubules, high exposure": Field(
        ((_SIM + "mt_HE_widefield_mean15.tif", 0),), _SIM + "mt_sim_reference_highexposure.tif", True
    ),
    "microtubules, low exposure": Field(
        ((_SIM + "mt_LE_widefield_mean15.tif", 0),), _SIM + "mt_sim_reference_highexposure.tif", True
    ),
    "light-sheet microtubules": Field(
        ((_SHEET + "microtubules_single_shots.tif", 0), (_SHEET + "microtubules_single_shots.tif", 1))
    ),
    "light-sheet mitochondria": Field(
        ((_SHEET + "mitochondria_single_shots.tif", 0), (_SHEET + "mitochondria_infocus_reference.tif", 0))
    ),
    "pseudoscorpion, brightfield": Field(
        (
            ("11_scorpion_brightfield_stack/scorpion_14planes.tif", 11),
            ("11_scorpion_brightfield_stack/scorpion_14planes.tif", 13),
        )
    ),
}


def middle(plane: Array) -> Array:
    """Return the middle of a plane, at most 256 pixels high and wide."""
    spans = [
        slice((size - min(size, _SIDE_PX)) // 2, (size + min(size, _SIDE_PX)) // 2) for size in plane.shape
    ]
    return plane[tuple(spans)].astype(np.float32)


def read(folder: Path, field: Field) -> tuple[list[Image], Array | None]:
    """Return the shots of a field, without haze, and its super-resolved image."""
    import tifffile

    shots = []
    for file, plane in field.shots:
        stack = tifffile.imread(folder / file)
        image = Image(middle(stack if stack.ndim == 2 else stack[plane]))
        shots.append(RemoveBackground().run(image).image if field.haze else image)
    return shots, None if field.reference is None else middle(tifffile.imread(folder / field.reference))


def restored(image: Image, name: str) -> tuple[DeblurResult, float]:
    """Restore one shot; return the result and the seconds that the method took, without the map."""
    engine = get_engine()
    psf_map = EstimatePsfMap(model="gaussian-2", stride_px=32).run(image, engine=engine)
    started = time.perf_counter()
    result = Deblur(method=make_method(METHODS[name])).run(image, psf_map, engine=engine)
    return result, time.perf_counter() - started


def structure(residual: Array) -> float:
    """Return the sum of squared autocorrelations at lags of up to 3 pixels; 0 for white noise."""
    inner = residual[_EDGE_PX:-_EDGE_PX, _EDGE_PX:-_EDGE_PX].astype(np.float64)
    inner = inner - inner.mean()
    shape = [2 * size for size in inner.shape]
    correlation = np.fft.irfft2(np.abs(np.fft.rfft2(inner, s=shape)) ** 2, s=shape)
    correlation /= correlation[0, 0]
    near = correlation[
        np.ix_(range(-_STRUCTURE_PX, _STRUCTURE_PX + 1), range(-_STRUCTURE_PX, _STRUCTURE_PX + 1))
    ]
    return float((np.sum(near**2) - 1) / 2)


def registered(image: Array, wanted: Array) -> Array:
    """Return an image moved onto another one, by parts of a pixel."""
    from skimage.registration import phase_cross_correlation

    offset = phase_cross_correlation(wanted, image, upsample_factor=10)[0]
    return shift(image, offset, mode="reflect")


def figures_of(images: list[Array], sharp: Array | None) -> dict[str, Any]:
    """Return how far images agree with what they are to agree with."""
    other = images[1] if sharp is None else sharp
    first = registered(images[0], other)
    inner = (slice(_EDGE_PX, -_EDGE_PX),) * 2
    found = {"frc_px": round(frc_resolution_px(first, other), 2)}
    if sharp is not None:
        found["correlation"] = round(float(np.corrcoef(first[inner].ravel(), sharp[inner].ravel())[0, 1]), 4)
    return found


def case(folder: Path, name: str, methods: list[str], output: Path | None) -> dict[str, Any]:
    """Run all methods on one field; write its figure."""
    shots, sharp = read(folder, FIELDS[name])
    planes = [shot.data for shot in shots]
    found: dict[str, Any] = {"input": figures_of(planes, sharp)}
    panels = [Panel("Input", "", planes[0], 0, _white(planes[0]))]
    for method in methods:
        pairs = [restored(shot, method) for shot in shots]
        image, residual = pairs[0][0].image.data, pairs[0][0].residual.data
        found[method] = {
            **figures_of([result.image.data for result, _ in pairs], sharp),
            "residual_share": round(float(residual.std() / planes[0].std()), 4),
            "residual_structure": round(structure(residual), 3),
            "seconds": round(pairs[0][1], 2),
        }
        print(name, method, found[method], flush=True)
        text = (
            f"FRC {found[method]['frc_px']} px, structure of residual {found[method]['residual_structure']}"
        )
        panels.append(Panel(method, text, image, 0, _white(image)))
        panels.append(Panel(f"{method}: residual", "what it does not explain", residual))
    if sharp is not None:
        panels.append(Panel("Reference", "structured illumination", sharp, 0, _white(sharp)))
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        file = name.replace(", ", "_").replace(" ", "_") + ".png"
        write_report(output / file, name, ["The same PSF map for every method"], panels, overwrite=True)
    return found


def _white(image: Array) -> float:
    return float(np.percentile(image, 99.7))


def main() -> None:
    """Run every field."""
    args = arguments(
        __doc__,
        data={"type": Path, "required": True, "help": "folder with the images"},
        figures={"type": Path, "help": "folder for one figure per image"},
        methods={"nargs": "+", "default": list(METHODS), "choices": list(METHODS)},
        images={"nargs": "+", "default": list(FIELDS), "choices": list(FIELDS)},
    )
    found = {name: case(args.data, name, args.methods, args.figures) for name in args.images}
    report("micrographs", found, args.json)


if __name__ == "__main__":
    main()
