from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import pywt
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_deblur.core.errors import CancelledError, InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.params import parameters
from napari_deblur.core.run import Run
from napari_deblur.steps.background import RemoveBackground
from napari_deblur.steps.background_estimators import coarsest_level, wavelet_lowpass

ALGORITHMS = ("wavelet", "rolling-ball", "white-top-hat")


def haze(height, width):
    y, x = np.mgrid[:height, :width]
    return 100 + 60 * np.exp(-((y / height - 0.6) ** 2 + (x / width - 0.35) ** 2) / 0.125) + 30 * x / width


def points(height, width, seed=0):
    rng = np.random.default_rng(seed)
    sharp = np.zeros((height, width))
    n = height * width // 700
    sharp[rng.integers(0, height, n), rng.integers(0, width, n)] = 6000
    spectrum = np.fft.rfft2(sharp)
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)
    return np.fft.irfft2(spectrum * np.exp(-2 * np.pi**2 * 4 * (fy**2 + fx**2)), s=sharp.shape)


def noisy(height=300, width=401, seed=0):
    clean = np.maximum(points(height, width, seed), 0)
    image = np.random.default_rng(seed).poisson(clean + haze(height, width))
    return Image(image.astype(np.float32)), clean


def assert_split(image, result):
    data = np.asarray(image.data, np.float64)
    parts = [np.asarray(part.data, np.float64) for part in (result.image, result.background, result.clipped)]
    largest = max(np.abs(data).max(), np.abs(parts[1]).max())
    np.testing.assert_allclose(sum(parts), data, atol=4e-7 * largest)
    assert parts[0].min() >= 0
    assert parts[2].max() <= 0
    assert not np.any((parts[0] > 0) & (parts[2] < 0))


@pytest.mark.parametrize("shape", [(64, 64), (17, 31), (301, 200), (512, 511)])
@pytest.mark.parametrize("level", [1, 4, 7])
def test_the_low_pass_is_the_wavelet_transform_without_its_details(shape, level):
    plane = np.random.default_rng(1).random(shape)
    too_high = level > pywt.dwt_max_level(min(shape), "db6")
    with pytest.warns(UserWarning, match="too high") if too_high else nullcontext():
        bands = pywt.wavedec2(plane, "db6", "symmetric", level=level)
    bands[1:] = [tuple(np.zeros_like(band) for band in bands_of) for bands_of in bands[1:]]
    expected = pywt.waverec2(bands, "db6", "symmetric")[: shape[0], : shape[1]]
    np.testing.assert_allclose(wavelet_lowpass(plane.astype(np.float32), level), expected, atol=3e-6)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_points_on_haze_come_out_and_the_haze_stays(algorithm):
    image, clean = noisy()
    result = RemoveBackground(algorithm=algorithm, radius_px=12).run(image)
    assert_split(image, result)
    assert np.corrcoef(result.image.data.ravel(), clean.ravel())[0, 1] > 0.93
    true = haze(*image.shape_yx)
    bias = {"wavelet": 8, "rolling-ball": 12, "white-top-hat": 35}[algorithm]
    assert np.sqrt(np.mean((result.background.data - true) ** 2)) < bias


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("factor", "offset"), [(1.0, 5000.0), (1e-3, 0.0), (40.0, -300.0)])
def test_scale_and_camera_offset_make_no_difference(algorithm, factor, offset):
    image, _ = noisy(128, 131)
    step = RemoveBackground(algorithm=algorithm, radius_px=15)
    plain = step.run(image)
    other = step.run(image.with_data(image.data * factor + offset))
    tolerance = 2e-6 * float(image.data.max()) + 1e-6 * abs(offset) / factor
    np.testing.assert_allclose(other.image.data / factor, plain.image.data, atol=5 * tolerance)
    np.testing.assert_allclose(
        (other.background.data - offset) / factor, plain.background.data, atol=5 * tolerance
    )


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 3), max_size=2).flatmap(
        lambda lead: st.tuples(st.just(lead), st.integers(16, 70), st.integers(16, 70))
    ),
    dtype=st.sampled_from(["u1", ">u2", "i4", "f4", ">f8", "?"]),
    algorithm=st.sampled_from(ALGORITHMS),
    seed=st.integers(0, 5),
)
def test_any_shape_and_dtype_splits_exactly(shape, dtype, algorithm, seed):
    lead, height, width = shape
    data = (np.random.default_rng(seed).random((*lead, height, width)) * 200).astype(dtype)
    data[..., 0, 0] = 0
    data[..., 0, 1] = 1
    image = Image(data)
    result = RemoveBackground(algorithm=algorithm, radius_px=7).run(image)
    assert result.image.data.shape == data.shape
    assert result.image.data.dtype == np.float32
    assert_split(image, result)


@pytest.mark.parametrize("shape", [(255, 255), (129, 257), (200, 333)])
def test_odd_sizes_have_the_background_of_even_ones(shape):
    even = Image(haze(shape[0] + shape[0] % 2, shape[1] + shape[1] % 2).astype(np.float32))
    odd = Image(even.data[: shape[0], : shape[1]])
    level = RemoveBackground(levels=6)
    expected = level.run(even).background.data[: shape[0], : shape[1]]
    background = level.run(odd).background.data
    assert background.min() > 95
    np.testing.assert_allclose(background, expected, atol=2)


def test_planes_are_treated_one_by_one():
    first, _ = noisy(64, 80, seed=1)
    second, _ = noisy(64, 80, seed=2)
    stack = Image(np.stack([first.data, second.data]), axes="tyx", pixel_size_um=(0.1, 0.1))
    both = RemoveBackground().run(stack)
    assert both.image.pixel_size_um == (0.1, 0.1)
    assert both.image.axes == "tyx"
    for plane, single in zip(both.image.data, (first, second), strict=True):
        np.testing.assert_array_equal(plane, RemoveBackground().run(single).image.data)


def test_a_constant_plane_in_a_stack_is_all_background():
    image, _ = noisy(64, 64)
    stack = Image(np.stack([image.data, np.full_like(image.data, 7)]))
    for algorithm in ALGORITHMS:
        result = RemoveBackground(algorithm=algorithm, radius_px=5).run(stack)
        np.testing.assert_array_equal(result.background.data[1], 7)
        np.testing.assert_array_equal(result.image.data[1], 0)


def test_background_never_lies_below_the_darkest_pixel():
    data = np.full((256, 256), 10, np.float32)
    data[100:150, 100:150] = 1000
    assert RemoveBackground().run(Image(data)).background.data.min() >= 10


def test_a_level_too_coarse_is_lowered_and_said_so():
    assert coarsest_level((1024, 1024), 7) == 7
    assert coarsest_level((100, 1024), 7) == 5
    assert coarsest_level((16, 16), 12) == 3
    image, _ = noisy(40, 200)
    record = RemoveBackground().run(image).record
    assert record.facts["wavelet_level"] == 4
    assert any("level 4 was used" in note for note in record.notes)


def test_more_iterations_and_counts_let_go_of_structures():
    image, _ = noisy()
    share = {
        (n, scale): RemoveBackground(n_iterations=n, count_scale=scale)
        .run(image)
        .record.facts["foreground_share"]
        for n in (1, 3)
        for scale in (1.0, 100.0)
    }
    assert share[1, 100.0] < share[3, 100.0]
    assert share[3, 1.0] < share[3, 100.0]


def test_low_signal_clip_lowers_the_background():
    image, _ = noisy(128, 128)
    means = [
        RemoveBackground(low_snr_clip=clip).run(image).background.data.mean()
        for clip in ("none", "mean", "mean/2", "mean/2.5")
    ]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize(("algorithm", "radius"), [("rolling-ball", 40), ("white-top-hat", 40)])
def test_shrinking_for_large_radii_changes_little(algorithm, radius, monkeypatch):
    from napari_deblur.steps import background_estimators

    image = Image((haze(160, 170) + np.maximum(points(160, 170), 0)).astype(np.float32))
    step = RemoveBackground(algorithm=algorithm, radius_px=radius)
    fast = step.run(image).background.data
    monkeypatch.setattr(background_estimators, "shrink_factor", lambda radius_px: 1)
    slow = step.run(image).background.data
    assert np.abs(fast - slow).max() < 0.03 * np.ptp(image.data)


@pytest.mark.parametrize("algorithm", ["rolling-ball", "white-top-hat"])
def test_strips_equal_the_whole(algorithm, monkeypatch):
    from napari_deblur.steps import background_estimators

    image, _ = noisy(150, 60)
    step = RemoveBackground(algorithm=algorithm, radius_px=4)
    whole = step.run(image).background.data
    monkeypatch.setattr(background_estimators, "_STRIP_PX", 32)
    np.testing.assert_allclose(step.run(image).background.data, whole, rtol=1e-6)


@pytest.mark.parametrize("algorithm", ["rolling-ball", "white-top-hat"])
def test_a_radius_beyond_the_image_is_refused(algorithm):
    image, _ = noisy(64, 40)
    with pytest.raises(InvalidInputError, match=r"radius_px must be below .* 40 px; received 50"):
        RemoveBackground(algorithm=algorithm).run(image)
    RemoveBackground().run(image)


@pytest.mark.parametrize(
    "values",
    [{"algorithm": "median"}, {"n_iterations": 0}, {"count_scale": 0}, {"levels": 13}, {"raduis": 3}],
)
def test_bad_parameters_are_named(values):
    with pytest.raises(InvalidInputError, match=next(iter(values))):
        RemoveBackground(**values)


def test_every_parameter_can_be_shown_in_a_form():
    infos = {info.name: info for info in parameters(RemoveBackground)}
    assert infos["radius_px"].shown_if == {"algorithm": ("rolling-ball", "white-top-hat")}
    assert infos["low_snr_clip"].choices == ("none", "mean", "mean/2", "mean/2.5")


def test_cancel_before_the_first_plane_raises():
    image, _ = noisy(64, 64)
    run = Run()
    run.cancel()
    with pytest.raises(CancelledError):
        RemoveBackground().run(image, run)


def test_cancel_keeps_the_planes_that_are_done():
    image, _ = noisy(64, 64)
    stack = Image(np.stack([image.data] * 4))
    run = Run()
    run.on_progress = lambda progress: run.cancel() if progress.fraction > 0.5 else None
    result = RemoveBackground().run(stack, run)
    assert result.partial
    assert result.record.partial
    assert_split(stack, result)
    assert result.background.data[0].max() > 0
    assert result.background.data[3].max() == 0


def test_progress_rises_to_one_and_the_record_replays():
    image, _ = noisy(64, 64)
    seen = []
    result = RemoveBackground(count_scale=10).run(image, Run(on_progress=lambda p: seen.append(p.fraction)))
    assert seen == sorted(seen)
    assert seen[-1] == 1
    again = RemoveBackground(**result.record.step).run(image)
    np.testing.assert_array_equal(again.image.data, result.image.data)
    assert result.record.to_json()


def test_the_foreground_knows_what_was_clipped():
    image, _ = noisy()
    result = RemoveBackground().run(image)
    np.testing.assert_allclose(result.image.unclipped, image.data - result.background.data, atol=1e-3)
