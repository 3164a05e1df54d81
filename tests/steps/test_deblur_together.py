"""Planes and volumes of one PSF computed together: the same result, progress, cancel, memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine import engine as engine_module
from napari_deblur.engine.engine import Engine
from napari_deblur.steps.deblur import Deblur
from napari_deblur.steps.deblur_job import DeblurJob

FLAT = np.outer(*[np.array([1, 2, 3, 2, 1], np.float32)] * 2)
FLAT /= FLAT.sum()
DEEP = np.stack([FLAT, 2 * FLAT, FLAT]) / 4
FEW = {"n_iterations": 4}
WB = "wiener-butterworth"


def stack(*shape, seed=0):
    return np.random.default_rng(seed).poisson(40, shape).astype(np.float32)


@pytest.fixture
def engine():
    return Engine("cpu")


@pytest.fixture
def groups(monkeypatch):
    """Note which planes are computed together."""
    found = []
    original = DeblurJob._several
    monkeypatch.setattr(
        DeblurJob, "_several", lambda job, group, *rest: found.append(group) or original(job, group, *rest)
    )
    return found


@pytest.fixture
def alone(monkeypatch):
    """Run a step one plane after the other."""

    def run(step, image, psf, engine):
        with monkeypatch.context() as patch:
            patch.setattr(engine_module, "_BUSY_VOXELS", {})
            return step.run(image, psf, engine=engine)

    return run


@pytest.mark.parametrize(
    ("method", "axes", "shape", "psf"),
    [
        ({"kind": "richardson-lucy", **FEW}, "tyx", (5, 40, 44), FLAT),
        (
            {"kind": "richardson-lucy", **FEW, "back_projector": "wiener-butterworth"},
            "tyx",
            (5, 40, 44),
            FLAT,
        ),
        ({"kind": "tv-richardson-lucy", **FEW, "tv_weight": 0.02}, "tcyx", (3, 2, 40, 44), FLAT),
        ({"kind": "richardson-lucy", **FEW}, "tzyx", (3, 6, 32, 36), DEEP),
        ({"kind": "tv-richardson-lucy", **FEW, "tv_weight": 0.02}, "ztyx", (6, 3, 32, 36), DEEP),
    ],
)
def test_together_equals_one_by_one(method, axes, shape, psf, engine, groups, alone):
    step = Deblur(method=method, camera_offset=30.0)
    image = Image(stack(*shape), axes)
    found = step.run(image, psf, engine=engine)
    assert [list(group) for group in groups] == [list(range(len(image.blocks(psf.ndim))))]
    expected = alone(step, image, psf, engine)
    assert len(groups) == 1
    np.testing.assert_allclose(found.image.data, expected.image.data, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(found.residual.data, expected.residual.data, atol=1e-3)
    assert found.record.notes == expected.record.notes
    for fact in ("flux_in", "flux_out", "flux_cut_off", "reblur_residual_rms"):
        assert found.record.facts[fact] == pytest.approx(expected.record.facts[fact], rel=1e-5)


@pytest.mark.parametrize(
    "method",
    [
        {"kind": "richardson-lucy", **FEW, "stop": "no-progress"},
        {"kind": "richardson-lucy", **FEW, "acceleration": "line-search"},
        {"kind": "tv-richardson-lucy", **FEW},
        {"kind": "wiener"},
    ],
)
def test_what_depends_on_each_image_goes_one_by_one(method, engine, groups):
    Deblur(method=method).run(Image(stack(3, 40, 44), "tyx"), FLAT, engine=engine)
    assert groups == []


def test_channels_of_different_psfs_and_lifted_images_go_one_by_one(engine, groups):
    step, image = Deblur(method={"kind": "richardson-lucy", **FEW}), Image(stack(2, 40, 44), "cyx")
    step.run(image, [FLAT, FLAT**2], engine=engine)
    step.run(image, FLAT, engine=engine, background=np.full((2, 40, 44), 20, np.float32))
    assert groups == []


def test_a_constant_plane_is_left_out(engine, groups):
    data = stack(5, 40, 44)
    data[2] = 7
    step = Deblur(method={"kind": "richardson-lucy", **FEW})
    found = step.run(Image(data, "tyx"), FLAT, engine=engine)
    assert [list(group) for group in groups] == [[0, 1], [3, 4]]
    assert (found.image.data[2] == 7).all()
    assert found.record.notes == ["Plane 2 is constant and was left as it is."]


def test_a_cancel_keeps_all_planes_of_the_iteration(engine, monkeypatch):
    monkeypatch.setattr(engine_module, "_BUSY_VOXELS", {"cpu": 3 * 40 * 44})
    image = Image(stack(6, 40, 44), "tyx")
    step = Deblur(method={"kind": "richardson-lucy", "n_iterations": 10})
    fractions = []

    def watch(progress):
        fractions.append(progress.fraction)
        if progress.fraction > 0.7:
            run.cancel()

    run = Run(on_progress=watch)
    found = step.run(image, FLAT, engine=engine, run=run)
    assert found.partial
    assert found.record.notes == ["Cancelled in plane 4 to 6 of 6; the rest is as it came in."]
    assert fractions == sorted(fractions)
    whole = step.run(image, FLAT, engine=engine).image.data
    np.testing.assert_array_equal(found.image.data[:3], whole[:3])
    later = Deblur(method={"kind": "richardson-lucy", "n_iterations": 5})
    for plane in range(3, 6):
        assert np.abs(found.image.data[plane] - image.data[plane]).max() > 1
        assert np.abs(found.image.data[plane] - whole[plane]).max() > 1
    assert later.run(image, FLAT, engine=engine).image.data.shape == image.data.shape


def test_without_the_memory_it_goes_on_one_by_one(engine, monkeypatch, alone):
    image = Image(stack(4, 40, 44), "tyx")
    step = Deblur(method={"kind": "richardson-lucy", **FEW})
    original = engine_module.computed

    def greedy(part, *rest):
        if part.ndim == 3:
            raise MemoryError
        return original(part, *rest)

    monkeypatch.setattr(engine_module, "computed", greedy)
    found = step.run(image, FLAT, engine=engine)
    assert found.record.notes == ["Memory ran out with 4 at a time: continued one by one."]
    np.testing.assert_array_equal(found.image.data, alone(step, image, FLAT, engine).image.data)


def test_the_plan_tells_how_many_go_together(engine):
    step = Deblur(method={"kind": "richardson-lucy", **FEW})
    plan = step.plan(Image(stack(50, 40, 44), "tyx"), FLAT, engine=engine)
    one = step.plan(Image(stack(1, 40, 44), "tyx"), FLAT, engine=engine)
    assert plan.at_once == 2**16 // (40 * 44)
    assert plan.device_bytes == plan.at_once * one.device_bytes
    assert f"50 planes, {plan.at_once} at a time: " in str(plan)
    assert plan.to_dict()["blocks_at_once"] == plan.at_once
    large = step.plan(Image(stack(2, 400, 400), "tyx"), FLAT, engine=engine)
    assert large.at_once == 1


def test_a_card_takes_what_its_memory_allows():
    engine = Engine("cpu", budget_bytes=10_000_000)
    engine.report = replace(engine.report, device="cuda")
    assert engine.at_once((100, 100), lambda shape: 50.0 * np.prod(shape)) == 20
    assert engine.at_once((1000, 1000), lambda shape: 50.0 * np.prod(shape)) == 1
    assert Engine("cpu", 10**12).at_once((512, 512), lambda shape: 1.0) == 1
