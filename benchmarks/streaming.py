"""An image larger than memory, from OME-Zarr to OME-Zarr: peak memory and time of the command itself.

python -m benchmarks.streaming --gigabytes 20 --memory-gb 4 --folder /path/with/room

With a result of 16-bit numbers, as the stack's own are, a stack of 20 GB takes about 30 GB on the disk, and
42 GB must be free; with one of 32-bit numbers, 68 GB.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import arguments, report
from napari_deblur.core.image import FloatArray, Image
from napari_deblur.io.zarr_writer import ZarrWriter

_SIDE_PX = 2048
_CHUNKS = (32, 512, 512)
_PSF_SIGMA_PX = (1.5, 1.2, 1.2)


def main() -> None:
    """Make a stack, deblur it in a process of its own, and compare a sample of it with the run in memory."""
    args = arguments(
        __doc__,
        gigabytes={"type": float, "default": 20.0, "help": "size of the stack as 16-bit numbers"},
        memory_gb={"type": float, "default": 4.0, "help": "memory that the run may take"},
        iterations={"type": int, "default": 3},
        folder={"type": Path, "default": None, "help": "where to put the stack and the result"},
        format={"default": "zarr", "choices": ["zarr", "ome.tif"]},
        dtype={"default": "uint16", "choices": ["uint16", "float32"]},
    )
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        planes = max(_CHUNKS[0], round(args.gigabytes * 1e9 / 2 / _SIDE_PX**2))
        source, psf = folder / "in.zarr", folder / "psf.npy"
        check_room(folder, 2 * planes * _SIDE_PX**2, args.dtype)
        started = time.perf_counter()
        make_stack(source, (planes, _SIDE_PX, _SIDE_PX))
        made_s = time.perf_counter() - started
        np.save(psf, kernel())
        command = [
            sys.executable, "-m", "napari_deblur.cli", "deblur", "richardson-lucy", str(source),
            "-o", str(folder / f"out.{args.format}"), "--psf", str(psf), "--stream",
            "--memory-gb", f"{args.memory_gb:g}", "--n-iterations", str(args.iterations),
            "--dtype", args.dtype,
        ]  # fmt: skip
        found = measured(command)
        size = planes * _SIDE_PX**2
        figures: dict[str, Any] = {
            "shape": [planes, _SIDE_PX, _SIDE_PX],
            "input_gb": round(2 * size / 1e9, 2),
            "input_gb_on_disk": round(size_on_disk(source) / 1e9, 2),
            "output": args.format,
            "output_dtype": args.dtype,
            "output_gb_on_disk": round(size_on_disk(folder / f"out.{args.format}") / 1e9, 2),
            "iterations": args.iterations,
            "memory_gb_allowed": args.memory_gb,
            "peak_memory_gb": round(found["peak_bytes"] / 1e9, 2),
            "seconds": round(found["seconds"], 1),
            "voxels_per_second": round(size / found["seconds"]),
            "seconds_to_make_the_stack": round(made_s, 1),
            "said_before": found["plan"],
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    bars = {"peak_memory_gb": (figures["peak_memory_gb"], "at most", args.memory_gb)}
    report("streaming", figures, args.json, bars)


def check_room(folder: Path, input_bytes: int, dtype: str) -> None:
    """Refuse a disk on which the stack and the result would not fit even where nothing is compressed well."""
    # The texture's photon noise leaves 6 of 16 bits to be stored; the pyramid adds a third.
    need = 0.75 * input_bytes + 4 / 3 * input_bytes * (1 if dtype == "uint16" else 2)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise SystemExit(f"{need / 1e9:.0f} GB are needed where {free / 1e9:.0f} GB are free")


def size_on_disk(path: Path) -> int:
    """Return the bytes that a file, or all files of a folder, take."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def make_stack(path: Path, shape: tuple[int, int, int]) -> None:
    """Write blurred points with photon noise, one piece of texture after the other, as 16-bit OME-Zarr."""
    import zarr
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    points = np.zeros(_CHUNKS, np.float32)
    points[tuple(rng.integers(0, size, 20000) for size in _CHUNKS)] = 1e5
    texture = rng.poisson(gaussian_filter(points, _PSF_SIGMA_PX, mode="wrap") + 100).astype(np.uint16)
    stub = Image(np.broadcast_to(np.float32(0), shape), "zyx", (0.1, 0.1), 0.2, name="synthetic")
    ZarrWriter.create(path, stub)  # for its metadata
    group = zarr.open_group(str(path), mode="r+")
    for level in list(group.array_keys()):
        del group[level]
    scales = dict(group.attrs)["multiscales"]
    group.attrs["multiscales"] = [{**scales[0], "datasets": scales[0]["datasets"][:1]}]
    array = group.create_array(
        "0", shape=shape, chunks=_CHUNKS, dtype="uint16", chunk_key_encoding={"name": "v2", "separator": "/"}
    )
    repeated = np.tile(texture, (1, shape[1] // _CHUNKS[1], shape[2] // _CHUNKS[2]))
    for start in range(0, shape[0], _CHUNKS[0]):
        stop = min(start + _CHUNKS[0], shape[0])
        # Turned a little each time, so that no two layers are alike.
        array[start:stop] = np.roll(repeated, 7 * start, axis=(1, 2))[: stop - start]


def kernel() -> FloatArray:
    """Return a Gaussian PSF of 7 × 9 × 9 voxels."""
    z, y, x = np.mgrid[-3:4, -4:5, -4:5]
    along_z, along_y, along_x = _PSF_SIGMA_PX
    values = np.exp(-(z**2) / 2 / along_z**2 - y**2 / 2 / along_y**2 - x**2 / 2 / along_x**2)
    return (values / values.sum()).astype(np.float32)


def measured(command: list[str]) -> dict[str, Any]:
    """Run a command; return its time, the peak of its resident memory, and the plan that it told."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"the run failed: {said}")
    # Linux counts in units of 1024 bytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": seconds, "peak_bytes": usage.ru_maxrss * unit, "plan": said.splitlines()[0]}


if __name__ == "__main__":
    main()
