from __future__ import annotations

import pytest

from napari_deblur.batch.whole import engine_of
from napari_deblur.engine import shared as module


@pytest.fixture
def chosen(monkeypatch):
    """Let a test choose the device without leaving it chosen."""
    monkeypatch.setattr(module, "_shared", module._shared)
    return module.use_device


def test_the_engine_is_that_of_the_device_chosen_last(chosen):
    before = engine_of(None)
    after = chosen("cpu")
    assert after is not before
    assert engine_of(None) is after


def test_an_engine_within_a_limit_is_kept_for_its_device(chosen):
    chosen("cpu")
    one = engine_of(10**8)
    assert (one.device, engine_of(10**8)) == ("cpu", one)
    assert engine_of(2 * 10**8) is not one
