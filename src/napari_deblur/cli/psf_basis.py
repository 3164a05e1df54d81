"""The commands that make a PSF basis: from bead stacks, and simulated."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from napari_deblur.cli.options import Option, Values, from_declaration, given
from napari_deblur.cli.session import (
    AXES,
    JSON,
    OUTPUT,
    OVERWRITE,
    PIXEL_SIZE,
    check_outputs,
    check_suffix,
    report,
    session,
    with_sizes,
)
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.basis_learning import LearnBasis
from napari_deblur.optics.bead_fields import BeadBasis
from napari_deblur.optics.simulated_fields import SimulatedFields

if TYPE_CHECKING:
    from pathlib import Path

    from napari_deblur.core.run import Run
    from napari_deblur.optics.psf_basis import PsfBasis

_OUTPUT = replace(OUTPUT, help="File to write the basis to (.npz).")
_TABLE = Option("psfs", "File for the mean PSF and the eigen-PSFs as a stack (.tif or .npy).", "FILE")


def beads_options() -> list[Option]:
    """Return the options of the command ``psf-basis beads``."""
    stacks = Option("stacks", "Bead stacks through focus, of one field of view.", "IN...", "positions")
    return [stacks, _OUTPUT, _TABLE, *from_declaration(BeadBasis), AXES, PIXEL_SIZE, OVERWRITE, JSON]


def beads(values: Values) -> int | None:
    """Learn a basis from bead stacks."""
    from napari_deblur.io.read import read_image

    settings = BeadBasis(**given(values, BeadBasis))
    outputs = _outputs(values)
    paths = values["stacks"]
    if not paths:
        raise InvalidInputError("stacks", "must name at least one bead stack", "none")
    images = [with_sizes(values, read_image(path, axes=values.get("axes"))) for path in paths]
    with session("psf-basis") as run:
        basis = settings.measure_basis(images, run)
    _write(values, outputs, basis, run)
    return None


def simulated_options() -> list[Option]:
    """Return the options of the command ``psf-basis simulated``."""
    return [
        _OUTPUT,
        _TABLE,
        *from_declaration(SimulatedFields),
        *from_declaration(LearnBasis),
        OVERWRITE,
        JSON,
    ]


def simulated(values: Values) -> int | None:
    """Simulate a microscope and learn its basis."""
    fields = SimulatedFields(**given(values, SimulatedFields))
    learning = LearnBasis(**given(values, LearnBasis))
    outputs = _outputs(values)
    with session("psf-basis") as run:
        basis = fields.basis(learning, run)
    _write(values, outputs, basis, run)
    return None


def _outputs(values: Values) -> dict[str, Path]:
    outputs = check_outputs(values, "output", "psfs")
    check_suffix("output", outputs["output"], ".npz")
    if "psfs" in outputs:
        check_suffix("psfs", outputs["psfs"], ".tif", ".tiff", ".npy")
    return outputs


def _write(values: Values, outputs: dict[str, Path], basis: PsfBasis, run: Run) -> None:
    from napari_deblur.core.image import Image
    from napari_deblur.io.write import write_image

    overwrite = bool(values.get("overwrite"))
    basis.save(outputs["output"], overwrite=overwrite)
    if "psfs" in outputs:
        size = basis.pixel_size_um
        stack = Image(basis.kernels, "zyx", (size, size) if size else None, name="eigen-PSFs")
        write_image(stack, outputs["psfs"], None, overwrite, "psfs")
    about = basis.describe()
    result = {
        "outputs": {name: str(path) for name, path in outputs.items()},
        "n_psfs": basis.n_psfs,
        "n_maps": basis.n_maps,
        "relative_error": basis.relative_error,
        "record": basis.record,
    }
    written = [f"{name.replace('_', ' ')}: {path}" for name, path in outputs.items()]
    report(values, result, [*written, about], list(run.notes))
