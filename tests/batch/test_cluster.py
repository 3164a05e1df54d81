"""A real scheduler and two workers on loopback: one is killed in the middle, and nothing is lost."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from napari_deblur.batch import BatchSettings, run_files
from napari_deblur.core.errors import CancelledError, DeviceError, InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.shared import get_engine
from napari_deblur.io.read import read_image
from napari_deblur.io.write import write_image
from napari_deblur.recipe import Recipe
from napari_deblur.stream.cluster import on_scheduler, on_workers
from napari_deblur.stream.plan import Streaming

pytest.importorskip("distributed")
pytest.importorskip("zarr")

WAIT_S = 120


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Start a scheduler and two workers; give its address and the workers' processes."""
    folder = tmp_path_factory.mktemp("cluster")
    about = folder / "scheduler.json"
    env = {**os.environ, "OMP_NUM_THREADS": "1", "NAPARI_DEBLUR_DEVICE": "cpu"}

    def start(kind, *options):
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", *options]
        with (folder / f"{kind}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=env, cwd=folder)

    host = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(about)]
    scheduler = start("scheduler", *host, "--port", "0")
    workers = [start("worker", *host, "--no-nanny", "--nthreads", "1") for _ in range(2)]
    until = time.monotonic() + WAIT_S
    while not about.exists():
        assert time.monotonic() < until, (folder / "scheduler.log").read_text()
        assert scheduler.poll() is None, (folder / "scheduler.log").read_text()
        time.sleep(0.1)
    yield json.loads(about.read_text())["address"], workers
    for process in (*workers, scheduler):
        process.kill()
        process.wait()


@pytest.fixture
def inputs(tmp_path):
    """Make three small files and one stack to be worked on block by block."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(3):
        pixels = rng.poisson(40, (64, 64)).astype(np.float32)
        paths.append(write_image(Image(pixels, pixel_size_um=(0.1, 0.1)), tmp_path / f"small{number}.tif"))
    pixels = rng.poisson(40, (6, 128, 128)).astype(np.float32)
    return paths, write_image(Image(pixels, "tyx", (0.1, 0.1)), tmp_path / "stack.zarr")


@pytest.fixture
def recipe(tmp_path):
    y, x = np.mgrid[-3:4, -3:4]
    kernel = np.exp(-(x**2 + y**2) / 3)
    np.save(tmp_path / "psf.npy", kernel / kernel.sum())
    step = {"kind": "deblur", "method": {"kind": "richardson-lucy", "n_iterations": 3}}
    return Recipe.from_dict({"version": 1, "psf": {"file": str(tmp_path / "psf.npy")}, "steps": [step]})


def blocks_done(progress):
    found = re.match(r"block (\d+) of", progress.message)
    return int(found[1]) if found else 0


def test_a_killed_worker_loses_nothing(cluster, tmp_path, inputs, recipe):
    address, workers = cluster
    small, stack = inputs
    killed = []

    def watch(progress):
        if not killed and blocks_done(progress) >= 5:
            workers[0].send_signal(signal.SIGKILL)
            killed.append(workers[0].wait())

    out = tmp_path / "out"
    blocks = BatchSettings(stream=True, streaming=Streaming(block_px=32))
    with on_scheduler(address) as executor:
        assert executor.n_here == 2
        assert executor.memory_bytes > 0
        whole = run_files(recipe, small, out, executor=executor)
        large = run_files(
            recipe, [stack], out, settings=blocks, executor=executor, run=Run(on_progress=watch)
        )
        assert executor.n_here == 1
    assert killed == [-signal.SIGKILL]
    assert [one.state for one in (*whole, *large)] == ["done"] * 4, large
    for path in (*small, stack):
        expected = recipe.run(read_image(path), engine=get_engine()).deblur.image.data
        found = read_image(out / f"{path.stem}_deblurred.ome.tif").data
        assert np.abs(found - expected).max() < 1e-4 * np.ptp(expected)
    again = run_files(recipe, [*small, stack], out, settings=blocks)
    assert [one.state for one in again] == ["skipped"] * 4
    assert not [entry.name for entry in out.iterdir() if entry.name.startswith(".")]


def test_a_cancel_keeps_the_blocks_that_are_done(cluster, tmp_path, inputs, recipe):
    address, _ = cluster
    _, stack = inputs
    out = tmp_path / "out"
    settings = BatchSettings(stream=True, streaming=Streaming(block_px=32))
    run = Run()
    run.on_progress = lambda progress: run.cancel() if blocks_done(progress) >= 7 else None
    with on_scheduler(address) as executor:
        with pytest.raises(CancelledError) as caught:
            run_files(recipe, [stack], out, settings=settings, executor=executor, run=run)
        kept = int(caught.value.hint.split()[0])
        assert 7 <= kept < 96
        assert caught.value.hint.startswith(
            f"{kept} finished blocks are kept in stack_deblurred.ome.tif.part"
        )
        assert not list(out.glob("stack*"))
        plans = []
        outcomes = run_files(
            recipe, [stack], out, settings=settings, executor=executor,
            on_plan=lambda _path, plan: plans.append(plan),
        )  # fmt: skip
    assert plans[0].n_done == kept
    assert outcomes[0].state == "done"


def test_failures_on_workers_are_ours(cluster, tmp_path, inputs, recipe):
    address, _ = cluster
    small, _ = inputs
    small[1].write_bytes(b"rubbish")
    bad = np.full((1, 128, 128), 7, np.float32)
    bad[0, 5, 9] = np.nan
    np.save(tmp_path / "holes.npy", bad)
    settings = BatchSettings(stream=True, streaming=Streaming(block_px=32))
    with on_scheduler(address) as executor:
        outcomes = run_files(
            recipe, [*small, tmp_path / "holes.npy"], tmp_path / "out", settings=settings, executor=executor
        )
    assert [one.state for one in outcomes] == ["done", "failed", "done", "failed"]
    assert "must be a readable TIFF file" in outcomes[1].reason
    assert "image must be finite" in outcomes[3].reason
    assert "first at z 0, y 5, x 9" in outcomes[3].reason


def test_every_process_gets_a_card_and_its_share_of_the_cores(monkeypatch):
    from napari_deblur.stream import cluster as module

    monkeypatch.setattr(module, "_cards", lambda: ["3", "5"])
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    specs = module.worker_specs(3, "auto")
    env = [spec["options"]["env"] for spec in specs.values()]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in env] == ["3", "5", "3"]
    assert {one["OMP_NUM_THREADS"] for one in env} == {"2"}
    assert "CUDA_VISIBLE_DEVICES" not in module.worker_specs(1, "cpu")[0]["options"]["env"]


@pytest.mark.parametrize("address", ["nowhere", "tcp://:x", "abc://127.0.0.1:1", ""])
def test_a_refused_address_leaves_no_client_behind(address):
    """One that is collected while the next starts waits for a lock which that one holds."""
    from distributed import Client

    with pytest.raises(InvalidInputError, match="must be the address of a scheduler"), on_scheduler(address):
        pass
    left = [one for one in gc.get_objects() if type(one) is Client and one.status != "closed"]
    assert not left


def test_what_is_no_cluster(cluster, monkeypatch):
    import napari_deblur

    with (
        pytest.raises(InvalidInputError, match="scheduler must be the address of a scheduler that answers"),
        on_scheduler("nowhere"),
    ):
        pass
    with pytest.raises(InvalidInputError, match="workers must be at least 1"), on_workers(0):
        pass
    monkeypatch.setattr(napari_deblur, "__version__", "99.0")
    with (
        pytest.raises(DeviceError, match=r"the workers must have napari-deblur 99\.0"),
        on_scheduler(cluster[0]),
    ):
        pass
