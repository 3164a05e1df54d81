"""What a user is told of images outside of what networks were trained for: real weights, rendered images."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.engine import Engine
from napari_deblur.optics.psf import family
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.psf_limits import (
    LARGEST_SATURATED_SHARE,
    MOST_DETAIL_BEYOND,
    confidence,
    detail_beyond_cutoff,
    like_motion,
    note_limits,
    note_uncertain_psf,
    saturated_share,
)
from napari_deblur.steps.psf_map import EstimatePsfMap
from napari_deblur.train import scenes

STEP = EstimatePsfMap(model="zernike-3", stride_px=128, average_views=False)


@pytest.fixture(scope="module")
def engine():
    return Engine("cpu")


@pytest.fixture(scope="module")
def sharp():
    return scenes.cells(np.random.default_rng(3), 384)


def seen(image, engine, step=STEP):
    run = Run()
    return step.run(Image(image), engine=engine, run=run), " ".join(run.notes)


def camera(expected, photons=2000.0, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.poisson(photons * expected / expected.max() + 50) + rng.normal(0, 2, expected.shape)).astype(
        np.float32
    )


def blurred(image, kernel):
    size = kernel.shape[-1]
    padded = np.pad(image, size // 2, mode="reflect")
    moved = np.zeros(padded.shape, np.float32)
    moved[:size, :size] = kernel
    spectrum = np.fft.rfft2(padded) * np.fft.rfft2(np.roll(moved, (-(size // 2),) * 2, (0, 1)))
    return np.fft.irfft2(spectrum, s=padded.shape)[size // 2 : -(size // 2), size // 2 : -(size // 2)].clip(0)


def in_family(image, defocus=0.25):
    return blurred(image, family("zernike-3").kernels(torch.tensor([defocus, 0.05, 0.3])).numpy())


def test_a_blurred_image_within_the_range_is_no_cause_for_a_warning(sharp, engine):
    psf_map, notes = seen(camera(in_family(sharp)), engine)
    assert psf_map.valid.all()
    assert notes == "No optics given: NA · pixel / wavelength = 0.22 cycles per pixel is assumed."
    assert psf_map.record["facts"]["median_confidence"] > 0.4


def test_noise_lowers_the_confidence_and_is_said(sharp, engine):
    good, _ = seen(camera(in_family(sharp), 50000), engine)
    poor, notes = seen(camera(in_family(sharp), 100), engine)
    trusted = poor.valid if poor.valid.any() else slice(None)
    assert poor.confidence[trusted].mean() < 0.6 * good.confidence.mean()
    assert "Low confidence" in notes


def test_a_sharp_image_is_said_to_be_sharp(sharp, engine):
    in_focus = blurred(sharp, family("zernike-3").kernels(torch.tensor([0.0, 0.0, 0.0])).numpy())
    _, notes = seen(camera(in_focus, 10000), engine)
    assert "no blur to remove" in notes
    _, notes = seen(camera(in_family(sharp), 10000), engine)
    assert "no blur to remove" not in notes


def test_motion_is_told_with_half_the_confidence(sharp, engine):
    line = np.zeros((31, 31), np.float32)
    line[15, 4:27] = 1 / 23
    psf_map, notes = seen(camera(blurred(sharp, line), 10000), engine)
    assert "motion of the sample or the camera" in notes
    assert psf_map.confidence.max() <= 0.5


def test_saturated_patches_are_invalid(sharp, engine):
    image = camera(in_family(sharp))
    half = image.copy()
    half[:, :160] = np.minimum(half[:, :160], np.percentile(half[:, :160], 60))
    half[:, 160:] *= np.percentile(image[:, :160], 60) / image.max()
    psf_map, notes = seen(half, engine)
    assert "saturated" in notes
    assert not psf_map.valid[:, 0].any()
    assert psf_map.valid[:, -1].all()
    assert psf_map.confidence[~psf_map.valid].max() < 0.05
    with pytest.raises(InvalidInputError, match="not saturated"):
        seen(np.minimum(image, np.percentile(image, 30)), engine)


@pytest.mark.parametrize("level", [0.0, 500.0])
def test_nothing_but_noise_gives_no_map(engine, level):
    noise = camera(np.full((256, 256), level + 1.0))
    with pytest.raises(InvalidInputError, match=r"image must hold texture .* so no map"):
        seen(noise, engine)


def test_a_single_bead_is_valid_only_where_it_is(engine):
    image = np.zeros((512, 512), np.float32)
    image[440, 60] = 1.0
    psf_map, _ = seen(camera(in_family(image), 5000), engine)
    assert psf_map.valid[-1, 0]
    assert psf_map.valid.sum() <= 2
    assert psf_map.confidence[psf_map.valid].min() > psf_map.confidence[~psf_map.valid].max()


def test_text_is_no_blur_of_any_optics(engine):
    from PIL import Image as Picture
    from PIL import ImageDraw

    page = Picture.new("L", (256, 256), 0)
    draw = ImageDraw.Draw(page)
    for row in range(2, 256, 12):
        draw.text((2, row), "the quick brown fox jumps over the lazy dog", fill=255)
    with pytest.raises(InvalidInputError, match="or blur of another kind"):
        seen(camera(np.asarray(page, np.float32), 10000), engine)


def test_a_photograph_has_detail_that_no_optics_at_the_cutoff_pass(engine):
    from skimage import data

    _, notes = seen(data.camera()[:256, 128:384].astype(np.float32), engine)
    assert "or is no micrograph" in notes


def test_detail_beyond_the_cutoff(sharp):
    white = np.random.default_rng(0).normal(0, 1, (300, 260)).astype(np.float32)
    assert detail_beyond_cutoff(white, 0.22) == pytest.approx(1, abs=0.1)
    assert detail_beyond_cutoff(camera(in_family(sharp), 20000), 0.22) == pytest.approx(1, abs=0.2)
    points = camera(scenes.points(np.random.default_rng(1), 256), 20000)
    assert detail_beyond_cutoff(points, 0.22) > MOST_DETAIL_BEYOND
    assert detail_beyond_cutoff(white, 0.3) == 1, "the optics pass all that the pixels hold"


def test_pixels_coarser_than_trained_are_said(sharp, engine):
    run = Run()
    optics = Optics(na=0.5, wavelength_um=0.5, pixel_size_um=0.3)
    STEP.run(Image(camera(in_family(sharp))), engine=engine, run=run, optics=optics)
    assert any(note.startswith("Outside the training range") for note in run.notes)
    run = Run()
    STEP.run(Image(camera(in_family(sharp))), engine=engine, run=run, optics=Optics(**optics_at_half()))
    assert not any("Outside" in note for note in run.notes)


def optics_at_half():
    return {"na": 0.5, "wavelength_um": 0.5, "pixel_size_um": 0.11}


def test_planes_without_texture_take_their_neighbours_map(sharp, engine):
    good = camera(in_family(sharp))
    stack = np.stack([good, np.full_like(good, 7.0) + camera(np.ones_like(good)), good])
    maps, notes = seen(stack, engine)
    assert not maps[1].valid.any()
    assert maps[1].confidence.max() == 0
    assert_allclose(maps[1].parameters, maps[0].parameters)
    assert "nearest other plane: 1." in notes
    assert all(one.record["notes"] == maps[0].record["notes"] for one in maps)


def test_the_share_of_saturated_pixels():
    plane = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    assert (saturated_share(plane, [0, 32], [0, 32], 32) == 0).all(), "one brightest pixel is no plateau"
    plane[:16, :32] = 2
    assert_allclose(saturated_share(plane, [0, 32], [0, 32], 32), [[0.5, 0], [0, 0]])
    assert 0 < LARGEST_SATURATED_SHARE < 0.5


@pytest.mark.parametrize(
    ("values", "error", "expected"),
    [
        ([[0.2, 0.28, 0.3]] * 4, 0.05, True),
        ([[0.2, 0.02, 0.3]] * 4, 0.005, False),
        ([[0.2, 0.28, 0.0], [0.2, 0.28, 1.57]] * 2, 0.05, False),
        ([[0.05, 0.07, 0.3]] * 4, 0.05, False),
    ],
)
def test_a_line_in_one_direction_is_like_motion(values, error, expected):
    found = np.array(values, np.float32)
    assert like_motion("zernike-3", found, np.full_like(found, error)) is expected


def test_widths_of_a_line():
    for model, widths, expected in (
        ("gaussian-2", [4.0, 0.6], True),
        ("gaussian-2", [4.0, 2.0], False),
        ("gaussian-1", [4.0], False),
    ):
        values = np.array([widths] * 4, np.float32)
        assert like_motion(model, values, np.full_like(values, 0.1)) is expected


def test_a_line_of_signed_coefficients_is_like_motion():
    line = np.array([[0.1, 0.14, 0.02, 0, 0, 0, 0]] * 4, np.float32)
    assert like_motion("zernike-7", line, np.full_like(line, 0.02))
    assert not like_motion("zernike-7", line * [1, 0.1, 1, 1, 1, 1, 1], np.full_like(line, 0.001))


def test_both_ends_of_a_signed_range_are_said_and_its_middle_is_sharp():
    errors, valid, trust = np.full((2, 2, 7), 0.01), np.ones((2, 2), bool), np.ones((2, 2))
    values = np.zeros((2, 2, 7), np.float32)
    run = Run()
    note_limits("zernike-7", values, errors, valid, trust, run)
    assert run.notes == ["The image is as sharp as the network can tell: there may be no blur to remove."]
    values[..., 3], values[..., 4] = -0.15, 0.15
    run = Run()
    note_limits("zernike-7", values, errors, valid, trust, run)
    end = "the end of the trained range, in over a tenth of the map."
    assert run.notes == [
        f"vertical_coma_waves is at -0.15, {end}",
        f"horizontal_coma_waves is at 0.15, {end}",
    ]


def test_a_map_beyond_the_trained_range_is_said_to_learned_methods():
    def told(value):
        run = Run()
        values = np.array([[[0.1, 0, 0, value, 0, 0, 0]]], np.float32)
        note_uncertain_psf(
            PsfMap.from_parameters("zernike-7", values, centers_px=[[[8, 8]]], image_shape=(16, 16)), run
        )
        return run.notes

    assert told(-0.15) == []
    (note,) = told(-0.25)
    assert note.startswith("vertical_coma_waves leaves the range of -0.15 to 0.15")


def test_the_end_of_the_range_is_said():
    values = np.full((2, 2, 1), 5.0, np.float32)
    errors, valid = np.full_like(values, 0.1), np.ones((2, 2), bool)
    run = Run()
    trust = confidence("gaussian-1", errors, np.ones((2, 2), np.float32))
    assert_allclose(trust, 1 - 0.1 * np.sqrt(12) / 4.5, rtol=1e-5)
    note_limits("gaussian-1", values, errors, valid, trust, run)
    assert run.notes == ["sigma_px is at 5, the end of the trained range, in over a tenth of the map."]
