"""The network whose latent space the blur's parameters deform."""

import numpy as np
import pytest
import torch

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.nets.deformable import (
    LATENT_STEP_PX,
    Conditions,
    DeformableNet,
    Scale,
    default_config,
    padded_to_step,
    reach_px,
    relative_noise,
    restore,
)
from napari_deblur.nets.deformers import GROUPS, Deformer, DynamicConvolution
from napari_deblur.nets.prefilter import REACH_PX
from napari_deblur.optics.psf import family

MODELS = ["zone-plate", "zernike-1", "zernike-3"]
TINY = {"channels": 16, "n_basis": 3, "outer_channels": 8, "hidden": 8}


def net(model="zone-plate", **changes):
    torch.manual_seed(0)
    return DeformableNet(default_config(model) | TINY | changes).eval()


def told(network, groups=1):
    torch.manual_seed(1)
    return torch.rand(groups, network.conditions.count) * 2 - 1


@pytest.mark.parametrize("model", MODELS)
def test_weights_take_less_than_3_mb(model):
    network = DeformableNet(default_config(model))
    assert 2.5e6 < 2 * sum(parameter.numel() for parameter in network.parameters()) < 3e6


def test_combining_filters_first_is_the_sum_of_convolutions():
    """Σ w_b (K_b * h) of the publication's Eq. 8, in the cheap order."""
    torch.manual_seed(0)
    layer = DynamicConvolution(6, 4, dilation=2).double()
    with torch.no_grad():
        layer.offsets.normal_()
    x, w = torch.randn(2, 6, 12, 11, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    each = [
        w[b] * torch.nn.functional.conv2d(x, layer.basis[b], layer.offsets[b], padding=2, dilation=2)
        for b in range(4)
    ]
    torch.testing.assert_close(layer(x, w), sum(each))


def test_ten_dynamic_convolutions_share_coefficients_by_block():
    deformer = net().deformer
    layers = [module for module in deformer.modules() if isinstance(module, DynamicConvolution)]
    assert len(layers) == 10 == sum(len(group) for group in GROUPS)
    assert [layer.dilation for layer in layers] == [1, 1, 1, 1, 2, 1, 1, 2, 1, 1]
    assert len(deformer.coefficients) == 4


@pytest.mark.parametrize("normalisation", ["l2", "softmax"])
def test_coefficients_are_normalised(normalisation):
    weights = net(normalisation=normalisation).deformer.weights(torch.randn(5, 2))
    assert len(weights) == 4
    for part in weights:
        assert part.shape == (5, 3)
        total = part.norm(dim=1) if normalisation == "l2" else part.sum(dim=1)
        torch.testing.assert_close(total, torch.ones(5))


@pytest.mark.parametrize("kind", ["complete", "simple", "none"])
def test_reach_is_what_a_gradient_shows(kind):
    """With positive weights no path through the network is closed."""
    network = net(deformer=kind, prefilter=False).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_().add_(1e-3)
    reaches = []
    for at in range(200, 200 + LATENT_STEP_PX):
        x = torch.rand(1, 400, 400, dtype=torch.float64, requires_grad=True)
        network(x, told(network).double().abs())[0, at, at].backward()
        reaches.append(int((x.grad[0].nonzero() - at).abs().max()))
    assert max(reaches) <= reach_px(network.config)
    assert max(reaches) > reach_px(network.config) - 2 * LATENT_STEP_PX, "and it is no loose bound"
    # The linear filter's window comes on top; through a Fourier transform, rounding errors reach everywhere.
    assert reach_px(network.config | {"prefilter": True}) == reach_px(network.config) + REACH_PX


def test_groups_of_a_batch_have_their_own_parameters():
    network = net()
    x, conditions = torch.randn(6, 32, 32), told(network, 3)
    with torch.no_grad():
        together = network(x, conditions)
        alone = torch.cat([network(x[2 * k : 2 * k + 2], conditions[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(together, alone)
    assert (together[:2] - network(x[:2], conditions[1:2])).abs().max() > 1e-4


def test_parameters_reach_every_deformer_but_none():
    x = torch.randn(1, 32, 32)
    for kind, moves in {"complete": True, "simple": True, "none": False}.items():
        network = net(deformer=kind, prefilter=False)
        with torch.no_grad():
            change = network(x, told(network)) - network(x, -told(network))
        assert bool(change.abs().max() > 1e-5) is moves


def test_conditions_span_minus_one_to_one_and_axes_have_no_seam():
    noise = torch.tensor([1e-3, 2.0])
    assert Conditions("zone-plate")(torch.tensor([[0.0], [15.0]]), noise).tolist() == [
        pytest.approx([-1, -1]),
        pytest.approx([1, 1]),
    ]
    three = Conditions("zernike-3")
    first, last = three(torch.tensor([[0.3, 0.2, 0.0], [0.3, 0.2, np.pi]]), torch.tensor([0.1, 0.1]))
    assert len(first) == three.count
    torch.testing.assert_close(first, last)


@pytest.mark.parametrize("model", MODELS)
def test_conditions_can_be_undone(model):
    ranges = list(family(model).parameter_ranges.values())
    parameters = torch.stack([low + (high - low) * torch.rand(5) * 0.99 for low, high in ranges], dim=1)
    noise = torch.tensor([0.002, 0.01, 0.1, 0.5, 1.5])
    again, level = Conditions(model).undone(Conditions(model)(parameters, noise))
    torch.testing.assert_close(again, parameters, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(level, noise, rtol=1e-4, atol=0)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.8])
def test_noise_is_measured(share):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:128, :128]
    smooth = np.sin(y / 9) + np.cos(x / 13)
    image = torch.from_numpy((smooth + share * rng.standard_normal(smooth.shape)).astype(np.float32))
    found = relative_noise(image[None], torch.ones(1))
    assert float(found) == pytest.approx(share, rel=0.1)
    scale = Scale.of(3 * image + 7)
    assert scale.noise * scale.spread == pytest.approx(3 * share, rel=0.1)


def test_sides_are_brought_to_multiples_of_the_latent_step():
    y = torch.arange(35.0 * 34).reshape(35, 34)
    framed = padded_to_step(y)
    assert framed.shape == (36, 36)
    torch.testing.assert_close(framed[:35, :34], y)
    torch.testing.assert_close(framed[35, :34], y[33])
    assert padded_to_step(framed) is framed


def test_restored_image_follows_scale_and_offset():
    network, image = net(), torch.rand(40, 44)
    results = []
    with torch.no_grad():
        for y in (image, 50 * image + 200):
            scale = Scale.of(y)
            latent = network.encode((y - scale.mean)[None] / scale.spread)
            results.append(restore(network, latent, [5.0], scale))
    torch.testing.assert_close(results[1], 50 * results[0] + 200, rtol=1e-3, atol=0.05)


def test_a_tiny_image_is_refused():
    with pytest.raises(InvalidInputError, match="at least 16 pixels"):
        Scale.of(torch.rand(12, 40))


def test_gradients_reach_bases_and_coefficients():
    network = net().train()
    network(torch.randn(2, 32, 32), told(network)).square().mean().backward()
    deformer = network.deformer
    assert isinstance(deformer, Deformer)
    for part in (deformer.blocks, deformer.coefficients, network.encoder, network.decoder):
        assert all(parameter.grad is not None for parameter in part.parameters())
        assert any(parameter.grad.abs().max() > 0 for parameter in part.parameters())
