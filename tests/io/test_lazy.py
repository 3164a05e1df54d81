"""Block by block gives what reading the whole gives."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.io.lazy import open_image
from napari_deblur.io.read import read_image, read_record
from napari_deblur.io.tiff_writer import TiledTiffWriter
from napari_deblur.io.write import write_image
from napari_deblur.io.zarr_writer import ZarrWriter

PIXELS = np.random.default_rng(0).integers(0, 4000, (2, 3, 70, 90)).astype(np.uint16)


def imagej(path):
    tifffile.imwrite(
        path, PIXELS, imagej=True, resolution=(10, 5), metadata={"axes": "TZYX", "unit": "um", "spacing": 0.5}
    )


def tiled(path):
    tifffile.imwrite(path, PIXELS, ome=True, tile=(32, 48), compression="zlib", metadata={"axes": "TZYX"})


def strips(path):
    tifffile.imwrite(path, PIXELS, ome=True, rowsperstrip=7, compression="lzw", metadata={"axes": "TZYX"})


def wide(path):
    tifffile.imwrite(path, np.tile(PIXELS[0, :, :20], 800), photometric="minisblack", byteorder=">")


def channels_last(path):
    tifffile.imwrite(path, np.moveaxis(PIXELS[0, :2], 0, -1), photometric="minisblack", planarconfig="contig")


def odd_zarr(path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    group.create_array("x", shape=(1, *PIXELS.shape), chunks=(1, 2, 2, 32, 32), dtype="uint16")[0] = PIXELS
    axes = [{"name": n} for n in ("c", "t", "z", "y", "x")]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": "x"}]}]}


KINDS = {
    "imagej.tif": imagej,
    "tiled.ome.tif": tiled,
    "strips.ome.tif": strips,
    "wide.tif": wide,
    "last.tif": channels_last,
    "odd.zarr": odd_zarr,
    "plain.npy": lambda path: np.save(path, PIXELS),
    "pyramid.zarr": lambda path: write_image(Image(PIXELS.astype(np.float32), "tzyx", (0.1, 0.2), 0.3), path),
}


@pytest.mark.parametrize("name", KINDS)
def test_blocks_are_parts_of_the_whole(tmp_path, name):
    if name.endswith("zarr") or name.startswith(("tiled", "strips", "last")):
        pytest.importorskip("zarr")
    path = tmp_path / name
    KINDS[name](path)
    whole, lazy = read_image(path), open_image(path)
    for field in ("axes", "pixel_size_um", "z_step_um", "name", "source"):
        assert getattr(lazy, field) == getattr(whole, field), field
    assert lazy.shape == whole.data.shape
    assert np.array_equal(lazy.load().data, whole.data)
    rng = np.random.default_rng(1)
    for _ in range(8):
        starts = [int(rng.integers(0, size)) for size in lazy.shape]
        region = tuple(
            slice(start, int(rng.integers(start + 1, size + 1)))
            for start, size in zip(starts, lazy.shape, strict=True)
        )
        part = lazy.read(region)
        assert part.dtype == np.float32
        assert np.array_equal(part, whole.data[region])
    assert not lazy.stub().data.any()
    renamed = "ab"[: len(lazy.axes) - 2] + "yx"
    assert open_image(path, axes=renamed).axes == renamed


def test_opening_reads_no_pixels(tmp_path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    group.create_array("0", shape=(10**5, 10**5, 10**5), chunks=(64, 64, 64), dtype="float32")
    axes = [{"name": letter, "type": "space"} for letter in "zyx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]}]
    assert open_image(tmp_path / "a.zarr").size == 10**15


def test_what_cannot_be_opened(tmp_path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    group.create_array("0", shape=(0, 20, 20), chunks=(1, 20, 20), dtype="float32")
    datasets = [{"path": "0"}]
    group.attrs["ome"] = {"multiscales": [{"axes": [{"name": n} for n in "zyx"], "datasets": datasets}]}
    for read in (open_image, read_image):
        with pytest.raises(InvalidInputError, match="image must not have an axis of length 0"):
            read(tmp_path / "a.zarr")
    group.create_array("1", shape=(2, 20, 20), chunks=(1, 20, 20), dtype="float32")
    axes = [{"name": n} for n in "yx"]
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": [{"path": "1"}]}]}
    with pytest.raises(InvalidInputError, match="axes must name every axis of its array"):
        open_image(tmp_path / "a.zarr")
    np.save(tmp_path / "c.npy", np.ones((20, 20), complex))
    with pytest.raises(InvalidInputError, match="image must hold real numbers"):
        open_image(tmp_path / "c.npy")
    (tmp_path / "d.npy").write_bytes(b"rubbish")
    with pytest.raises(InvalidInputError, match="image must be a complete NPY file"):
        open_image(tmp_path / "d.npy")
    (tmp_path / "e.tif").write_bytes(b"rubbish")
    with pytest.raises(InvalidInputError, match="image must be a readable TIFF file"):
        open_image(tmp_path / "e.tif")
    tifffile.imwrite(tmp_path / "f.tif", np.zeros((20, 20, 3), np.uint8), photometric="rgb")
    with pytest.raises(InvalidInputError, match="image must be single-channel"):
        open_image(tmp_path / "f.tif")


@pytest.mark.parametrize("units", [("micrometer", None), (None, None), ("micrometer", "second")])
def test_sizes_without_their_units_are_not_taken(tmp_path, units):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w")
    group.create_array("0", shape=(20, 20), chunks=(20, 20), dtype="float32")
    axes = [{"name": n} | ({"unit": unit} if unit else {}) for n, unit in zip("yx", units, strict=True)]
    scale = [{"type": "scale", "scale": [0.1, 0.1]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"multiscales": [{"axes": axes, "datasets": datasets}]}
    assert open_image(tmp_path / "a.zarr").pixel_size_um is None


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_zarr_block_by_block_is_zarr_at_once(tmp_path, version):
    zarr = pytest.importorskip("zarr")
    ngff_zarr = pytest.importorskip("ngff_zarr")
    pixels = np.random.default_rng(0).random((2, 3, 1040, 530), np.float32)
    image = Image(pixels, "zcyx", (0.2, 0.1), 0.5, name="cells")
    writer = ZarrWriter.create(tmp_path / "b.zarr", image, version=version, chunks=(1, 1, 256, 256))
    for top in range(0, 1040, 512):
        region = (slice(0, 2), slice(0, 3), slice(top, min(top + 512, 1040)), slice(0, 530))
        writer.write(region, pixels[region])
    for level in range(1, writer.n_levels):
        for part in writer.parts(level, most_px=2**16):
            writer.halve(level, part)
    writer.set_record({"step": {"kind": "deblur"}})
    write_image(image, tmp_path / "w.zarr", {"step": {"kind": "deblur"}}, format=f"ome-zarr-{version}")
    block, whole = (zarr.open_group(str(tmp_path / n), mode="r") for n in ("b.zarr", "w.zarr"))
    assert dict(block.attrs) == dict(whole.attrs)
    for level in ("0", "1"):
        assert np.array_equal(block[level][...], whole[level][...])
    other = ngff_zarr.from_ngff_zarr(str(tmp_path / "b.zarr"))
    assert [scale.data.shape for scale in other.images] == [(3, 2, 1040, 530), (3, 2, 520, 265)]
    assert other.images[0].axes_units == {**dict.fromkeys("zyx", "micrometer"), "c": None}
    assert other.images[0].scale == pytest.approx({"c": 1, "z": 0.5, "y": 0.2, "x": 0.1})
    models = pytest.importorskip(f"ome_zarr_models.v{version.replace('.', '')}")
    models.Image.from_zarr(whole)
    back = read_image(tmp_path / "b.zarr")
    assert np.array_equal(back.data, pixels.transpose(1, 0, 2, 3))
    assert (back.axes, back.pixel_size_um, back.z_step_um) == ("czyx", (0.2, 0.1), 0.5)
    assert read_record(tmp_path / "b.zarr") == {"step": {"kind": "deblur"}}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tiff_block_by_block(tmp_path):
    image = Image(PIXELS.astype(np.float32), "tzyx", (0.2, 0.1), 0.5, name="cells")
    path = tmp_path / "a.ome.tif"
    writer = TiledTiffWriter.create(path, image, blocks=(1, 1, 32, 48))
    corners = [
        (t, z, y, x) for t in range(2) for z in range(3) for y in range(0, 70, 32) for x in range(0, 90, 48)
    ]
    for t, z, y, x in reversed(corners):
        region = (slice(t, t + 1), slice(z, z + 1), slice(y, min(y + 32, 70)), slice(x, min(x + 48, 90)))
        TiledTiffWriter(path).write(region, image.data[region])
    record = {"notes": ["µ < \"3\" & 'more'"], "steps": list(range(50))}
    writer.set_record(record)
    with tifffile.TiffFile(path) as file:
        assert (file.is_ome, file.is_bigtiff, file.pages[0].is_tiled) == (True, True, True)
        assert file.pages[0].tile == (32, 48)
        assert np.array_equal(file.asarray(), PIXELS)
    assert read_record(path) == record
    back = read_image(path)
    assert (back.axes, back.pixel_size_um, back.z_step_um) == ("tzyx", (0.2, 0.1), 0.5)
    pixels = pytest.importorskip("ome_types").from_tiff(path).images[0].pixels
    assert (pixels.size_t, pixels.size_z, pixels.physical_size_x, pixels.physical_size_z) == (2, 3, 0.1, 0.5)


@pytest.mark.parametrize("axes", ["yx", "zyx", "ctyx", "tczyx"])
def test_imagej_out_and_in(tmp_path, axes):
    shape = {"t": 2, "c": 3, "z": 4, "y": 20, "x": 30}
    pixels = np.random.default_rng(0).random([shape[a] for a in axes], np.float32)
    image = Image(pixels, axes, (0.2, 0.1), 0.5 if "z" in axes else None)
    path = write_image(image, tmp_path / "a.tif", {"step": {"µ": 1}}, format="imagej-tiff")
    with tifffile.TiffFile(path) as file:
        assert file.is_imagej
        meta = file.imagej_metadata
        assert (meta.get("slices", 1), meta.get("channels", 1), meta.get("frames", 1)) == tuple(
            shape[a] if a in axes else 1 for a in "zct"
        )
    back = read_image(path)
    assert back.pixel_size_um == pytest.approx((0.2, 0.1))
    assert back.z_step_um == image.z_step_um
    assert np.array_equal(back.data.transpose([back.axes.index(a) for a in axes]), pixels)
    assert read_record(path) == {"step": {"µ": 1}}


def test_formats_and_suffixes_go_together(tmp_path):
    image = Image(PIXELS[0, 0].astype(np.float32))
    with pytest.raises(InvalidInputError, match=r"output must end in \.zarr for the format ome-zarr-0\.5"):
        write_image(image, tmp_path / "a.tif", format="ome-zarr-0.5")
    with pytest.raises(InvalidInputError, match="format must be one of ome-tiff, imagej-tiff"):
        write_image(image, tmp_path / "a.tif", format="jpeg")
    huge = Image(np.broadcast_to(np.float32(0), (2**10, 2**10, 2**10)))
    with pytest.raises(InvalidInputError, match="format must be another than imagej-tiff for images of 4 GB"):
        write_image(huge, tmp_path / "a.tif", format="imagej-tiff")
    assert not list(tmp_path.iterdir())
