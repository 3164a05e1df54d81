from __future__ import annotations

import math

import pytest
import torch

from napari_deblur.nets.targets import targets
from napari_deblur.optics.psf import family

MODEL = "zernike-7"
EVEN = torch.tensor([-1.0, -1, -1, 1, 1, 1, 1])


def _draw(count):
    bounds = torch.tensor(list(family(MODEL).parameter_ranges.values()))
    uniform = torch.rand((count, 7), generator=torch.Generator().manual_seed(2))
    return bounds[:, 0] + (bounds[:, 1] - bounds[:, 0]) * uniform


def test_what_gives_the_same_kernel_is_regressed_alike():
    parameters = _draw(50)
    wanted = targets(MODEL)
    assert len(wanted.names) == 10
    torch.testing.assert_close(wanted.encode(parameters * EVEN), wanted.encode(parameters))


def test_the_mean_of_both_signs_is_not_zero():
    wanted = targets(MODEL)
    astigmatic = torch.tensor([[0.001, 0.1, -0.05, 0, 0, 0, 0]])
    other_side = torch.tensor([[0.001, -0.1, 0.05, 0, 0, 0, 0]])
    mean = (wanted.encode(astigmatic) + wanted.encode(other_side)) / 2
    found, _ = wanted.decode(mean, torch.zeros_like(mean))
    assert float(found[0, 1:3].norm()) == pytest.approx(math.hypot(0.1, 0.05), rel=1e-3)
    assert float(found[0, 1] * found[0, 2]) == pytest.approx(-0.005, rel=1e-2)


def test_errors_of_products_become_those_of_coefficients():
    wanted = targets(MODEL)
    true = torch.tensor([[0.12, -0.06, 0.09, 0.02, -0.1, 0.03, 0.0]])
    errors = torch.tensor([[1.0, 0.8, 1.2, 0.5, 0.9, 1.1, 8, 9, 10, 11]]) * 1e-3
    noise = torch.randn((20000, 10), generator=torch.Generator().manual_seed(0))
    found, _ = wanted.decode(wanted.encode(true) + noise * errors, errors.expand(20000, -1))
    _, predicted = wanted.decode(wanted.encode(true), errors)
    torch.testing.assert_close(found.std(dim=0), predicted[0], rtol=0.05, atol=0)


def test_near_focus_the_astigmatisms_sign_is_uncertain_and_its_error_says_so():
    wanted = targets(MODEL)
    errors = torch.full((1, 10), 2e-4)
    surely, barely = (
        wanted.decode(wanted.encode(torch.tensor([[defocus, 0.06, 0.0, 0, 0, 0, 0]])), errors)[1]
        for defocus in (0.1, 0.0)
    )
    assert float(surely[0, 1]) < 0.01
    # Half the time 0.06 is in truth -0.06.
    assert float(barely[0, 1]) == pytest.approx(0.06 * math.sqrt(2), rel=0.05)


def test_nothing_known_has_the_error_of_guessing():
    wanted = targets(MODEL)
    values = torch.tensor([wanted.center])
    _, errors = wanted.decode(values, 10 * torch.tensor([wanted.scale]))
    spans = torch.tensor([high - low for low, high in family(MODEL).parameter_ranges.values()])
    torch.testing.assert_close(errors[0], spans / math.sqrt(12))


@pytest.mark.parametrize("value", [0.0, 1e-3, -1e-3])
def test_gradients_are_finite_where_all_directions_are_alike(value):
    wanted = targets(MODEL)
    values = wanted.encode(torch.zeros(1, 7))
    for name in ("defocus_waves", "oblique_astigmatism_waves", "vertical_astigmatism_waves"):
        values[0, wanted.names.index(f"{name}*{name}")] = value
    values.requires_grad_()
    wanted.coefficients(values).square().sum().backward()
    assert torch.isfinite(values.grad).all()


def test_coefficients_stay_in_range_and_those_to_learn_from_near_it():
    wanted = targets(MODEL)
    values = wanted.encode(torch.tensor([[0.5, 0.4, -0.4, 0.3, -0.3, 2.0, -2.0]]))
    decoded, _ = wanted.decode(values, torch.zeros_like(values))
    torch.testing.assert_close(decoded, torch.tensor([[0.15, 0.15, -0.15, 0.15, -0.15, 0.15, -0.15]]))
    learned = wanted.coefficients(values)
    torch.testing.assert_close(learned, torch.tensor([[0.225, 0.3, -0.3, 0.3, -0.3, 0.3, -0.3]]))
