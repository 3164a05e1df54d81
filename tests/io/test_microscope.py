from __future__ import annotations

import numpy as np
import pytest
import tifffile

from napari_deblur.core.image import Image
from napari_deblur.io.lazy import open_image
from napari_deblur.io.microscope import from_ome_xml, from_omero, suggest_optics
from napari_deblur.io.read import read_image


def made_with_ome_types(**objective):
    """Return OME-XML with two channels, written by another library."""
    model = pytest.importorskip("ome_types.model")
    settings = objective.pop("settings", {})
    lens = model.Objective(id="Objective:0", **objective)
    other = model.Objective(id="Objective:1", lens_na=0.3)
    channels = [
        model.Channel(id="Channel:0", name="GFP", emission_wavelength=509, excitation_wavelength=488),
        model.Channel(id="Channel:1", name="Cy5", emission_wavelength=0.67, emission_wavelength_unit="µm"),
    ]
    pixels = model.Pixels(
        id="Pixels:0", dimension_order="XYZCT", type="uint16",
        size_c=2, size_t=1, size_x=30, size_y=20, size_z=1,
        channels=channels, physical_size_x=65, physical_size_x_unit="nm", physical_size_y=65,
        physical_size_y_unit="nm", tiff_data_blocks=[model.TiffData(plane_count=2)],
    )  # fmt: skip
    image = model.Image(
        id="Image:0", pixels=pixels, instrument_ref=model.InstrumentRef(id="Instrument:0"),
        objective_settings=model.ObjectiveSettings(id="Objective:0", **settings),
    )  # fmt: skip
    instrument = model.Instrument(id="Instrument:0", objectives=[lens, other])
    return model.OME(images=[image], instruments=[instrument]).to_xml()


@pytest.fixture
def ome_file(tmp_path):
    path = tmp_path / "a.ome.tif"
    pixels = np.arange(2 * 20 * 30, dtype=np.uint16).reshape(2, 20, 30)
    xml = made_with_ome_types(lens_na=1.4, immersion="Oil")
    tifffile.imwrite(path, pixels, photometric="minisblack", description=xml.encode(), metadata=None)
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("read", [read_image, open_image])
def test_optics_from_ome_tiff(ome_file, read):
    image = read(ome_file)
    assert image.axes == "cyx"
    both = {"na": 1.4, "refractive_index": 1.515, "pixel_size_um": pytest.approx(0.065)}
    assert suggest_optics(image) == both
    assert suggest_optics(image, 0) == {**both, "wavelength_um": pytest.approx(0.509)}
    assert suggest_optics(image, 1) == {**both, "wavelength_um": pytest.approx(0.67)}
    assert image.source["microscope"]["channels"][0]["excitation_um"] == pytest.approx(0.488)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_settings_know_better_than_the_lens():
    xml = made_with_ome_types(lens_na=1.2, immersion="Water", settings={"refractive_index": 1.38})
    assert from_ome_xml(xml)["refractive_index"] == 1.38
    assert from_ome_xml(made_with_ome_types(immersion="Other")).keys() == {"channels"}
    assert from_ome_xml(xml, series=1) == {}
    assert from_ome_xml("<OME") == {}


def test_optics_from_ome_zarr(tmp_path):
    zarr = pytest.importorskip("zarr")
    for layout in ("omero", "bioformats2raw"):
        root = zarr.open_group(str(tmp_path / f"{layout}.zarr"), mode="w", zarr_format=2)
        group = root.create_group("0") if layout == "bioformats2raw" else root
        group.create_array("0", shape=(2, 20, 30), dtype="uint16", chunks=(1, 20, 30))[...] = 3
        axes = [{"name": "c", "type": "channel"}] + [
            {"name": letter, "type": "space", "unit": "micrometer"} for letter in "yx"
        ]
        scale = [{"type": "scale", "scale": [1.0, 0.1, 0.1]}]
        datasets = [{"path": "0", "coordinateTransformations": scale}]
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": datasets}]
        if layout == "omero":
            channels = [{"label": "GFP", "emissionWave": 520}, {"label": "DAPI", "emissionWave": 460}]
            group.attrs["omero"] = {"channels": channels}
        else:
            root.attrs["bioformats2raw.layout"] = 3
            folder = tmp_path / f"{layout}.zarr" / "OME"
            folder.mkdir()
            xml = (
                '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
                '<Instrument ID="Instrument:0">'
                '<Objective ID="Objective:0" LensNA="0.8" Immersion="Air"/></Instrument>'
                '<Image ID="Image:0"><Pixels ID="Pixels:0">'
                '<Channel ID="c:0" EmissionWavelength="520.0"/>'
                '<Channel ID="c:1" EmissionWavelength="460.0"/></Pixels></Image></OME>'
            )
            (folder / "METADATA.ome.xml").write_text(xml, encoding="utf-8")
    known = {"pixel_size_um": pytest.approx(0.1), "wavelength_um": pytest.approx(0.46)}
    assert suggest_optics(read_image(tmp_path / "omero.zarr"), 1) == known
    known |= {"na": 0.8, "refractive_index": 1.0}
    assert suggest_optics(read_image(tmp_path / "bioformats2raw.zarr"), 1) == known
    assert suggest_optics(open_image(tmp_path / "bioformats2raw.zarr" / "0"), 1) == known


def test_what_is_not_known_is_not_suggested():
    assert suggest_optics(Image(np.ones((20, 30), np.float32))) == {}
    stack = Image(np.ones((4, 20, 30), np.float32), "zyx", (0.1, 0.2), 0.3)
    assert suggest_optics(stack) == {"z_step_um": 0.3}  # pixels that are not square are no Optics
    assert from_omero([{"color": "FF0000"}]) == {}
