from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.steps.calibration import DepthCalibration
from napari_deblur.steps.depth import EstimateDepth
from napari_deblur.steps.lookup import LookupTable, readings

PIXEL_UM = 0.5
WAVES_PER_UM = 0.01
AXIS = 0.3


def estimator_map(tilt_deg=10.0, seed=0, noise=0.02, shrink=True, rows=15, size=1024):
    """A tilted plane as a network reads it: no defocus below 0.1, signed values shrunk far from focus."""
    rng = np.random.default_rng(seed)
    ys = np.linspace(63.5, size - 64.5, rows)
    y, x = np.meshgrid(ys, ys, indexing="ij")
    depth = np.tan(np.radians(tilt_deg)) * (y - (size - 1) / 2) * PIXEL_UM
    waves = depth * WAVES_PER_UM

    def noisy(values):
        return values + noise * rng.standard_normal(values.shape)

    sure = np.exp(-((waves / 0.3) ** 2)) if shrink else np.ones_like(waves)
    signed = noisy(waves * sure)
    defocus = np.abs(noisy(np.hypot(waves, 0.1)))
    axis = np.where(noisy(waves) >= 0, AXIS, AXIS + np.pi / 2) % np.pi
    power = np.abs(noisy(0.12 + 0.1 * np.exp(-(((np.abs(waves) - 0.2) / 0.1) ** 2))))
    error = np.full((*depth.shape, 2), noise)
    psf_map = PsfMap.from_parameters(
        "zernike-3",
        np.stack([defocus, power, axis], axis=-1),
        centers_px=np.stack([y, x], axis=-1),
        image_shape=(size, size),
        predicted_error=np.full((*depth.shape, 3), noise, np.float32),
        signed_defocus_waves=np.concatenate(
            [signed[..., None] * [np.cos(2 * AXIS), np.sin(2 * AXIS)], error], axis=-1
        ).astype(np.float32),
        pixel_size_um=(PIXEL_UM, PIXEL_UM),
    )
    return psf_map, depth


def calibrated(shape=None, **more):
    psf_map, _ = estimator_map(seed=1, **more)
    return DepthCalibration.from_tilted_plane(psf_map, tilt_deg=10.0, azimuth_deg=90.0, shape=shape)


def error_of(calibration, tilt_deg=10.0):
    psf_map, depth = estimator_map(tilt_deg, seed=2)
    found = EstimateDepth().run(psf_map, calibration=calibration).depth_um
    index = psf_map.centers_px.astype(int)
    return np.abs(found[index[..., 0], index[..., 1]] - depth).mean() / np.ptp(depth)


def test_a_table_is_the_default_where_the_map_holds_readings():
    calibration = calibrated()
    assert calibration.table is not None
    assert calibration.source["shape"] == "lookup"
    assert calibration.axis_rad == pytest.approx(AXIS, abs=0.05)
    low, high = calibration.depth_range_um
    assert low == pytest.approx(-high, rel=0.05)


def test_looking_up_finds_depths_that_a_line_cannot():
    table, line = calibrated(), calibrated("linear")
    assert line.table is None
    assert error_of(table) < 0.02
    assert error_of(table) < 0.5 * error_of(line)
    assert error_of(table, tilt_deg=6.0) < 0.02


def test_depth_zero_is_the_focus_wherever_the_plane_lies():
    psf_map, _ = estimator_map(seed=3)
    away = DepthCalibration.from_tilted_plane(psf_map, tilt_deg=10.0, azimuth_deg=90.0, zero_at_px=(200, 100))
    focus = DepthCalibration.from_tilted_plane(psf_map, tilt_deg=10.0, azimuth_deg=90.0)
    assert focus.table.focus_um() == pytest.approx(0, abs=1e-9)
    expected = np.tan(np.radians(10.0)) * (511.5 - 200) * PIXEL_UM
    assert away.table.focus_um() == pytest.approx(expected, abs=1.5)


def test_the_spread_says_where_two_sides_compete():
    depths = np.linspace(-40, 40, 801)
    # Defocus alone: both sides read the same.
    blind = np.stack([np.abs(depths), *np.zeros((3, 801))], axis=1) * WAVES_PER_UM
    blind += 0.02 * np.random.default_rng(0).standard_normal(blind.shape)
    seen = blind.copy()
    seen[:, 3] += depths * WAVES_PER_UM
    errors = np.full((1, 1, 4), 0.02)
    spreads = []
    for values in (blind, seen):
        table = LookupTable.fitted(depths, values, np.full((801, 4), 0.02), np.ones(801), 0.1)
        read = np.array([[[0.3, 0.0, 0.0, 0.3 if values is seen else 0.0]]])
        depth, spread = table.look_up(read, errors)
        assert abs(abs(float(depth[0, 0])) - 30) < 2
        spreads.append(float(spread[0, 0]))
    assert spreads[0] > 20
    assert spreads[1] < 10


def test_a_stack_fits_a_table_between_its_depths():
    flat = {}
    for depth in np.arange(-40.0, 41.0, 5.0):
        psf_map, known = estimator_map(seed=4)
        rows = np.abs(known[:, 0] - depth).argsort()[:1]
        flat[depth] = PsfMap.from_parameters(
            "zernike-3",
            np.repeat(psf_map.parameters[rows], 2, axis=0),
            centers_px=psf_map.centers_px[:2],
            image_shape=(1024, 1024),
            predicted_error=np.repeat(psf_map.predicted_error[rows], 2, axis=0),
            signed_defocus_waves=np.repeat(psf_map.signed_defocus_waves[rows], 2, axis=0),
        )
    calibration = DepthCalibration.from_stack(list(flat.values()), list(flat))
    assert calibration.depth_range_um == (-40, 40)
    assert error_of(calibration) < 0.05


def test_the_table_survives_saving(tmp_path):
    calibration = calibrated()
    again = DepthCalibration.load(calibration.save(tmp_path / "calibration.json"))
    assert again.table == calibration.table


def test_maps_without_readings_are_not_looked_up():
    psf_map, _ = estimator_map()
    plain = PsfMap.from_parameters(
        "zernike-3", psf_map.parameters, centers_px=psf_map.centers_px, image_shape=(1024, 1024)
    )
    with pytest.raises(InvalidInputError, match="shape must be 'linear' or 'monotone'"):
        DepthCalibration.from_tilted_plane(
            plain, tilt_deg=10.0, azimuth_deg=90.0, pixel_size_um=PIXEL_UM, shape="lookup"
        )
    found, spread = calibrated().depths_of(plain, np.zeros(psf_map.grid_shape))
    assert spread is None
    assert found.shape == psf_map.grid_shape
    with pytest.raises(ValueError, match="signed defocus"):
        readings(plain, 0.0)


def scaled(psf_map, gain):
    """Return a map of another texture, which makes all readings larger or smaller."""
    parameters, signed = psf_map.parameters.copy(), psf_map.signed_defocus_waves.copy()
    parameters[..., :2] *= gain
    signed[..., :2] *= gain
    return dataclasses.replace(psf_map, parameters=parameters, signed_defocus_waves=signed)


def test_several_samples_calibrate_better_than_the_odd_one_among_them():
    maps = [scaled(estimator_map(10.0, seed=seed)[0], gain) for seed, gain in ((5, 1.2), (6, 0.95), (7, 0.9))]
    together = DepthCalibration.from_tilted_plane(maps, tilt_deg=10.0, azimuth_deg=90.0)
    odd = DepthCalibration.from_tilted_plane(maps[0], tilt_deg=10.0, azimuth_deg=90.0)
    assert together.source["samples"] == 3
    assert error_of(together) < error_of(odd)


def test_samples_that_lay_at_different_heights_are_counted_from_focus():
    low, _ = estimator_map(10.0, seed=8)
    # The same slope, in focus 96 pixels further down.
    moved = dataclasses.replace(low, centers_px=low.centers_px + np.array([96.0, 0.0]))
    both = DepthCalibration.from_tilted_plane([low, moved], tilt_deg=10.0, azimuth_deg=90.0)
    alone = DepthCalibration.from_tilted_plane(low, tilt_deg=10.0, azimuth_deg=90.0)
    np.testing.assert_allclose(np.array(both.table.mean)[40], np.array(alone.table.mean)[40], atol=0.02)
    assert both.table.focus_um() == pytest.approx(0, abs=0.5)


def test_no_sample_and_a_mixture_are_refused():
    with pytest.raises(InvalidInputError, match="psf_map must hold at least one map"):
        DepthCalibration.from_tilted_plane([], tilt_deg=10.0, azimuth_deg=90.0)
    psf_map, _ = estimator_map()
    other = dataclasses.replace(psf_map, cutoff_cycles_per_px=0.3)
    with pytest.raises(InvalidInputError, match="one family and cut-off"):
        DepthCalibration.from_tilted_plane([psf_map, other], tilt_deg=10.0, azimuth_deg=90.0)
