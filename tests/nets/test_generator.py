import pytest
import torch

from napari_deblur.nets.features import FeatureExtractor
from napari_deblur.nets.generator import Generator, NonLocal, seeded


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameters_are_as_many_as_published():
    assert count(Generator()) == 322_913
    assert count(FeatureExtractor()) == 39_712


@pytest.mark.parametrize("size", [(64, 64), (37, 50), (16, 129)])
def test_any_size_comes_back(size):
    network = seeded(Generator(inputs=3), torch.Generator().manual_seed(0))
    assert network(torch.rand(1, 3, *size)).shape == (1, 1, *size)


def test_weights_come_from_the_generator_alone():
    torch.manual_seed(0)
    first = seeded(Generator(), torch.Generator().manual_seed(5)).state_dict()
    torch.manual_seed(1)
    again = seeded(Generator(), torch.Generator().manual_seed(5)).state_dict()
    other = seeded(Generator(), torch.Generator().manual_seed(6)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_the_non_local_block_starts_as_the_identity():
    block = seeded(NonLocal(8), torch.Generator().manual_seed(0))
    x = torch.rand(1, 8, 12, 10)
    torch.testing.assert_close(block(x), x)


def test_the_non_local_block_equals_the_product_over_all_pairs():
    block = NonLocal(8).eval()
    torch.nn.init.ones_(block.norm.weight)
    x = torch.rand(2, 8, 6, 10)
    pool = torch.nn.functional.max_pool2d
    theta = block.theta(x).flatten(2).transpose(1, 2)
    phi, g = (pool(part(x), 2).flatten(2) for part in (block.phi, block.g))
    pairs = theta @ phi / phi.shape[-1]  # every position with every other one
    mixed = (pairs @ g.transpose(1, 2)).transpose(1, 2).reshape(2, 4, 6, 10)
    torch.testing.assert_close(block(x), x + block.norm(block.out(mixed)))


def test_gradients_reach_every_weight():
    network = seeded(Generator(inputs=2), torch.Generator().manual_seed(0))
    network(torch.rand(1, 2, 32, 32)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
