from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.io.read import read_image, read_psf, read_record
from napari_deblur.io.units import length_um


@pytest.fixture
def stack():
    return np.random.default_rng(0).integers(0, 4000, (5, 40, 50)).astype(np.uint16)


def ome(path, data, **metadata):
    tifffile.imwrite(path, data, ome=True, photometric="minisblack", metadata=metadata)
    return path


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.1, "µm", 0.1),
        (0.1, "\u03bcm", 0.1),
        ("100", "nm", 0.1),
        (0.1, "\\u00B5m", 0.1),
        (1e-7, "m", 0.1),
        (0.1, "micron", 0.1),
        (0.1, "microns", 0.1),
        (1000, "Å", 0.1),
        (1e-4, "mm", 0.1),
        (1, "pixel", None),
        (1, "reference frame", None),
        (1, None, None),
        (0, "µm", None),
        (-1, "µm", None),
        (float("inf"), "µm", None),
        ("?", "µm", None),
    ],
)
def test_lengths_in_micrometres(value, unit, expected):
    assert length_um(value, unit) == (pytest.approx(expected) if expected else None)


@pytest.mark.parametrize("unit", ["nm", "µm", "mm"])
def test_ome_tiff(tmp_path, stack, unit):
    factor = {"nm": 1000, "µm": 1, "mm": 0.001}[unit]
    sizes = {f"PhysicalSize{a}": s * factor for a, s in zip("XYZ", (0.1, 0.2, 0.5), strict=True)}
    units = {f"PhysicalSize{a}Unit": unit for a in "XYZ"}
    image = read_image(ome(tmp_path / "a.ome.tif", stack, axes="ZYX", **sizes, **units))
    assert image.axes == "zyx"
    assert image.pixel_size_um == pytest.approx((0.2, 0.1))
    assert image.z_step_um == pytest.approx(0.5)
    assert image.name == "a"
    assert image.data.dtype == np.float32
    assert np.array_equal(image.data, stack)


def test_imagej_hyperstack(tmp_path, stack):
    path = tmp_path / "a.tif"
    data = np.stack([np.stack([stack, stack[::-1]], axis=1)] * 3)
    meta = {"axes": "TZCYX", "unit": "\\u00B5m", "spacing": 0.5}
    tifffile.imwrite(path, data, imagej=True, resolution=(10, 5), metadata=meta)
    image = read_image(path)
    assert (image.axes, image.data.shape) == ("tzcyx", data.shape)
    assert image.pixel_size_um == pytest.approx((0.2, 0.1))
    assert image.z_step_um == pytest.approx(0.5)
    assert np.array_equal(image.data, data)


def test_plain_tiff(tmp_path, stack):
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, stack, photometric="minisblack", metadata=None)
    image = read_image(path)
    assert (image.axes, image.pixel_size_um) == ("zyx", None)
    assert read_image(path, axes="tyx").axes == "tyx"


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [(1e5, 3, 0.1), (254000, 2, 0.1), (300, 2, None), (72, 2, None), (1e5, 1, None)],
)
def test_plain_resolution_counts_where_a_microscope_could_have_it(
    tmp_path, stack, resolution, unit, expected
):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack[0], resolution=(resolution, resolution), resolutionunit=unit, metadata=None)
    found = read_image(path).pixel_size_um
    assert found == (pytest.approx((expected, expected)) if expected else None)


def test_singleton_axes_are_dropped_and_y_x_come_last(tmp_path, stack):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stack[:1, None, :, :, None], photometric="minisblack")
    assert read_image(path).axes == "yx"
    tifffile.imwrite(path, np.moveaxis(stack[:2], 0, -1), photometric="minisblack", planarconfig="contig")
    image = read_image(path)
    assert image.axes == "cyx"
    assert np.array_equal(image.data, stack[:2])


@pytest.mark.parametrize("dtype", ["uint8", ">u2", "int16", "float64", ">f4", "bool"])
def test_dtypes_are_converted(tmp_path, stack, dtype):
    data = (stack[0] % 200).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", data, byteorder=">" if dtype[0] == ">" else None)
    np.save(tmp_path / "a.npy", data)
    for name in ("a.tif", "a.npy"):
        image = read_image(tmp_path / name)
        assert image.data.dtype == np.dtype("=f4")
        assert np.array_equal(image.data, data.astype(np.float32))


def test_lzw_is_read(tmp_path):
    data = np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.uint8)
    PillowImage.fromarray(data).save(tmp_path / "a.tif", compression="tiff_lzw")
    assert np.array_equal(read_image(tmp_path / "a.tif").data, data)


def test_several_images_in_one_file(tmp_path, stack):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(stack[0], metadata={"PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0})
        writer.write(stack[1, :30], metadata={"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5})
    second = read_image(path, series=1)
    assert second.pixel_size_um == (0.5, 0.5)
    assert np.array_equal(second.data, stack[1, :30])
    with pytest.raises(InvalidInputError, match="series must be below 2"):
        read_image(path, series=2)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".npy"])
def test_colour_is_refused_with_a_way_out(tmp_path, suffix):
    rgb = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, rgb)
    elif suffix == ".tif":
        tifffile.imwrite(path, rgb, photometric="rgb")
    else:
        PillowImage.fromarray(rgb).save(path)
    with pytest.raises(InvalidInputError, match="image must be single-channel: split the colours"):
        read_image(path)


def test_pictures(tmp_path, stack):
    PillowImage.fromarray(stack[0]).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png").data, stack[0])
    grey = PillowImage.fromarray((stack[0] % 250).astype(np.uint8))
    grey.convert("LA").save(tmp_path / "b.png")
    assert np.array_equal(read_image(tmp_path / "b.png").data, stack[0] % 250)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["plain", "imagej", "ome", "pages", "tiled"])
def test_a_truncated_tiff_is_never_read_as_if_whole(tmp_path, stack, kind, compression):
    path = tmp_path / "a.tif"
    if kind == "pages":
        with tifffile.TiffWriter(path) as writer:
            for plane in stack:
                writer.write(plane, contiguous=False, metadata=None, compression=compression)
    else:
        more = {"plain": {}, "imagej": {"imagej": True}, "ome": {"ome": True}, "tiled": {"tile": (16, 16)}}[
            kind
        ]
        tifffile.imwrite(path, stack, photometric="minisblack", compression=compression, **more)
    whole = path.read_bytes()
    refused = 0
    for length in [*range(0, len(whole), len(whole) // 15), len(whole) - 10]:
        path.write_bytes(whole[:length])
        try:
            found = read_image(path).data
        except InvalidInputError as error:
            refused += error.argument == "image" and "\n" not in str(error)
        else:  # only what lies behind the pixels was cut off
            assert np.array_equal(found, stack)
    assert refused >= 8


@pytest.mark.parametrize("suffix", [".tif", ".png", ".jpg", ".npy"])
def test_rubbish_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    for content in (b"", b"no image at all", b"II*\0", b"\x93NUMPY\x01\x00"):
        path.write_bytes(content)
        with pytest.raises(InvalidInputError, match="image must be a"):
            read_image(path)


def test_paths_that_are_no_image(tmp_path):
    with pytest.raises(InvalidInputError, match=r"image must be a file that exists; received .*gone\.tif"):
        read_image(tmp_path / "gone.tif")
    with pytest.raises(InvalidInputError, match="must be an image file or an OME-Zarr folder"):
        read_image(tmp_path)
    (tmp_path / "a.docx").write_bytes(b"x")
    with pytest.raises(InvalidInputError, match=r"image must end in one of \.tif, "):
        read_image(tmp_path / "a.docx")
    with pytest.raises(InvalidInputError, match="must be a file that exists"):
        read_image("x" * 5000)


def test_arrays_with_objects_or_no_numbers_are_refused(tmp_path, stack):
    np.save(tmp_path / "a.npy", np.array([{}, "x"], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInputError, match="it holds Python objects"):
        read_image(tmp_path / "a.npy")
    for bad in (stack.astype(complex), np.full((20, 20), np.nan), np.zeros((0, 20)), np.zeros(5)):
        np.save(tmp_path / "a.npy", bad)
        with pytest.raises(InvalidInputError):
            read_image(tmp_path / "a.npy")


def test_axes_must_fit(tmp_path, stack):
    np.save(tmp_path / "a.npy", stack)
    for wrong in ("yx", "yxz", "zzyx", "12x"):
        with pytest.raises(InvalidInputError, match="axes"):
            read_image(tmp_path / "a.npy", axes=wrong)


def test_psf_files(tmp_path):
    kernel = np.random.default_rng(0).random((5, 7))
    np.save(tmp_path / "a.npy", kernel)
    tifffile.imwrite(tmp_path / "a.tif", kernel.astype(np.float32))
    for name in ("a.npy", "a.tif"):
        found = read_psf(tmp_path / name)
        assert found.dtype == np.float32
        assert np.allclose(found, kernel)
    with pytest.raises(InvalidInputError, match="psf must be a file that exists"):
        read_psf(tmp_path / "b.npy")


def test_files_without_a_record(tmp_path, stack):
    np.save(tmp_path / "a.npy", stack)
    tifffile.imwrite(tmp_path / "a.tif", stack[0])
    ome(tmp_path / "b.tif", stack[0])
    PillowImage.fromarray(stack[0]).save(tmp_path / "a.png")
    assert [read_record(tmp_path / name) for name in ("a.npy", "a.tif", "b.tif", "a.png")] == [None] * 4
    (tmp_path / "c.json").write_text(json.dumps({"step": {}}))
    assert read_record(tmp_path / "c.json") == {"step": {}}
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(InvalidInputError, match="path must be a readable result"):
        read_record(tmp_path / "c.json")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_written_elsewhere(tmp_path, stack, version):
    ngff_zarr = pytest.importorskip("ngff_zarr")
    path = tmp_path / "a.ome.zarr"
    scale = {"z": 500.0, "y": 200.0, "x": 100.0}
    units = dict.fromkeys("zyx", "nanometer")
    image = ngff_zarr.to_ngff_image(stack, dims="zyx", scale=scale, name="cells", axes_units=units)
    ngff_zarr.to_ngff_zarr(str(path), ngff_zarr.to_multiscales(image, scale_factors=[]), version=version)
    found = read_image(path)
    assert found.axes == "zyx"
    assert found.pixel_size_um == pytest.approx((0.2, 0.1))
    assert found.z_step_um == pytest.approx(0.5)
    assert np.array_equal(found.data, stack)


def test_a_folder_that_is_no_image(tmp_path):
    pytest.importorskip("zarr")
    path = tmp_path / "a.zarr"
    path.mkdir()
    with pytest.raises(InvalidInputError, match="OME-Zarr folder"):
        read_image(path)
    (path / "zarr.json").write_text("{")
    with pytest.raises(InvalidInputError, match="must be a readable OME-Zarr image"):
        read_image(path)


def test_the_missing_extra_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    path.mkdir()
    (path / ".zgroup").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(InvalidInputError, match=r"needs the extra 'zarr' \(pip install"):
        read_image(path)
