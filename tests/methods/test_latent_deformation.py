"""Restoration in a deformable latent space: what must hold whatever the networks have learned."""

import numpy as np
import pytest
import torch

from napari_deblur.core.errors import CancelledError, InvalidInputError, UnknownNameError, WeightsError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.engine import Engine
from napari_deblur.methods.latent_deformation import LatentDeformation
from napari_deblur.methods.latent_image import NETWORKS, PARAMETERS, LatentImage, sampling
from napari_deblur.nets.weights import WEIGHTS_VARIABLE, find_model
from napari_deblur.optics.psf import make_psf
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.deblur import Deblur

pytestmark = pytest.mark.usefixtures("latent_weights")


@pytest.fixture(scope="module")
def engine():
    return Engine("cpu")


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:150, :170].astype(np.float32)
    return (2 + np.sin(y / 5) * np.cos(x / 7) + 0.1 * rng.standard_normal(y.shape)).astype(np.float32)


def run(image, method, psf, engine, **more):
    return Deblur(method=method, **more).run(Image(image), psf, engine=engine)


@pytest.mark.parametrize(
    ("psf", "network", "parameters"),
    [
        (("zone-plate", [7.0]), "zone-plate", {"defocus_um": 7.0}),
        (("zernike-1", [0.3]), "defocus", {"defocus_waves": 0.3}),
        (
            ("zernike-3", [0.2, 0.15, 0.8]),
            "astigmatism",
            {"defocus_waves": 0.2, "astigmatism_waves": 0.15, "axis_rad": 0.8},
        ),
    ],
)
def test_family_and_parameters_are_found_from_the_psf(psf, network, parameters, image, engine):
    result = run(image, LatentDeformation(), make_psf(*psf), engine)
    facts = result.record.facts
    assert facts["latent_network"] == NETWORKS[network]
    assert facts["latent_parameters"] == pytest.approx(parameters, abs=0.01)
    assert facts["psf_distance"] < 0.01
    assert result.record.weights == {NETWORKS[network]: find_model(NETWORKS[network]).sha256}
    assert result.record.learned
    assert result.image.data.shape == image.shape
    told = run(image, LatentDeformation(network=network, **parameters), None, engine)
    np.testing.assert_allclose(told.image.data, result.image.data, atol=2e-3)
    np.testing.assert_allclose(told.psf, make_psf(psf[0], list(parameters.values())), atol=1e-6)
    assert told.record.weights == result.record.weights
    assert not told.record.notes


def test_a_psf_outside_the_family_is_refused_with_its_distance(image, engine):
    stretched = make_psf("gaussian-2", [1.0, 4.0])
    rule = r"within a relative distance of 0\.2 of the family zone-plate; received a kernel at 0\.\d\d"
    with pytest.raises(InvalidInputError, match=rule):
        run(image, LatentDeformation(network="zone-plate"), stretched, engine)
    with pytest.raises(InvalidInputError, match="nearest: defocus_waves"):
        run(image, LatentDeformation(network="defocus"), stretched, engine)
    run(image, LatentDeformation(network="zone-plate", tolerance=1.0), stretched, engine)


def test_parameters_and_a_psf_must_agree(image, engine):
    told = LatentDeformation(defocus_um=5.0)
    given = run(image, told, 3 * make_psf("zone-plate", [5.2]), engine)
    np.testing.assert_array_equal(given.image.data, run(image, told, None, engine).image.data)
    rule = r"left out where defocus_um is given, or lie within 0\.2 .*; received a kernel at 0\.\d\d"
    with pytest.raises(InvalidInputError, match=rule):
        run(image, told, make_psf("zone-plate", [12.0]), engine)
    in_focus = Optics(na=1.4, wavelength_um=0.5, pixel_size_um=0.1)
    with pytest.raises(InvalidInputError, match="left out where defocus_waves is given"):
        run(image, LatentDeformation(defocus_waves=0.4), in_focus, engine)


def test_the_optics_that_parameters_count_for_are_said():
    plate = {"outermost_zone_um": 0.016, "pixel_size_um": 0.0056, "energy_kev": 9.0}
    assert sampling({"optics": plate}).endswith("zones down to 16 nm at 9 keV and pixels of 5.6 nm.")
    assert "of 0.26 cycles per pixel" in sampling({"cutoff_cycles_per_px": 0.26})
    assert not sampling({})


def test_what_must_be_given_is_said(image, engine):
    with pytest.raises(InvalidInputError, match="psf must be given for Latent deformation"):
        run(image, LatentDeformation(), None, engine)
    with pytest.raises(InvalidInputError, match="astigmatism_waves must be given together with axis_rad"):
        run(image, LatentDeformation(network="astigmatism", axis_rad=1.0, defocus_waves=0.1), None, engine)
    with pytest.raises(InvalidInputError, match="defocus_um must be left out for defocus"):
        run(image, LatentDeformation(network="defocus", defocus_um=1.0), None, engine)
    with pytest.raises(InvalidInputError, match="network must be one that knows all"):
        run(image, LatentDeformation(defocus_um=1.0, axis_rad=1.0), None, engine)


def test_a_map_is_refused(image, engine):
    centers = np.array([[[40.0, 40.0], [40.0, 120.0]]])
    psf_map = PsfMap.from_parameters(
        "zernike-1", np.full((1, 2, 1), 0.2), centers_px=centers, image_shape=image.shape
    )
    with pytest.raises(InvalidInputError, match="single kernel"):
        run(image, LatentDeformation(), psf_map, engine)


@pytest.mark.parametrize("shape", [(620, 600), (603, 611)])
def test_tiles_agree_with_the_whole(shape, engine):
    big = np.cumsum(np.random.default_rng(1).normal(size=shape), axis=1).astype(np.float32)
    method = LatentDeformation(defocus_um=5.0)
    whole = run(big, method, None, engine)
    tiled = run(big, method, None, engine, tile_px=100)
    assert method.halo_px(32) < 200, "a tile with its halo is not the whole"
    assert np.abs(tiled.image.data - whole.image.data).max() < 1e-4 * np.ptp(whole.image.data)
    assert not tiled.record.notes


def test_scale_and_offset_are_kept(image, engine):
    method = LatentDeformation(defocus_waves=0.2)
    plain = run(image, method, None, engine).image.data
    counts = run(500 * image + 100, method, None, engine, camera_offset=100).image.data
    np.testing.assert_allclose(counts, 500 * plain + 100, rtol=1e-3, atol=0.5)


def test_level_contrast_and_noise_can_be_given_in_grey_values(image, engine):
    counts = 500 * image
    measured = run(counts, LatentDeformation(defocus_um=5.0), None, engine)
    noise = measured.record.facts["noise_to_contrast"] * counts.std(ddof=1)
    method = LatentDeformation(
        defocus_um=5.0,
        mean_level=float(counts.mean()),
        contrast=float(counts.std(ddof=1)),
        noise=float(noise),
    )
    given = run(counts, method, None, engine)
    np.testing.assert_allclose(given.image.data, measured.image.data, rtol=1e-3)


def test_what_the_network_does_not_know_is_said(image, engine):
    far = run(image, LatentDeformation(defocus_um=17.0), None, engine)
    assert any("outside the 0 to 15" in note for note in far.record.notes)
    noisy = image + 3 * np.random.default_rng(2).standard_normal(image.shape).astype(np.float32)
    strong = LatentDeformation(defocus_um=5.0, contrast=1.0)
    assert any("The noise is" in note for note in run(noisy, strong, None, engine).record.notes)
    aside = run(image, LatentDeformation(), np.roll(make_psf("zone-plate", [5.0]), 4, 0), engine)
    assert any("4.0 pixels off its centre" in note for note in aside.record.notes)


def test_a_settled_method_survives_its_own_record(image, engine):
    """Streams settle on a whole plane and make the method again from plain values in other processes."""
    from napari_deblur.blur.convolution import Convolution

    blur = Convolution(torch.from_numpy(make_psf("zone-plate", [5.0])), image.shape)
    settled = LatentDeformation().settle(torch.from_numpy(image), blur, Run())
    values = {name: value for name, value in settled.model_dump().items() if name != "kind"}
    again = LatentDeformation(**values)
    assert again == settled
    y = torch.from_numpy(image)
    torch.testing.assert_close(again.solve(y, blur, Run()), settled.solve(y, blur, Run()))
    assert (
        run(image, LatentDeformation(defocus_um=5.0), None, engine).record.step["method"]["defocus_um"] == 5.0
    )


def test_cancel_before_the_end_keeps_what_there_is(image, engine):
    progress = Run()
    progress.on_progress = lambda step: progress.cancel() if step.partial is not None else None
    result = Deblur(method=LatentDeformation(defocus_um=5.0)).run(Image(image), engine=engine, run=progress)
    assert result.partial
    early = Run()
    early.cancel()
    with pytest.raises(CancelledError, match="encoding"):
        Deblur(method=LatentDeformation(defocus_um=5.0)).run(Image(image), engine=engine, run=early)


def test_missing_or_damaged_weights_are_named(latent_weights, image, engine, monkeypatch, tmp_path):
    path = latent_weights / f"{NETWORKS['zone-plate']}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    engine._networks.clear()
    from napari_deblur.engine.shared import get_engine

    get_engine()._networks.clear()
    with pytest.raises(WeightsError, match="changed or damaged"):
        run(image, LatentDeformation(defocus_um=5.0), None, engine)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(empty))
    monkeypatch.setitem(NETWORKS, "defocus", "latent-deformation-none")
    with pytest.raises(UnknownNameError, match="model must be one of"):
        run(image, LatentDeformation(defocus_waves=0.1), None, engine)


@pytest.mark.parametrize("network", list(NETWORKS))
def test_an_image_is_encoded_once_for_all_parameters(network, image, engine, monkeypatch):
    from napari_deblur.nets.deformable import DeformableNet

    calls = []
    encode = DeformableNet.encode
    monkeypatch.setattr(DeformableNet, "encode", lambda net, x: calls.append(1) or encode(net, x))
    latent = LatentImage.of(image, network)
    values = [dict.fromkeys(PARAMETERS[network], value) for value in (0.1, 0.2, 0.4)]
    made = [latent.restored(**one) for one in values]
    assert len(calls) == 1
    assert not np.allclose(made[0], made[2])
    for one, restored in zip(values, made, strict=True):
        method = LatentDeformation(network=network, **one)
        np.testing.assert_allclose(restored, run(image, method, None, engine).image.data, atol=1e-4)


def test_a_part_goes_by_the_statistics_of_the_whole(image):
    whole = LatentImage.of(image, "defocus").restored(defocus_waves=0.2)
    reach = 160
    big = np.tile(image, (4, 4))
    all_of_it = LatentImage.of(big, "defocus").restored(defocus_waves=0.2)
    part = LatentImage.of(big[40:480, 80:520], "defocus", whole=big).restored(defocus_waves=0.2)
    np.testing.assert_allclose(
        part[reach:-reach, reach:-reach], all_of_it[40:480, 80:520][reach:-reach, reach:-reach], atol=1e-4
    )
    assert whole.shape == image.shape


def test_bad_input_to_a_latent_image_is_refused(image):
    with pytest.raises(UnknownNameError, match="network must be one of zone-plate"):
        LatentImage.of(image, "motion")
    with pytest.raises(InvalidInputError, match="one plane"):
        LatentImage.of(image[None], "defocus")
    latent = LatentImage.of(image, "astigmatism")
    with pytest.raises(InvalidInputError, match="axis_rad is required"):
        latent.restored(defocus_waves=0.1, astigmatism_waves=0.1)
    with pytest.raises(InvalidInputError, match="defocus_um is not a parameter of astigmatism"):
        latent.restored(defocus_um=1.0)
    with pytest.raises(InvalidInputError, match="defocus_waves must be 0 or more"):
        latent.restored(defocus_waves=-0.1, astigmatism_waves=0.1, axis_rad=0.0)
