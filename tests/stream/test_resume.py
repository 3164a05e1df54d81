"""A run that is stopped goes on; what goes wrong gives one clear error and nothing half-written."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest

from napari_deblur.core.errors import CancelledError, InvalidInputError, OutputError
from napari_deblur.core.run import Run
from napari_deblur.io.lazy import open_image
from napari_deblur.io.read import read_image
from napari_deblur.stream import stages
from napari_deblur.stream.ahead import plan_file
from napari_deblur.stream.executors import Here
from napari_deblur.stream.plan import Streaming

pytest.importorskip("zarr")


@pytest.fixture
def source(file_of, points):
    return file_of(points((3, 96, 100)), "zyx")


@pytest.fixture
def computed(monkeypatch):
    """Count the blocks that are computed."""
    found = []
    original = stages.STAGES["deblur"]

    def count(work, item, run):
        result = original(work, item, run)
        found.append(item)
        return result

    monkeypatch.setitem(stages.STAGES, "deblur", count)
    return found


def cancel_at(message):
    run = Run()
    run.on_progress = lambda progress: run.cancel() if progress.message.startswith(message) else None
    return run


@pytest.mark.parametrize("name", ["out.zarr", "out.ome.tif"])
def test_a_cancelled_run_goes_on(stream, tmp_path, source, computed, name):
    whole = read_image(stream(source, f"whole-{name}").outputs["output"]).data
    computed.clear()
    with pytest.raises(CancelledError) as caught:
        stream(source, name, run=cancel_at("block 6 of"))
    assert caught.value.hint == (f"5 finished blocks are kept in {name}.part: the same command goes on there")
    assert computed == [0, 1, 2, 3, 4]
    assert not (tmp_path / name).exists()
    told = []
    found = stream(source, name, on_plan=told.append)
    assert told[0].n_done == 5
    assert "5 of them done before" in str(told[0])
    assert computed == list(range(18))
    assert np.array_equal(read_image(found.outputs["output"]).data, whole)
    assert not (tmp_path / f"{name}.part").exists()


def test_a_cancel_while_several_are_at_work(stream, tmp_path, source):
    with pytest.raises(CancelledError) as caught:
        stream(source, run=cancel_at("block 9 of"), executor=Here(n_at_once=2))
    kept = int(caught.value.hint.split()[0])
    assert 5 <= kept <= 8
    told = []
    stream(source, on_plan=told.append)
    assert told[0].n_done == kept


def test_a_killed_process_loses_nothing_that_was_done(stream, tmp_path, source, kernel, rl, computed):
    np.save(tmp_path / "psf.npy", kernel)
    script = textwrap.dedent(
        """
        import os, signal, sys
        import numpy as np
        from napari_deblur.io.lazy import open_image
        from napari_deblur.steps.deblur import Deblur
        from napari_deblur.stream import stages
        from napari_deblur.stream.plan import Streaming
        from napari_deblur.stream.run import deblur_file

        original = stages.STAGES["deblur"]
        def killed(work, item, run):
            if item == 4:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(work, item, run)
        stages.STAGES["deblur"] = killed
        step = Deblur(method={"kind": "richardson-lucy", "n_iterations": 3}, camera_offset=5.0)
        folder = sys.argv[1]
        psf = np.load(f"{folder}/psf.npy")
        image = open_image(f"{folder}/in.zarr")
        deblur_file(step, image, f"{folder}/out.zarr", psf, settings=Streaming(block_px=48))
        """
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert found.returncode == -signal.SIGKILL, found.stderr
    # The lock went with the process, though its file is still there.
    assert (tmp_path / "out.zarr.part" / "lock").exists()
    result = stream(source)
    assert computed == list(range(4, 18))
    expected = stream(source, "whole.zarr")
    assert np.array_equal(
        read_image(result.outputs["output"]).data, read_image(expected.outputs["output"]).data
    )


def test_a_cut_off_line_of_the_journal_is_done_again(stream, tmp_path, source, computed):
    with pytest.raises(CancelledError):
        stream(source, run=cancel_at("block 4 of"))
    journal = tmp_path / "out.zarr.part" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    stream(source)
    assert computed == [0, 1, 2, *range(2, 18)]


def contents(folder):
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_other_settings_discard_nothing_unasked(stream, tmp_path, source, rl, kernel, computed):
    with pytest.raises(CancelledError):
        stream(source, run=cancel_at("block 4 of"))
    before = contents(tmp_path / "out.zarr.part")
    otherwise = rl.model_copy(update={"camera_offset": 6.0})
    method = rl.model_copy(update={"method": rl.method.model_copy(update={"n_iterations": 4})})
    for more, named in (
        ({"step": otherwise}, "camera_offset"),
        ({"step": method}, "n_iterations"),
        ({"psf": kernel**2}, "psf"),
        ({"block_px": 64}, "block_px"),
        ({"dtype": "float32", "format": "ome-zarr-0.5"}, "names, formats or numbers of the results"),
    ):
        with pytest.raises(OutputError) as caught:
            stream(source, **more)
        assert str(caught.value) == (
            "output must not discard what was begun with other settings (allow it with overwrite); "
            f"received '{tmp_path / 'out.zarr'}', where out.zarr.part was begun with another {named} "
            "and holds 3 finished blocks"
        )
        assert caught.value.hint == ""
        assert contents(tmp_path / "out.zarr.part") == before
    computed.clear()
    found = stream(source, step=otherwise, overwrite=True)
    assert computed == list(range(18))
    assert "out.zarr.part was begun with other settings and was begun again." in found.record.notes
    assert not (tmp_path / "out.zarr.part").exists()


def test_overwrite_goes_on_where_nothing_differs(stream, source, computed):
    with pytest.raises(CancelledError):
        stream(source, run=cancel_at("block 4 of"))
    stream(source, overwrite=True)
    assert computed == list(range(18))


def test_a_changed_image_is_not_gone_on_with(stream, tmp_path, source, file_of, points, computed):
    with pytest.raises(CancelledError):
        stream(source, run=cancel_at("block 4 of"))
    shutil.rmtree(source)
    file_of(points((3, 96, 100), seed=3), "zyx")
    with pytest.raises(OutputError, match="begun with another content of the input and holds 3 finished"):
        stream(source)
    computed.clear()
    stream(source, overwrite=True)
    assert computed == list(range(18))


def test_a_plan_touches_nothing(stream, tmp_path, source, rl, kernel, monkeypatch):
    def plan(**more):
        chosen = {"psf": kernel, "settings": Streaming(block_px=48), **more}
        run = Run()
        found = plan_file(
            chosen.pop("step", rl), open_image(source), tmp_path / "out.zarr", run=run, **chosen
        )
        return found, run.notes

    told = []
    assert plan()[0].n_blocks == 18
    assert not list(tmp_path.glob("out*"))
    with pytest.raises(CancelledError):
        stream(source, on_plan=told.append, run=cancel_at("block 4 of"))
    before = contents(tmp_path)
    again, notes = plan()
    assert (again.n_done, notes) == (3, [])
    assert replace(again, n_done=0) == told[0]
    other, notes = plan(settings=Streaming(block_px=96))
    assert (other.n_blocks, other.n_done) == (6, 0)
    assert notes == [
        "out.zarr.part was begun with another block_px and holds 3 finished blocks: they are discarded with "
        "overwrite, and else the run is refused."
    ]
    for stage in list(stages.STAGES):
        monkeypatch.delitem(stages.STAGES, stage)  # nothing is computed
    blind, notes = plan(psf="gaussian-2")
    assert blind.n_blocks == 18
    assert notes[0].startswith("The PSF is estimated by the run: ")
    assert contents(tmp_path) == before


def test_two_runs_on_one_output(stream, tmp_path, source):
    caught = []

    def second(_plan):
        with pytest.raises(OutputError) as error:
            stream(source)
        caught.append(str(error.value))

    stream(source, on_plan=second)
    assert len(caught) == 1
    assert caught[0].startswith("output must not be in use by another run (process ")
    assert caught[0].endswith(f"received '{tmp_path / 'out.zarr'}'")


def after(stage, count, do, monkeypatch):
    """Do something in the middle of a stage."""
    original = stages.STAGES[stage]
    done = []

    def wrapped(work, item, run):
        done.append(item)
        if len(done) == count:
            do(work)
        return original(work, item, run)

    monkeypatch.setitem(stages.STAGES, stage, wrapped)


@pytest.mark.parametrize("stage", ["scan", "deblur"])
def test_a_store_that_vanishes(stream, tmp_path, source, monkeypatch, stage):
    after(stage, 2 if stage == "deblur" else 1, lambda work: shutil.rmtree(source), monkeypatch)
    with pytest.raises(InvalidInputError, match=r"image must (stay there and whole|be a file that exists)"):
        stream(source)
    assert not (tmp_path / "out.zarr").exists()


def test_chunks_that_vanish_are_not_taken_for_zeros(stream, tmp_path, source, monkeypatch):
    def lose(_work):
        for chunk in (source / "0" / "2").rglob("*"):
            if chunk.is_file():
                chunk.unlink()

    after("deblur", 3, lose, monkeypatch)
    with pytest.raises(InvalidInputError, match=r"image must stay there and whole .*chunks are missing"):
        stream(source)
    assert not (tmp_path / "out.zarr").exists()


def test_an_image_that_changes(stream, tmp_path, file_of, points, monkeypatch):
    source = file_of(points((2, 96, 100)), "tyx", "in.ome.tif")
    after("deblur", 3, lambda work: os.utime(source, ns=(1, 1)), monkeypatch)
    with pytest.raises(InvalidInputError, match="image must stay as it is until the end of the run"):
        stream(source, "out.ome.tif")
    assert not (tmp_path / "out.ome.tif").exists()


def test_values_that_are_not_finite_are_found_before_the_first_block(stream, tmp_path, points, computed):
    pixels = points((2, 96, 100)).astype(np.float32)
    pixels[1, 70, 3] = np.nan
    np.save(tmp_path / "in.npy", pixels)
    with pytest.raises(
        InvalidInputError, match=r"image must be finite .* 1 values that are not, first at z 1, y 70, x 3"
    ) as caught:
        stream(tmp_path / "in.npy")
    assert computed == []
    assert caught.value.hint == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.npy"]


@pytest.mark.parametrize("name", ["out.zarr", "out.ome.tif"])
def test_a_full_disk(stream, tmp_path, source, monkeypatch, name):
    from napari_deblur.io import tiff_writer, zarr_writer

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    for cls in (tiff_writer.TiledTiffWriter, zarr_writer.ZarrWriter):
        original = cls.write

        def write(self, region, data, original=original):
            if region[0].start == 2:
                raise full
            original(self, region, data)

        monkeypatch.setattr(cls, "write", write)
    with pytest.raises(
        OutputError, match="output could not be written: the disk is full; received"
    ) as caught:
        stream(source, name)
    assert caught.value.hint.startswith("12 finished blocks are kept in")
    assert not (tmp_path / name).exists()
    monkeypatch.undo()
    assert stream(source, name).outputs["output"].exists()


def test_too_little_room_is_said_before_the_work(stream, tmp_path, source, monkeypatch, computed):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(1000, 900, 100))
    with pytest.raises(
        OutputError, match=r"output must lie on a disk with enough room \(0.000115 GB are needed"
    ):
        stream(source, "out.ome.tif")
    assert computed == []
    assert any("The disk may become full" in note for note in stream(source).record.notes)


def test_results_that_exist_are_kept(stream, tmp_path, source):
    (tmp_path / "out.ome.tif").write_bytes(b"mine")
    with pytest.raises(OutputError, match="output must not exist yet"):
        stream(source, "out.ome.tif")
    assert (tmp_path / "out.ome.tif").read_bytes() == b"mine"
    stream(source, "out.ome.tif", overwrite=True)
    assert read_image(tmp_path / "out.ome.tif").data.shape == (3, 96, 100)


def test_what_cannot_be_streamed(stream, tmp_path, source, file_of, points, kernel):
    with pytest.raises(
        InvalidInputError, match=r"output must end in one of \.tif, \.tiff, \.zarr to be written"
    ):
        stream(source, "out.png")
    with pytest.raises(InvalidInputError, match="format must be one of ome-tiff, ome-zarr"):
        stream(source, "out.ome.tif", format="imagej-tiff")
    with pytest.raises(InvalidInputError, match="output must not be the input"):
        stream(source, "in.zarr", overwrite=True)
    with pytest.raises(
        InvalidInputError, match=r"memory_gb must be at least 0\.0\d+ for the smallest blocks"
    ):
        stream(source, settings=Streaming(memory_gb=0.001))
    with pytest.raises(InvalidInputError, match="psf must not be larger than the image"):
        stream(file_of(points((20, 20)), "yx", "small.npy"), psf=np.ones((31, 31)))
    np.save(tmp_path / "flat.npy", np.ones((40, 40)))
    with pytest.raises(InvalidInputError, match="image must not be constant"):
        stream(tmp_path / "flat.npy")
    np.save(tmp_path / "tiny.npy", np.arange(64.0).reshape(8, 8))
    with pytest.raises(InvalidInputError, match="image must be at least 16 × 16"):
        stream(tmp_path / "tiny.npy", psf=kernel[2:5, 2:5])
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="to be read block by block"):
        open_image(tmp_path / "a.png")
    left = {entry.name for entry in tmp_path.iterdir()}
    assert left == {"in.zarr", "small.npy", "flat.npy", "tiny.npy", "a.png"}


def test_a_folder_of_results_that_vanishes(stream, tmp_path, source, monkeypatch):
    after("deblur", 3, lambda work: shutil.rmtree(work.folder), monkeypatch)
    with pytest.raises(OutputError, match="output could not be written"):
        stream(source, "out.ome.tif")
    assert not list(tmp_path.glob("out*"))
