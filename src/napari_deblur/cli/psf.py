"""The PSF that a user names: a file, a map, a model, or optics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from napari_deblur.cli.options import Option, Values
from napari_deblur.cli.session import number, optics_from, shown
from napari_deblur.core.errors import InvalidInputError, UnknownNameError
from napari_deblur.core.image import Image
from napari_deblur.core.params import parameters
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.psf_map import EstimatePsfMap

if TYPE_CHECKING:
    from napari_deblur.optics.psf_basis import PsfBasis
    from napari_deblur.optics.psf_map import PsfMap
    from napari_deblur.steps.psf_rules import PsfSource

PSF_OPTIONS = [
    Option("psf", "PSF from a file: an image or .npy.", "FILE"),
    Option("psf_pixel_size_um", "Pixel size of the PSF in µm, where its file is silent or wrong.", "NUMBER"),
    Option(
        "psf_z_step_um", "Distance of the PSF's planes in µm, where its file is silent or wrong.", "NUMBER"
    ),
    Option("psf_map", "PSF map from a file that psf-map wrote.", "FILE"),
    Option("psf_basis", "PSF basis that psf-basis wrote, in which to find the image's blur.", "FILE"),
    Option(
        "basis_field",
        "Take the blur of this field of the basis, by number or label, as it was measured.",
    ),
    Option(
        "blind",
        "Estimate the PSF from the image with this model; product-convolution: in a simulated PSF basis.",
        "MODEL",
    ),
    Option(
        "optics_from_file",
        "Take from the image's metadata what is not given of the optics, each channel with its wavelength.",
        kind="flag",
    ),
]
SLICES = Option(
    "slice_by_slice",
    "Restore the planes of a stack one by one with the optics' 2D PSF, also where their distance is known.",
    kind="flag",
)


def psf_from(
    values: Values, image: Image, *, volumes: bool = False
) -> tuple[PsfSource, Optics | None, Path | None]:
    """Return (PSF, optics that help a blind estimate, the file that the PSF came from).

    Parameters
    ----------
    values : dict
    image : Image
    volumes : bool
        Whether optics describe a stack in 3D where its distance of planes is known.
    """
    from napari_deblur.io.psf import read_measured_psf
    from napari_deblur.io.read import existing
    from napari_deblur.optics.psf_map import PsfMap

    chosen = [name for name in ("psf", "psf_map", "psf_basis", "blind") if name in values]
    if len(chosen) > 1:
        raise InvalidInputError(
            chosen[1], f"must not be combined with {shown(chosen[0])}", repr(values[chosen[1]])
        )
    _check_companions(values)
    optics = optics_from(values, image, volumes=volumes and "blind" not in values)
    if optics is not None and chosen and chosen[0] != "blind":
        rule = f"must not be combined with {shown(chosen[0])}: a measured PSF already holds the optics"
        raise InvalidInputError("na", rule, f"{optics.na:g}")
    if "psf" in values:
        path = existing(values["psf"], "psf")
        if path.suffix.lower() == ".npy" and "psf_z_step_um" in values and "psf_pixel_size_um" not in values:
            rule = f"must come with {shown('psf_pixel_size_um')} for a .npy, which tells no sizes"
            raise InvalidInputError("psf_z_step_um", rule, repr(values["psf_z_step_um"]))
        measured = read_measured_psf(
            path,
            pixel_size_um=number(values, "psf_pixel_size_um"),
            z_step_um=number(values, "psf_z_step_um"),
        )
        return measured, None, path
    if "psf_map" in values:
        path = existing(values["psf_map"], "psf_map")
        return PsfMap.load(path), None, path
    if "psf_basis" in values:
        path = existing(values["psf_basis"], "psf_basis")
        return basis_from(values, image), None, path
    if "blind" in values:
        _check_model(values["blind"])
        return str(values["blind"]), optics, None
    return _per_channel(values, image, optics), optics, None


def _check_companions(values: Values) -> None:
    """Refuse what tells more of a PSF that is not given."""
    needed = {"psf_pixel_size_um": "psf", "psf_z_step_um": "psf", "basis_field": "psf_basis"}
    for name, source in needed.items():
        if name in values and source not in values:
            rule = f"must be left out without {shown(source)}"
            raise InvalidInputError(name, rule, repr(values[name]))


def basis_from(values: Values, image: Image) -> PsfBasis | PsfMap:
    """Return the basis that the user names, or one of its fields' blurs over the image."""
    from napari_deblur.optics.psf_basis import PsfBasis

    basis = PsfBasis.load(values["psf_basis"])
    if "basis_field" not in values:
        return basis
    return basis.of_field(values["basis_field"], image.shape_yx, image.pixel_size_um)


def _per_channel(values: Values, image: Image, optics: Optics | None) -> PsfSource:
    """Return optics for each channel where the file tells their wavelengths and the user none."""
    from napari_deblur.io.microscope import suggest_optics

    if optics is None or "c" not in image.axes or "wavelength_um" in values:
        return optics
    count = image.data.shape[image.axes.index("c")]
    waves = [suggest_optics(image, channel).get("wavelength_um") for channel in range(count)]
    if None in waves or len(set(waves)) == 1:
        return optics
    return [Optics(**{**optics.model_dump(), "wavelength_um": wave}) for wave in waves]


def _check_model(model: str) -> None:
    """Refuse a model that cannot estimate a map, whose field says which can."""
    from napari_deblur.optics.psf_basis import MODEL

    choices = next(info.choices for info in parameters(EstimatePsfMap) if info.name == "model")
    if choices and model not in (*choices, MODEL):
        raise UnknownNameError("blind", model, [*choices, MODEL])
