"""A chain of blurs, piece by piece, is what whole transforms make of it, whatever the threads and modes."""

import pytest
import torch

from napari_deblur.blur import chain as chain_module
from napari_deblur.blur import mkl
from napari_deblur.blur.chain import Chain, MklChain, make_chain, suits
from napari_deblur.blur.convolution import Convolution
from napari_deblur.core.run import Run
from napari_deblur.methods.emission import Emission
from napari_deblur.methods.richardson_lucy import RichardsonLucy, TVRichardsonLucy

KINDS = [Chain, pytest.param(MklChain, marks=pytest.mark.skipif(not mkl.available(), reason="no MKL here"))]
SHAPES = [(10, 24, 30), (27, 8, 9), (3, 16, 20), (40, 50), (64, 9), (7, 33)]


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(chain_module, "_LEAST_VOXELS", {2: 1, 3: 1})
    monkeypatch.setattr(chain_module, "PIECE_BYTES", 2**11)


def _inner(shape, margin):
    """Return the region that leaves out a margin along all axes but the last, and its mask."""
    region = tuple(slice(margin, size - margin) for size in shape[:-1])
    mask = torch.zeros(shape)
    mask[region] = 1
    return region, mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("piece_bytes", [2**7, 2**12, 2**20])
@pytest.mark.usefixtures("threads")
def test_equals_whole_transforms(kind, shape, piece_bytes, monkeypatch):
    monkeypatch.setattr(chain_module, "PIECE_BYTES", piece_bytes)
    torch.manual_seed(0)
    transfer = torch.fft.rfftn(torch.randn(shape))
    (inner, inner_mask), (whole, _) = _inner(shape, 1), _inner(shape, 0)
    factor, x = torch.rand(shape), torch.randn(shape)

    def filtered(values, transfer):
        return torch.fft.irfftn(torch.fft.rfftn(values) * transfer, s=shape)

    chain = kind(transfer, shape)
    found = []
    for _ in range(2):  # nothing is left over from the time before
        result = torch.zeros(shape)
        chain.load(x * inner_mask, inner)
        chain.filter(inner, inner)
        chain.work(lambda place, values: values.mul_(factor[place]), inner)
        chain.filter(inner, whole, conjugate=True)
        chain.store(result, whole)
        found.append(result)
    expected = filtered(filtered(x * inner_mask, transfer) * factor * inner_mask, transfer.conj())
    torch.testing.assert_close(found[0], expected, atol=2e-5 * float(expected.abs().max()), rtol=0)
    torch.testing.assert_close(found[0], found[1], atol=0, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_takes_grids_of_any_memory_order(kind):
    shape = (12, 10, 14)
    x, (region, _) = torch.randn(14, 10, 12).permute(2, 1, 0), _inner(shape, 0)
    chain, result = kind(torch.ones(12, 10, 8, dtype=torch.complex64), shape), torch.zeros(shape)
    chain.load(x, region)
    chain.filter(region, region)
    chain.store(result, region)
    torch.testing.assert_close(result, x, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("threads")
def test_works_in_and_out_of_inference_mode(kind):
    shape, (region, _) = (6, 8, 10), _inner((6, 8, 10), 0)
    chain = kind(torch.fft.rfftn(torch.rand(shape)), shape)

    def filtered():
        result = torch.zeros(shape)
        chain.load(torch.ones(shape), region)
        chain.filter(region, region)
        chain.store(result, region)
        return result

    with torch.inference_mode():
        inside = filtered()
    torch.testing.assert_close(inside.clone(), filtered())


@pytest.mark.parametrize(
    ("kernel_shape", "image_shape"), [((3, 5, 5), (12, 40, 44)), ((7, 5), (60, 70)), ((1, 3, 3), (9, 20, 20))]
)
def test_a_convolution_is_the_same_both_ways(kernel_shape, image_shape, monkeypatch):
    torch.manual_seed(0)
    kernel = torch.rand(kernel_shape)
    plain, piecewise = Convolution(kernel, image_shape), Convolution(kernel, image_shape)
    x, y = plain.place(torch.rand(image_shape)), plain.place(torch.rand(image_shape))
    expected = plain.crop(plain.forward_on_grid(x)), plain.object_part(plain.adjoint_on_grid(y))
    assert plain.chain(x) is None
    monkeypatch.setattr(chain_module, "_LEAST_VOXELS", {2: 1, 3: 1})
    assert piecewise.chain(x) is not None
    forward = piecewise.forward_on_grid(x)
    assert bool(forward.isfinite().all())
    torch.testing.assert_close(piecewise.crop(forward), expected[0], atol=1e-3, rtol=1e-4)
    mine = y.clone()
    back = piecewise.adjoint_on_grid(mine, overwrite=True)
    assert back is mine
    torch.testing.assert_close(piecewise.object_part(back), expected[1], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("method", [RichardsonLucy(n_iterations=6), TVRichardsonLucy(n_iterations=6)])
@pytest.mark.parametrize("shape", [(50, 60), (10, 24, 30)])
@pytest.mark.parametrize("pedestal", [0.0, 0.1])
@pytest.mark.usefixtures("threads")
def test_methods_find_the_same_both_ways(method, shape, pedestal, monkeypatch):
    torch.manual_seed(0)
    kernel = torch.rand(*(3,) * (len(shape) - 2), 5, 7)
    y, results = torch.rand(shape) + 0.2, []
    for least in (10**9, 1):
        monkeypatch.setattr(chain_module, "_LEAST_VOXELS", {2: least, 3: least})
        blur = Convolution(kernel / kernel.sum(), shape)
        blur.pedestal = pedestal
        assert (Emission(y, blur).chain(blur.place(y)) is None) == (least > 1)
        partials = []
        run = Run(on_progress=lambda progress, kept=partials: kept.append(progress.partial.clone()))
        results.append((method.solve(y, blur, run), partials))
    (plain, plain_partials), (piecewise, partials) = results
    torch.testing.assert_close(piecewise, plain, atol=2e-5 * float(plain.max()), rtol=1e-3)
    assert len(partials) == method.n_iterations
    for one, other in zip(partials, plain_partials, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5 * float(plain.max()), rtol=1e-3)


@pytest.mark.usefixtures("small_pieces")
def test_a_measured_stop_and_other_back_projectors_still_iterate_on_whole_grids():
    torch.manual_seed(0)
    kernel = torch.rand(5, 5)
    y, blur = torch.rand(40, 40) + 0.5, Convolution(kernel / kernel.sum(), (40, 40))
    back = Emission(y, blur, back=lambda on_grid: on_grid)
    assert back.chain(blur.place(y)) is None
    stopped = RichardsonLucy(n_iterations=50, stop="no-progress", tolerance=0.05)
    run = Run()
    found = stopped.solve(y, blur, run)
    again = RichardsonLucy(n_iterations=run.facts["iterations"]).solve(y, blur, Run())
    torch.testing.assert_close(found, again, atol=1e-4, rtol=1e-3)


def test_suits_large_grids_of_the_cpu_only():
    assert not suits(torch.empty(32, 64, 64), 3)
    assert suits(torch.empty(128, 128, 128), 3)
    assert suits(torch.empty(1024, 1024), 2)
    assert not suits(torch.empty(128, 128, 128, requires_grad=True), 3)
    assert not suits(torch.empty(2, 128, 128, 128), 3)
    assert not suits(torch.empty(128, 128, 128, device="meta"), 3)


def test_without_mkl_torch_transforms(monkeypatch):
    transfer = torch.ones(6, 5, dtype=torch.complex64)
    monkeypatch.setattr(mkl, "available", lambda: False)
    assert type(make_chain(transfer, (6, 8))) is Chain
    monkeypatch.setattr(mkl, "available", lambda: True)
    assert type(make_chain(transfer.to(torch.complex128), (6, 8))) is Chain
