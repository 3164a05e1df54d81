import numpy as np
import pytest
import torch
from skimage import data

from napari_deblur.blur.convolution import Convolution
from napari_deblur.blur.space_varying import MaskThenConvolve, compress
from napari_deblur.nets.regularised import RegularisedInverse
from napari_deblur.nets.unrolled import Observation, UnrolledDouglasRachford, observed
from napari_deblur.nets.weights import build_network
from napari_deblur.optics.psf import family, make_psf

TINY = {"proximal": {"channels": [4, 6], "blocks": [1, 1], "stem": 2, "inputs": 2}, "steps": 3}
SHARP = torch.from_numpy(data.camera()[100:160, 200:264].astype(np.float32) / 255)
KERNEL = torch.from_numpy(make_psf("zernike-3", [0.3, 0.1, 0.4], size_px=11))
IMAGE = (50, 54)


def network(seed=0, **changes):
    torch.manual_seed(seed)
    found = UnrolledDouglasRachford({**TINY, **changes})
    for proximal in found.proximal:
        torch.nn.init.normal_(proximal.tail.weight, std=0.05)
    return found


@pytest.fixture
def blur():
    return Convolution(KERNEL, IMAGE)


@pytest.fixture
def varying():
    grid = np.array([5.0, 45.0], np.float32)
    parameters = torch.tensor([[0.1, 0.0, 0.0], [0.2, 0.1, 0.0], [0.3, 0.0, 0.0], [0.3, 0.2, 1.0]])
    kernels = family("zernike-3").kernels(parameters, 11).numpy().reshape(2, 2, 11, 11)
    return MaskThenConvolve(compress(kernels, grid, grid), IMAGE)


@pytest.mark.parametrize("kind", ["blur", "varying"])
def test_the_regularised_inverse_solves_its_equation(kind, request):
    operator = request.getfixturevalue(kind)
    y, towards = operator.forward(SHARP)[None], operator.extend(torch.rand(1, *IMAGE))
    strength = torch.full((1, 1, 1), 0.05)
    x = RegularisedInverse(operator, y)(towards, strength, towards, 40)
    left = operator.adjoint(operator.forward(x)) + strength * x
    torch.testing.assert_close(left, operator.adjoint(y) + strength * towards, atol=1e-4, rtol=1e-3)


def test_few_iterations_do_in_the_field_of_view(blur):
    y = blur.forward(SHARP)[None]
    towards, strength = blur.extend(y), torch.full((1, 1, 1), 0.02)
    inverse = RegularisedInverse(blur, y)
    exact, few = (blur.crop(inverse(towards, strength, towards, count)) for count in (80, 5))
    assert float((few - exact).norm() / exact.norm()) < 0.01


def test_the_implicit_derivative_is_that_of_the_solution(blur):
    double = Convolution(KERNEL.double(), IMAGE)
    y = double.forward(SHARP.double())[None]
    towards = double.extend(torch.rand(1, *IMAGE, dtype=torch.float64)).requires_grad_()
    strength = torch.full((1, 1, 1), 0.05, dtype=torch.float64, requires_grad=True)
    inverse = RegularisedInverse(double, y)
    torch.manual_seed(0)
    weight = torch.randn(1, *double.object_shape, dtype=torch.float64)

    def value(r, lam):
        return (inverse(r, lam, r.detach(), 150) * weight).sum()

    value(towards, strength).backward()
    direction, step = torch.randn_like(towards), 1e-4
    with torch.no_grad():
        along = value(towards + step * direction, strength) - value(towards - step * direction, strength)
        by_strength = value(towards, strength + step) - value(towards, strength - step)
    assert float((towards.grad * direction).sum()) == pytest.approx(float(along) / (2 * step), rel=1e-4)
    assert float(strength.grad.sum()) == pytest.approx(float(by_strength) / (2 * step), rel=1e-3)


@pytest.mark.parametrize("shared", [True, False])
def test_steps_share_a_proximal_network_or_do_not(shared):
    found = network(shared=shared)
    assert len(found.proximal) == (1 if shared else 3)
    assert (found.network(0) is found.network(2)) == shared


@pytest.mark.parametrize("kind", ["blur", "varying"])
def test_scale_passes_through(kind, request):
    operator = request.getfixturevalue(kind)
    y = (operator.forward(SHARP) + 0.05 * torch.randn(IMAGE))[None]
    found = network()
    with torch.no_grad():
        plain = found(y, operator, observed(y, 0.001, 0.0025))[-1]
        scaled = found(40 * y, operator, observed(40 * y, 0.04, 4.0))[-1]
    torch.testing.assert_close(scaled, 40 * plain, rtol=1e-3, atol=1e-2)


def test_an_offset_without_photons_passes_through(blur):
    y = (blur.forward(SHARP) + 0.05 * torch.randn(IMAGE))[None]
    found = network()
    with torch.no_grad():
        quiet, raised = (found(y + c, blur, observed(y + c, 0.0, 0.0025))[-1] for c in (0.0, 3.0))
    torch.testing.assert_close(blur.crop(raised), blur.crop(quiet) + 3, rtol=1e-3, atol=5e-3)


def test_a_batch_is_restored_image_by_image(blur):
    y = blur.forward(SHARP) + torch.tensor([0.01, 0.1])[:, None, None] * torch.randn(2, *IMAGE)
    read = torch.tensor([1e-4, 1e-2])[:, None, None]
    found = network()
    with torch.no_grad():
        both = found(y, blur, observed(y, 0.0, read))[-1]
        for index in (0, 1):
            one = y[index : index + 1]
            alone = found(one, blur, observed(one, 0.0, read[index : index + 1]))[-1]
            torch.testing.assert_close(both[index], alone[0], rtol=1e-4, atol=1e-4)


def test_the_pull_grows_with_the_noise():
    y = torch.rand(1, 20, 20)
    found = network().requires_grad_(False)
    weak, strong = (found.lambdas(observed(y, 0.0, noise)) for noise in (1e-5, 1e-2))
    assert all(float(s) > 2 * float(w) for w, s in zip(weak, strong, strict=True))


def test_photon_noise_is_told_by_brightness():
    one = torch.ones(1, 1, 1)
    seen = Observation(one, one, 0.01 * one, 0.0001 * one)
    dark, bright = seen.noise_map(torch.tensor([-1.0, 4.0]))[0, 0]
    assert float(dark) == pytest.approx(0.01)
    assert float(bright) == pytest.approx(0.0401**0.5)


def test_gradients_reach_every_parameter(blur):
    y = (blur.forward(SHARP) + 0.05 * torch.randn(IMAGE))[None]
    found = network()
    blur.crop(found(y, blur, observed(y, 0.001, 0.0025))[-1]).square().mean().backward()
    for name, parameter in found.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_steps_are_shown_and_can_end_early(blur):
    y = blur.forward(SHARP)[None]
    seen, found = [], network()
    with torch.no_grad():
        whole = found(y, blur, observed(y, 0.0, 1e-4), on_step=lambda done, image: seen.append((done, image)))
        first = found(y, blur, observed(y, 0.0, 1e-4), steps=1)
    assert [done for done, _ in seen] == [1, 2, 3]
    torch.testing.assert_close(seen[-1][1], whole[-1])
    torch.testing.assert_close(first[0], whole[0])
    assert len(first) == 1


def test_a_card_builds_it():
    found = build_network(network(shared=False).config)
    assert isinstance(found, UnrolledDouglasRachford)
    assert len(found.proximal) == 3
    found.load_state_dict(network(shared=False).state_dict())
