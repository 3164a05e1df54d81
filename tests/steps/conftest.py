"""Maps of a tilted plane seen through a cylinder lens, with known depth: builders for the depth tests."""

from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.optics.psf_map import PsfMap

PIXEL_UM = 0.1


def _grid(n=15, stride=64, patch=128):
    """Return patch centres (n, n, 2) and the image's side length."""
    at = np.arange(n) * stride + (patch - 1) / 2
    y, x = np.meshgrid(at, at, indexing="ij")
    return np.stack([y, x], axis=-1), (n - 1) * stride + patch


def _heights(y, x, size, azimuth_deg):
    """Return the distance along the slope from the centre, in µm."""
    azimuth = np.radians(azimuth_deg)
    middle = (size - 1) / 2
    return ((x - middle) * np.cos(azimuth) + (y - middle) * np.sin(azimuth)) * PIXEL_UM


def _zernike_parameters(defocus, axis_rad, power=0.2):
    """Return what an ideal estimator gives: defocus never negative, the axis turned before focus."""
    axis = np.where(defocus >= 0, axis_rad, axis_rad + np.pi / 2) % np.pi
    return np.stack([np.abs(defocus), np.full_like(defocus, power), axis], axis=-1)


def _tilted_map(
    azimuth_deg=90.0, axis_rad=0.4, waves_per_um=0.1, tilt_deg=6.0, noise=0.0, flips=0.0, seed=0, **more
):
    """Return a zernike-3 map and the true depth in µm at every pixel; depth 0 is in the middle."""
    centers, size = _grid()
    slope = np.tan(np.radians(tilt_deg))
    defocus = slope * _heights(centers[..., 0], centers[..., 1], size, azimuth_deg) * waves_per_um
    parameters = _zernike_parameters(defocus, axis_rad)
    rng = np.random.default_rng(seed)
    if noise:
        shape = defocus.shape
        parameters[..., 0] = np.abs(parameters[..., 0] + rng.normal(0, noise, shape))
        parameters[..., 1] = np.abs(parameters[..., 1] + rng.normal(0, noise, shape))
        parameters[..., 2] += rng.normal(0, 0.5 * noise / np.maximum(np.abs(defocus), noise), shape)
    parameters[..., 2] += np.pi / 2 * (rng.random(defocus.shape) < flips)
    parameters[..., 2] %= np.pi
    more.setdefault("pixel_size_um", (PIXEL_UM, PIXEL_UM))
    psf_map = PsfMap.from_parameters(
        "zernike-3", parameters, centers_px=centers, image_shape=(size, size), **more
    )
    y, x = np.mgrid[:size, :size]
    return psf_map, slope * _heights(y, x, size, azimuth_deg)


@pytest.fixture
def patch_grid():
    return _grid


@pytest.fixture
def zernike_parameters():
    return _zernike_parameters


@pytest.fixture
def tilted_map():
    return _tilted_map
