from __future__ import annotations

import json

import numpy as np
import pytest

from napari_deblur.core.image import Image
from napari_deblur.io.write import write_image
from napari_deblur.optics.basis_map import BasisMap
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.psf_map import PsfMap


@pytest.fixture(scope="module")
def basis_file(tmp_path_factory):
    from napari_deblur.optics.simulated_fields import SimulatedFields

    basis = SimulatedFields(n_fields=12, n_positions=3).basis()
    return basis.save(tmp_path_factory.mktemp("basis") / "scope.npz")


@pytest.fixture
def bead_file(tmp_path):
    y, x = np.mgrid[:160, :160].astype(np.float64)
    plane = np.full((160, 160), 50.0)
    for cy in range(20, 150, 30):
        for cx in range(20, 150, 30):
            wide, high = 1.3 + 0.004 * cy, 1.3 + 0.004 * cx
            spot = np.exp(-((y - cy) ** 2 / (2 * wide**2) + (x - cx) ** 2 / (2 * high**2)))
            plane += 3000 * spot / (wide * high)
    plane += np.random.default_rng(0).normal(0, 2, plane.shape)
    return write_image(Image(plane.astype(np.float32), "yx", (0.1, 0.1)), tmp_path / "beads.tif")


def test_a_basis_of_beads(cli, bead_file, tmp_path):
    out = tmp_path / "basis.npz"
    code, text, error = cli(
        "psf-basis", "beads", bead_file, "-o", out, "--psfs", tmp_path / "psfs.npy", "--json"
    )
    assert code == 0, error
    told = json.loads(text)
    basis = PsfBasis.load(out)
    assert told["n_psfs"] == basis.n_psfs
    assert basis.image_shape == (160, 160)
    np.testing.assert_allclose(np.load(tmp_path / "psfs.npy"), basis.kernels, atol=1e-6)


def test_a_simulated_basis(cli, tmp_path):
    out = tmp_path / "basis.npz"
    code, text, error = cli(
        "psf-basis", "simulated", "-o", out, "--n-fields", 6, "--n-positions", 3, "--n-coefficients", 4
    )
    assert code == 0, error
    assert "any image" in text
    basis = PsfBasis.load(out)
    assert basis.any_size
    assert basis.n_coefficients <= 4


def test_an_image_is_mapped_and_restored_in_a_basis(cli, image_file, basis_file, tmp_path):
    code, _, error = cli("psf-map", image_file, "-o", tmp_path / "map.npz", "--psf-basis", basis_file)
    assert code == 0, error
    found = PsfMap.load(tmp_path / "map.npz")
    assert isinstance(found, BasisMap)
    basis = ["--psf-basis", basis_file]
    code, text, error = cli("deblur", "wiener", image_file, "-o", tmp_path / "a.npy", *basis, "--json")
    assert code == 0, error
    psf = json.loads(text[text.index("{") :])["record"]["psf"]
    assert psf["source"] == "psf-basis"
    np.testing.assert_allclose(psf["coefficients"], found.coefficients.ravel(), atol=1e-4)
    code, _, error = cli(
        "deblur", "wiener", image_file, "-o", tmp_path / "b.npy", "--psf-map", tmp_path / "map.npz"
    )
    assert code == 0, error
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy"), rtol=1e-4)


def test_a_streamed_image_is_restored_in_a_basis(cli, image_file, basis_file, tmp_path):
    basis = ["--psf-basis", basis_file]
    code, _, error = cli("deblur", "wiener", image_file, "-o", tmp_path / "a.tif", *basis)
    assert code == 0, error
    code, _, error = cli("deblur", "wiener", image_file, "-o", tmp_path / "b.tif", *basis, "--stream")
    assert code == 0, error
    from napari_deblur.io.read import read_image

    one, other = (read_image(tmp_path / name).data for name in ("a.tif", "b.tif"))
    np.testing.assert_allclose(one, other, atol=1e-3 * float(one.max()))


def test_a_field_of_a_basis_is_taken_by_number(cli, image_file, basis_file, tmp_path):
    given = ["deblur", "wiener", image_file, "-o", tmp_path / "a.npy", "--psf-basis", basis_file]
    code, _, error = cli(*given, "--basis-field", 3, "--psf-output", tmp_path / "used.npz")
    assert code == 0, error
    used = PsfMap.load(tmp_path / "used.npz")
    np.testing.assert_array_equal(used.coefficients, PsfBasis.load(basis_file).coefficients[3])
    code, _, error = cli(*given, "--basis-field", 99, "--overwrite")
    assert code == 2
    assert "--basis-field must be 0 to 11" in error


def test_bad_input_is_one_line(cli, image_file, basis_file, bead_file, tmp_path):
    out = tmp_path / "o.npz"
    cases = [
        (["psf-basis", "beads", "-o", out], "must name at least one bead stack"),
        (["psf-basis", "beads", bead_file, "-o", tmp_path / "o.tif"], "--output must end in .npz"),
        (["psf-basis", "simulated", "-o", out, "--cutoff-cycles-per-px", "0.9"], "--cutoff-cycles-per-px"),
        (["psf-map", image_file, "-o", out, "--psf-basis", image_file], "must be a saved PSF basis"),
        (
            ["psf-map", image_file, "-o", out, "--psf-basis", basis_file, "--stride-px", "32"],
            "must be left out",
        ),
        (
            ["deblur", "wiener", image_file, "-o", tmp_path / "o.npy", "--basis-field", "1"],
            "--basis-field must be left out",
        ),
        (
            ["deblur", "wiener", image_file, "-o", tmp_path / "o.npy", "--blind", "nonsense"],
            "product-convolution",
        ),
    ]
    for arguments, expected in cases:
        code, _, error = cli(*arguments)
        assert code == 2, arguments
        assert expected in error
        assert len(error.strip().splitlines()) == 1
