from __future__ import annotations

import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from napari_deblur.core.errors import InvalidInputError, OutputError
from napari_deblur.core.image import Image
from napari_deblur.core.record import Record
from napari_deblur.io.read import read_image, read_psf, read_record
from napari_deblur.io.write import check_image_path, write_depth, write_image, write_json, write_psf

RECORD = Record({"kind": "deblur", "µ": "<&>\"'"}, seed=3, notes=["first\nsecond", "σ = 0.5"])


def make(axes="yx", shape=(40, 50)):
    data = np.random.default_rng(0).normal(100, 30, shape).astype(np.float32)
    return Image(data, axes, (0.2, 0.1), 0.5 if "z" in axes else None, name='cells <1> & "2"')


STACKS = [("yx", (40, 50)), ("zyx", (3, 40, 50)), ("tyx", (3, 40, 50)), ("tczyx", (2, 3, 4, 20, 30))]


@pytest.mark.parametrize(("axes", "shape"), STACKS)
@pytest.mark.parametrize("suffix", [".tif", ".ome.tiff", ".zarr"])
def test_what_is_written_comes_back(tmp_path, axes, shape, suffix):
    if suffix == ".zarr":
        pytest.importorskip("zarr")
    image = make(axes, shape)
    path = write_image(image, tmp_path / f"a{suffix}", RECORD)
    back = read_image(path)
    assert np.array_equal(back.data, image.data)
    assert (back.axes, back.pixel_size_um, back.z_step_um) == (axes, (0.2, 0.1), image.z_step_um)
    assert read_record(path) == RECORD.to_dict()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ome_types_reads_the_ome_tiff(tmp_path):
    ome_types = pytest.importorskip("ome_types")
    path = write_image(make("tczyx", (2, 3, 4, 20, 30)), tmp_path / "a.ome.tif", RECORD)
    found = ome_types.from_tiff(path)
    pixels = found.images[0].pixels
    assert found.images[0].name == "cells (1) + '2'"
    assert (pixels.size_t, pixels.size_c, pixels.size_z, pixels.size_y, pixels.size_x) == (2, 3, 4, 20, 30)
    assert (pixels.physical_size_x, pixels.physical_size_y, pixels.physical_size_z) == (0.1, 0.2, 0.5)
    assert pixels.physical_size_x_unit.value == "µm"
    assert pixels.type.value == "float"
    annotations = [note for note in found.structured_annotations if note.namespace == "napari-deblur/record"]
    assert len(annotations) == 1


def test_another_library_reads_the_ome_tiff(tmp_path):
    io = pytest.importorskip("skimage.io")
    image = make("zyx", (5, 40, 50))
    assert np.array_equal(io.imread(write_image(image, tmp_path / "a.tif")), image.data)


def test_another_library_reads_the_ome_zarr(tmp_path):
    ngff_zarr = pytest.importorskip("ngff_zarr")
    models = pytest.importorskip("ome_zarr_models.v04")
    zarr = pytest.importorskip("zarr")
    image = make("zyx", (2, 1101, 900))
    path = write_image(image, tmp_path / "a.zarr", RECORD)
    scales = ngff_zarr.from_ngff_zarr(str(path)).images
    assert scales[0].axes_units == dict.fromkeys("zyx", "micrometer")
    assert [scale.data.shape for scale in scales] == [(2, 1101, 900), (2, 550, 450)]
    assert scales[1].scale == pytest.approx({"z": 0.5, "y": 0.4, "x": 0.2})
    # The first pixel of a binned level is centred between the four that it is the mean of.
    assert scales[1].translation == pytest.approx({"z": 0.0, "y": 0.1, "x": 0.05})
    assert np.array_equal(np.asarray(scales[0].data), image.data)
    models.Image.from_zarr(zarr.open_group(str(path), mode="r"))


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.ome.tif", None),
        ("a.tif", "imagej-tiff"),
        ("a.npy", None),
        ("a.zarr", "ome-zarr-0.4"),
        ("a.zarr", "ome-zarr-0.5"),
    ],
)
def test_whole_numbers_are_rounded_to_and_said_to_be(tmp_path, name, format):
    if name.endswith("zarr"):
        pytest.importorskip("zarr")
    image = make("zyx", (2, 40, 50))
    image = image.with_data(np.abs(image.data))
    path = write_image(image, tmp_path / name, RECORD, format=format, dtype="uint16")
    back = read_image(path)
    assert back.source["dtype"] == "uint16"
    assert np.array_equal(back.data, np.rint(image.data))
    facts = read_record(path)["facts"]
    assert (facts["stored_as"], facts["rounded_to_grey_values"]) == ("uint16", 1)


@pytest.mark.parametrize("level", [-1.0, 65536.0])
def test_whole_numbers_that_do_not_fit_are_refused(tmp_path, level):
    image = make()
    np.abs(image.data, out=image.data)
    image.data[3, 4] = level
    rule = r"dtype must be float32 for a result with values outside 0 to 65535; received uint16 for values"
    with pytest.raises(InvalidInputError, match=rule):
        write_image(image, tmp_path / "a.tif", dtype="uint16")
    assert not list(tmp_path.iterdir())


def test_fractions_are_not_rounded_away(tmp_path):
    image = Image(make().data, source={"dtype": "float32"})
    with pytest.raises(InvalidInputError, match="dtype must be float32 for an image of float32"):
        write_image(image, tmp_path / "a.tif", dtype="uint16")
    with pytest.raises(InvalidInputError, match=r"dtype must be left out for \.png"):
        write_image(make(), tmp_path / "a.png", dtype="uint16")


def test_a_record_that_lies_beside_is_not_replaced_unasked(tmp_path):
    image = Image(np.ones((8, 8), np.float32))
    (tmp_path / "a.npy.json").write_text("mine", encoding="utf-8")
    for record in (RECORD, None):  # without one, that which lies there would tell of this image
        with pytest.raises(OutputError, match=r"output must not exist yet .*a\.npy\.json"):
            write_image(image, tmp_path / "a.npy", record)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.npy.json"]
    assert (tmp_path / "a.npy.json").read_text(encoding="utf-8") == "mine"
    write_image(image, tmp_path / "a.npy", RECORD, overwrite=True)
    assert read_record(tmp_path / "a.npy") == RECORD.to_dict()


def test_npy_keeps_its_record_beside_it(tmp_path):
    image = make()
    path = write_image(image, tmp_path / "a.npy", RECORD)
    assert np.array_equal(np.load(path), image.data)
    assert (tmp_path / "a.npy.json").is_file()
    assert read_record(path) == RECORD.to_dict()


def test_png_is_for_looking(tmp_path):
    path = write_image(make(), tmp_path / "a.png", RECORD)
    with PillowImage.open(path) as picture:
        assert (picture.mode, picture.size) == ("L", (50, 40))
        assert picture.getextrema() == (0, 255)
    assert read_record(path) == RECORD.to_dict()
    with pytest.raises(InvalidInputError, match="more than two axes"):
        write_image(make("zyx", (3, 40, 50)), tmp_path / "b.png")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.png"]


def test_axes_that_ome_does_not_know(tmp_path):
    image = make("qyx", (3, 40, 50))
    assert read_image(write_image(image, tmp_path / "a.tif")).axes == "tyx"
    pytest.importorskip("zarr")
    with pytest.raises(InvalidInputError, match="axes must be among"):
        write_image(image, tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def test_names_that_xml_cannot_hold(tmp_path):
    image = Image(np.ones((20, 20), np.float32), name="a\x00b\x1bc")
    path = write_image(image, tmp_path / "a.tif", {"notes": "x\x0by"})
    assert read_record(path) == {"notes": "x\x0by"}


@pytest.mark.parametrize("suffix", [".tif", ".npy", ".png", ".zarr"])
def test_existing_results_are_kept_unless_overwritten(tmp_path, suffix):
    if suffix == ".zarr":
        pytest.importorskip("zarr")
    path = tmp_path / f"a{suffix}"
    write_image(make(), path, RECORD)
    with pytest.raises(OutputError, match="must not exist yet"):
        write_image(make(), path)
    other = make(shape=(30, 30))
    write_image(other, path, overwrite=True)
    assert read_image(path).data.shape == (30, 30)


def test_bad_paths_are_refused_before_the_work(tmp_path, monkeypatch):
    with pytest.raises(InvalidInputError, match=r"output must end in one of \.tif"):
        check_image_path(tmp_path / "a.doc", overwrite=False)
    with pytest.raises(OutputError, match="folder that exists"):
        check_image_path(tmp_path / "b" / "a.tif", overwrite=False)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(InvalidInputError, match="needs the extra 'zarr'"):
        check_image_path(tmp_path / "a.zarr", overwrite=False)


def test_psf_round_trip(tmp_path):
    kernel = np.random.default_rng(0).random((7, 9)).astype(np.float32)
    for name in ("a.tif", "a.npy"):
        path = write_psf(kernel, tmp_path / name, pixel_size_um=(0.1, 0.1))
        assert np.array_equal(read_psf(path), kernel)


@dataclass(frozen=True)
class Depth:
    calibrated: bool
    pixel_size_um: tuple[float, float] | None = (0.3, 0.3)
    depth_um: np.ndarray = field(
        default_factory=lambda: np.linspace(-5, 5, 600, dtype=np.float32).reshape(20, 30)
    )
    confidence: np.ndarray = field(default_factory=lambda: np.ones((20, 30), np.float32))
    record: Record = field(default_factory=lambda: Record({"kind": "depth"}))


@pytest.mark.parametrize(("calibrated", "unit"), [(True, "µm"), (False, "relative")])
def test_depth_states_its_unit(tmp_path, calibrated, unit):
    depth = Depth(calibrated)
    path = write_depth(depth, tmp_path / "a.tif")
    with tifffile.TiffFile(path) as file:
        assert file.series[0].dtype == np.float32
        assert np.array_equal(file.asarray(), depth.depth_um)
        assert f'Name="depth ({unit})"' in file.ome_metadata
    assert read_record(path)["unit"] == unit
    assert read_image(path).pixel_size_um == (0.3, 0.3)
    write_depth(depth, tmp_path / "b.tif", pixel_size_um=(0.5, 0.5), confidence=True)
    assert read_image(tmp_path / "b.tif").pixel_size_um == (0.5, 0.5)
    assert np.array_equal(read_image(tmp_path / "b.tif").data, depth.confidence)


def test_json(tmp_path):
    path = write_json({"µ": [1, 2]}, tmp_path / "a.json")
    assert '"µ"' in path.read_text(encoding="utf-8")
    with pytest.raises(OutputError, match="map must not exist"):
        write_json({}, path, argument="map")
