from __future__ import annotations

import json
import os

import numpy as np
import pytest

from napari_deblur.batch import BatchSettings, run_files
from napari_deblur.batch.hashed import state_of
from napari_deblur.batch.store import Store
from napari_deblur.core.errors import CancelledError, InvalidInputError, OutputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.shared import get_engine
from napari_deblur.io.formats import Output
from napari_deblur.io.read import read_image, read_record
from napari_deblur.io.write import write_image
from napari_deblur.recipe import Recipe
from napari_deblur.stream.plan import Streaming

DEBLUR = {"kind": "deblur", "method": {"kind": "richardson-lucy", "n_iterations": 2}}


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"f{number}.ome.tif" for number in range(2)]
    for path in paths:
        write_image(Image(rng.poisson(40, (48, 64)).astype(np.float32), pixel_size_um=(0.1, 0.1)), path)
    return paths


@pytest.fixture
def make(tmp_path):
    y, x = np.mgrid[-3:4, -3:4]
    np.save(tmp_path / "psf.npy", np.exp(-(x**2 + y**2) / 3) / 10)

    def recipe(*steps, **more):
        return Recipe.from_dict(
            {
                "version": 1,
                "psf": {"file": str(tmp_path / "psf.npy")},
                "steps": list(steps or (DEBLUR,)),
                **more,
            }
        )

    return recipe


def states(outcomes):
    return [one.state for one in outcomes]


def test_the_record_lists_the_results_with_their_hashes(tmp_path, files, make):
    run_files(make(), files[:1], tmp_path / "out")
    record = json.loads((tmp_path / "out" / "f0_record.json").read_text(encoding="utf-8"))
    name = "f0_deblurred.ome.tif"
    assert record["outputs"] == {name: state_of(tmp_path / "out" / name, hashed=True)}
    assert len(record["outputs"][name]["sha256"]) == 64
    assert record["input_state"]["bytes"] == files[0].stat().st_size


def test_what_is_not_as_recorded_is_not_taken_for_done(tmp_path, files, make):
    out = tmp_path / "out"
    run_files(make(), files, out)
    (out / "f1_deblurred.ome.tif").write_bytes(b"cut off")
    outcomes = run_files(make(), files, out)
    assert states(outcomes) == ["skipped", "failed"]
    assert outcomes[1].reason == "f1_deblurred.ome.tif is not what its record says (allow it with overwrite)"
    assert states(run_files(make(), files, out, settings=BatchSettings(overwrite=True))) == ["done"] * 2
    assert states(run_files(make(), files, out)) == ["skipped"] * 2


def test_another_recipe_or_input_is_not_taken_for_done(tmp_path, files, make):
    out = tmp_path / "out"
    run_files(make(), files, out)
    other = make({**DEBLUR, "camera_offset": 3.0})
    assert "made with another recipe" in run_files(other, files, out)[0].reason
    os.utime(files[0], ns=(1, 1))
    outcomes = run_files(make(), files, out)
    assert states(outcomes) == ["failed", "skipped"]
    assert "has changed since its results were made" in outcomes[0].reason
    (out / "f1_record.json").write_text("{}")
    assert "is not a record with its results" in run_files(make(), files[1:], out)[0].reason


def other_psf(tmp_path):
    np.save(tmp_path / "psf.npy", np.eye(5))


def test_other_numbers_formats_and_psfs_are_not_taken_for_done(tmp_path, files, make):
    out, one = tmp_path / "out", files[:1]

    def again(recipe=None, **output):
        return run_files(recipe or make(), one, out, settings=BatchSettings(output=Output(**output)))[0]

    assert again().state == "done"
    assert again(format="ome-tiff").state == "skipped"
    assert (
        again(dtype="uint16").reason
        == "its results were made with the dtype float32 (allow it with overwrite)"
    )
    assert "made with the format ome-tiff" in again(format="ome-zarr-0.4").reason
    (tmp_path / "psf.npy").rename(tmp_path / "moved.npy")
    assert f"made with another content of {tmp_path / 'psf.npy'}" in again().reason
    other_psf(tmp_path)
    assert f"made with another content of {tmp_path / 'psf.npy'}" in again().reason
    assert again(make(psf={"file": str(tmp_path / "moved.npy")})).state == "skipped"


def test_psfs_that_are_folders_count_with_all_their_files(tmp_path, files, make):
    pytest.importorskip("zarr")
    y, x = np.mgrid[-3:4, -3:4]
    write_image(Image(np.exp(-(x**2 + y**2) / 3).astype(np.float32)), tmp_path / "psf.zarr")
    recipe = make(psf={"file": str(tmp_path / "psf.zarr")})
    assert states(run_files(recipe, files[:1], tmp_path / "out")) == ["done"]
    assert states(run_files(recipe, files[:1], tmp_path / "out")) == ["skipped"]
    write_image(Image(np.eye(7, dtype=np.float32)), tmp_path / "psf.zarr", overwrite=True)
    assert "made with another content" in run_files(recipe, files[:1], tmp_path / "out")[0].reason


@pytest.mark.parametrize("stream", [False, True])
def test_records_of_earlier_versions_count_as_before(tmp_path, files, make, stream):
    settings, path = BatchSettings(stream=stream), tmp_path / "out" / "f0_record.json"
    recipe = Recipe.from_dict({**make().to_dict(), "psf": {"file": "psf.npy"}}, tmp_path)
    run_files(recipe, files[:1], tmp_path / "out", settings=settings)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert list(record["files"]) == [str(tmp_path / "psf.npy")]
    assert record["output"] == {"format": "ome-tiff", "dtype": "float32"}
    del record["files"], record["output"]
    record["recipe"]["psf"]["file"] = "psf.npy"
    path.write_text(json.dumps(record), encoding="utf-8")
    outcome = run_files(recipe, files[:1], tmp_path / "out", settings=settings)[0]
    assert outcome.state == "skipped"
    assert "which an earlier version wrote" in outcome.reason
    other = make({**DEBLUR, "camera_offset": 3.0})
    assert "made with another recipe" in run_files(other, files[:1], tmp_path / "out")[0].reason


def begun(out, name="f0"):
    return sorted(str(path) for path in (out / f".{name}.streaming").rglob("*"))


def test_what_was_begun_with_other_settings_is_not_discarded_unasked(tmp_path, files, make):
    pytest.importorskip("zarr")
    out, one = tmp_path / "out", files[:1]
    chosen = {"stream": True, "streaming": Streaming(block_px=32)}
    run = Run()
    run.on_progress = lambda progress: run.cancel() if progress.message.startswith("block 2 of") else None
    with pytest.raises(CancelledError) as caught:
        run_files(make(), one, out, settings=BatchSettings(**chosen), run=run)
    assert caught.value.hint == (
        "1 finished blocks are kept in f0_deblurred.ome.tif.part: the same command goes on there"
    )
    before = begun(out)
    for recipe, more in (
        (make({**DEBLUR, "camera_offset": 3.0}), chosen),
        (make(), {**chosen, "output": Output(format="ome-zarr-0.4")}),
        (make(), {**chosen, "streaming": Streaming(block_px=48)}),
    ):
        outcome = run_files(recipe, one, out, settings=BatchSettings(**more))[0]
        assert outcome.state == "failed"
        assert "output must not discard what was begun with other settings (allow it with" in outcome.reason
        assert begun(out) == before
    other_psf(tmp_path)
    assert "another content of" in run_files(make(), one, out, settings=BatchSettings(**chosen))[0].reason
    outcome = run_files(make(), one, out, settings=BatchSettings(**chosen, overwrite=True))[0]
    assert outcome.state == "done", outcome.reason
    expected = make().run(read_image(files[0]), engine=get_engine()).image.data
    assert np.abs(read_image(outcome.outputs[0]).data - expected).max() < 1e-4 * np.ptp(expected)


def test_a_finished_result_whose_psf_was_replaced_is_not_put_into_place(tmp_path, files, make, monkeypatch):
    pytest.importorskip("zarr")

    class Killed(BaseException):
        pass

    def killed(*_args, **_more):
        raise Killed

    out, one, settings = tmp_path / "out", files[:1], BatchSettings(stream=True)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "commit", killed)
        with pytest.raises(Killed):
            run_files(make(), one, out, settings=settings)
    before = (tmp_path / "psf.npy").read_bytes()
    other_psf(tmp_path)
    assert "another content of" in run_files(make(), one, out, settings=settings)[0].reason
    (tmp_path / "psf.npy").write_bytes(before)
    told = []
    outcomes = run_files(make(), one, out, settings=settings, on_plan=lambda *plan: told.append(plan))
    assert (states(outcomes), told) == (["done"], [])


def test_who_cancels_is_told_how_many_files_are_done(tmp_path, files, make):
    run = Run()
    run.on_progress = lambda progress: run.cancel() if progress.message == files[1].name else None
    with pytest.raises(CancelledError) as caught:
        run_files(make(), files, tmp_path / "out", run=run)
    assert caught.value.hint == f"1 of 2 files are done in {tmp_path / 'out'}: the same command goes on"
    run = Run(on_progress=lambda progress: run.cancel())
    with pytest.raises(CancelledError) as caught:
        run_files(make(), files, tmp_path / "none", run=run)
    assert caught.value.hint == ""


def test_records_beside_results_are_put_into_place_with_them(tmp_path, files, make):
    out, settings = tmp_path / "out", BatchSettings(output=Output(format="npy"))
    beside = out / "f0_deblurred.npy.json"
    out.mkdir()
    beside.write_text("mine")
    outcome = run_files(make(), files[:1], out, settings=settings)[0]
    assert "output must not exist yet" in outcome.reason
    assert {entry.name: entry.read_text() for entry in out.iterdir()} == {beside.name: "mine"}
    beside.unlink()
    outcome = run_files(make(), files[:1], out, settings=settings)[0]
    assert beside in outcome.outputs
    assert read_record(out / "f0_deblurred.npy")["step"]["kind"] == "deblur"
    assert states(run_files(make(), files[:1], out, settings=settings)) == ["skipped"]
    beside.write_text("{}")
    assert "f0_deblurred.npy.json is not what its record says" in run_files(
        make(), files[:1], out, settings=settings
    )[0].reason  # fmt: skip


@pytest.mark.parametrize("moved", [0, 1, 2])
def test_a_run_that_was_killed_while_it_renamed_is_completed(tmp_path, files, make, monkeypatch, moved):
    """Whatever was renamed before the kill, the next run renames the rest and computes nothing."""
    from napari_deblur.batch import store as module

    out, count, original = tmp_path / "out", [], module._place

    class Killed(BaseException):
        pass

    def place(source, target, *, overwrite):
        if len(count) == moved:
            raise Killed
        count.append(target)
        original(source, target, overwrite=overwrite)

    monkeypatch.setattr(module, "_place", place)
    steps = make({"kind": "remove-background", "n_iterations": 1})
    with pytest.raises(Killed):
        run_files(steps, files[:1], out)
    monkeypatch.undo()
    assert not (out / "f0_record.json").exists()
    assert states(run_files(steps, files[:1], out)) == ["skipped"]
    assert sorted(entry.name for entry in out.iterdir()) == [
        "f0_background.ome.tif", "f0_foreground.ome.tif", "f0_record.json",
    ]  # fmt: skip


def test_a_run_that_was_killed_before_is_done_again(tmp_path, files, make):
    out = tmp_path / "out"
    left = out / ".f0.12345678.staging"
    left.mkdir(parents=True)
    (left / "f0_deblurred.ome.tif").write_bytes(b"half")
    assert states(run_files(make(), files, out)) == ["done"] * 2
    assert not left.exists()


def test_two_runs_in_one_folder(tmp_path, files, make):
    out = tmp_path / "out"
    out.mkdir()
    in_use = r"output must not be in use by another run \(process \d+ on"
    with Store(out, "a").held(), pytest.raises(OutputError, match=in_use):
        run_files(make(), files, out)
    assert states(run_files(make(), files, out)) == ["done"] * 2
    assert not [entry for entry in out.iterdir() if entry.name.startswith(".")]


@pytest.mark.parametrize("format", ["imagej-tiff", "ome-zarr-0.4", "ome-zarr-0.5", "npy"])
def test_results_in_other_formats(tmp_path, files, make, format):
    pytest.importorskip("zarr")
    settings = BatchSettings(output=Output(format=format))
    outcome = run_files(make(), files[:1], tmp_path / "out", settings=settings)[0]
    assert outcome.state == "done", outcome.reason
    image = outcome.outputs[0]
    assert image.name == f"f0_deblurred{settings.suffix}"
    assert read_image(image).data.shape == (48, 64)
    assert states(run_files(make(), files[:1], tmp_path / "out", settings=settings)) == ["skipped"]
    if format != "npy":
        assert read_record(image)["step"]["kind"] == "deblur"
        assert read_image(image).pixel_size_um == pytest.approx((0.1, 0.1))


def test_large_files_are_streamed(tmp_path, files, make, monkeypatch):
    pytest.importorskip("zarr")
    from napari_deblur.batch import files as module

    monkeypatch.setattr(module, "must_stream", lambda image, *_: image.path == files[1])
    settings = BatchSettings(streaming=Streaming(block_px=32), output=Output(format="ome-zarr-0.5"))
    told = []
    out = tmp_path / "out"
    outcomes = run_files(
        make(),
        files,
        out,
        settings=settings,
        on_plan=lambda path, plan: told.append((path.name, plan.n_blocks)),
    )
    assert states(outcomes) == ["done"] * 2
    assert told == [("f1.ome.tif", 4)]
    record = read_record(out / "f1_record.json")
    assert Recipe.from_dict(record["recipe"]).steps == make().steps
    assert record["records"][0]["facts"]["blocks"] == 4
    assert read_record(out / "f1_deblurred.ome.zarr") == record["records"][0]
    assert states(run_files(make(), files, out, settings=settings)) == ["skipped"] * 2


def test_results_in_whole_numbers(tmp_path, files, make):
    source = np.rint(read_image(files[0]).data).astype(np.uint16)
    np.save(tmp_path / "counts.npy", source)
    settings = BatchSettings(output=Output(dtype="uint16"))
    out = tmp_path / "out"
    outcomes = run_files(make(), [tmp_path / "counts.npy", files[1]], out, settings=settings)
    assert states(outcomes) == ["done", "failed"]
    assert read_image(outcomes[0].outputs[0]).source["dtype"] == "uint16"
    assert "dtype must be float32 for an image of float32" in outcomes[1].reason


def test_what_cannot_be_streamed_says_so(tmp_path, files, make):
    more = make({"kind": "remove-background", "n_iterations": 1}, DEBLUR)
    settings = BatchSettings(stream=True)
    outcome = run_files(more, files[:1], tmp_path / "out", settings=settings)[0]
    assert outcome.state == "failed"
    assert "steps must hold nothing but deblur for an image that is larger than memory" in outcome.reason
    npy = BatchSettings(stream=True, output=Output(format="npy"))
    assert (
        "format must be one of ome-tiff"
        in run_files(make(), files[:1], tmp_path / "out", settings=npy)[0].reason
    )
    with pytest.raises(InvalidInputError, match="format must be one of"):
        run_files(make(), files, tmp_path / "none", settings=BatchSettings(output=Output(format="jpeg")))
    assert not (tmp_path / "none").exists()


def test_states_of_folders(tmp_path):
    folder = tmp_path / "a.zarr"
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "zarr.json").write_text("{}")
    (folder / "0" / "c").write_bytes(b"abc")
    before = state_of(folder, hashed=True)
    assert before["bytes"] == 5
    (folder / "0" / "c").write_bytes(b"abd")
    assert state_of(folder, hashed=True) != before
    quick = state_of(folder)
    os.utime(folder / "0" / "zarr.json", ns=(1, 10**18))
    assert state_of(folder) != quick
    assert state_of(tmp_path / "gone") is None
