import json
import threading

import numpy as np
import pytest
import torch

from napari_deblur.core.errors import CancelledError, DeviceError, InvalidInputError
from napari_deblur.core.run import Run
from napari_deblur.engine import device as device_module
from napari_deblur.engine.device import choose_device, is_out_of_memory
from napari_deblur.engine.engine import Engine
from napari_deblur.engine.plan import MemoryPlan, human_bytes
from napari_deblur.engine.shared import get_engine, use_device
from napari_deblur.engine.tiling import Tiling

PLANE = np.random.default_rng(0).random((150, 210)).astype(np.float32)


@pytest.fixture
def engine():
    return Engine("cpu")


def box(tile, window, run):
    """Mean over 11 × 11 pixels: needs a halo of 5."""
    del window
    run.step(1, 1, "box")
    padded = torch.nn.functional.pad(tile[None, None], (5, 5, 5, 5), mode="reflect")
    return torch.nn.functional.avg_pool2d(padded, 11, 1)[0]


@pytest.mark.parametrize("shape", [(150, 210), (64, 64), (65, 400), (17, 33)])
@pytest.mark.parametrize("tile_px", [16, 64, 100, 1000])
@pytest.mark.parametrize("blend_px", [0, 1, 16])
def test_tile_weights_add_up_to_one(shape, tile_px, blend_px):
    tiling = Tiling(shape, tile_px, 8, blend_px)
    total = np.zeros(shape, np.float32)
    for window in tiling.windows:
        total[window.keep] += tiling.weights(window)
    np.testing.assert_allclose(total, 1, atol=1e-5)


@pytest.mark.parametrize("tile_px", [16, 50, 100])
def test_tiled_equals_untiled(engine, tile_px):
    whole = engine.over_tiles(PLANE, box, Run(), halo_px=5, bytes_per_px=1.0)
    tiled = engine.over_tiles(PLANE, box, Run(), halo_px=5, bytes_per_px=1.0, tile_px=tile_px)
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


def test_small_budget_makes_small_tiles():
    small = Engine("cpu", budget_bytes=100 * 100 * 4).plan((1000, 1000), halo_px=5, bytes_per_px=4.0)
    assert max(small.tile) <= 90
    assert small.n_tiles > 100
    assert small.device_bytes <= 100 * 100 * 4
    assert small.fits
    large = Engine("cpu", budget_bytes=10**9).plan((1000, 500), halo_px=5, bytes_per_px=4.0)
    assert (large.tile, large.n_tiles, large.device_bytes) == ((1000, 500), 1, 2_000_000)


def test_a_plan_that_cannot_fit_says_so():
    plan = Engine("cpu", budget_bytes=100).plan((300, 300), halo_px=5, bytes_per_px=4.0)
    assert not plan.fits
    assert min(plan.tile) >= 50


@pytest.mark.parametrize("halo", [(20, 4, 4), (2, 30, 30)])
@pytest.mark.parametrize("budget", [40_000, 150_000, 600_000])
def test_volumes_are_cut_where_it_costs_least(halo, budget):
    shape = (40, 200, 150)
    plan = Engine("cpu", budget_bytes=budget * 4).plan(shape, halo_px=halo, bytes_per_px=4.0)
    tiling = Tiling(shape, plan.tile, halo, 16)
    assert plan.window == tiling.largest
    assert plan.n_tiles == len(tiling.windows)
    if plan.fits:
        assert np.prod(plan.window) * 4 <= budget * 4
    if halo[0] == 20:
        assert plan.tile[0] == 40  # a halo of half the stack: cutting it would save nothing


@pytest.mark.parametrize("tile", [(40, 30, 35), (9, 64, 64), (5, 100, 20)])
def test_weights_of_volumes_add_up_to_one(tile):
    tiling = Tiling((20, 70, 65), tile, (2, 3, 4), 8)
    total = np.zeros((20, 70, 65), np.float32)
    for window in tiling.windows:
        total[window.keep] += tiling.weights(window)
    np.testing.assert_allclose(total, 1, atol=1e-5)


def test_tiled_volumes_equal_untiled(engine):
    def smooth(tile, window, run):
        padded = torch.nn.functional.pad(tile[None, None], (2, 2, 2, 2, 1, 1), mode="replicate")
        return torch.nn.functional.avg_pool3d(padded, (3, 5, 5), 1)[0]

    volume = np.random.default_rng(0).random((24, 150, 80)).astype(np.float32)
    small = Engine("cpu", budget_bytes=20 * 90 * 90 * 4)
    whole = engine.over_tiles(volume, smooth, Run(), halo_px=(1, 2, 2), bytes_per_px=4.0)
    tiled = small.over_tiles(volume, smooth, Run(), halo_px=(1, 2, 2), bytes_per_px=4.0)
    assert small.plan(volume.shape, halo_px=(1, 2, 2), bytes_per_px=4.0).n_tiles > 1
    np.testing.assert_allclose(tiled, whole, atol=1e-6)


def test_memory_is_told_for_people_and_machines():
    tiles = Engine("cpu").plan((1000, 500), halo_px=5, bytes_per_px=4.0)
    plan = MemoryPlan(tiles, 3, 12_000_000, "CPU")
    assert plan.bytes == 14_000_000
    assert str(plan) == "3 planes in one piece: 14 MB of memory"
    assert json.loads(json.dumps(plan.to_dict()))["tiles_per_block"] == 1


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 B"), (2_400, "2 kB"), (3_450_000, "3.5 MB"), (20e9, "20 GB")]
)
def test_bytes_for_people(count, text):
    assert human_bytes(count) == text


def test_out_of_memory_halves_the_tile_and_goes_on(engine):
    def greedy(tile, window, run):
        if tile.numel() > 90 * 90:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return box(tile, window, run)

    run = Run()
    result = engine.over_tiles(PLANE, greedy, run, halo_px=5, bytes_per_px=1.0)
    np.testing.assert_allclose(
        result, engine.over_tiles(PLANE, box, Run(), halo_px=5, bytes_per_px=1.0), atol=1e-6
    )
    assert any("Memory ran out" in note for note in run.notes)


def test_memory_that_never_suffices_is_a_device_error(engine):
    def hopeless(tile, window, run):
        raise MemoryError

    with pytest.raises(DeviceError, match="memory ran out"):
        engine.over_tiles(PLANE, hopeless, Run(), halo_px=5, bytes_per_px=1.0)


def test_gpu_without_memory_falls_back_to_the_cpu_and_says_so(engine, monkeypatch):
    engine.report = device_module.DeviceReport("meta", "a full card", "test")
    monkeypatch.setattr(torch, "from_numpy", _FromNumpyThatIsFull(torch.from_numpy))
    run = Run()
    result = engine.over_tiles(PLANE, box, run, halo_px=5, bytes_per_px=1.0, tile_px=64)
    assert np.isfinite(result).all()
    assert any("continued on the CPU" in note for note in run.notes)


class _FromNumpyThatIsFull:
    """Stand-in for a card that has no memory left: nothing can be moved to the device 'meta'."""

    def __init__(self, real):
        self.real = real

    def __call__(self, array):
        tensor = self.real(array)

        class Full:
            def to(self, device):
                if device == "meta":
                    raise torch.OutOfMemoryError("out of memory")
                return tensor

        return Full()


def test_other_errors_are_not_mistaken_for_memory(engine):
    def broken(tile, window, run):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        engine.over_tiles(PLANE, broken, Run(), halo_px=5, bytes_per_px=1.0)
    assert not is_out_of_memory(ValueError("out of memory"))


def test_cancel_keeps_the_tiles_that_are_done(engine):
    run = Run()
    seen = []

    def cancel_in_third(tile, window, part):
        seen.append(window)
        if len(seen) == 3:
            run.cancel()
        return box(tile, window, part)

    with pytest.raises(CancelledError) as caught:
        engine.over_tiles(PLANE, cancel_in_third, run, halo_px=5, bytes_per_px=1.0, tile_px=50)
    done = np.isfinite(caught.value.partial[0])
    assert 0 < done.sum() < done.size


def test_one_job_at_a_time_and_a_waiting_job_can_be_cancelled(engine):
    inside, outcome = threading.Event(), []
    waiting = Run()

    def second():
        inside.set()
        try:
            with engine.job(waiting):
                outcome.append("ran")
        except CancelledError:
            outcome.append("cancelled")

    with engine.job(Run()):
        thread = threading.Thread(target=second)
        thread.start()
        inside.wait()
        assert engine.busy
        waiting.cancel()
        thread.join(timeout=10)
    assert outcome == ["cancelled"]
    assert not engine.busy


def test_a_failing_job_frees_the_device(engine):
    with pytest.raises(ZeroDivisionError), engine.job(Run()):
        _ = 1 / 0
    assert not engine.busy


def test_device_choice_gives_its_reason(monkeypatch):
    assert choose_device("cpu").device == "cpu"
    with pytest.raises(InvalidInputError, match="device"):
        choose_device("tpu")
    monkeypatch.setattr(device_module, "_probe_cuda", lambda: (None, "no card"))
    monkeypatch.setattr(device_module, "_probe_mps", lambda: (None, "no Mac"))
    assert "no card" in str(choose_device("auto"))
    with pytest.raises(DeviceError, match="no card"):
        choose_device("cuda")
    monkeypatch.setattr(device_module, "_probe_cuda", lambda: ("H200", ""))
    assert choose_device("auto").device == "cuda"
    monkeypatch.setenv(device_module.ENV_VARIABLE, "cpu")
    assert choose_device("auto").device == "cpu"


def test_shared_engine_is_one():
    assert get_engine() is get_engine()
    replaced = use_device("cpu")
    assert get_engine() is replaced
