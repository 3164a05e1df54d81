from __future__ import annotations

import json
import os

import numpy as np
import pytest

from napari_deblur.batch import BatchSettings, run_files
from napari_deblur.batch.store import Store, state_of
from napari_deblur.core.errors import InvalidInputError, OutputError
from napari_deblur.core.image import Image
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
