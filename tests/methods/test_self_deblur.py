import numpy as np
import pytest
import torch
from skimage import data

from napari_deblur.blur.convolution import Convolution
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.engine import Engine
from napari_deblur.methods.self_deblur import SelfDeblur, kernel_of
from napari_deblur.nets.kernel_generator import KernelGenerator, centred, valid_convolution
from napari_deblur.optics.psf import make_psf
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.steps.deblur import Deblur

SIZE = 56
KERNEL = np.zeros((9, 9), np.float32)
KERNEL[2:7, 3:5] = [[1, 0], [2, 1], [1, 3], [0, 2], [0, 1]]
KERNEL /= KERNEL.sum()
SHARP = data.camera()[140 : 140 + SIZE + 8, 220 : 220 + SIZE + 8].astype(np.float32) / 255


@pytest.fixture(scope="module")
def engine():
    return Engine("cpu")


@pytest.fixture(scope="module")
def blurred():
    return Convolution(torch.from_numpy(KERNEL), (SIZE, SIZE)).forward(torch.from_numpy(SHARP)).numpy()


def test_a_valid_convolution_is_that_of_the_blur():
    torch.manual_seed(0)
    x, kernel = torch.rand(30, 41), torch.rand(7, 5)
    torch.testing.assert_close(valid_convolution(x, kernel), Convolution(kernel, (24, 37)).forward(x))


def test_the_kernel_of_a_blur_is_found():
    kernel = torch.from_numpy(KERNEL)
    torch.testing.assert_close(
        kernel_of(Convolution(kernel, (20, 25)), torch.zeros(1)), kernel, atol=1e-6, rtol=1e-4
    )


def test_a_kernel_generator_starts_where_it_is_told():
    maker = KernelGenerator((9, 9))
    maker.start_from(torch.from_numpy(KERNEL), torch.Generator().manual_seed(0))
    torch.testing.assert_close(maker(), torch.from_numpy(KERNEL), atol=1e-5, rtol=1e-4)
    free = KernelGenerator((5, 7))
    free.start_from(None, torch.Generator().manual_seed(0))
    assert free().shape == (5, 7)
    assert float(free().sum().detach()) == pytest.approx(1)
    assert bool((free() > 0).all())


def test_centring_moves_kernel_and_object_against_each_other():
    torch.manual_seed(0)
    kernel = torch.zeros(9, 9)
    kernel[4:8, 1:4] = torch.rand(4, 3)
    kernel /= kernel.sum()
    x = torch.rand(40, 44)
    moved, shifted = centred(kernel, x)
    rows = (moved.sum(dim=1) * torch.arange(9)).sum() - 4
    cols = (moved.sum(dim=0) * torch.arange(9)).sum() - 4
    assert abs(float(rows)) <= 0.51
    assert abs(float(cols)) <= 0.51
    inner = (slice(6, -6), slice(6, -6))
    torch.testing.assert_close(valid_convolution(shifted, moved)[inner], valid_convolution(x, kernel)[inner])


def test_image_and_psf_are_found_together(engine, blurred):
    method = SelfDeblur(psf_size_px=9, n_iterations=100)
    result = Deblur(method=method).run(Image(blurred), engine=engine)
    assert result.psf.shape == (9, 9)
    assert result.psf.sum() == pytest.approx(1, abs=1e-4)
    assert (result.psf >= 0).all()
    assert result.record.psf["source"] == "self-deblur"
    assert any("together with the result" in note for note in result.record.notes)
    # What was found explains the data: image and PSF belong together.
    residual = result.residual.data[8:-8, 8:-8]
    assert residual.std() < 0.25 * blurred.std()

    def likeness(kernel):
        spectra = np.fft.fft2(kernel), np.fft.fft2(KERNEL)
        moved = np.fft.ifft2(spectra[0] * spectra[1].conj()).real.max()
        return moved / np.sqrt((kernel**2).sum() * (KERNEL**2).sum())

    assert likeness(result.psf) > likeness(np.ones((9, 9))) + 0.03


def test_a_given_psf_is_the_start(engine, blurred):
    method = SelfDeblur(n_iterations=1)
    result = Deblur(method=method).run(Image(blurred), KERNEL, engine=engine)
    assert result.psf.shape == KERNEL.shape
    np.testing.assert_allclose(result.psf, KERNEL, atol=0.01)
    assert result.record.psf["started_from"]["source"] == "kernel"


def test_a_map_is_the_start_by_its_mean(engine, blurred):
    widths = np.array([1.0, 1.4], np.float32).reshape(1, 2, 1)
    centers = np.array([[[28.0, 14.0], [28.0, 42.0]]])
    psf_map = PsfMap.from_parameters("gaussian-1", widths, centers_px=centers, image_shape=(SIZE, SIZE))
    result = Deblur(method=SelfDeblur(n_iterations=1)).run(Image(blurred), psf_map, engine=engine)
    np.testing.assert_allclose(result.psf, psf_map.kernels().mean(axis=(0, 1)), atol=0.01)
    assert any("map's mean" in note for note in result.record.notes)


def test_tiles_share_the_psf(engine):
    image = data.camera()[100:228, 200:328].astype(np.float32) / 255
    method = SelfDeblur(n_iterations=2)
    psf = make_psf("gaussian-1", [1.2], size_px=7)
    result = Deblur(method=method, tile_px=64).run(Image(image), psf, engine=engine)
    assert np.isfinite(result.image.data).all()
    assert any("in tiles" in note for note in result.record.notes)
    assert result.psf.shape == (7, 7)


def test_a_cancelled_search_keeps_its_image(engine, blurred):
    run = Run()

    def stop(progress):
        if "iteration 3" in progress.message:
            run.cancel()

    run.on_progress = stop
    method = SelfDeblur(psf_size_px=9, n_iterations=50)
    result = Deblur(method=method).run(Image(blurred), KERNEL, engine=engine, run=run)
    assert result.partial
    assert np.abs(result.image.data - blurred).max() > 0.01


def test_an_even_size_counts_as_the_next_odd_one():
    assert SelfDeblur(psf_size_px=24).start_psf().shape == (25, 25)
    assert SelfDeblur(psf_size_px=25).start_psf().sum() == pytest.approx(1)
