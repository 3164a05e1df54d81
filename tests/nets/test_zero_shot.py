import numpy as np
import pytest
import torch
from skimage import data

from napari_deblur.blur.convolution import Convolution
from napari_deblur.nets.zero_shot import (
    Average,
    Descent,
    Dissimilarity,
    reblur,
    roughness,
)
from napari_deblur.optics.psf import make_psf
from napari_deblur.quality import ssim

IMAGE = torch.from_numpy(data.camera()[100:164, 200:272].astype(np.float32) / 255)


def test_the_gradient_of_a_reblur_is_the_adjoint():
    # Engine and blur are made where no gradients are recorded.
    with torch.inference_mode():
        blur = Convolution(torch.from_numpy(make_psf("zernike-3", [0.2, 0.1, 0.6], size_px=15)), (20, 24))
    x = torch.rand(blur.object_shape, requires_grad=True)
    weights = torch.rand(20, 24)
    (reblur(x, blur) * weights).sum().backward()
    torch.testing.assert_close(x.grad, blur.adjoint(weights))


def test_dissimilarity_is_that_of_the_metric():
    torch.manual_seed(0)
    other = (IMAGE + 0.1 * torch.randn(IMAGE.shape)).clamp(0, 1)
    found = 1 - float(Dissimilarity(IMAGE)(other))
    # The metric counts windows whose centre is 5 pixels inside; so does the loss.
    assert found == pytest.approx(ssim(other.numpy(), IMAGE.numpy(), 1.0), abs=2e-4)
    assert float(Dissimilarity(IMAGE)(IMAGE)) == pytest.approx(0, abs=1e-6)


def test_roughness_of_known_surfaces():
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing="ij")
    assert float(roughness(2 * y + 3 * x)) == pytest.approx(0, abs=1e-5)
    assert float(roughness(0.5 * x * x)) == pytest.approx(1, abs=1e-4)
    assert float(roughness(x * y)) == pytest.approx(2, abs=1e-4)


def test_an_average_forgets_its_start():
    average = Average(0.9)
    for value in [100.0] + [2.0] * 200:
        mean = average.add(torch.tensor([value]))
    assert float(mean) == pytest.approx(2, abs=1e-3)
    last = Average(0.0)
    last.add(torch.tensor([1.0]))
    assert float(last.add(torch.tensor([7.0]))) == 7


def test_descent_reaches_a_minimum_and_shortens_its_steps():
    x = torch.nn.Parameter(torch.tensor([3.0]))
    descent = Descent([([x], 0.1)], 300)
    moves = []
    for _ in range(300):
        before = float(x.detach())
        descent.advance()
        descent.follow((x - 1).square().sum())
        moves.append(abs(float(x.detach()) - before))
    assert float(x.detach()) == pytest.approx(1, abs=0.01)
    assert moves[0] < 0.02  # warm-up
