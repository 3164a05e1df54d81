"""A small volume of points and planes, blurred by a kernel that is longer along z."""

import os

import numpy as np
import pytest
import torch

from napari_deblur.blur.convolution import Convolution
from napari_deblur.core.errors import UnknownNameError
from napari_deblur.engine.engine import Engine
from napari_deblur.methods.deep_blur import DEBLURRING
from napari_deblur.nets.unrolled import UnrolledDouglasRachford
from napari_deblur.nets.weights import WEIGHTS_VARIABLE, find_model, save_network

VOLUME = (12, 44, 48)


def gaussian_kernel(halves, sigmas):
    axes = [np.exp(-0.5 * (np.arange(-h, h + 1) / s) ** 2) for h, s in zip(halves, sigmas, strict=True)]
    kernel = axes[0]
    for axis in axes[1:]:
        kernel = np.multiply.outer(kernel, axis)
    return (kernel / kernel.sum()).astype(np.float32)


def tiny_deblurring_network(folder, seed=0, **trained_for):
    """Write weights and card of a tiny network that hardly changes the image; return the network."""
    torch.manual_seed(seed)
    proximal = {"channels": [4, 8], "blocks": [1, 1], "stem": 2, "inputs": 2}
    network = UnrolledDouglasRachford({"proximal": proximal})
    torch.nn.init.normal_(network.network(0).tail.weight, std=1e-3)
    card = {
        "id": DEBLURRING,
        "task": "deblurring",
        "licence": "none",
        "config": network.config,
        "parameter_names": [],
        "parameter_ranges": {},
        "trained_for": trained_for,
    }
    save_network(network.state_dict(), card, folder)
    return network.eval()


@pytest.fixture(scope="session", autouse=True)
def deblurring_weights(tmp_path_factory):
    """Let a tiny network stand in where no trained one is installed."""
    try:
        find_model(DEBLURRING)
    except UnknownNameError:
        folder = tmp_path_factory.mktemp("weights")
        tiny_deblurring_network(folder)
        with pytest.MonkeyPatch.context() as patch:
            if WEIGHTS_VARIABLE not in os.environ:
                patch.setenv(WEIGHTS_VARIABLE, str(folder))
            yield
    else:
        yield


@pytest.fixture(scope="session")
def cpu():
    return Engine("cpu")


@pytest.fixture(scope="session")
def kernel_3d():
    return gaussian_kernel((4, 3, 3), (1.8, 1.1, 1.1))


@pytest.fixture(scope="session")
def volume(kernel_3d):
    """Return (sharp, blurred and noisy) of the same shape."""
    rng = np.random.default_rng(3)
    shape = tuple(size + 2 * (k // 2) for size, k in zip(VOLUME, kernel_3d.shape, strict=True))
    sharp = np.full(shape, 0.02, np.float32)
    for _ in range(40):
        z, y, x = (int(rng.integers(0, size)) for size in shape)
        sharp[z, y : y + 5, x : x + 3] += rng.random()
    sharp[8:10, 20:30, :] += 0.5
    blur = Convolution(torch.from_numpy(kernel_3d), VOLUME)
    clean = blur.forward(torch.from_numpy(sharp)).numpy()
    blurred = (rng.poisson(np.maximum(clean, 0) * 2000) / 2000).astype(np.float32)
    inside = tuple(slice(k // 2, k // 2 + size) for size, k in zip(VOLUME, kernel_3d.shape, strict=True))
    return sharp[inside], blurred
