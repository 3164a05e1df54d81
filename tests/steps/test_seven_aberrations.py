"""Reading seven aberrations: a small network that knows them, for the steps around it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.engine import Engine
from napari_deblur.methods.wiener import Wiener
from napari_deblur.nets.identification import build, default_config
from napari_deblur.optics.psf import family
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.deblur import Deblur
from napari_deblur.steps.deblur_plan import planned_blurs
from napari_deblur.steps.psf_map import EstimatePsfMap

SMALL = {
    "widths": [16, 16, 16, 16],
    "blocks": [1, 1, 1, 1],
    "spectral_width": 16,
    "spectral_features": 8,
    "hidden": 16,
}
NAMES = family("zernike-7").parameter_names
OPTICS = {"na": 1.41, "wavelength_um": 0.54, "pixel_size_um": 0.1}


class Seven(EstimatePsfMap):
    """The step with the model that these tests are about."""

    model: Literal["zernike-7"] = "zernike-7"


class SmallEngine(Engine):
    """Knows one small random network, whatever is asked for."""

    def network(self, model, *, device=None):
        torch.manual_seed(0)
        net = build(default_config("zernike-7") | SMALL).eval().requires_grad_(False)
        with torch.no_grad():
            net.validity.bias.fill_(5.0)
        card = {"config": net.config, "cutoff_cycles_per_px": 0.261, "sha256": "abc"}
        return net, card


@pytest.fixture(scope="module")
def engine():
    return SmallEngine("cpu")


def picture(height=300, width=260, pixel_size_um=None):
    rng = np.random.default_rng(0)
    coarse = np.kron(rng.random((height // 4 + 1, width // 4 + 1)), np.ones((4, 4)))[:height, :width]
    return Image((200 * coarse + rng.normal(0, 1, (height, width))).astype(np.float32), "yx", pixel_size_um)


def test_a_map_has_seven_coefficients_with_errors_at_the_familys_own_cutoff(engine):
    run = Run()
    psf_map = Seven().run(picture(), engine=engine, run=run)
    assert psf_map.parameter_names == NAMES
    assert psf_map.parameters.shape == psf_map.predicted_error.shape == (*psf_map.grid_shape, 7)
    assert psf_map.cutoff_cycles_per_px == 0.261
    assert psf_map.kernels().shape[-2:] == (31, 31)
    assert "No optics given: NA · pixel / wavelength = 0.261 cycles per pixel is assumed." in run.notes


def test_one_psf_of_the_whole_field(engine):
    many = Seven().run(picture(), engine=engine)
    one = Seven(one_psf=True).run(picture(), engine=engine)
    assert one.grid_shape == (1, 1)
    assert_allclose(one.centers_px[0, 0], [(300 - 1) / 2, (260 - 1) / 2])
    low, high = many.parameters.min(axis=(0, 1)), many.parameters.max(axis=(0, 1))
    assert (one.parameters[0, 0] >= low - 2e-3).all()
    assert (one.parameters[0, 0] <= high + 2e-3).all()
    assert (one.predicted_error[0, 0] <= many.predicted_error.max(axis=(0, 1))).all()
    assert one.psf_at(10, 10).sum() == pytest.approx(1, abs=1e-5)


def test_patches_are_averaged_by_what_they_know(engine):
    net, _ = engine.network("zernike-7")
    values = torch.tensor([[0.1, 0.05, 0, 0, 0, 0, 0], [0.1, -0.05, 0, 0.1, 0, 0, 0.0]])
    quantities = net.targets.encode(values)
    errors = torch.tensor([[0.001] * 10, [0.01] * 10])
    logit = torch.tensor([2.0, 2.0])
    found = net.combined(net.as_estimate(quantities, errors, logit), torch.ones(2), 1.0)
    assert found.parameters.shape == (1, 7)
    assert_allclose(found.parameters[0], values[0], atol=2e-3)
    ignored = net.combined(net.as_estimate(quantities, errors, logit), torch.tensor([0.0, 1.0]), 1.0)
    assert_allclose(ignored.parameters[0], values[1], atol=1e-4)


def test_the_image_is_brought_to_the_networks_cutoff(engine):
    finer = Optics(na=1.41, wavelength_um=0.54, pixel_size_um=0.05)
    psf_map = Seven().run(picture(400, 400), engine=engine, optics=finer)
    assert psf_map.cutoff_cycles_per_px == pytest.approx(0.1306, abs=1e-4)
    assert psf_map.kernel_size_px == 63, "the same kernel on pixels of half the size"
    assert psf_map.record["facts"]["zoom"] == pytest.approx(0.5, abs=0.01)
    assert_allclose(psf_map.centers_px[0, 0], 127.5, atol=0.3)


def test_undersampled_optics_and_contradictory_pixels_are_refused(engine):
    with pytest.raises(InvalidInputError, match="must sample the optics") as caught:
        Seven().run(picture(), engine=engine, optics=Optics(na=1.41, wavelength_um=0.54, pixel_size_um=0.2))
    assert "0.522 cycles per pixel" in str(caught.value)
    with pytest.raises(InvalidInputError, match=r"pixel_size_um must agree with the image's 0.16 µm"):
        Seven().run(picture(pixel_size_um=(0.16, 0.16)), engine=engine, optics=Optics(**OPTICS))
    known = Seven().run(picture(pixel_size_um=(0.1, 0.1)), engine=engine, optics=Optics(**OPTICS))
    assert known.cutoff_cycles_per_px == 0.261


@pytest.mark.parametrize("whole_field", [False, True])
def test_a_method_says_whether_its_default_is_a_map_or_one_psf(engine, monkeypatch, whole_field):
    monkeypatch.setattr(Wiener, "default_one_psf", whole_field)
    given = []
    original = EstimatePsfMap.estimate

    def estimate(self, image, **more):
        given.append(self.one_psf)
        return original(Seven(one_psf=self.one_psf), image, **more)

    monkeypatch.setattr(EstimatePsfMap, "estimate", estimate)
    result = Deblur(method="wiener").run(picture(), None, engine=engine)
    assert given == [whole_field]
    assert (result.psf.grid_shape == (1, 1)) is whole_field
    Deblur(method="wiener").run(picture(), "gaussian-2", engine=engine)
    assert given == [whole_field, False], "who names a model gets its map"


def test_a_plan_counts_the_kernels_of_the_model_that_is_named(engine):
    step = Deblur(method="wiener")
    seven, three = (
        planned_blurs(step, picture(), model, engine).margin for model in ("zernike-7", "zernike-3")
    )
    assert seven == (15, 15)
    assert three == (32, 32)
