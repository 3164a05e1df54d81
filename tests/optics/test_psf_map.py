import numpy as np
import pytest
from numpy.testing import assert_allclose

from napari_deblur.core.errors import InvalidInputError, OutputError
from napari_deblur.optics.psf import make_psf
from napari_deblur.optics.psf_map import PsfMap


def grid(rows=(10, 30, 50), cols=(10, 40)):
    return np.stack(np.meshgrid(np.float32(rows), np.float32(cols), indexing="ij"), axis=-1)


def ramp(**more):
    parameters = np.zeros((3, 2, 2), np.float32)
    parameters[..., 0] = np.array([1, 2, 3])[:, None]
    parameters[..., 1] = 1.5
    return PsfMap.from_parameters("gaussian-2", parameters, centers_px=grid(), image_shape=(64, 64), **more)


def test_kernels_and_psf_at_agree_at_the_centres():
    psf_map = ramp()
    kernels = psf_map.kernels()
    assert kernels.shape[:2] == (3, 2)
    assert_allclose(kernels.sum(axis=(-2, -1)), 1, atol=1e-5)
    assert_allclose(psf_map.psf_at(30, 40), kernels[1, 1], atol=1e-6)
    assert_allclose(
        kernels[1, 1], make_psf("gaussian-2", [2, 1.5], size_px=psf_map.kernel_size_px), atol=1e-6
    )


def test_psf_at_is_linear_between_and_constant_outside():
    psf_map = ramp()
    kernels = psf_map.kernels()
    assert_allclose(psf_map.psf_at(20, 10), (kernels[0, 0] + kernels[1, 0]) / 2, atol=1e-6)
    assert_allclose(psf_map.psf_at(0, 63), kernels[0, 1], atol=1e-6)
    assert psf_map.nearest(33, 12) == (1, 0)
    with pytest.raises(InvalidInputError, match="position"):
        psf_map.psf_at(64, 3)


def test_saved_and_loaded_map_is_the_same(tmp_path):
    psf_map = ramp(
        valid=[[1, 0], [1, 1], [0, 1]],
        confidence=np.full((3, 2), 0.5),
        predicted_error=np.ones((3, 2, 2), np.float32),
        signed_defocus_waves=np.full((3, 2, 4), 0.3, np.float32),
        pixel_size_um=(0.1, 0.1),
        record={"step": {"kind": "x"}},
    )
    again = PsfMap.load(psf_map.save(tmp_path / "map.npz"))
    arrays = ("parameters", "centers_px", "valid", "confidence", "predicted_error", "signed_defocus_waves")
    for name in arrays:
        np.testing.assert_array_equal(getattr(again, name), getattr(psf_map, name))
    for name in ("model", "image_shape", "cutoff_cycles_per_px", "kernel_size_px", "pixel_size_um", "record"):
        assert getattr(again, name) == getattr(psf_map, name)


def test_saving_never_overwrites_unasked_and_leaves_no_rest(tmp_path):
    path = ramp().save(tmp_path / "map.npz")
    with pytest.raises(OutputError, match="exist"):
        ramp().save(path)
    ramp().save(path, overwrite=True)
    with pytest.raises(OutputError, match="received"):
        ramp().save(tmp_path / "missing" / "map.npz")
    assert [entry.name for entry in tmp_path.iterdir()] == ["map.npz"]


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 truncated"])
def test_files_that_are_no_map_are_refused(tmp_path, content):
    path = tmp_path / "map.npz"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match="psf_map"):
        PsfMap.load(path)
    with pytest.raises(InvalidInputError, match="existing file"):
        PsfMap.load(tmp_path / "none.npz")


def test_an_archive_with_other_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(InvalidInputError, match="saved PSF map"):
        PsfMap.load(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"parameters": np.zeros((3, 2, 3))}, "parameters"),
        ({"parameters": np.full((3, 2, 2), np.nan)}, "parameters"),
        ({"centers_px": grid(cols=(10, 20, 30))}, "centers_px"),
        ({"centers_px": grid(rows=(50, 30, 10))}, "centers_px"),
        ({"image_shape": (64,)}, "image_shape"),
        ({"valid": np.ones((2, 2))}, "valid"),
        ({"confidence": np.ones(6)}, "confidence"),
        ({"predicted_error": np.ones((3, 2, 3))}, "predicted_error"),
        ({"signed_defocus_waves": np.ones((3, 2, 2))}, "signed_defocus_waves"),
        ({"model": "gaussian-9"}, "model"),
    ],
)
def test_inconsistent_maps_are_refused_by_name(change, argument):
    given = {
        "parameters": np.ones((3, 2, 2)),
        "centers_px": grid(),
        "image_shape": (64, 64),
        "model": "gaussian-2",
    }
    given |= change
    with pytest.raises(InvalidInputError) as caught:
        PsfMap.from_parameters(given.pop("model"), given.pop("parameters"), **given)
    assert caught.value.argument == argument


@pytest.mark.parametrize(("values", "name"), [([0.0, 1.0], "sigma_y_px"), ([1.0, -2.0], "sigma_x_px")])
def test_parameters_without_a_meaning_are_refused(values, name):
    grid = np.broadcast_to(np.asarray(values, np.float32), (2, 2, 2)).copy()
    centers = np.stack(np.meshgrid([16.0, 48.0], [16.0, 48.0], indexing="ij"), axis=-1)
    with pytest.raises(InvalidInputError, match=f"{name} must be"):
        PsfMap.from_parameters("gaussian-2", grid, centers_px=centers, image_shape=(64, 64))


@pytest.mark.parametrize("confidence", [np.nan, -0.1, 1.5])
def test_confidence_lies_between_0_and_1(confidence):
    centers = np.stack(np.meshgrid([16.0, 48.0], [16.0, 48.0], indexing="ij"), axis=-1)
    with pytest.raises(InvalidInputError, match="confidence must be from 0 to 1"):
        PsfMap.from_parameters(
            "gaussian-2",
            np.ones((2, 2, 2)),
            centers_px=centers,
            image_shape=(64, 64),
            confidence=np.full((2, 2), confidence),
        )
