"""Deblur an image from file to file in blocks: it is never loaded whole, however large it is."""

import tempfile
from pathlib import Path

import numpy as np

import napari_deblur as nd
from napari_deblur.io.lazy import open_image
from napari_deblur.io.write import write_image
from napari_deblur.samples import CAMERA_OFFSET, tilted_cells
from napari_deblur.steps.deblur import Deblur
from napari_deblur.stream.plan import Streaming
from napari_deblur.stream.run import deblur_file

with tempfile.TemporaryDirectory() as folder:
    sample = tilted_cells(256)
    path = write_image(sample.image, Path(folder) / "cells.ome.tif")
    step = Deblur(method={"kind": "richardson-lucy", "n_iterations": 5}, camera_offset=CAMERA_OFFSET)
    psf = nd.make_psf("gaussian-2", [1.5, 1.5], size_px=15)
    result = deblur_file(
        step,
        open_image(path),  # reads the header only
        Path(folder) / "sharp.ome.tif",
        psf,
        settings=Streaming(block_px=128),  # or memory_gb=4, or nothing: what fits the memory
        on_plan=print,
    )
    whole = nd.deblur(sample.image, step.method, psf, camera_offset=CAMERA_OFFSET).image.data
    difference = np.abs(open_image(result.outputs["output"]).load().data - whole).max() / np.ptp(whole)
    print(f"largest difference to the run in memory: {difference:.1e} of the range")
