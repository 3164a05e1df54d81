import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.ndimage import gaussian_filter, zoom

from napari_deblur.core.errors import CancelledError, InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.engine import Engine
from napari_deblur.nets.identification import Estimate
from napari_deblur.optics.noise_floor import noise_floor
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.psf_fill import fill_invalid
from napari_deblur.steps.psf_limits import MOST_DETAIL_BEYOND, detail_beyond_cutoff
from napari_deblur.steps.psf_map import EstimatePsfMap
from napari_deblur.train.scenes import SCENES


class FakeNet:
    """Reads the patch's mean as the first parameter; patches of low variance are invalid."""

    def __init__(self, n_parameters):
        self.n_parameters = n_parameters

    def estimate_planes(self, planes, rows, cols, views=1, *, progress):
        self.views = views
        progress(0, 1)
        cut = [plane[y : y + 128, x : x + 128] for plane in planes for y in rows for x in cols]
        return self.estimate(torch.stack(cut))

    def estimate(self, patches):
        parameters = torch.full((len(patches), self.n_parameters), 0.3)
        parameters[:, 0] = patches.mean(dim=(-2, -1))
        valid = (patches.std(dim=(-2, -1)) > 0.01).float()
        signed = torch.stack([parameters[:, 0], -parameters[:, 0]], dim=1) if self.n_parameters == 3 else None
        error = None if signed is None else torch.full_like(signed, 0.02)
        return Estimate(parameters, torch.full_like(parameters, 0.01), valid, signed, error)


class FakeEngine(Engine):
    def network(self, model):
        card = {"config": {"patch_px": 128}, "cutoff_cycles_per_px": 0.22, "sha256": "abc"}
        self.net = FakeNet(3 if model == "zernike-3" else 2)
        return self.net, card


@pytest.fixture
def engine():
    return FakeEngine("cpu")


def ramp_image(height=300, width=340):
    """Texture on a ramp along y whose mean over a patch is its centre's row / 1000."""
    rng = np.random.default_rng(0)
    noise = rng.choice([-0.1, 0.1], (height, width))
    return (np.arange(height)[:, None] / 1000 + noise).astype(np.float32)


def test_centres_are_where_the_patches_are(engine):
    psf_map = EstimatePsfMap(model="gaussian-2").run(Image(ramp_image()), engine=engine)
    assert psf_map.grid_shape == (4, 5)
    rows = psf_map.centers_px[:, 0, 0]
    assert_allclose(rows[[0, -1]], [63.5, 300 - 64.5])
    assert_allclose(psf_map.parameters[:, 0, 0], rows / 1000, atol=5e-3)
    assert psf_map.valid.all()
    assert psf_map.record["weights"] == {"gaussian-2": "abc"}
    assert psf_map.signed_defocus_waves is None


def test_the_signed_defocus_is_kept_with_its_error(engine):
    psf_map = EstimatePsfMap(model="zernike-3").run(Image(ramp_image()), engine=engine)
    signed = psf_map.signed_defocus_waves
    assert signed.shape == (*psf_map.grid_shape, 4)
    assert_allclose(signed[..., 0], psf_map.parameters[..., 0])
    assert_allclose(signed[..., 1], -psf_map.parameters[..., 0])
    assert_allclose(signed[..., 2:], 0.02)


def test_stride_64_on_1024_gives_15_by_15(engine):
    image = np.random.default_rng(0).random((1024, 1024)).astype(np.float32)
    assert EstimatePsfMap(model="gaussian-2").run(Image(image), engine=engine).grid_shape == (15, 15)


def test_one_patch_is_enough(engine):
    assert EstimatePsfMap().run(Image(ramp_image(128, 128)), engine=engine).grid_shape == (1, 1)


def test_empty_parts_are_invalid_and_filled_from_their_neighbours(engine):
    image = ramp_image(512, 512)
    image[:, 300:] = 0.7
    psf_map = EstimatePsfMap(model="gaussian-2").run(Image(image), engine=engine)
    assert psf_map.valid[:, 0].all()
    assert not psf_map.valid[:, -1].any()
    last_valid = psf_map.valid[0].sum() - 1
    assert_allclose(psf_map.parameters[3, -1], psf_map.parameters[3, last_valid], atol=1e-6)
    assert (psf_map.confidence[~psf_map.valid] == 0).all()


def test_optics_bring_the_image_to_the_networks_cutoff(engine):
    optics = Optics(na=0.5, wavelength_um=0.5, pixel_size_um=0.11)  # cut-off 0.11: twice oversampled
    psf_map = EstimatePsfMap(model="zernike-3").run(Image(ramp_image(600, 600)), engine=engine, optics=optics)
    assert psf_map.cutoff_cycles_per_px == pytest.approx(0.11)
    assert psf_map.grid_shape == (7, 7)
    rows = psf_map.centers_px[:, 0, 0]
    assert_allclose(rows[0], 127.5)
    assert_allclose(rows[-1], 600 - 128.5)
    assert_allclose(psf_map.parameters[:, 2, 0], rows / 1000, atol=0.01)


def test_views_are_averaged_unless_speed_counts_more(engine):
    EstimatePsfMap(model="gaussian-2").run(Image(ramp_image()), engine=engine)
    assert engine.net.views == 4
    EstimatePsfMap(model="gaussian-2", average_views=False).run(Image(ramp_image()), engine=engine)
    assert engine.net.views == 1


def test_missing_optics_are_said(engine):
    run = Run()
    EstimatePsfMap(model="zernike-3").run(Image(ramp_image()), engine=engine, run=run)
    assert any("No optics" in note for note in run.notes)


def test_undersampled_optics_are_refused(engine):
    optics = Optics(na=1.4, wavelength_um=0.5, pixel_size_um=0.3)
    with pytest.raises(InvalidInputError, match="pixel_size_um"):
        EstimatePsfMap().run(Image(ramp_image()), engine=engine, optics=optics)


def test_too_small_and_uniform_images_are_refused(engine):
    with pytest.raises(InvalidInputError, match="at least 128 × 128"):
        EstimatePsfMap().run(Image(ramp_image(100, 200)), engine=engine)
    flat = np.zeros((200, 200), np.float32)
    flat[0, 0] = 0.01
    with pytest.raises(InvalidInputError, match="texture"):
        EstimatePsfMap().run(Image(flat), engine=engine)


def test_a_stack_gives_one_map_per_plane(engine):
    stack = np.stack([ramp_image(), ramp_image() + 0.1])
    first, second = EstimatePsfMap(model="gaussian-2").run(Image(stack), engine=engine)
    assert_allclose(second.parameters[..., 0] - first.parameters[..., 0], 0.1, atol=1e-5)


def test_cancel_takes_effect(engine):
    run = Run()
    run.cancel()
    with pytest.raises(CancelledError):
        EstimatePsfMap().run(Image(ramp_image()), engine=engine, run=run)


def test_fill_weighs_by_inverse_distance_along_the_grid():
    values = np.zeros((1, 5, 1), np.float32)
    values[0, 0], values[0, 4] = 1.0, 5.0
    valid = np.array([[True, False, False, False, True]])
    filled = fill_invalid(values, valid, ("sigma_px",))
    assert_allclose(filled[0, :, 0], [1, 2, 3, 4, 5], atol=1e-5)


@pytest.mark.parametrize("period", [np.pi, np.pi / 2])
def test_fill_averages_axes_modulo_their_period(period):
    values = np.array([[[0.1], [0.0], [period - 0.1]]], np.float32)
    filled = fill_invalid(values, np.array([[True, False, True]]), ("axis_rad",), period)
    assert min(filled[0, 1, 0], period - filled[0, 1, 0]) == pytest.approx(0, abs=1e-5)


def test_fill_reaches_patches_that_no_line_meets():
    values = np.zeros((3, 3, 1), np.float32)
    values[0, 0] = 7
    valid = np.zeros((3, 3), bool)
    valid[0, 0] = True
    assert (fill_invalid(values, valid, ("sigma_px",)) == 7).all()


def test_small_planes_of_a_stack_are_read_together(engine, monkeypatch):
    shapes = []
    original = FakeNet.estimate_planes

    def counted(self, planes, rows, cols, views=1, *, progress):
        shapes.append(tuple(planes.shape))
        return original(self, planes, rows, cols, views, progress=progress)

    monkeypatch.setattr(FakeNet, "estimate_planes", counted)
    stack = np.stack([ramp_image(400, 512) + 0.1 * index for index in range(7)])
    maps = EstimatePsfMap(model="gaussian-2").run(Image(stack), engine=engine)
    assert shapes == [(5, 400, 512), (2, 400, 512)]
    means = [one.parameters[..., 0].mean() for one in maps]
    assert_allclose(np.diff(means), 0.1, atol=1e-5)


def test_enlarged_images_are_read_with_white_noise():
    """The shipped network takes the grain of an enlarged image for detail; filled, it reads the blur."""
    rng = np.random.default_rng(0)
    scene = gaussian_filter(SCENES["filaments"][0](rng, 128), 1.6)
    camera = rng.poisson(300 * scene / scene.max() + 60)
    enlarged = zoom(camera.astype(np.float32), 2, order=3)
    psf_map = EstimatePsfMap(model="gaussian-2").run(Image(enlarged), engine=Engine("cpu"))
    assert np.median(psf_map.parameters) == pytest.approx(3.2, rel=0.25)
    assert any("enlarged" in note for note in psf_map.record["notes"])


def test_what_a_background_cut_off_is_read_too(engine):
    image = Image(ramp_image() + np.float32(0.5))
    whole = EstimatePsfMap(model="gaussian-2").run(image, engine=engine)
    split = EstimatePsfMap(model="gaussian-2").run(image.without(np.full((300, 340), 0.1)), engine=engine)
    assert_allclose(split.parameters[..., 0], whole.parameters[..., 0] - 0.1, atol=1e-5)


def test_the_missing_noise_of_enlarged_images_is_no_detail_beyond_the_optics():
    rng = np.random.default_rng(0)
    camera = rng.poisson(40 * (SCENES["filaments"][0](rng, 160) + 0.5))
    enlarged = zoom(camera.astype(np.float32), 2, order=3)
    assert noise_floor(enlarged) is not None
    assert detail_beyond_cutoff(enlarged, 0.22) > MOST_DETAIL_BEYOND
    psf_map = EstimatePsfMap(model="zernike-3").run(Image(enlarged), engine=Engine("cpu"))
    assert not any("not to be trusted" in note for note in psf_map.record["notes"])
