"""What the commands deblur and run share for images that are larger than memory."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_deblur.cli.options import Option, Values, from_declaration, given
from napari_deblur.cli.session import report, report_step, session, with_sizes
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.io.formats import Output
from napari_deblur.stream.plan import Streaming, must_stream

if TYPE_CHECKING:
    from napari_deblur.io.lazy import LazyImage
    from napari_deblur.steps.deblur import Deblur
    from napari_deblur.stream.plan import StreamPlan

STREAM = Option(
    "stream", "Work block by block from file to file even where the image fits into memory.", kind="flag"
)
OPTIONS = [STREAM, *from_declaration(Streaming), *from_declaration(Output)]


def streaming(values: Values) -> Streaming:
    """Return what the user said of memory and blocks."""
    return Streaming(**given(values, Streaming))


def written(values: Values) -> Output:
    """Return what the user said of formats and numbers."""
    return Output(**given(values, Output))


def opened(values: Values) -> LazyImage | None:
    """Return the input, unread, if it is to be worked on block by block."""
    from napari_deblur.io.lazy import open_image

    try:
        image = with_sizes(values, open_image(values["image"], axes=values.get("axes")))
    except InvalidInputError:
        if values.get("stream"):
            raise
        return None
    return image if values.get("stream") or must_stream(image, streaming(values)) else None


def deblur(values: Values, step: Deblur, image: LazyImage, outputs: dict[str, Path]) -> int | None:
    """Deblur an image block by block."""
    from napari_deblur.cli.psf import psf_from
    from napari_deblur.cli.session import engine_for
    from napari_deblur.stream.ahead import plan_file
    from napari_deblur.stream.run import deblur_file

    if "psf_output" in outputs:
        rule = "must be left out for an image that is worked on block by block"
        raise InvalidInputError("psf_output", rule, repr(str(outputs["psf_output"])))
    stub: Image = image.stub()
    volumes = 3 in step.method.ndim and not values.get("slice_by_slice")
    psf, optics, source = psf_from(values, stub, volumes=volumes)
    engine_for(values)

    chosen: dict[str, Any] = {
        "optics": optics,
        "residual": outputs.get("residual"),
        "format": written(values).format,
        "dtype": written(values).dtype,
        "overwrite": bool(values.get("overwrite")),
        "settings": streaming(values),
    }
    with session("deblur") as run:
        if values.get("plan"):
            plan = plan_file(step, image, outputs["output"], psf, run=run, **chosen)
            report(values, {"plan": asdict(plan)}, [f"plan: {plan}"], run.notes)
            return None
        result = deblur_file(
            step,
            image,
            outputs["output"],
            psf,
            run=run,
            on_plan=partial(say_plan, values, Path(values["image"])),
            psf_path=source,
            **chosen,
        )
        report_step(values, outputs, result.record)
    return None


def say_plan(values: Values, path: Path, plan: StreamPlan) -> None:
    """Say before the start what a run will take; on standard error where the report is JSON."""
    print(f"{path.name}: {plan}", file=sys.stderr if values.get("json") else sys.stdout, flush=True)
