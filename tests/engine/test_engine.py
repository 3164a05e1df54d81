import threading

import numpy as np
import pytest
import torch

from napari_deblur.core.errors import CancelledError, DeviceError, InvalidInputError
from napari_deblur.core.run import Run
from napari_deblur.engine import device as device_module
from napari_deblur.engine.device import choose_device, is_out_of_memory
from napari_deblur.engine.engine import Engine, get_engine, use_device
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
    small = Engine("cpu", budget_bytes=100 * 100 * 4)
    assert small.tile_px((1000, 1000), 5, 4.0) == 90
    assert Engine("cpu", budget_bytes=10**9).tile_px((1000, 500), 5, 4.0) == 1000


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
