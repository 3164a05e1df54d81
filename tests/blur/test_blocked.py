"""The piecewise filter is the filter, whatever the threads and modes."""

import threading

import pytest
import torch

from napari_deblur.blur import blocked
from napari_deblur.blur.blocked import BlockedFilter, each, suits
from napari_deblur.blur.convolution import Convolution


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(10, 24, 30), (27, 8, 9), (1, 16, 20), (40, 50), (64, 9)])
@pytest.mark.parametrize("piece_bytes", [2**7, 2**12, 2**20])
def test_equals_the_transform_over_all_axes(shape, piece_bytes, threads, monkeypatch):
    monkeypatch.setattr(blocked, "_PIECE_BYTES", piece_bytes)
    torch.manual_seed(0)
    x, transfer = torch.randn(shape), torch.fft.rfftn(torch.randn(shape))
    for conjugate in (False, True):
        factor = transfer.conj() if conjugate else transfer
        expected = torch.fft.irfftn(torch.fft.rfftn(x) * factor, s=shape)
        filter_ = BlockedFilter(shape)
        found = filter_(x, transfer, conjugate=conjugate)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        own = x.clone()
        again = filter_(own, transfer, conjugate=conjugate, overwrite=True)
        assert again is own
        torch.testing.assert_close(again, found)


@pytest.mark.usefixtures("threads")
def test_works_in_and_out_of_inference_mode():
    filter_, transfer = BlockedFilter((6, 8, 10)), torch.fft.rfftn(torch.rand(6, 8, 10))
    with torch.inference_mode():
        inside = filter_(torch.ones(6, 8, 10), transfer)
    outside = filter_(torch.ones(6, 8, 10), transfer)
    torch.testing.assert_close(inside.clone(), outside)
    with torch.inference_mode():
        torch.testing.assert_close(filter_(torch.ones(6, 8, 10), transfer), inside)


def test_the_convolution_of_a_large_volume_is_the_same_both_ways(monkeypatch):
    torch.manual_seed(0)
    kernel = torch.rand(3, 5, 5)
    plain, piecewise = Convolution(kernel, (12, 40, 44)), Convolution(kernel, (12, 40, 44))
    x, y = torch.rand(plain.grid_shape), plain.place(torch.rand(12, 40, 44))
    expected = plain.forward_on_grid(x), plain.adjoint_on_grid(y)
    monkeypatch.setattr(blocked, "_LEAST_VOXELS", {3: 1})
    assert suits(x, 3)
    torch.testing.assert_close(piecewise.forward_on_grid(x), expected[0], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(
        piecewise.adjoint_on_grid(y.clone(), overwrite=True), expected[1], atol=1e-3, rtol=1e-4
    )


def test_suits_large_grids_of_the_cpu_only():
    assert not suits(torch.empty(64, 64, 64), 3)
    assert suits(torch.empty(128, 128, 128), 3)
    assert not suits(torch.empty(128, 128, 128, requires_grad=True), 3)
    assert not suits(torch.empty(2, 128, 128, 128), 3)
    assert not suits(torch.empty(128, 128, 128, device="meta"), 3)
    assert not suits(torch.empty(1024, 1024), 2)


def test_threads_compute_alone_and_leave_the_process_as_it_was(threads):
    seen = set()
    each(lambda _: seen.add((threading.current_thread().name, torch.get_num_threads())), range(50))
    assert torch.get_num_threads() == threads
    if threads > 1:
        assert {count for _, count in seen} == {1}
        found = []
        late = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        late.start()
        late.join()
        assert found == [threads]


@pytest.mark.usefixtures("threads")
def test_what_a_piece_raises_is_raised():
    def fail(start):
        if start == 3:
            raise MemoryError

    with pytest.raises(MemoryError):
        each(fail, range(5))
