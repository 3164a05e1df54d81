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
