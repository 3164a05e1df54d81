"""What every method in the list must do."""

from typing import ClassVar, Literal

import numpy as np
import pytest
import torch
from skimage import data

from napari_deblur.blur.convolution import Convolution
from napari_deblur.core.errors import InvalidInputError, UnknownNameError
from napari_deblur.core.image import Image
from napari_deblur.core.params import Param, parameters
from napari_deblur.core.run import Run
from napari_deblur.engine.engine import Engine
from napari_deblur.methods import base
from napari_deblur.methods.base import Method, make_method, registry
from napari_deblur.methods.richardson_lucy import RichardsonLucy, TVRichardsonLucy, curvature
from napari_deblur.methods.wiener import Wiener
from napari_deblur.optics.psf import make_psf
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.quality import snr_db
from napari_deblur.steps.deblur import Deblur

METHODS = sorted(registry())
# Zero-shot methods start from a classical result; a few steps of theirs show all that is tested here.
QUICK = {
    "cider": {"n_iterations": 3, "start": "hyper-laplacian", "feature_iterations": 5},
    "self-deblur": {"n_iterations": 3},
    # Half precision amplifies the rounding of the input to a few thousandths; a test of its own bounds that.
    "deep-blur": {"precision": "float32"},
    # Some PSFs here are of no family that it knows.
    "latent-deformation": {"tolerance": 1.0},
}
SIZE, RADIUS = 160, 32
SHARP = (
    data.camera()[60 : 60 + SIZE + 2 * RADIUS, 160 : 160 + SIZE + 2 * RADIUS].astype(np.float32) / 255 + 0.02
)
TRUTH = SHARP[RADIUS:-RADIUS, RADIUS:-RADIUS]
KERNEL = make_psf("zernike-3", [0.25, 0.1, 0.6])


def quick(method):
    return {"kind": method, **QUICK.get(method, {})}


@pytest.fixture(scope="module")
def engine():
    return Engine("cpu")


@pytest.fixture(scope="module")
def blurred():
    clean = Convolution(torch.from_numpy(KERNEL), (SIZE, SIZE)).forward(torch.from_numpy(SHARP)).numpy()
    return (np.random.default_rng(0).poisson(np.maximum(clean, 0) * 3000) / 3000).astype(np.float32)


@pytest.fixture(scope="module")
def psf_map():
    parameters_ = np.zeros((3, 3, 3), np.float32)
    parameters_[..., 0] = np.linspace(0.05, 0.35, 3)
    parameters_[..., 1] = 0.1
    position = np.linspace(20, 140, 3)
    centers = np.stack(np.meshgrid(position, position, indexing="ij"), axis=-1)
    return PsfMap.from_parameters("zernike-3", parameters_, centers_px=centers, image_shape=(SIZE, SIZE))


def test_the_kernel_fills_the_margin():
    assert KERNEL.shape == (2 * RADIUS + 1, 2 * RADIUS + 1)


@pytest.mark.parametrize("method", METHODS)
def test_gains_over_the_blurred_image(method, engine, blurred):
    result = Deblur(method=quick(method)).run(Image(blurred), KERNEL, engine=engine)
    assert result.image.data.shape == blurred.shape
    assert result.image.data.dtype == np.float32
    assert snr_db(result.image.data, TRUTH) > snr_db(blurred, TRUTH) + 1.5
    assert (result.image.data >= 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_borders_are_as_good_as_the_middle(method, engine, blurred):
    """No ringing from the frame: the error in a border of 8 pixels stays within twice the whole's."""
    result = Deblur(method=quick(method)).run(Image(blurred), KERNEL, engine=engine).image.data
    error = (result - TRUTH) ** 2
    border = np.ones_like(error, bool)
    border[8:-8, 8:-8] = False
    assert error[border].mean() < 2 * error.mean()


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        (kind, method)
        for kind in ("kernel", "map")
        for method in METHODS
        if registry()[method].tiles_agree and (kind == "kernel" or registry()[method].space_varying)
    ],
)
def test_tiled_equals_untiled_to_1e_4_of_the_range(method, kind, engine, blurred, psf_map):
    psf = KERNEL if kind == "kernel" else psf_map
    whole = Deblur(method=quick(method)).run(Image(blurred), psf, engine=engine).image.data
    tiled = Deblur(method=quick(method), tile_px=64).run(Image(blurred), psf, engine=engine).image.data
    assert np.abs(whole - tiled).max() < 1e-4 * np.ptp(whole)


def test_a_method_whose_tiles_differ_says_so(engine, blurred):
    psf = make_psf("gaussian-1", [1.2], size_px=9)  # small, so that a tile with its halo is not the whole
    whole = Deblur(method="wiener").run(Image(blurred), psf, engine=engine)
    tiled = Deblur(method="wiener", tile_px=64).run(Image(blurred), psf, engine=engine)
    assert np.abs(whole.image.data - tiled.image.data).max() < 0.05 * np.ptp(whole.image.data)
    assert not whole.record.notes
    assert any("in tiles" in note for note in tiled.record.notes)


@pytest.mark.parametrize("method", METHODS)
def test_scale_and_offset_are_kept(method, engine, blurred):
    plain = Deblur(method=quick(method)).run(Image(blurred), KERNEL, engine=engine).image.data
    counts = Deblur(method=quick(method), camera_offset=100).run(
        Image(blurred * 500 + 100), KERNEL, engine=engine
    )
    # An optimised network amplifies the rounding of the offset.
    share = 1e-2 if registry()[method].family == "zero-shot" else 1e-3
    np.testing.assert_allclose(counts.image.data, plain * 500 + 100, rtol=share, atol=500 * share)
    assert abs(counts.record.facts["flux_change"]) < 0.02


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_result(method, engine, blurred):
    first, second = (
        Deblur(method=quick(method), seed=3).run(Image(blurred), KERNEL, engine=engine) for _ in range(2)
    )
    np.testing.assert_array_equal(first.image.data, second.image.data)
    assert first.record.seed == 3


@pytest.mark.parametrize("method", METHODS)
def test_cancel_within_an_iteration_keeps_the_partial_result(method, engine, blurred):
    run = Run()
    seen = []

    def stop_at_second(progress):
        if progress.partial is not None:
            seen.append(progress)
            if len(seen) == 2:
                run.cancel()

    run.on_progress = stop_at_second
    result = Deblur(method=quick(method)).run(Image(blurred), KERNEL, engine=engine, run=run)
    assert result.partial
    assert result.record.partial
    assert len(seen) == 2
    assert np.isfinite(result.image.data).all()
    assert snr_db(result.image.data, TRUTH) > snr_db(blurred, TRUTH) - 3


@pytest.mark.parametrize("method", METHODS)
def test_stacks_are_restored_plane_by_plane(method, engine, blurred):
    stack = np.stack([blurred[:64, :64], np.zeros((64, 64), np.float32), blurred[64:128, 64:128]])
    result = Deblur(method=quick(method)).run(Image(stack), make_psf("gaussian-1", [1.5]), engine=engine)
    alone = Deblur(method=quick(method)).run(Image(stack[2]), make_psf("gaussian-1", [1.5]), engine=engine)
    np.testing.assert_array_equal(result.image.data[1], 0)
    np.testing.assert_allclose(result.image.data[2], alone.image.data, atol=1e-3)
    assert any("constant" in note for note in result.record.notes)


@pytest.mark.parametrize("method", METHODS)
def test_the_record_replays_the_run(method, engine, blurred):
    result = Deblur(method=quick(method)).run(Image(blurred), KERNEL, engine=engine)
    again = Deblur.model_validate(result.record.step)
    assert again.method == make_method(quick(method))
    assert result.record.step["method"]["kind"] == method


@pytest.mark.parametrize("method", METHODS)
def test_every_declaration_is_complete(method):
    cls = registry()[method]
    for attribute in ("title", "summary", "reference", "family"):
        assert getattr(cls, attribute)
    for info in parameters(cls):
        assert info.title
        assert info.help.endswith(".")
        if info.kind in ("int", "float"):
            assert info.low is not None
            assert info.high is not None


def test_plain_iterations_increase_the_likelihood(blurred):
    blur = Convolution(torch.from_numpy(KERNEL), (SIZE, SIZE))
    y = torch.from_numpy(blurred)
    likelihoods = []
    for n_iterations in (1, 5, 20, 60):
        model = blur.forward(RichardsonLucy(n_iterations=n_iterations).solve(y, blur, Run())).clamp_min(1e-9)
        likelihoods.append(float((y * model.log() - model).sum()))
    assert likelihoods == sorted(likelihoods)


def test_richardson_lucy_keeps_the_flux_of_the_model(blurred):
    blur = Convolution(torch.from_numpy(KERNEL), (SIZE, SIZE))
    y = torch.from_numpy(blurred)
    model = blur.forward(RichardsonLucy(n_iterations=10).solve(y, blur, Run()))
    assert float(model.sum()) == pytest.approx(float(y.sum()), rel=1e-3)


def test_tv_smooths_and_zero_weight_is_plain(blurred):
    blur = Convolution(torch.from_numpy(KERNEL), (SIZE, SIZE))
    y = torch.from_numpy(blurred)

    def variation(tv_weight):
        x = TVRichardsonLucy(n_iterations=50, tv_weight=tv_weight).solve(y, blur, Run())
        return float(blur.crop(x).diff(dim=0).abs().sum())

    assert variation(0.02) < variation(0.005) < variation(0)
    torch.testing.assert_close(
        TVRichardsonLucy(tv_weight=0).solve(y, blur, Run()), RichardsonLucy().solve(y, blur, Run())
    )


@pytest.mark.parametrize("tv_weight", [0.002, 0.02, 0.1])
def test_tv_does_not_amplify_rounding_errors(tv_weight, blurred):
    blur = Convolution(torch.from_numpy(KERNEL), (SIZE, SIZE))
    y = torch.from_numpy(blurred)
    method = TVRichardsonLucy(n_iterations=60, tv_weight=tv_weight)
    torch.manual_seed(0)
    moved = method.solve(y * (1 + 1e-6 * torch.randn_like(y)), blur, Run())
    change = blur.crop(moved - method.solve(y, blur, Run())).abs().max()
    assert float(change) < 1e-3


def test_curvature_is_the_negative_gradient_of_total_variation():
    torch.manual_seed(0)
    x = torch.rand(12, 13, dtype=torch.float64, requires_grad=True)
    dy, dx = torch.diff(x, dim=0, append=x[-1:]), torch.diff(x, dim=1, append=x[:, -1:])
    torch.sqrt(dy**2 + dx**2 + 0.01**2).sum().backward()
    torch.testing.assert_close(curvature(x.detach(), 0.01), -x.grad)


def test_automatic_stop_ends_early_and_reports_it(engine, blurred):
    method = RichardsonLucy(n_iterations=500, stop="no-progress", tolerance=0.01)
    result = Deblur(method=method).run(Image(blurred), KERNEL, engine=engine)
    assert 2 < result.record.facts["iterations"] < 100


def test_wiener_follows_the_noise(engine, blurred):
    rng = np.random.default_rng(1)
    ratios = []
    for sigma in (0.001, 0.02, 0.1):
        noisy = Image((blurred + sigma * rng.standard_normal(blurred.shape)).astype(np.float32))
        ratios.append(
            Deblur(method="wiener").run(noisy, KERNEL, engine=engine).record.facts["noise_to_signal"]
        )
    assert ratios == sorted(ratios)
    assert ratios[0] < ratios[-1] / 5


def test_wiener_solves_its_normal_equations(blurred):
    blur = Convolution(torch.from_numpy(make_psf("gaussian-1", [1.5])), (48, 48))
    y = torch.from_numpy(blurred[:48, :48])
    x = Wiener(noise_to_signal=0.01, clip_negative=False).solve(y, blur, Run()).requires_grad_()
    dy, dx = x.diff(dim=0), x.diff(dim=1)
    ((blur.forward(x) - y).square().sum() + 0.01 * (dy.square().sum() + dx.square().sum())).backward()
    assert float(x.grad.norm()) < 1e-3 * float(blur.adjoint(y).norm())


def test_unknown_methods_and_parameters_are_named():
    with pytest.raises(UnknownNameError, match="method must be one of"):
        make_method("magic")
    with pytest.raises(InvalidInputError, match="n_iterations"):
        make_method("wiener", n_iterations=3)
    with pytest.raises(InvalidInputError, match="method"):
        make_method(3)
    assert make_method(RichardsonLucy(), n_iterations=7).n_iterations == 7


def test_another_package_can_add_a_method(monkeypatch, engine, blurred):
    class Identity(Method):
        kind: Literal["identity"] = "identity"
        title: ClassVar[str] = "Identity"
        summary: ClassVar[str] = "Nothing."
        reference: ClassVar[str] = "none"
        family: ClassVar[str] = "linear"
        gain: float = Param(1.0, ge=0, le=2, title="Gain", help="Factor.")

        def halo_px(self, psf_radius_px):
            return 0

        def solve(self, y, blur, run):
            return self.gain * blur.extend(y)

    class Entry:
        def load(self):
            return Identity

    registry.cache_clear()
    monkeypatch.setattr(base, "entry_points", lambda group: [Entry()])
    try:
        result = Deblur(method={"kind": "identity", "gain": 2}).run(Image(blurred), KERNEL, engine=engine)
    finally:
        registry.cache_clear()
    np.testing.assert_allclose(result.image.data, 2 * blurred, rtol=1e-5)
    assert result.record.step["method"] == {"kind": "identity", "gain": 2.0}
