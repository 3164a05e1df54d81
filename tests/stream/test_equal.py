"""Streamed equals in memory."""

from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.engine.shared import get_engine
from napari_deblur.io.lazy import open_image
from napari_deblur.io.read import read_image, read_record
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.deblur import Deblur
from napari_deblur.stream.executors import Here

pytest.importorskip("zarr")


def in_memory(step, path, psf, **more):
    return step.run(read_image(path), psf, engine=get_engine(), **more)


def difference(path, result):
    """Return the largest difference as a share of the range."""
    got, expected = read_image(path), result.image if hasattr(result, "image") else result
    assert got.pixel_size_um == expected.pixel_size_um
    assert got.z_step_um == expected.z_step_um
    back = got.data.transpose([got.axes.index(letter) for letter in expected.axes])
    return float(np.abs(back - expected.data).max() / np.ptp(expected.data))


@pytest.mark.parametrize(
    ("source", "target", "format"),
    [
        ("in.zarr", "out.zarr", "ome-zarr-0.4"),
        ("in.zarr", "out.zarr", "ome-zarr-0.5"),
        ("in.ome.tif", "out.ome.tif", None),
        ("in.npy", "out.ome.tif", None),
    ],
)
def test_planes(stream, file_of, points, rl, kernel, source, target, format):
    path = file_of(points((3, 112, 130)), "zyx", source)
    found = stream(path, target, format=format)
    expected = in_memory(rl, path, kernel)
    assert found.plan.n_blocks == 27
    assert difference(found.outputs["output"], expected) < 1e-4
    record, other = found.record, expected.record
    assert read_record(found.outputs["output"]) == record.to_dict()
    for fact in ("flux_in", "flux_out", "flux_change", "flux_cut_off", "reblur_residual_rms"):
        assert record.facts[fact] == pytest.approx(other.facts[fact], rel=1e-3, abs=1e-6)
    assert (record.step, record.psf, record.input) == (other.step, other.psf, other.input)
    assert record.notes == other.notes


def test_reading_while_computing_changes_nothing(stream, file_of, points):
    path = file_of(points((3, 96, 100)), "zyx")
    one = stream(path, "one.zarr").outputs["output"]
    found = stream(path, "two.zarr", executor=Here(n_at_once=3))
    assert np.array_equal(read_image(found.outputs["output"]).data, read_image(one).data)


@pytest.mark.parametrize("method", ["richardson-lucy", "tv-richardson-lucy"])
def test_volumes_with_another_axis_between(stream, file_of, points, kernel_3d, method):
    path = file_of(points((20, 2, 60, 64)), "zcyx", "in.ome.tif", z_step_um=0.2)
    step = Deblur(method={"kind": method, "n_iterations": 2})
    found = stream(path, "out.ome.tif", kernel_3d, step, block_px=16)
    assert found.plan.n_blocks == 2 * 2 * 4 * 4
    assert found.plan.halo[1] == 0
    assert found.record.facts["restored_in"] == "3D"
    assert read_image(found.outputs["output"]).axes == "zcyx"
    assert difference(found.outputs["output"], in_memory(step, path, kernel_3d)) < 1e-4


def test_psf_maps_know_where_a_block_lies(stream, file_of, points, rl):
    path = file_of(points((128, 160)), "yx")
    widths = np.array([[[1.0, 1.0], [1.0, 2.0]], [[2.0, 1.0], [2.0, 2.0]]])
    centers = np.stack(np.meshgrid([20, 110], [20, 140], indexing="ij"), axis=-1)
    psf_map = PsfMap.from_parameters("gaussian-2", widths, centers_px=centers, image_shape=(128, 160))
    found = stream(path, psf=psf_map, block_px=64)
    assert found.plan.n_blocks == 6
    assert difference(found.outputs["output"], in_memory(rl, path, psf_map)) < 1e-4


def test_channels_with_their_own_psfs(stream, file_of, points, rl, kernel):
    path = file_of(points((2, 80, 96)), "cyx")
    psfs = [kernel, kernel.T[::-1] ** 2]
    found = stream(path, psf=psfs)
    whole = in_memory(rl, path, psfs)
    assert difference(found.outputs["output"], whole) < 1e-4
    assert found.record.psf == whole.record.psf


def test_the_record_tells_every_channels_optics(stream, file_of, points, rl):
    path = file_of(points((2, 80, 96)), "cyx")
    given = {"na": 0.5, "pixel_size_um": 0.1}
    found = stream(path, psf=[Optics(**given, wavelength_um=w) for w in (0.5, 0.6)])
    assert [one["wavelength_um"] for one in found.record.psf["channels"]] == [0.5, 0.6]


def test_what_a_method_takes_from_the_data_is_settled_once(stream, file_of, points, kernel):
    path = file_of(points((2, 96, 100)), "zyx")
    step = Deblur(
        method={"kind": "richardson-lucy", "n_iterations": 30, "stop": "no-progress", "tolerance": 0.05}
    )
    found = stream(path, step=step)
    used = found.record.facts["iterations"]
    assert 1 < used < 30
    # Tiles make the run in memory settle before as well.
    tiled = step.model_copy(update={"tile_px": 64})
    assert difference(found.outputs["output"], in_memory(tiled, path, kernel)) < 1e-4


def test_the_network_that_the_psf_decides_on_is_in_the_record(stream, file_of, points, latent_weights):
    from napari_deblur.nets.weights import find_model
    from napari_deblur.optics.psf import make_psf

    step = Deblur(method={"kind": "latent-deformation"})
    result = stream(file_of(points((80, 90)), "yx"), psf=make_psf("zernike-1", [0.3]), step=step)
    id = "latent-deformation-defocus"
    assert result.record.weights == {id: find_model(id).sha256}


def test_constant_planes_are_left_as_they_are(stream, file_of, points):
    pixels = points((3, 80, 96))
    pixels[1] = 77
    found = stream(file_of(pixels, "zyx"))
    assert (read_image(found.outputs["output"]).data[1] == 77).all()
    assert "Plane 1 is constant and was left as it is." in found.record.notes


def test_the_residual_is_written_too(stream, tmp_path, file_of, points, rl, kernel):
    path = file_of(points((2, 80, 96)), "tyx")
    found = stream(path, "out.ome.tif", residual=tmp_path / "rest.zarr")
    expected = in_memory(rl, path, kernel).residual
    assert difference(found.outputs["residual"], expected) < 1e-4


def test_a_blind_estimate_per_plane(stream, file_of, points):
    pixels = np.concatenate([points((1, 160, 160)), points((1, 160, 160), seed=1)])
    path = file_of(pixels, "tyx")
    step = Deblur(method={"kind": "richardson-lucy", "n_iterations": 2})
    found = stream(path, psf="gaussian-2", step=step, block_px=96)
    assert difference(found.outputs["output"], in_memory(step, path, "gaussian-2")) < 1e-4
    assert found.record.psf["model"] == "gaussian-2"


@pytest.mark.parametrize("constant", [0, 1])
def test_constant_planes_are_left_out_of_a_blind_estimate(stream, file_of, points, constant):
    pixels = points((3, 144, 150))
    pixels[constant] = 77
    path = file_of(pixels, "tyx")
    step = Deblur(method={"kind": "richardson-lucy", "n_iterations": 2})
    found = stream(path, psf="gaussian-2", step=step, block_px=80)
    expected = in_memory(step, path, "gaussian-2")
    assert difference(found.outputs["output"], expected) < 1e-4
    assert (read_image(found.outputs["output"]).data[constant] == 77).all()
    assert f"Plane {constant} is constant and was left as it is." in found.record.notes
    assert found.record.psf == expected.record.psf


@pytest.mark.parametrize("constant", [0, 1])
def test_nothing_is_settled_on_constant_planes(stream, file_of, points, monkeypatch, constant):
    """Each of the others keeps its own: which is whose must not move by the one that is left out."""
    from napari_deblur.stream import stages

    pixels = points((3, 96, 100))
    pixels[2] = points((96, 100), seed=5) // 3 + 40
    pixels[constant] = 77
    step = Deblur(
        method={"kind": "richardson-lucy", "n_iterations": 30, "stop": "no-progress", "tolerance": 0.05}
    )
    settled, used = [], {}

    def settle(work, item, run, original=stages.settle):
        settled.append(item)
        found = original(work, item, run)
        found["method"]["n_iterations"] = 5 + item
        return found

    def restore(work, volume, pixels, block, run, original=stages._restore):
        used[volume] = work.method(volume).n_iterations
        return original(work, volume, pixels, block, run)

    monkeypatch.setitem(stages.STAGES, "settle", settle)
    monkeypatch.setattr(stages, "_restore", restore)
    stream(file_of(pixels, "zyx"), step=step)
    assert settled == [number for number in range(3) if number != constant]
    assert used == {number: 5 + number for number in settled}


def test_planes_that_are_all_constant_are_refused(stream, file_of, points):
    pixels = points((2, 80, 96))
    pixels[0], pixels[1] = 5, 9
    with pytest.raises(InvalidInputError, match=r"image must not be constant, .*; received constant planes"):
        stream(file_of(pixels, "tyx"), psf="gaussian-2")


def test_methods_whose_tiles_differ_say_so(stream, file_of, points):
    found = stream(file_of(points((96, 100)), "yx"), step=Deblur(method="wiener"), block_px=48)
    assert any("computed in blocks, which differ slightly" in note for note in found.record.notes)


def test_the_pyramid_is_that_of_the_whole(stream, file_of, points):
    zarr = pytest.importorskip("zarr")
    found = stream(file_of(points((1040, 520)), "yx"), block_px=512)
    group = zarr.open_group(str(found.outputs["output"]), mode="r")
    fine, coarse = group["0"][...], group["1"][...]
    assert coarse.shape == (520, 260)
    assert np.allclose(coarse, fine.reshape(520, 2, 260, 2).mean(axis=(1, 3)), rtol=1e-5)


@pytest.mark.parametrize("name", ["out.zarr", "out.ome.tif"])
def test_whole_numbers_are_those_of_the_whole(stream, tmp_path, file_of, points, rl, kernel, name):
    path = file_of(points((2, 540, 512)), "zyx", dtype="uint16")
    plans = []
    found = stream(path, name, dtype="uint16", block_px=256, on_plan=plans.append)
    assert plans[0].output_bytes == pytest.approx(2 * 2 * 540 * 512 * (4 / 3 if name == "out.zarr" else 1))
    back = read_image(found.outputs["output"])
    assert back.source["dtype"] == "uint16"
    exact = in_memory(rl, path, kernel).image.data
    assert np.abs(back.data - exact).max() <= 0.5 + 1e-4 * np.ptp(exact)
    assert read_record(found.outputs["output"])["facts"]["stored_as"] == "uint16"
    if name == "out.zarr":
        zarr = pytest.importorskip("zarr")
        coarse = zarr.open_group(str(found.outputs["output"]), mode="r")["1"]
        assert coarse.dtype == np.uint16
        means = back.data.reshape(2, 270, 2, 256, 2).mean(axis=(2, 4))
        assert np.abs(coarse[...] - means).max() <= 0.5


def test_whole_numbers_that_do_not_fit_are_refused_in_the_first_block(
    stream, tmp_path, file_of, points, monkeypatch
):
    from napari_deblur.stream import stages

    pixels = points((3, 96, 100))
    pixels[2, 68:73, 59:64] = 60000
    done = []
    original = stages.deblur
    monkeypatch.setitem(
        stages.STAGES, "deblur", lambda work, item, run: done.append(item) or original(work, item, run)
    )
    path = file_of(pixels, "zyx", dtype="uint16")
    with pytest.raises(InvalidInputError, match="dtype must be float32 for a result with values outside"):
        stream(path, dtype="uint16")
    assert len(done) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["in.zarr"]


def test_the_plan_is_told_before_the_start(stream, tmp_path, file_of, points):
    told = []

    def look(plan):
        told.append(str(plan))
        assert not list(tmp_path.glob("out.zarr.part/output*"))

    stream(file_of(points((3, 96, 100)), "zyx"), on_plan=look)
    assert len(told) == 1
    assert told[0].startswith("18 blocks of 1 × 48 × 48 pixels with a halo of 0 × 28 × 28; ")
    assert told[0].endswith(" GB of memory, 0.000154 GB of output")


def test_images_written_by_hand(stream, tmp_path, points, rl, kernel):
    """Chunks of several planes, another compression, and chunks that were never written."""
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(tmp_path / "in.zarr"), mode="w", zarr_format=3)
    pixels = points((4, 100, 90))
    pixels[:, 64:, 64:] = 0
    array = group.create_array(
        "s0", shape=pixels.shape, chunks=(2, 32, 32), shards=(4, 64, 64), dtype="uint16", fill_value=0
    )
    array[:, :64] = pixels[:, :64]
    array[:, 64:, :64] = pixels[:, 64:, :64]
    axes = [{"name": letter, "type": "space", "unit": "nanometer"} for letter in "zyx"]
    scale = {"type": "scale", "scale": [200.0, 100.0, 100.0]}
    datasets = [{"path": "s0", "coordinateTransformations": [scale]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    assert open_image(tmp_path / "in.zarr").z_step_um == pytest.approx(0.2)
    found = stream(tmp_path / "in.zarr")
    image = Image(pixels.astype(np.float32), "zyx", (0.1, 0.1), 0.2)
    assert difference(found.outputs["output"], rl.run(image, kernel, engine=get_engine())) < 1e-4
