from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

# Tests must neither read nor change the settings of whoever runs them.
os.environ["NAPARI_CONFIG"] = ""

# Where only the base package is installed there is no window to test.
collect_ignore = [] if find_spec("napari") and find_spec("pytestqt") else ["ui"]


@pytest.fixture
def latent_weights(tmp_path, monkeypatch):
    """A user's weights folder with tiny networks with a deformable latent space; their weights are random."""
    import torch

    from napari_deblur.nets.deformable import DeformableNet, default_config
    from napari_deblur.nets.weights import WEIGHTS_VARIABLE, save_network
    from napari_deblur.optics.psf import family

    folder = tmp_path / "weights"
    tiny = {"channels": 16, "n_basis": 2, "outer_channels": 8, "hidden": 8, "decoder_blocks": 1}
    for name, model in {
        "zone-plate": "zone-plate",
        "defocus": "zernike-1",
        "astigmatism": "zernike-3",
    }.items():
        chosen = family(model)
        torch.manual_seed(3)
        network = DeformableNet(default_config(model) | tiny)
        units = zip(chosen.parameter_names, chosen.parameter_units, strict=True)
        ranges = chosen.parameter_ranges
        card = {
            "id": f"latent-deformation-{name}",
            "licence": "BSD-3-Clause",
            "config": network.config,
            "parameter_names": [],
            "parameter_ranges": {},
            "told": {one: {"range": list(ranges[one]), "unit": unit} for one, unit in units},
            "noise_to_contrast": [0.005, 1.0],
        }
        save_network(network.state_dict(), card, folder)
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(folder))
    return folder


@pytest.fixture(scope="session")
def gaussian_fields():
    """PSFs of twelve fields of 96 × 128 pixels: Gaussians whose widths change over the field."""
    import numpy as np
    import torch

    from napari_deblur.optics.basis_learning import FieldPsfs
    from napari_deblur.optics.psf import family

    rng = np.random.default_rng(0)
    fields = []
    for number in range(12):
        y, x = rng.uniform(0, (95, 127), (25, 2)).T
        level, slope, bend = rng.uniform(1.2, 2.2), rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4)
        wide = level + slope * (2 * y / 95 - 1) + 0.3
        high = level + bend * (2 * x / 127 - 1)
        widths = torch.from_numpy(np.stack([high, wide], axis=-1)).float()
        kernels = family("gaussian-2").kernels(widths, 17).numpy()
        fields.append(FieldPsfs(np.stack([y, x], axis=-1), kernels, f"field {number}"))
    return fields


@pytest.fixture(scope="session")
def small_basis(gaussian_fields):
    """A PSF basis of these fields, for images of 96 × 128 pixels of 0.1 µm."""
    from napari_deblur.optics.basis_learning import LearnBasis

    return LearnBasis(n_coefficients=12).learn(gaussian_fields, (96, 128), pixel_size_um=0.1)


@pytest.fixture(scope="session")
def texture():
    """Make a scene of any shape whose spectrum falls with a power of frequency, from 0 to 1."""
    import numpy as np

    def make(shape, seed=0):
        noise = np.random.default_rng(seed).standard_normal(shape)
        radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None])
        shaped = np.fft.irfft2(np.fft.rfft2(noise) / np.maximum(radius, 1 / max(shape)) ** 1.25, s=shape)
        return ((shaped - shaped.min()) / np.ptp(shaped)).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def blurred():
    """Blur an object, or one continued from an image, by an operator of a basis; with noise."""
    import numpy as np
    import torch

    from napari_deblur.blur.space_varying import MaskThenConvolve, compress

    def make(scene, operator, noise=0.0, seed=0):
        centers = operator.centers_px
        eigen = compress(operator.kernels(), centers[:, 0, 0], centers[0, :, 1], tolerance=1e-5)
        blur = MaskThenConvolve(eigen, operator.image_shape)
        y = blur.forward(blur.extend(torch.from_numpy(scene))).numpy()
        return y + np.float32(noise) * np.random.default_rng(seed).standard_normal(y.shape).astype(np.float32)

    return make
