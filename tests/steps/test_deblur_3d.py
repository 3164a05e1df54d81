"""Deblurring in 3D: which PSF asks for it, axes, channels, sizes, the plan."""

import json
from itertools import permutations

import numpy as np
import pytest

import napari_deblur as nd
from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.engine import Engine
from napari_deblur.recipe import Recipe
from napari_deblur.steps.deblur import Deblur
from napari_deblur.steps.deblur_solve import settle_window

RNG = np.random.default_rng(0)
VOLUME = (RNG.random((7, 34, 36)) + 0.2).astype(np.float32)
KERNEL = np.zeros((3, 5, 5), np.float32)
KERNEL[0, 2, 2] = KERNEL[2, 2, 2] = 0.2
KERNEL[1, 1:4, 1:4] = 0.6 / 9
FLAT = KERNEL.sum(axis=0)
SIZES = {"pixel_size_um": (0.2, 0.2), "z_step_um": 0.6}
OPTICS = {"na": 0.8, "wavelength_um": 0.52, "pixel_size_um": 0.2, "refractive_index": 1.33}
STEP = Deblur(method={"kind": "richardson-lucy", "n_iterations": 4})


@pytest.fixture(scope="module")
def engine():
    return Engine("cpu")


@pytest.fixture(scope="module")
def alone(engine):
    return STEP.run(Image(VOLUME), KERNEL, engine=engine).image.data


def test_a_psf_with_a_z_axis_restores_volumes_and_a_flat_one_planes(engine, alone):
    slices = STEP.run(Image(VOLUME), FLAT, engine=engine)
    assert slices.record.facts["restored_in"] == "2D"
    assert np.abs(slices.image.data - alone).max() > 0.05


@pytest.mark.parametrize("axes", ["".join(order) + "yx" for order in permutations("tcz")])
def test_volumes_are_found_whatever_the_order_of_axes(axes, engine, alone):
    sizes = {"t": 2, "c": 2, "z": 7}
    data = np.empty([sizes[axis] for axis in axes[:-2]] + [34, 36], np.float32)
    at = axes.index("z")
    view = np.moveaxis(data, at, -3)
    view[...] = VOLUME
    result = STEP.run(Image(data, axes), KERNEL, engine=engine)
    assert result.image.data.shape == data.shape
    assert result.image.axes == axes
    found = np.moveaxis(result.image.data, at, -3)
    np.testing.assert_allclose(found, np.broadcast_to(alone, found.shape), atol=1e-5)
    assert np.abs(result.residual.data).max() < 1


@pytest.mark.parametrize("given", ["list", "array", "optics"])
def test_every_channel_takes_its_own_psf(given, engine):
    data = np.stack([np.stack([VOLUME, VOLUME])] * 2)  # t, c, z, y, x
    image = Image(data, "tczyx", **SIZES)
    turned = KERNEL * np.linspace(0.5, 1.5, 5, dtype=np.float32)
    turned /= turned.sum()
    psfs = {"list": [KERNEL, turned], "array": np.stack([KERNEL, turned])}
    if given == "optics":
        kinds = [nd.Optics(**{**OPTICS, "wavelength_um": w}, z_step_um=0.6) for w in (0.45, 0.65)]
        psfs["optics"] = kinds
    result = STEP.run(image, psfs[given], engine=engine).image.data
    for channel in range(2):
        alone = STEP.run(Image(VOLUME, **SIZES), psfs[given][channel], engine=engine).image.data
        for time in range(2):
            np.testing.assert_allclose(result[time, channel], alone, atol=1e-5)
    assert np.abs(result[0, 0] - result[0, 1]).max() > 1e-3


def test_the_record_tells_every_channels_psf_and_a_recipe_repeats_them(engine):
    image = Image(np.stack([VOLUME, VOLUME]), "czyx", **SIZES)
    kinds = [nd.Optics(**{**OPTICS, "wavelength_um": w}, z_step_um=0.6) for w in (0.45, 0.65)]
    result = STEP.run(image, kinds, engine=engine)
    told = json.loads(json.dumps(result.record.psf))
    assert [one["wavelength_um"] for one in told["channels"]] == [0.45, 0.65]
    recipe = Recipe.from_dict(Recipe.from_records([result.record]).to_dict())
    assert recipe.channels == tuple(kinds)
    again = recipe.run(image, engine=engine).deblur
    np.testing.assert_array_equal(again.image.data, result.image.data)
    alike = STEP.run(image, [kinds[0], kinds[0]], engine=engine)
    assert "channels" not in alike.record.psf
    with pytest.raises(InvalidInputError, match="channels must be a list of optics"):
        Recipe.from_dict({**recipe.to_dict(), "channels": {"na": 1}})
    with pytest.raises(InvalidInputError, match="channels must be left out where psf names a source"):
        Recipe.from_dict({**recipe.to_dict(), "psf": {"blind": "gaussian-2"}})


def test_flat_psfs_per_channel_without_a_z_axis(engine):
    image = Image(VOLUME[:2], "cyx")
    other = np.roll(FLAT, 1, axis=1)
    result = STEP.run(image, np.stack([FLAT, other]), engine=engine).image.data
    for channel, psf in enumerate((FLAT, other)):
        alone = STEP.run(Image(VOLUME[channel]), psf, engine=engine).image.data
        np.testing.assert_allclose(result[channel], alone, atol=0.02)
    assert np.abs(result[1] - STEP.run(image, FLAT, engine=engine).image.data[1]).max() > 0.05


def test_optics_with_a_distance_of_planes_restore_in_3d(engine):
    image = Image(VOLUME, **SIZES)
    deep = STEP.run(image, nd.Optics(**OPTICS, z_step_um=0.6), engine=engine)
    assert deep.psf.ndim == 3
    assert deep.record.psf["z_step_um"] == 0.6
    assert deep.record.facts["restored_in"] == "3D"
    flat = STEP.run(image, nd.Optics(**OPTICS), engine=engine)
    assert flat.psf.ndim == 2


def test_a_measured_psf_brings_its_voxel_size_and_its_widths_reach_the_record(engine):
    grids = np.indices((15, 31, 31))
    squares = ((grids[0] - 7) / 2) ** 2 + ((grids[1] - 15) / 3) ** 2 + ((grids[2] - 15) / 3) ** 2
    bead = Image(np.exp(-squares / 2).astype(np.float32), "zyx", (0.1, 0.1), 0.3)
    result = STEP.run(Image(VOLUME, **SIZES), bead, engine=engine)
    np.testing.assert_allclose(result.record.psf["fwhm_um"], [1.41, 0.706, 0.706], rtol=0.1)
    assert any("resampled" in note for note in result.record.notes)


@pytest.mark.parametrize(
    ("image", "psf", "said"),
    [
        (Image(VOLUME[0]), KERNEL, "psf must be 2D .y, x. for an image without a z axis"),
        (Image(VOLUME, "tyx"), KERNEL, "image must have a z axis"),
        (Image(VOLUME[:2]), KERNEL, "psf must not be larger than the image"),
        (Image(VOLUME), np.ones((3, 41, 5)), "psf must not be larger than the image"),
        (Image(VOLUME), [KERNEL, FLAT], "psf must be 2D for all channels or 3D for all"),
        (Image(VOLUME), [KERNEL, KERNEL], "psf must be one or, as a list, one per channel"),
        (
            Image(VOLUME, **SIZES),
            nd.Optics(**OPTICS, z_step_um=0.3),
            "z_step_um must agree with the image's 0.6",
        ),
        (
            Image(VOLUME, **{**SIZES, "pixel_size_um": (0.1, 0.1)}),
            nd.Optics(**OPTICS),
            "pixel_size_um must agree with the image's 0.1",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(image, psf, said, engine):
    with pytest.raises(InvalidInputError, match=said):
        STEP.run(image, psf, engine=engine)


def test_a_distance_of_planes_must_be_positive():
    with pytest.raises(InvalidInputError, match="z_step_um must be positive"):
        Image(VOLUME, z_step_um=-1.0)


def test_constant_volumes_stay_and_a_cancel_keeps_those_before(engine, alone):
    stack = np.stack([VOLUME, np.ones_like(VOLUME), VOLUME])
    run = Run()

    def stop(progress):
        if progress.fraction > 0.8:
            run.cancel()

    run.on_progress = stop
    result = STEP.run(Image(stack), KERNEL, engine=engine, run=run)
    assert result.partial
    assert any("Volume 1 is constant" in note for note in result.record.notes)
    assert any("Cancelled in volume 3 of 3" in note for note in result.record.notes)
    np.testing.assert_allclose(result.image.data[0], alone, atol=1e-5)
    np.testing.assert_array_equal(result.image.data[1], 1)


def test_memory_that_is_short_makes_tiles_with_the_same_result(engine):
    wide = (RNG.random((9, 150, 140)) + 0.2).astype(np.float32)
    whole = STEP.run(Image(wide), KERNEL, engine=engine)
    small = Engine("cpu", budget_bytes=8_000_000)
    plan = STEP.plan(Image(wide), KERNEL, engine=small)
    assert plan.tiles.n_tiles > 1
    assert plan.fits
    tiled = STEP.run(Image(wide), KERNEL, engine=small)
    assert np.abs(whole.image.data - tiled.image.data).max() < 1e-4 * np.ptp(whole.image.data)


@pytest.mark.parametrize(
    "psf", [KERNEL, FLAT, nd.Optics(**OPTICS, z_step_um=0.6), nd.Optics(**OPTICS), "gaussian-2"]
)
def test_the_plan_tells_blocks_tiles_and_bytes(psf, engine):
    image = Image(np.stack([VOLUME, VOLUME]), "tzyx", **SIZES)
    plan = STEP.plan(image, psf, engine=engine)
    volumes = psf is KERNEL or getattr(psf, "z_step_um", None) is not None
    assert plan.n_blocks == (2 if volumes else 14)
    assert plan.tiles.shape == ((7, 34, 36) if volumes else (34, 36))
    assert plan.bytes > 3 * 4 * image.data.size
    assert json.loads(json.dumps(plan.to_dict()))["fits"] is True


def test_the_plan_grows_with_the_method_and_with_the_image(engine):
    def planned(image, method):
        return Deblur(method=method).plan(Image(image), KERNEL, engine=engine).bytes

    accelerated = {"kind": "richardson-lucy", "acceleration": "line-search"}
    assert planned(VOLUME, accelerated) > planned(VOLUME, "richardson-lucy")
    assert planned(np.tile(VOLUME, (1, 2, 2)), "wiener") > 2 * planned(VOLUME, "wiener")


def test_choices_are_made_on_the_middle_of_large_volumes():
    window = settle_window((64, 4096, 4096))
    assert window[0] == slice(0, 64)
    assert all(span.stop - span.start == 256 for span in window[1:])
    assert settle_window((100, 90)) == (slice(0, 100), slice(0, 90))
