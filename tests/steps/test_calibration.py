from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from napari_deblur.core.errors import InvalidInputError, OutputError
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.calibration import DepthCalibration
from napari_deblur.steps.defocus import defocus_waves_per_um


@pytest.mark.parametrize("azimuth", [0.0, 90.0, 30.0, -120.0])
@pytest.mark.parametrize("axis", [0.1, 0.4, 1.2, 2.9])
def test_a_tilted_plane_gives_axis_scale_and_sign(azimuth, axis, tilted_map):
    psf_map, _ = tilted_map(azimuth, axis_rad=axis, waves_per_um=0.1)
    calibration = DepthCalibration.from_tilted_plane(psf_map, tilt_deg=6, azimuth_deg=azimuth)
    assert calibration.axis_rad == pytest.approx(axis, abs=1e-4)
    assert calibration.scale_um == pytest.approx(10, rel=1e-4)
    assert calibration.depth_um(0.0) == pytest.approx(0, abs=1e-4)
    assert calibration.depth_um([-0.5, 2.0]) == pytest.approx([-5, 20], rel=1e-3)
    assert calibration.residual_um < 1e-3


def test_beyond_its_ends_a_curve_goes_on_with_its_mean_slope():
    flat_ends = ((-0.2, -30.0), (-0.19, -10.0), (0.19, 10.0), (0.2, 30.0))
    calibration = DepthCalibration(model="zernike-3", axis_rad=0.0, curve=flat_ends)
    np.testing.assert_allclose(calibration.depth_um([-0.3, -0.195, 0.0, 0.3]), [-45, -20, 0, 45])


def test_the_other_direction_turns_the_sign(tilted_map):
    psf_map, _ = tilted_map(90.0, axis_rad=0.4)
    calibration = DepthCalibration.from_tilted_plane(psf_map, tilt_deg=6, azimuth_deg=-90)
    assert calibration.axis_rad == pytest.approx(0.4 + np.pi / 2, abs=1e-4)
    assert calibration.scale_um == pytest.approx(10, rel=1e-4)


@pytest.mark.parametrize(("noise", "flips"), [(0.02, 0.0), (0.05, 0.0), (0.05, 0.1)])
def test_noise_and_wrong_axes_are_survived(noise, flips, tilted_map):
    psf_map, _ = tilted_map(60.0, noise=noise, flips=flips)
    calibration = DepthCalibration.from_tilted_plane(psf_map, tilt_deg=6, azimuth_deg=60)
    assert calibration.axis_rad == pytest.approx(0.4, abs=0.03)
    assert calibration.scale_um == pytest.approx(10, rel=0.06)
    assert 0 < calibration.residual_um < 1.2


def test_the_direction_can_be_found(tilted_map):
    psf_map, _ = tilted_map(37.0, noise=0.02)
    calibration = DepthCalibration.from_tilted_plane(psf_map, tilt_deg=6, azimuth_deg=90, fit_azimuth=True)
    assert calibration.source["azimuth_deg"] == pytest.approx(37, abs=1)
    assert calibration.scale_um == pytest.approx(10, rel=0.03)
    other = DepthCalibration.from_tilted_plane(psf_map, tilt_deg=6, azimuth_deg=-90, fit_azimuth=True)
    assert other.source["azimuth_deg"] % 360 == pytest.approx(217, abs=1)


def test_the_zero_can_be_a_given_point(tilted_map):
    psf_map, depth = tilted_map(90.0)
    calibration = DepthCalibration.from_tilted_plane(
        psf_map, tilt_deg=6, azimuth_deg=90, zero_at_px=(100, 300)
    )
    assert calibration.depth_um(0.0) == pytest.approx(-depth[100, 300], abs=0.01)


def test_pixels_need_not_be_square(tilted_map):
    psf_map, _ = tilted_map(90.0, pixel_size_um=None)
    given = DepthCalibration.from_tilted_plane(
        psf_map, tilt_deg=6, azimuth_deg=90, pixel_size_um=(0.1, 3 * 0.1)
    )
    assert given.scale_um == pytest.approx(10, rel=1e-4)


def test_a_curve_is_followed(tilted_map):
    psf_map, depth = tilted_map(90.0)
    bent = psf_map.parameters.copy()
    bent[..., 0] = np.tanh(2 * bent[..., 0]) / 2
    psf_map = dataclasses.replace(psf_map, parameters=bent)
    truth = depth[psf_map.centers_px[:, 0, 0].astype(int), 0]
    signed = np.sign(truth) * bent[:, 0, 0]
    worst = {}
    for shape in ("linear", "monotone"):
        calibration = DepthCalibration.from_tilted_plane(psf_map, tilt_deg=6, azimuth_deg=90, shape=shape)
        worst[shape] = np.abs(calibration.depth_um(signed) - truth).max()
    assert worst["monotone"] < 0.02 * np.ptp(truth)
    assert worst["linear"] > 2 * worst["monotone"]


@pytest.fixture
def flat_map(patch_grid, zernike_parameters):
    def build(defocus, axis=0.4, seed=0):
        centers, size = patch_grid(4)
        values = np.full((4, 4), float(defocus))
        values += np.random.default_rng(seed).normal(0, 0.005, values.shape)
        parameters = zernike_parameters(values, axis)
        return PsfMap.from_parameters("zernike-3", parameters, centers_px=centers, image_shape=(size, size))

    return build


@pytest.mark.parametrize("shape", ["linear", "monotone"])
def test_a_stack_gives_axis_and_scale(shape, flat_map):
    depths = np.linspace(-3, 4, 8)
    maps = [flat_map(0.12 * (z - 0.5), seed=i) for i, z in enumerate(depths)]
    calibration = DepthCalibration.from_stack(maps, depths, shape=shape)
    assert calibration.axis_rad == pytest.approx(0.4, abs=0.01)
    assert calibration.scale_um == pytest.approx(1 / 0.12, rel=0.02)
    np.testing.assert_allclose(calibration.depth_um(0.12 * (depths - 0.5)), depths, atol=0.08)
    assert calibration.source["z_um"] == list(depths)


def test_gaussian_widths_calibrate_too(patch_grid):
    wide = np.array([2.41, 4.24, 5.83, 7.91, 9.71, 11.64])
    narrow = np.array([2.41, 1.02, 1.04, 2.37, 4.29, 6.19])
    sigma_x, sigma_y = np.r_[narrow[:0:-1], wide], np.r_[wide[:0:-1], narrow]
    depths = np.linspace(-5, 5, 11)
    centers, size = patch_grid(3)
    maps = [
        PsfMap.from_parameters(
            "gaussian-2", np.full((3, 3, 2), (sy, sx)), centers_px=centers, image_shape=(size, size)
        )
        for sy, sx in zip(sigma_y, sigma_x, strict=True)
    ]
    for sign, axis in ((1, 0.0), (-1, np.pi / 2)):
        calibration = DepthCalibration.from_stack(maps, sign * depths)
        assert calibration.axis_rad % np.pi == pytest.approx(axis, abs=1e-9)
        quantity = (sigma_x**2 - sigma_y**2) * np.cos(2 * axis)
        assert np.abs(calibration.depth_um(quantity) - sign * depths).mean() < 0.02 * np.ptp(depths)


def test_optics_alone_give_a_scale():
    optics = Optics(na=0.8, wavelength_um=0.55, pixel_size_um=0.15, refractive_index=1.0)
    calibration = DepthCalibration.from_optics(optics, axis_deg=30)
    assert calibration.scale_um == pytest.approx(1 / defocus_waves_per_um(optics))
    assert calibration.depth_um(0.0) == 0
    assert calibration.cutoff_cycles_per_px == pytest.approx(optics.cutoff_cycles_per_px)


def test_saved_and_loaded_it_is_the_same(tmp_path, tilted_map):
    calibration = DepthCalibration.from_tilted_plane(tilted_map()[0], tilt_deg=6, azimuth_deg=90)
    path = calibration.save(tmp_path / "lens.json")
    assert DepthCalibration.load(path) == calibration
    with pytest.raises(OutputError, match="must not exist"):
        calibration.save(path)
    calibration.save(path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["lens.json"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"format": 1}', '{"format": 9, "model": "zernike-3"}', "\x00\xff"],
)
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "lens.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidInputError, match="depth calibration saved by"):
        DepthCalibration.load(path)
    with pytest.raises(InvalidInputError, match="existing file"):
        DepthCalibration.load(tmp_path / "none.json")


def test_a_curve_that_turns_back_is_refused(tmp_path):
    values = json.loads(
        DepthCalibration(model="zernike-3", axis_rad=0, curve=((0, 0), (1, 1))).model_dump_json()
    )
    values["curve"] = [[0, 0], [1, 1], [2, 0.5]]
    (tmp_path / "a.json").write_text(json.dumps({"format": 1, **values}))
    with pytest.raises(InvalidInputError):
        DepthCalibration.load(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"tilt_deg": 0}, "tilt_deg"),
        ({"tilt_deg": 90}, "tilt_deg"),
        ({"tilt_deg": float("nan")}, "tilt_deg"),
        ({"pixel_size_um": 0.0}, "pixel_size_um"),
        ({"pixel_size_um": (0.1, float("inf"))}, "pixel_size_um"),
    ],
)
def test_bad_arguments_are_named(change, argument, tilted_map):
    with pytest.raises(InvalidInputError) as caught:
        DepthCalibration.from_tilted_plane(tilted_map()[0], **({"tilt_deg": 6, "azimuth_deg": 90} | change))
    assert caught.value.argument == argument


def test_a_map_without_pixel_size_or_change_is_refused(tilted_map, flat_map):
    with pytest.raises(InvalidInputError, match="pixel_size_um is needed"):
        DepthCalibration.from_tilted_plane(tilted_map(pixel_size_um=None)[0], tilt_deg=6, azimuth_deg=90)
    still = dataclasses.replace(flat_map(0.3), pixel_size_um=(0.1, 0.1))
    with pytest.raises(InvalidInputError, match="changes with depth"):
        DepthCalibration.from_tilted_plane(still, tilt_deg=6, azimuth_deg=90)
    sparse = np.zeros((15, 15), bool)
    sparse[0, :3] = True
    with pytest.raises(InvalidInputError, match="valid positions"):
        DepthCalibration.from_tilted_plane(tilted_map(valid=sparse)[0], tilt_deg=6, azimuth_deg=90)


@pytest.mark.parametrize(
    ("maps", "depths", "argument"),
    [
        ([0.1, 0.2], [1.0], "z_um"),
        ([0.1, 0.2], [1.0, 1.0], "z_um"),
        ([0.1, 0.2], [1.0, float("nan")], "z_um"),
        ([], [], "z_um"),
    ],
)
def test_bad_stacks_are_named(maps, depths, argument, flat_map):
    with pytest.raises(InvalidInputError) as caught:
        DepthCalibration.from_stack([flat_map(d) for d in maps], depths)
    assert caught.value.argument == argument


def test_maps_of_different_cutoff_do_not_mix(flat_map):
    other = dataclasses.replace(flat_map(0.2), cutoff_cycles_per_px=0.3)
    with pytest.raises(InvalidInputError, match="one family and cut-off"):
        DepthCalibration.from_stack([flat_map(0.1), other], [0.0, 1.0])
