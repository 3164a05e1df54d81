import json

import numpy as np
import pytest

import napari_deblur as nd
from napari_deblur.core.errors import CancelledError, InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.engine.engine import Engine
from napari_deblur.methods.richardson_lucy import RichardsonLucy
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.steps.deblur import Deblur

IMAGE = np.random.default_rng(0).random((64, 72)).astype(np.float32) + 1
KERNEL = nd.make_psf("gaussian-1", [1.2], size_px=9)
OPTICS = nd.Optics(na=0.9, wavelength_um=0.6, pixel_size_um=0.15, refractive_index=1.0)


@pytest.fixture(scope="module")
def engine():
    return Engine("cpu")


def two_by_two(image_shape=(64, 72)):
    centers = np.stack(np.meshgrid([16, 48], [16, 56], indexing="ij"), axis=-1)
    return PsfMap.from_parameters(
        "gaussian-1", np.full((2, 2, 1), 1.2), centers_px=centers, image_shape=image_shape, kernel_size_px=9
    )


@pytest.mark.parametrize("psf", [KERNEL, two_by_two(), OPTICS], ids=["kernel", "map", "optics"])
def test_every_kind_of_psf_works_and_is_recorded(psf, engine):
    result = Deblur(method="wiener").run(Image(IMAGE), psf, engine=engine)
    assert result.image.name == "image · Wiener"
    assert result.record.psf["source"] in ("kernel", "psf-map", "optics")
    json.loads(result.record.to_json())


def test_a_map_of_one_psf_equals_the_psf(engine):
    one = Deblur(method="richardson-lucy").run(Image(IMAGE), KERNEL, engine=engine)
    many = Deblur(method="richardson-lucy").run(Image(IMAGE), two_by_two(), engine=engine)
    np.testing.assert_allclose(many.image.data, one.image.data, rtol=1e-3)
    assert many.record.facts["eigen_psfs"] == 1


def test_residual_is_what_the_result_does_not_explain(engine):
    result = Deblur(method="richardson-lucy").run(Image(IMAGE), KERNEL, engine=engine)
    assert np.abs(result.residual.data).mean() < np.abs(IMAGE - IMAGE.mean()).mean()
    rms = result.record.facts["reblur_residual_rms"]
    assert rms == pytest.approx(float(np.sqrt(np.mean(result.residual.data**2))), rel=1e-4)


def test_pixel_size_axes_and_shape_are_kept(engine):
    image = Image(np.stack([IMAGE, IMAGE]), "tyx", (0.1, 0.1), name="movie")
    result = Deblur(method="wiener").run(image, KERNEL, engine=engine)
    assert (result.image.axes, result.image.pixel_size_um) == ("tyx", (0.1, 0.1))
    assert result.image.data.shape == image.data.shape


def test_negative_values_count_as_zero_and_are_noted(engine):
    result = Deblur(method="richardson-lucy").run(Image(IMAGE - 1.2), KERNEL, engine=engine)
    assert any("count as zero" in note for note in result.record.notes)
    assert (result.image.data >= 0).all()


@pytest.mark.parametrize(
    ("psf", "rule"),
    [
        (np.zeros((5, 5)), "psf"),
        (-np.ones((5, 5)), "psf"),
        (np.full((5, 5), np.nan), "psf"),
        (np.ones((101, 101)), "psf"),
        (np.ones(5), "psf"),
        (two_by_two((64, 64)), "psf_map"),
        ("gaussian-77", "model"),
    ],
)
def test_bad_psfs_are_named(psf, rule, engine):
    with pytest.raises(InvalidInputError) as caught:
        Deblur(method="wiener").run(Image(IMAGE), psf, engine=engine)
    assert caught.value.argument == rule


def test_even_and_unnormalised_kernels_are_handled_and_noted(engine):
    even = np.ones((4, 4), np.float32)
    result = Deblur(method="wiener").run(Image(IMAGE), even, engine=engine)
    assert result.record.notes
    assert result.image.data.mean() == pytest.approx(IMAGE.mean(), rel=0.02)


def test_cancel_before_anything_is_kept_raises(engine):
    run = Run()
    run.cancel()
    with pytest.raises(CancelledError):
        Deblur(method=RichardsonLucy()).run(
            Image(np.tile(IMAGE, (3, 2))), "gaussian-2", engine=engine, run=run
        )
    assert not engine.busy


def test_cancel_in_a_later_plane_keeps_the_first(engine):
    run = Run()

    def stop(progress):
        if progress.fraction > 0.75:
            run.cancel()

    run.on_progress = stop
    stack = Image(np.stack([IMAGE, IMAGE]))
    result = Deblur(method="tv-richardson-lucy").run(stack, KERNEL, engine=engine, run=run)
    alone = Deblur(method="tv-richardson-lucy").run(Image(IMAGE), KERNEL, engine=engine)
    assert result.partial
    np.testing.assert_allclose(result.image.data[0], alone.image.data, rtol=1e-4)


def test_arrays_in_arrays_out_and_parameters_reach_method_and_step():
    result = nd.deblur(IMAGE, "richardson-lucy", KERNEL, n_iterations=3, camera_offset=0.5)
    assert isinstance(result.image, np.ndarray)
    assert result.record.step["method"]["n_iterations"] == 3
    assert result.record.step["camera_offset"] == 0.5
    kept = nd.deblur(Image(IMAGE), "wiener", KERNEL)
    assert isinstance(kept.image, Image)
    with pytest.raises(InvalidInputError, match="iterations"):
        nd.deblur(IMAGE, "richardson-lucy", KERNEL, iterations=3)


def test_a_stack_takes_one_map_per_plane(engine):
    stack = Image(np.stack([IMAGE, IMAGE + 1]))
    result = Deblur(method="richardson-lucy").run(stack, [two_by_two(), two_by_two()], engine=engine)
    assert len(result.psf) == 2
    with pytest.raises(InvalidInputError, match="one map per plane"):
        Deblur(method="richardson-lucy").run(stack, [two_by_two()], engine=engine)


def under_haze(photons=20, haze=40, offset=100, seed=1):
    """Return an image of cells under haze, its background and its truth, in photons."""
    from scipy.ndimage import gaussian_filter

    from napari_deblur.train.scenes import SCENES

    rng = np.random.default_rng(seed)
    sharp = photons * SCENES["cells"][0](rng, 144)
    background = np.full((128, 128), haze + offset, np.float32)
    counts = rng.poisson(gaussian_filter(sharp, 2.0)[8:-8, 8:-8] + haze) + offset
    return counts.astype(np.float32), background, sharp[8:-8, 8:-8]


@pytest.mark.parametrize("method", ["richardson-lucy", "tv-richardson-lucy"])
def test_noise_under_a_background_is_known_to_its_lower_end(method, engine):
    image, background, sharp = under_haze()
    psf = nd.make_psf("gaussian-1", [2.0], size_px=17)
    step = Deblur(method=method)
    known = step.run(Image(image), psf, engine=engine, background=background)
    clipped = step.run(Image(np.maximum(image - background, 0)), psf, engine=engine)
    assert nd.quality.snr_db(known.image.data, sharp) > nd.quality.snr_db(clipped.image.data, sharp) + 1.5
    assert known.image.data.min() >= 0
    assert known.record.facts["pedestal"] == pytest.approx(1.5 * np.sqrt(40), rel=0.3)
    assert abs(known.record.facts["flux_change"]) < 0.1
    assert float(np.mean(known.residual.data)) == pytest.approx(0, abs=0.5)


def test_light_that_was_cut_off_is_told_from_what_the_method_changed(engine):
    image, background, _ = under_haze()
    psf, step = nd.make_psf("gaussian-1", [2.0], size_px=17), Deblur(method="richardson-lucy")
    right = step.run(Image(image), psf, engine=engine, background=background).record.facts
    wrong = step.run(Image(image), psf, engine=engine, background=background + 5).record.facts
    net = float(np.sum(image - background))
    assert right["flux_in"] == pytest.approx(net + right["flux_cut_off"], rel=1e-5)
    assert 0 < right["flux_cut_off"] < wrong["flux_cut_off"]
    # What is cut off below 1.5 standard deviations of noise is 3 % of one of them per dark pixel.
    assert right["flux_cut_off"] / image.size < 0.05 * np.sqrt(40)
    # A background that is too high by 5 shows as light that was added, in grey values and in no other way.
    added = wrong["flux_change_grey_values_per_px"] - right["flux_change_grey_values_per_px"]
    assert 1 < added < 5
    plain = step.run(Image(image), psf, engine=engine).record.facts
    assert plain["flux_cut_off"] == 0
    assert "flux_change_grey_values_per_px" not in plain


def test_values_below_the_camera_offset_are_told_too(engine):
    image, _, _ = under_haze()
    step = Deblur(method="richardson-lucy", camera_offset=140.0)
    found = step.run(Image(image), nd.make_psf("gaussian-1", [2.0], size_px=17), engine=engine)
    facts = found.record.facts
    below = float(-np.minimum(image - 140, 0).sum())
    assert facts["flux_cut_off"] == pytest.approx(below, rel=1e-4)
    assert facts["flux_in"] == pytest.approx(float(np.maximum(image - 140, 0).sum()), rel=1e-4)
    assert abs(facts["flux_change"]) < 0.02


@pytest.mark.parametrize("method", ["tv-richardson-lucy", "wiener", "hyper-laplacian"])
def test_a_foreground_carries_its_noise_on(method, engine):
    image, background, _ = under_haze()
    step, psf = Deblur(method=method), nd.make_psf("gaussian-1", [2.0], size_px=17)
    given = step.run(Image(image), psf, engine=engine, background=Image(background))
    carried = step.run(Image(image).without(background), psf, engine=engine)
    np.testing.assert_array_equal(given.image.data, carried.image.data)
    assert not any("count as zero" in note for note in carried.record.notes)


def test_tiles_share_one_pedestal(engine):
    image, background, _ = under_haze()
    psf = nd.make_psf("gaussian-1", [1.0], size_px=5)
    whole = Deblur(method="richardson-lucy").run(Image(image), psf, engine=engine, background=background)
    tiled = Deblur(method="richardson-lucy", tile_px=100).run(
        Image(image), psf, engine=engine, background=background
    )
    assert np.abs(tiled.image.data - whole.image.data).max() < 1e-4 * np.ptp(whole.image.data)


def test_an_offset_beside_a_background_is_refused(engine):
    image, background, _ = under_haze()
    step = Deblur(method="richardson-lucy", camera_offset=100)
    with pytest.raises(InvalidInputError, match="camera_offset must be 0 where a background was taken off"):
        step.run(Image(image), KERNEL, engine=engine, background=background)


def test_the_api_takes_a_background():
    image, _, _ = under_haze()
    split = nd.remove_background(image)
    result = nd.deblur(image, "richardson-lucy", KERNEL, background=split.background, n_iterations=2)
    assert isinstance(result.image, np.ndarray)
    with pytest.raises(InvalidInputError, match="background must have the image's shape"):
        nd.deblur(image, "richardson-lucy", KERNEL, background=np.ones((3, 3)))


def test_planes_that_are_all_constant_are_refused(engine):
    flat = Image(np.stack([np.zeros_like(IMAGE), np.ones_like(IMAGE)]), "tyx")
    with pytest.raises(InvalidInputError, match="must have a plane that is not constant"):
        Deblur(method="wiener").run(flat, KERNEL, engine=engine)


def cells(*planes):
    from napari_deblur.samples import tilted_cells

    one = tilted_cells(192).image.data
    return Image(np.stack([one * factor for factor in planes]).astype(np.float32), "tyx")


def test_a_cancel_before_the_first_plane_with_content_raises(engine):
    run = Run()
    run.on_progress = lambda progress: run.cancel()
    with pytest.raises(CancelledError):
        Deblur(method="wiener").run(cells(0, 1), "gaussian-2", engine=engine, run=run)


def test_constant_planes_take_a_neighbours_map_so_that_there_is_one_for_each(engine):
    result = Deblur(method="wiener").run(cells(1, 0, 2), "gaussian-2", engine=engine)
    assert len(result.psf) == 3
    np.testing.assert_array_equal(result.psf[1].parameters, result.psf[0].parameters)
    assert not result.psf[1].valid.any()
    again = Deblur(method="wiener").run(cells(1, 0, 2), result.psf, engine=engine)
    np.testing.assert_allclose(again.image.data, result.image.data, rtol=1e-4, atol=1e-2)


def test_a_plane_that_tells_no_psf_takes_that_of_the_one_before(engine):
    movie = cells(1, 1)
    noise = np.random.default_rng(0).normal(100, 1, movie.data[1].shape).astype(np.float32)
    movie.data[1] = noise
    result = Deblur(method="wiener").run(movie, "gaussian-2", engine=engine)
    assert any("Plane 1 took the PSF of the one before" in note for note in result.record.notes)
    noise_alone = Image(np.stack([noise, noise]), "tyx")
    with pytest.raises(InvalidInputError, match="must hold texture"):
        Deblur(method="wiener").run(noise_alone, "gaussian-2", engine=engine)


@pytest.mark.parametrize("method", ["hyper-laplacian", "richardson-lucy", "wiener"])
def test_a_dim_plane_is_restored_as_it_is_alone(method, engine):
    both = np.stack([IMAGE, 200 * IMAGE])
    alone = Deblur(method=method).run(Image(IMAGE), KERNEL, engine=engine).image.data
    beside = Deblur(method=method).run(Image(both, "cyx"), KERNEL, engine=engine).image.data[0]
    np.testing.assert_allclose(beside, alone, rtol=2e-4, atol=2e-4)


def test_what_looks_at_the_whole_image_goes_to_the_cpu_where_memory_runs_out(engine):
    seen = []

    def compute(device):
        seen.append(device)
        if device != "cpu":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return 7

    class Card(Engine):
        device = "meta"

    run = Run()
    assert Card("cpu").or_on_cpu(compute, run) == 7
    assert seen == ["meta", "cpu"]
    assert "Memory ran out" in run.notes[0]
    with pytest.raises(RuntimeError, match="something else"):
        Card("cpu").or_on_cpu(lambda _: (_ for _ in ()).throw(RuntimeError("something else")), run)
