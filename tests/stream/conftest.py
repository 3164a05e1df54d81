from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.core.image import Image
from napari_deblur.io.lazy import open_image
from napari_deblur.io.write import write_image
from napari_deblur.steps.deblur import Deblur
from napari_deblur.stream.plan import Streaming
from napari_deblur.stream.run import deblur_file


@pytest.fixture(scope="session")
def kernel():
    y, x = np.mgrid[-3:4, -3:4]
    values = np.exp(-(x**2 + y**2) / 3)
    return (values / values.sum()).astype(np.float32)


@pytest.fixture(scope="session")
def kernel_3d():
    z, y, x = np.mgrid[-2:3, -2:3, -2:3]
    values = np.exp(-(x**2 + y**2) / 2 - z**2 / 2)
    return (values / values.sum()).astype(np.float32)


def _points(shape, seed=0):
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    points = np.zeros(shape, np.float32)
    points[tuple(rng.integers(0, size, points.size // 40) for size in shape)] = 900
    blurred = gaussian_filter(points, [0] * (len(shape) - 2) + [1.3, 1.3])
    return rng.poisson(blurred + 20).astype(np.uint16)


@pytest.fixture(scope="session")
def points():
    """Make blurred points with photon noise; the axes before y and x are independent."""
    return _points


@pytest.fixture
def file_of(tmp_path):
    """Write pixels as a file and return its path."""

    def write(pixels, axes, name="in.zarr", *, format=None, dtype="float32", z_step_um=None):
        image = Image(pixels.astype(np.float32), axes, (0.1, 0.1), z_step_um, name="points")
        return write_image(image, tmp_path / name, format=format, dtype=dtype)

    return write


@pytest.fixture
def rl():
    return Deblur(method={"kind": "richardson-lucy", "n_iterations": 3}, camera_offset=5.0)


@pytest.fixture
def stream(tmp_path, kernel, rl):
    """Deblur a file block by block; return the result."""

    def run(source, name="out.zarr", psf=None, step=None, block_px=48, **more):
        settings = more.pop("settings", Streaming(block_px=block_px))
        image = source if hasattr(source, "stub") else open_image(source)
        psf = kernel if psf is None else psf
        return deblur_file(step or rl, image, tmp_path / name, psf, settings=settings, **more)

    return run
