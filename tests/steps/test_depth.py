from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from napari_deblur.core.errors import CancelledError, InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.params import parameters
from napari_deblur.core.run import Run
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.steps.calibration import DepthCalibration
from napari_deblur.steps.depth import EstimateDepth


@pytest.fixture
def calibrated(tilted_map):
    def calibrate(azimuth=90.0, **more):
        psf_map, _ = tilted_map(azimuth, **more)
        return DepthCalibration.from_tilted_plane(psf_map, tilt_deg=6, azimuth_deg=azimuth)

    return calibrate


def relative_error(result, depth):
    return np.nanmean(np.abs(result.depth_um - depth)) / np.ptp(depth)


@pytest.mark.parametrize("azimuth", [90.0, 0.0, 35.0])
def test_a_tilted_plane_is_recovered_everywhere(azimuth, tilted_map, calibrated):
    psf_map, depth = tilted_map(azimuth)
    result = EstimateDepth().run(psf_map, calibration=calibrated(azimuth))
    assert result.calibrated
    assert result.unit == "µm"
    assert result.depth_um.shape == depth.shape == psf_map.image_shape
    assert result.depth_um.dtype == result.confidence.dtype == np.float32
    assert np.abs(result.depth_um - depth).max() < 0.005 * np.ptp(depth)
    assert result.confidence.min() > 0.9


@pytest.mark.parametrize(("noise", "flips", "most"), [(0.02, 0, 0.006), (0.05, 0, 0.015), (0.05, 0.1, 0.02)])
def test_noise_and_wrong_axes_are_smoothed_away(noise, flips, most, tilted_map, calibrated):
    psf_map, depth = tilted_map(noise=noise, flips=flips, seed=3)
    calibration = calibrated(noise=noise, flips=flips, seed=4)
    result = EstimateDepth().run(psf_map, calibration=calibration)
    assert relative_error(result, depth) < most
    rough = EstimateDepth(smoothing_px=0).run(psf_map, calibration=calibration)
    assert relative_error(rough, depth) > 1.5 * relative_error(result, depth)


def test_wrong_places_are_not_trusted(tilted_map, calibrated):
    psf_map, depth = tilted_map()
    wrong = psf_map.parameters.copy()
    wrong[2, 7, 2] = (wrong[2, 7, 2] + np.pi / 2) % np.pi
    result = EstimateDepth().run(dataclasses.replace(psf_map, parameters=wrong), calibration=calibrated())
    y, x = psf_map.centers_px[2, 7].astype(int)
    assert result.confidence[y, x] < 0.05
    assert np.nanmax(np.abs(result.depth_um - depth)) < 0.02 * np.ptp(depth)
    assert np.isnan(result.depth_um[y, x])


def test_places_without_texture_are_left_out_or_filled_on_demand(tilted_map, calibrated):
    valid = np.ones((15, 15), bool)
    valid[4:8, 9:14] = False
    psf_map, depth = tilted_map(valid=valid)
    junk = psf_map.parameters.copy()
    junk[~valid] = (2.0, 0.2, 1.0)
    psf_map = dataclasses.replace(psf_map, parameters=junk)
    left_out = EstimateDepth().run(psf_map, calibration=calibrated())
    inside = (slice(330, 500), slice(660, 850))
    assert np.isnan(left_out.depth_um[inside]).all()
    assert (left_out.confidence[inside] == 0).all()
    assert np.isnan(left_out.depth_um).mean() == pytest.approx(20 / 225, abs=0.02)
    assert left_out.record.facts["known_share"] == pytest.approx(205 / 225, abs=0.02)
    assert relative_error(left_out, depth) < 0.001
    filled = EstimateDepth(fill=True).run(psf_map, calibration=calibrated())
    assert np.abs(filled.depth_um - depth).max() < 0.01 * np.ptp(depth)
    assert (filled.confidence[inside] == 0).all()


def test_without_calibration_depth_is_relative_and_says_so(tilted_map):
    psf_map, depth = tilted_map(axis_rad=0.4)
    run = Run()
    result = EstimateDepth().run(psf_map, run=run)
    assert not result.calibrated
    assert result.unit == "relative"
    assert result.record.facts["unit"] == "relative"
    assert abs(np.corrcoef(result.depth_um.ravel(), depth.ravel())[0, 1]) > 0.9999
    assert any("which side" in note for note in run.notes)
    known = EstimateDepth(axis_deg=np.degrees(0.4)).run(psf_map)
    assert np.corrcoef(known.depth_um.ravel(), depth.ravel())[0, 1] > 0.9999
    turned = EstimateDepth(axis_deg=np.degrees(0.4) + 90).run(psf_map)
    np.testing.assert_allclose(turned.depth_um, -known.depth_um, atol=1e-5)


def test_the_papers_rule_works_for_a_cylinder_at_45_degrees(tilted_map):
    psf_map, depth = tilted_map(axis_rad=3 * np.pi / 4)
    plain = EstimateDepth(rule="paper").run(psf_map)
    assert np.corrcoef(plain.depth_um.ravel(), depth.ravel())[0, 1] > 0.9999
    calibration = DepthCalibration.from_tilted_plane(psf_map, tilt_deg=6, azimuth_deg=90, rule="paper")
    assert relative_error(EstimateDepth(rule="paper").run(psf_map, calibration=calibration), depth) < 0.001


def test_the_papers_rule_is_worse_for_other_cylinders(tilted_map):
    psf_map, depth = tilted_map(axis_rad=0.4)
    errors = {}
    for rule in ("paper", "astigmatism"):
        calibration = DepthCalibration.from_tilted_plane(psf_map, tilt_deg=6, azimuth_deg=90, rule=rule)
        errors[rule] = relative_error(EstimateDepth(rule=rule).run(psf_map, calibration=calibration), depth)
    assert errors["astigmatism"] < 0.001
    assert errors["paper"] > 0.05


def test_gaussian_widths_give_relative_depth(tilted_map):
    centers = tilted_map()[0].centers_px
    height = np.linspace(-1, 1, 15)[:, None] * np.ones(15)
    sigma_x, sigma_y = np.sqrt(8 + 6 * height), np.sqrt(8 - 6 * height)
    psf_map = PsfMap.from_parameters(
        "gaussian-2", np.stack([sigma_y, sigma_x], -1), centers_px=centers, image_shape=(1024, 1024)
    )
    depth = EstimateDepth().run(psf_map).depth_um
    np.testing.assert_allclose(np.diff(depth[:, 500]), 24 / 896, rtol=0.02)
    flipped = EstimateDepth(axis_deg=90).run(psf_map).depth_um
    np.testing.assert_allclose(flipped, -depth, atol=1e-4)
    with pytest.raises(InvalidInputError, match="axis_deg must be 0 or 90"):
        EstimateDepth(axis_deg=45).run(psf_map)


def test_the_surface_is_at_scale(tilted_map, calibrated):
    psf_map, depth = tilted_map()
    x = np.mgrid[:1024, :1024][1]
    image = Image((x % 256).astype(np.float32), pixel_size_um=(0.1, 0.1))
    result = EstimateDepth().run(psf_map, calibration=calibrated(), image=image)
    surface = result.surface()
    assert surface.calibrated
    assert len(surface.vertices) <= 41_000
    np.testing.assert_allclose(surface.vertices.min(axis=0), [depth.min(), 0, 0], atol=0.02)
    np.testing.assert_allclose(surface.vertices.max(axis=0), [depth.max(), 102.3, 102.3], atol=0.02)
    assert surface.faces.max() == len(surface.vertices) - 1
    rows = (surface.vertices[:, 1] / 0.1).round().astype(int)
    np.testing.assert_allclose(surface.vertices[:, 0], depth[rows, 0], atol=0.02)
    corners = surface.vertices[surface.faces][:, :, ::-1]
    up = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])[:, 2]
    assert (up > 0).all()
    assert surface.values.max() > 200
    small = result.surface(max_vertices=500)
    assert len(small.vertices) < 620
    other = result.surface(np.ones((1024, 1024)))
    np.testing.assert_allclose(other.values, 1)


def test_the_surface_has_holes_where_depth_is_unknown(tilted_map, calibrated):
    valid = np.ones((15, 15), bool)
    valid[4:8, 9:14] = False
    psf_map, _ = tilted_map(valid=valid)
    surface = EstimateDepth().run(psf_map, calibration=calibrated()).surface()
    assert np.isfinite(surface.vertices).all()
    inside = (surface.vertices[:, 1:] > [35, 68]) & (surface.vertices[:, 1:] < [48, 83])
    assert not inside.all(axis=1).any()


def test_a_relative_surface_needs_a_height(tilted_map):
    psf_map, _ = tilted_map()
    result = EstimateDepth().run(psf_map)
    with pytest.raises(InvalidInputError, match="relative_height_um must be given"):
        result.surface()
    surface = result.surface(relative_height_um=7.0)
    assert not surface.calibrated
    assert np.ptp(surface.vertices[:, 0]) == pytest.approx(7, rel=1e-4)


def test_a_surface_needs_a_pixel_size(tilted_map, calibrated):
    psf_map, _ = tilted_map()
    result = EstimateDepth().run(dataclasses.replace(psf_map, pixel_size_um=None), calibration=calibrated())
    with pytest.raises(InvalidInputError, match="pixel_size_um is needed"):
        result.surface()
    assert result.surface(pixel_size_um=(1.0, 1.0)).vertices[:, 2].max() == 1023
    with pytest.raises(InvalidInputError, match="image must have the depth's shape"):
        result.surface(np.ones((64, 64)), pixel_size_um=(1.0, 1.0))


@pytest.mark.parametrize("shape", [(1, 15), (15, 1), (1, 1), (2, 3)])
def test_maps_with_few_rows_work(shape, tilted_map):
    full, _ = tilted_map(0.0 if shape[0] < shape[1] else 90.0)
    rows, cols = shape
    psf_map = PsfMap.from_parameters(
        "zernike-3",
        full.parameters[:rows, :cols],
        centers_px=full.centers_px[:rows, :cols],
        image_shape=(64 * rows + 64, 64 * cols + 64),
    )
    result = EstimateDepth(axis_deg=np.degrees(0.4)).run(psf_map)
    assert result.depth_um.shape == psf_map.image_shape
    assert np.isfinite(result.depth_um).all()


def test_depths_outside_the_calibration_are_noted(tilted_map, calibrated):
    run = Run()
    EstimateDepth().run(tilted_map(tilt_deg=12)[0], calibration=calibrated(), run=run)
    assert any("outside the calibrated depths" in note for note in run.notes)


def test_a_calibration_for_something_else_is_refused(tilted_map, calibrated):
    psf_map, _ = tilted_map()
    calibration = calibrated()
    with pytest.raises(InvalidInputError, match="rule must be 'astigmatism'"):
        EstimateDepth(rule="paper").run(psf_map, calibration=calibration)
    with pytest.raises(InvalidInputError, match="cut-off"):
        EstimateDepth().run(dataclasses.replace(psf_map, cutoff_cycles_per_px=0.3), calibration=calibration)
    other = calibration.model_copy(update={"model": "gaussian-2"})
    with pytest.raises(InvalidInputError, match="maps of the family zernike-3"):
        EstimateDepth().run(psf_map, calibration=other)
    with pytest.raises(InvalidInputError, match="image must have the shape"):
        EstimateDepth().run(psf_map, image=np.ones((64, 64)))


def test_too_high_a_threshold_is_refused(tilted_map):
    psf_map, _ = tilted_map()
    low = dataclasses.replace(psf_map, confidence=np.full_like(psf_map.confidence, 0.1))
    with pytest.raises(InvalidInputError, match="min_confidence"):
        EstimateDepth(min_confidence=0.5).run(low)


def test_smoothing_reaches_over_patches_that_overlap():
    from napari_deblur.steps.depth import _default_smoothing_px

    near, far = np.arange(12) * 32 + 63.5, np.arange(6) * 200 + 63.5
    assert _default_smoothing_px(near, near) == 96
    assert _default_smoothing_px(far, far) == 300
    assert _default_smoothing_px(near[:1], near[:1]) == 0


def test_progress_cancel_and_record(tilted_map):
    psf_map, _ = tilted_map()
    seen = []
    step = EstimateDepth(smoothing_px=32)
    result = step.run(psf_map, run=Run(on_progress=lambda p: seen.append(p.fraction)))
    assert seen == sorted(seen)
    assert seen[-1] == 1
    assert result.record.to_json()
    assert EstimateDepth(**result.record.step) == step
    run = Run()
    run.cancel()
    with pytest.raises(CancelledError):
        step.run(psf_map, run=run)


def test_every_parameter_can_be_shown_in_a_form():
    assert [info.name for info in parameters(EstimateDepth)] == [
        "rule",
        "axis_deg",
        "smoothing_px",
        "min_confidence",
        "fill",
    ]
