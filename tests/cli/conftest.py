from __future__ import annotations

import numpy as np
import pytest
import tifffile

from napari_deblur.cli import main


@pytest.fixture
def cli(capsys):
    """Run a command in this process; return (exit code, standard output, standard error)."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def scene():
    """Blurred points on a flat ground, shape (160, 192)."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    points = np.zeros((160, 192), np.float32)
    points[rng.integers(0, 160, 300), rng.integers(0, 192, 300)] = rng.uniform(500, 1000, 300)
    return rng.poisson(gaussian_filter(points, 2.0) * 20 + 50).astype(np.uint16)


@pytest.fixture
def image_file(tmp_path, scene):
    path = tmp_path / "cells.tif"
    metadata = {"axes": "YX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.1}
    tifffile.imwrite(path, scene, ome=True, metadata=metadata)
    return path


@pytest.fixture
def psf_file(tmp_path):
    y, x = np.mgrid[-7:8, -7:8]
    kernel = np.exp(-(x**2 + y**2) / (2 * 2.0**2))
    path = tmp_path / "psf.npy"
    np.save(path, kernel / kernel.sum())
    return path
