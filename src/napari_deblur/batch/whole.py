"""Run a recipe on one file that fits into memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_deblur.batch.made import Made
from napari_deblur.batch.outcome import BatchSettings, FileOutcome, failed
from napari_deblur.batch.store import Store, stem
from napari_deblur.core.errors import CancelledError, NapariDeblurError
from napari_deblur.core.run import Run
from napari_deblur.io.numbers import Dtype, check_dtype
from napari_deblur.recipe import Recipe

if TYPE_CHECKING:
    from napari_deblur.core.record import Record
    from napari_deblur.engine.engine import Engine
    from napari_deblur.recipe_run import RecipeResult


def engine_of(budget_bytes: int | None) -> Engine:
    """Return the process's engine, or one on its device that keeps within a share of the memory."""
    from napari_deblur.engine.shared import get_engine

    engine = get_engine()
    return engine if budget_bytes is None else _engine_within(engine.device, budget_bytes)


@lru_cache(maxsize=2)
def _engine_within(device: str, budget_bytes: int) -> Engine:
    from napari_deblur.engine.engine import Engine

    return Engine(device, budget_bytes)


def one_file(
    recipe: Recipe,
    made: Made,
    path: Path,
    store: Store,
    settings: BatchSettings,
    limit_bytes: int | None = None,
    run: Run | None = None,
) -> FileOutcome:
    """Run a recipe on one file and put its results into place."""
    from napari_deblur.io.read import read_image

    run = run or Run()
    run.step(0, 1, path.name)
    try:
        image = read_image(path)
        check_dtype(settings.output.dtype, image.source, settings.output.format or "ome-tiff")
        result = recipe.run(image, engine=engine_of(limit_bytes), run=run)
        if result.partial:
            raise CancelledError(f"cancelled during {path.name}")
        record = {"input": str(path), **made.record(), "records": result.records}
        writers = {f"{stem(path)}{end}": writer for end, writer in _writers(result, settings).items()}
        outputs = store.commit(path, writers, record, overwrite=settings.overwrite)
    except CancelledError:
        raise
    except (NapariDeblurError, OSError, MemoryError) as error:
        return failed(path, error)
    return FileOutcome(path, "done", outputs=tuple(outputs))


def _writers(result: RecipeResult, settings: BatchSettings) -> dict[str, Callable[[Path], Any]]:
    """Return what writes each part of a result, by the end of its name."""
    from napari_deblur.io.mesh import write_mesh
    from napari_deblur.io.write import write_depth, write_image

    found: dict[str, Callable[[Path], Any]] = {}

    def image(suffix: str, part: Any, of: Record, dtype: Dtype = "float32") -> None:
        found[f"_{suffix}{settings.suffix}"] = lambda path: write_image(
            part, path, of, format=settings.output.format, dtype=dtype
        )

    if (split := result.background) is not None:
        image("foreground", split.image, split.record)
        image("background", split.background, split.record)
    maps = result.psf_map if isinstance(result.psf_map, list) else [result.psf_map] if result.psf_map else []
    for number, one in enumerate(maps):
        index = f"_{number:04d}" if len(maps) > 1 else ""
        found[f"_psf-map{index}.npz"] = one.save
    if (sharp := result.deblur) is not None:
        image("deblurred", sharp.image, sharp.record, settings.output.dtype)
    if (depth := result.depth) is not None:
        found["_depth.ome.tif"] = lambda path: write_depth(depth, path)
        found["_depth-confidence.ome.tif"] = lambda path: write_depth(depth, path, confidence=True)
        if depth.calibrated and depth.pixel_size_um is not None:
            found["_surface.ply"] = lambda path: write_mesh(depth.surface(), path)
    return found
