"""Steps that are recorded once: when, what happens if that fails, and that nothing is kept of an old step."""

from functools import partial

import numpy as np
import pytest
import torch

from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.engine import Engine
from napari_deblur.methods.base import make_method
from napari_deblur.nets import repeated
from napari_deblur.nets.repeated import Repeated
from napari_deblur.optics.psf import make_psf
from napari_deblur.steps.deblur import Deblur

CPU = torch.device("cpu")
METHODS = {
    "cider": {"n_iterations": 7, "feature_iterations": 3, "start": "hyper-laplacian"},
    "self-deblur": {"n_iterations": 12, "structure_from": 0.5},
}


def into_the_same_place(compute):
    """Record as a graph does: every step leaves its results in the same tensors."""
    kept = []

    def again():
        found = compute()
        if not kept:
            kept.extend(one.clone() for one in found)
        for place, one in zip(kept, found, strict=True):
            place.copy_(one)
        return tuple(kept)

    return again


def failing(compute):
    raise RuntimeError("operation not permitted when stream is capturing\nmore lines")


def counted():
    total = torch.zeros(1)
    return total, lambda: (total.add_(1).clone(),)


def test_a_step_is_recorded_after_a_few_and_then_only_replayed():
    total, compute = counted()
    recorded = []

    def record(step):
        recorded.append(int(total))
        return into_the_same_place(step)

    run = Run()
    step = Repeated(compute, CPU, run, record)
    values = [float(step()[0]) for _ in range(8)]
    assert values == [1, 2, 3, 4, 5, 6, 7, 8]
    assert recorded == [3]
    assert run.facts["recorded_steps"] is True


def test_without_a_card_nothing_is_recorded():
    _, compute = counted()
    run = Run()
    step = Repeated(compute, CPU, run)
    assert [float(step()[0]) for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    assert run.facts == {}


def test_a_failure_to_record_is_said_and_costs_no_step():
    _, compute = counted()
    run = Run()
    step = Repeated(compute, CPU, run, failing)
    assert [float(step()[0]) for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    (note,) = run.notes
    assert "recording one failed (operation not permitted when stream is capturing)" in note
    assert "recorded_steps" not in run.facts


def restored(method):
    rng = np.random.default_rng(0)
    image = np.cumsum(rng.random((40, 48), dtype=np.float32), axis=1)
    psf = make_psf("gaussian-1", [1.5], size_px=9)
    step = Deblur(method=make_method(method, **METHODS[method]))
    return step.run(Image(image), psf, engine=Engine("cpu"))


@pytest.mark.parametrize("method", list(METHODS))
def test_methods_keep_nothing_that_the_next_step_overwrites(method, monkeypatch):
    plain = restored(method)
    monkeypatch.setattr(repeated, "Repeated", partial(Repeated, record=into_the_same_place))
    replayed = restored(method)
    assert replayed.record.facts["recorded_steps"] is True
    np.testing.assert_array_equal(replayed.image.data, plain.image.data)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", list(METHODS))
def test_recorded_steps_give_what_single_ones_give(method, monkeypatch):
    image = np.cumsum(np.random.default_rng(0).random((64, 72), dtype=np.float32), axis=1)
    psf = make_psf("gaussian-1", [1.5], size_px=9)
    step = Deblur(method=make_method(method, **METHODS[method]))
    recorded = step.run(Image(image), psf, engine=Engine("cuda"))
    assert recorded.record.facts.get("recorded_steps") is True, recorded.record.notes
    monkeypatch.setattr(repeated, "Repeated", partial(Repeated, record=lambda compute: compute))
    single = step.run(Image(image), psf, engine=Engine("cuda"))
    np.testing.assert_allclose(recorded.image.data, single.image.data, atol=0.02 * np.ptp(image))
