from __future__ import annotations

import math

import pytest
import torch

from napari_deblur.core.errors import InvalidInputError, WeightsError
from napari_deblur.nets.identification import build, default_config
from napari_deblur.nets.targets import targets
from napari_deblur.nets.views import normalise
from napari_deblur.optics.psf import FAMILIES, family

SMALL = {
    "widths": [16, 16, 16, 16],
    "blocks": [1, 1, 1, 1],
    "spectral_width": 16,
    "spectral_features": 8,
    "hidden": 16,
}


def _network(model="zernike-3"):
    torch.manual_seed(0)
    return build(default_config(model) | SMALL).eval()


def _draw(model, count=64):
    chosen = family(model)
    bounds = torch.tensor([chosen.parameter_ranges[name] for name in chosen.parameter_names])
    uniform = torch.rand((count, len(bounds)), generator=torch.Generator().manual_seed(1))
    return bounds[:, 0] + (bounds[:, 1] - bounds[:, 0]) * uniform


@pytest.mark.parametrize("model", list(FAMILIES))
def test_decoding_inverts_encoding(model):
    parameters = _draw(model)
    values = targets(model).encode(parameters)
    assert values.shape[1] == len(targets(model).names)
    decoded, _ = targets(model).decode(values, torch.zeros_like(values))
    torch.testing.assert_close(decoded, parameters, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("model", list(FAMILIES))
def test_targets_are_scaled_to_mean_zero_and_variance_one(model):
    wanted = targets(model)
    scaled = (wanted.encode(_draw(model, 20000)) - torch.tensor(wanted.center)) / torch.tensor(wanted.scale)
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(len(wanted.names)), atol=0.03, rtol=0)
    torch.testing.assert_close(scaled.var(dim=0), torch.ones(len(wanted.names)), atol=0.05, rtol=0)


def test_the_axis_is_in_zero_to_pi_and_its_error_is_bounded():
    values = torch.tensor([[0.3, 0.2, 0.2, -1e-4], [0.3, 0.2, -0.2, 0.0], [0.0, 0.0, 0.0, 0.0]])
    regressed = targets("zernike-3", targets("zernike-3").of_parameters)
    parameters, errors = regressed.decode(values, torch.full_like(values, 0.02))
    assert torch.all((parameters[:, 2] >= 0) & (parameters[:, 2] <= math.pi))
    assert float(parameters[1, 2]) == pytest.approx(math.pi / 2)
    # Across a power of 0.2 an error of 0.02 turns 2 θ by 0.1.
    assert float(errors[0, 2]) == pytest.approx(0.05, abs=0.001)
    assert float(errors[2, 2]) == pytest.approx(math.pi / math.sqrt(12))


@pytest.mark.parametrize("model", ["gaussian-2", "zernike-3", "zernike-7"])
def test_estimates_have_the_promised_shapes_and_ranges(model):
    patches = torch.rand((3, 128, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = _network(model).estimate(patches)
    n = len(family(model).parameter_names)
    assert found.parameters.shape == found.predicted_error.shape == (3, n)
    assert found.valid_probability.shape == (3,)
    assert torch.all((found.valid_probability >= 0) & (found.valid_probability <= 1))
    for column, (low, high) in zip(found.parameters.T, family(model).parameter_ranges.values(), strict=True):
        assert torch.all((column >= low - 1e-6) & (column <= high + 1e-6))


def test_gain_and_offset_do_not_matter_and_batches_do_not_mix():
    network = _network()
    patches = torch.rand((2, 1, 128, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = network(patches)
        scaled = network(300 * patches + 100)
        alone = network(patches[:1])
    for a, b, c in zip(plain, scaled, alone, strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(a[:1], c, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 7.0, 1e6])
def test_a_constant_patch_gives_finite_numbers(value):
    patch = torch.full((1, 128, 128), value)
    assert torch.all(normalise(patch).abs() < 1)
    with torch.no_grad():
        assert all(torch.isfinite(part).all() for part in _network()(patch))


def test_the_spectrum_does_not_depend_on_position():
    network = _network()
    patch = torch.rand((1, 1, 128, 128), generator=torch.Generator().manual_seed(0))
    window = torch.ones_like(network.spectral.window)
    network.spectral.window = window
    moved = torch.roll(patch, (5, 9), dims=(-2, -1))
    torch.testing.assert_close(
        network.spectral.spectrum(patch), network.spectral.spectrum(moved), atol=1e-3, rtol=1e-3
    )


def test_the_error_head_does_not_shape_the_features():
    network = _network()
    _, log_variance, _ = network(torch.rand((2, 128, 128)))
    log_variance.sum().backward()
    assert all(parameter.grad is None for parameter in network.spatial.parameters())


def test_other_patch_sizes_are_refused():
    with pytest.raises(InvalidInputError, match="patches must be 128 × 128 pixels"):
        _network()(torch.rand((1, 96, 96)))


@pytest.mark.parametrize("change", [{"architecture": "unet"}, {"blocks": None}])
def test_a_config_of_something_else_is_refused(change):
    with pytest.raises(WeightsError):
        build(default_config("zernike-3") | change)


def test_the_compact_network_ships_in_under_five_megabytes():
    count = sum(parameter.numel() for parameter in build(default_config("zernike-3")).parameters())
    assert 2 * count < 5e6


def test_the_signed_defocus_passes_smoothly_through_focus():
    # Beyond focus the axis is 0.4; before it the defocus is positive too, with the axis turned by 90°.
    signed = torch.linspace(-0.3, 0.3, 7)
    axis = torch.where(signed >= 0, 0.4, 0.4 + math.pi / 2)
    regressed = targets("zernike-3")
    values = regressed.encode(torch.stack([signed.abs(), torch.full_like(signed, 0.2), axis], dim=1))
    found = regressed.signed_defocus(values)
    torch.testing.assert_close(found[:, 0], signed * math.cos(0.8))
    torch.testing.assert_close(found[:, 1], signed * math.sin(0.8))
    assert targets("gaussian-2").signed_defocus(torch.zeros(1, 2)) is None


@pytest.mark.parametrize("model", ["zernike-2", "zernike-3"])
def test_axes_of_the_same_kernel_are_the_same_quantities(model):
    """What no image can tell apart must not be asked for: the network would answer with the mean."""
    chosen, parameters = family(model), _draw(model, 6)
    turned = parameters.clone()
    turned[:, -1] += chosen.axis_period_rad
    kernels = chosen.kernels(parameters, 21)
    torch.testing.assert_close(kernels, chosen.kernels(turned, 21), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        targets(model).encode(parameters), targets(model).encode(turned), atol=1e-5, rtol=0
    )
    turned[:, -1] -= chosen.axis_period_rad / 2
    assert (kernels - chosen.kernels(turned, 21)).abs().max() > 1e-4


def test_quantities_that_the_family_lacks_are_refused():
    with pytest.raises(WeightsError, match="regresses defocus_waves, which gaussian-2 does not have"):
        targets("gaussian-2", ["sigma_y_px", "defocus_waves"])


@pytest.mark.parametrize("model", list(FAMILIES))
def test_mirroring_and_transposing_quantities_is_what_it_does_to_kernels(model):
    chosen, parameters = family(model), _draw(model, 6)
    kernels, values = chosen.kernels(parameters, 21), targets(model).encode(parameters)

    def kernels_of(changed):
        return chosen.kernels(targets(model).decode(changed, torch.zeros_like(changed))[0], 21)

    for axis in (-2, -1):
        mirrored = kernels_of(targets(model).mirror(values, axis))
        torch.testing.assert_close(mirrored, kernels.flip(axis), atol=1e-5, rtol=0)
    turned = kernels_of(targets(model).transpose(values))
    torch.testing.assert_close(turned, kernels.transpose(-2, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("model", ["gaussian-2", "zernike-3", "zernike-7"])
def test_the_mean_over_eight_views_turns_with_the_patch(model):
    network = _network(model)
    patch = torch.rand((1, 128, 128), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        values, errors, _ = network.regress(patch, 8)
        mirrored, _, _ = network.regress(patch.flip(-1), 8)
        transposed, other_errors, _ = network.regress(patch.transpose(-2, -1), 8)
    torch.testing.assert_close(mirrored, targets(model).mirror(values, -1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(transposed, targets(model).transpose(values), atol=1e-4, rtol=1e-4)
    assert torch.all(errors > 0)
    assert torch.all(other_errors > 0)


def test_an_odd_number_of_views_is_refused():
    with pytest.raises(InvalidInputError, match="views must be 1, 2, 4 or 8"):
        _network().estimate(torch.rand((1, 128, 128)), views=3)


def test_a_cards_factors_scale_the_predicted_errors_and_nothing_else():
    network = _network("gaussian-2")
    patch = torch.rand((2, 128, 128), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        before = network.regress(patch, 8)
        network.set_error_scale({"sigma_y_px": 0.5, "sigma_x_px": 2.0})
        after = network.regress(patch, 8)
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[1], before[1] * torch.tensor([0.5, 2.0]))
    with pytest.raises(WeightsError, match="error_scale lacks sigma_x_px"):
        network.set_error_scale({"sigma_y_px": 0.5})
