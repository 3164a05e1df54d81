import pytest
import torch

from napari_deblur.nets.proximal import COMPACT, FULL, PUBLISHED, ProximalNet

TINY = {"channels": [4, 6, 8], "blocks": [1, 2, 1], "stem": 2, "inputs": 2}


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def trained(config, seed=0):
    """Return a network whose last layer is not zero."""
    torch.manual_seed(seed)
    network = ProximalNet(config)
    torch.nn.init.normal_(network.tail.weight, std=0.1)
    return network.eval().requires_grad_(False)


def test_the_published_network_has_as_many_parameters_as_published():
    assert count(ProximalNet(PUBLISHED)) == 8_159_808


@pytest.mark.parametrize("config", [COMPACT, FULL])
def test_what_ships_fits_12_mb_in_half_precision(config):
    assert 2 * count(ProximalNet(config)) < 12e6


def test_there_is_no_bias():
    assert all(parameter.ndim == 4 for parameter in ProximalNet(COMPACT).parameters())


@pytest.mark.parametrize("config", [TINY, {**TINY, "stem": 1}, {**TINY, "inputs": 1}])
def test_image_and_noise_scale_together(config):
    network = trained(config)
    x, noise = torch.randn(2, 24, 32), torch.rand(2, 24, 32)
    torch.testing.assert_close(network(5 * x, 5 * noise), 5 * network(x, noise), rtol=1e-4, atol=1e-4)


def test_it_starts_as_the_identity():
    x = torch.randn(1, 20, 20)
    torch.testing.assert_close(ProximalNet(TINY)(x, x.abs()), x)


@pytest.mark.parametrize("size", [(8, 8), (9, 23), (3, 40)])
def test_any_size_keeps_its_shape(size):
    assert trained(TINY)(torch.randn(2, *size), torch.tensor(0.1)).shape == (2, *size)


def test_the_noise_counts_where_it_is_an_input():
    x = torch.randn(1, 16, 16)
    for inputs, differs in ((2, True), (1, False)):
        network = trained({**TINY, "inputs": inputs})
        quiet, loud = (network(x, torch.tensor(level)) for level in (0.01, 1.0))
        assert bool((quiet != loud).any()) == differs


@pytest.mark.parametrize("config", [TINY, {**TINY, "stem": 1}])
def test_nothing_reaches_further_than_stated(config):
    network = trained(config)
    network.double()
    reach, size = network.reach_px, 2 * network.reach_px + 4 * network.multiple_px
    x = torch.randn(1, size, size, dtype=torch.float64)
    noise = torch.full_like(x, 0.1)
    moved = x.clone()
    middle = size // 2
    moved[0, middle, middle] += 1
    changed = (network(moved, noise) != network(x, noise))[0].nonzero() - middle
    assert network.multiple_px < changed.abs().max() <= reach
