"""The commands that run one step on one image: background, psf-map, deblur, depth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_deblur.cli import stream
from napari_deblur.cli.options import Option, Values, from_declaration, given
from napari_deblur.cli.psf import PSF_OPTIONS, SLICES, psf_from
from napari_deblur.cli.session import (
    AXES,
    DEVICE,
    INPUT,
    JSON,
    OPTICS,
    OPTICS_OF_VOLUMES,
    OUTPUT,
    OVERWRITE,
    PIXEL_SIZE,
    check_outputs,
    check_suffix,
    engine_for,
    optics_from,
    read_input,
    report,
    report_step,
    session,
    shown,
)
from napari_deblur.core.errors import CancelledError, InvalidInputError
from napari_deblur.core.image import Image, as_image
from napari_deblur.core.record import Record
from napari_deblur.methods.base import Method, make_method, method_id, registry
from napari_deblur.steps.background import RemoveBackground
from napari_deblur.steps.deblur import Deblur
from napari_deblur.steps.identify import IdentifyOperator
from napari_deblur.steps.psf_map import EstimatePsfMap

if TYPE_CHECKING:
    from napari_deblur.optics.psf_map import PsfMap

_COMMON = [AXES, PIXEL_SIZE, OVERWRITE, JSON]
KEEP_PARTIAL = Option(
    "keep_partial", "After Ctrl-C, write what was done so far, marked as partial.", kind="flag"
)

PLAN = Option("plan", "Only tell how much memory the run will take and in how many tiles.", kind="flag")


BACKGROUND = Option(
    "background",
    "File with the image's background (of background --background-output), which is to be taken off.",
    "FILE",
)


def background_options() -> list[Option]:
    """Return the options of the command ``background``."""
    more = Option("background_output", "File for the background that was taken off.", "FILE")
    return [INPUT, OUTPUT, more, *from_declaration(RemoveBackground), *_COMMON, KEEP_PARTIAL]


def background(values: Values) -> int | None:
    """Take the background off an image."""
    from napari_deblur.io.write import check_image_path, write_image

    step = RemoveBackground(**given(values, RemoveBackground))
    outputs = check_outputs(values, "output", "background_output", image=values["image"])
    overwrite = bool(values.get("overwrite"))
    for name, path in outputs.items():
        check_image_path(path, overwrite=overwrite, argument=shown(name))
    image = read_input(values)
    with session("background") as run:
        result = step.run(image, run=run)
    _unless_cancelled(result.partial, values)
    for name, part in (("output", result.image), ("background_output", result.background)):
        if name in outputs:
            write_image(part, outputs[name], result.record, overwrite, shown(name))
    report_step(values, outputs, result.record)
    return 130 if result.partial else None


def psf_map_options() -> list[Option]:
    """Return the options of the command ``psf-map``."""
    output = replace(OUTPUT, help="File to write the map to (.npz).")
    more = Option("table", "File for the map as a table, one line per position (.csv or .json).", "FILE")
    basis = Option("psf_basis", "PSF basis that psf-basis wrote, in which to find the blur.", "FILE")
    return [INPUT, output, more, basis, *from_declaration(EstimatePsfMap), *OPTICS, *_COMMON, DEVICE]


def psf_map(values: Values) -> int | None:
    """Map the PSF over the field of view."""
    from napari_deblur.io.tables import check_table_path, write_psf_map_table

    basis = None
    if "psf_basis" in values:
        from napari_deblur.optics.psf_basis import PsfBasis

        basis, settings = PsfBasis.load(values["psf_basis"]), [*given(values, EstimatePsfMap), "na"]
        if wrong := next((name for name in settings if name in values), None):
            rule = f"must be left out with {shown('psf_basis')}"
            raise InvalidInputError(wrong, rule, repr(values[wrong]))
    step = EstimatePsfMap(**given(values, EstimatePsfMap))
    outputs = check_outputs(values, "output", "table", image=values["image"])
    check_suffix("output", outputs["output"], ".npz")
    if "table" in outputs:
        check_table_path(outputs["table"], shown("table"))
    image = read_input(values)
    paths = _paths_of_maps(outputs["output"], image, overwrite=bool(values.get("overwrite")))
    if len(paths) > 1 and "table" in outputs:
        raise InvalidInputError("table", "must be left out for a stack", f"{len(paths)} planes")
    optics = optics_from(values, image)
    with session("psf-map") as run:
        engine = engine_for(values)
        if basis is not None:
            found = IdentifyOperator().run(image, basis, engine=engine, run=run)
        else:
            found = step.run(image, engine=engine, run=run, optics=optics)
    maps = found if isinstance(found, list) else [found]
    overwrite = bool(values.get("overwrite"))
    for one, path in zip(maps, paths, strict=True):
        one.save(path, overwrite=overwrite)
    if "table" in outputs:
        write_psf_map_table(maps[0], outputs["table"], overwrite=overwrite, argument=shown("table"))
    if len(paths) > 1:
        outputs = {f"map {number}": path for number, path in enumerate(paths)}
    report_step(values, outputs, maps[-1].record, _map_lines(maps[0]))
    return None


def _paths_of_maps(path: Path, image: Image, *, overwrite: bool) -> list[Path]:
    """Return one path per plane: the given one for one plane, numbered ones for a stack."""
    from napari_deblur.core.atomic import check_output

    count = len(image.planes())
    if count == 1:
        return [path]
    numbered = [path.with_name(f"{path.stem}_{number:04d}{path.suffix}") for number in range(count)]
    return [check_output(one, overwrite=overwrite, argument=shown("output")) for one in numbered]


def deblur_options(method: type[Method]) -> list[Option]:
    """Return the options of the command ``deblur`` for a method."""
    mine = from_declaration(method)
    names = {option.name for option in mine}
    step = [option for option in from_declaration(Deblur, skip=["method"]) if option.name not in names]
    more = [
        BACKGROUND,
        Option("psf_output", "File for the PSF that was used: .npz for a map, else an image.", "FILE"),
        Option(
            "residual", "File for what the result does not explain: input minus result blurred again.", "FILE"
        ),
    ]
    volumes = [*OPTICS_OF_VOLUMES, SLICES] if 3 in method.ndim else []
    given_psf = [*PSF_OPTIONS, *OPTICS, *volumes]
    return [
        INPUT,
        OUTPUT,
        *given_psf,
        *mine,
        *step,
        *more,
        PLAN,
        *_COMMON,
        DEVICE,
        KEEP_PARTIAL,
        *stream.OPTIONS,
    ]


def deblur(values: Values, method: type[Method]) -> int | None:
    """Deblur an image with one method."""
    from napari_deblur.io.formats import output_format
    from napari_deblur.io.numbers import check_dtype
    from napari_deblur.io.write import check_image_path, write_image

    chosen = make_method(method_id(method), **given(values, method))
    own = _own(method)
    settings = {name: value for name, value in values.items() if name in own}
    step = Deblur(**{**settings, "method": chosen})
    outputs = check_outputs(values, "output", "residual", "psf_output", image=values["image"])
    overwrite = bool(values.get("overwrite"))
    written = stream.written(values)
    format = written.format
    for name in ("output", "residual"):
        if name in outputs:
            check_image_path(outputs[name], overwrite=overwrite, argument=shown(name), format=format)
    if (large := stream.opened(values)) is not None:
        if "background" in values:
            rule = "must be left out for an image that is streamed"
            raise InvalidInputError("background", rule, repr(values["background"]))
        return stream.deblur(values, step, large, outputs)
    image = read_input(values)
    check_dtype(written.dtype, image.source, output_format(outputs["output"], format))
    volumes = 3 in method.ndim and not values.get("slice_by_slice")
    psf, optics, source = psf_from(values, image, volumes=volumes)
    background = background_of(values)
    if "psf_output" in outputs:
        _check_psf_output(outputs["psf_output"], psf, chosen, image, overwrite=overwrite)
    engine = engine_for(values)
    plan = step.plan(as_image(image), psf, engine=engine)
    if values.get("plan"):
        report(values, {"plan": plan.to_dict()}, [f"plan: {plan}", f"device: {engine.describe()}"])
        return None
    if not values.get("json"):
        print(f"plan: {plan}", flush=True)
    with session("deblur") as run:
        result = step.run(image, psf, engine=engine, run=run, optics=optics, background=background)
    _unless_cancelled(result.partial, values)
    record = result.record
    if source is not None:
        record = replace(record, psf={**record.psf, "path": str(source.resolve())})
    record = with_background(record, values)
    for name, part in (("output", result.image), ("residual", result.residual)):
        if name in outputs:
            dtype = written.dtype if name == "output" else "float32"
            write_image(part, outputs[name], record, overwrite, shown(name), format=format, dtype=dtype)
    if "psf_output" in outputs:
        _write_psf(result.psf, outputs["psf_output"], image, record, overwrite)
    report_step(values, outputs, record, plan=plan.to_dict())
    return 130 if result.partial else None


def background_of(values: Values) -> Image | None:
    """Read the background that is to be taken off, if there is one."""
    from napari_deblur.io.read import existing, read_image

    if "background" not in values:
        return None
    return read_image(existing(values["background"], "background"), axes=values.get("axes"))


def with_background(record: Record, values: Values) -> Record:
    """Return a record that says from which file the background came that was taken off."""
    if "background" not in values:
        return record
    taken = str(Path(values["background"]).expanduser().resolve())
    return replace(record, input={**record.input, "background": taken})


def _own(method: type[Method]) -> set[str]:
    return set(Deblur.model_fields) - {"kind", "method"} - set(method.model_fields)


def _check_psf_output(path: Path, psf: Any, method: Method, image: Image, *, overwrite: bool) -> None:
    """Refuse, before the work, a file that cannot hold the PSF which will be used: a map or a kernel."""
    from napari_deblur.io.write import check_image_path
    from napari_deblur.optics.psf_basis import PsfBasis
    from napari_deblur.optics.psf_map import PsfMap

    varies = isinstance(psf, PsfMap | PsfBasis | str) or (psf is None and method.start_psf() is None)
    if not varies or not method.space_varying:
        check_image_path(path, overwrite=overwrite, argument=shown("psf_output"))
        return
    check_suffix("psf_output", path, ".npz")
    if len(image.planes()) > 1:
        rule = "must be left out for a stack: each plane has its own map"
        raise InvalidInputError("psf_output", rule, repr(str(path)))


def _write_psf(psf: Any, path: Path, image: Image, record: Record, overwrite: bool) -> None:
    from napari_deblur.io.write import write_psf
    from napari_deblur.optics.psf_map import PsfMap

    if isinstance(psf, PsfMap):
        psf.save(path, overwrite=overwrite)
    else:
        write_psf(
            psf,
            path,
            pixel_size_um=image.pixel_size_um,
            z_step_um=image.z_step_um,
            record=record,
            overwrite=overwrite,
            argument=shown("psf_output"),
        )


def _unless_cancelled(partial: bool, values: Values) -> None:
    if partial and not values.get("keep_partial"):
        raise CancelledError("cancelled")


def _map_lines(found: PsfMap) -> list[str]:
    import numpy as np

    usable = (
        found.parameters[found.valid]
        if found.valid.any()
        else found.parameters.reshape(-1, found.parameters.shape[-1])
    )
    lines = [
        f"{found.grid_shape[0]} × {found.grid_shape[1]} positions, {int(found.valid.sum())} of them valid"
    ]
    for index, name in enumerate(found.parameter_names):
        low, middle, high = np.percentile(usable[:, index], (5, 50, 95))
        lines.append(f"{name}: median {middle:.3g}, 5 to 95 % {low:.3g} to {high:.3g}")
    return lines


def deblur_methods() -> dict[str, type[Method]]:
    """Return the methods that the command ``deblur`` offers."""
    return dict(registry())
