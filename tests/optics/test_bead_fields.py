from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.optics.bead_fields import BeadBasis
from napari_deblur.optics.measured import fourier_shift
from napari_deblur.optics.psf import family

SIDE, STEP = 200, 32


def widths_at(positions, plane):
    """Return the widths (y, x) of Gaussians that change over the field and through focus."""
    y, x = positions.T / (SIDE - 1)
    return np.stack([1.4 + 0.6 * y + 0.15 * abs(plane), 1.4 + 0.6 * x + 0.15 * abs(plane)], axis=-1)


def bead_stack(seed, planes=(-1, 0, 1), name="beads", noise=2.0, light=5000):
    """Return a stack of beads at jittered places of a grid."""
    rng = np.random.default_rng(seed)
    grid = np.arange(24, SIDE - 20, STEP)
    places = np.stack(np.meshgrid(grid, grid, indexing="ij"), axis=-1).reshape(-1, 2)
    places = places + rng.uniform(-4, 4, places.shape)
    stack = np.full((len(planes), SIDE, SIDE), 100.0)
    for index, plane in enumerate(planes):
        widths = torch.from_numpy(widths_at(places, plane)).float()
        for (y, x), kernel in zip(places, family("gaussian-2").kernels(widths, 21).numpy(), strict=True):
            row, col = round(y), round(x)
            moved = fourier_shift(kernel.astype(np.float64), (y - row, x - col))
            stack[index, row - 10 : row + 11, col - 10 : col + 11] += light * moved
    stack += noise * rng.standard_normal(stack.shape)
    return Image(stack.astype(np.float32), "zyx", (0.1, 0.1), name=name)


@pytest.fixture(scope="module")
def basis():
    return BeadBasis().measure_basis([bead_stack(0, name="one"), bead_stack(1, name="two")])


def test_a_basis_of_bead_stacks_gives_their_psfs(basis):
    assert basis.labels == tuple(f"{name}, plane {z}" for name in ("one", "two") for z in range(3))
    assert basis.image_shape == (SIDE, SIDE)
    assert basis.pixel_size_um == pytest.approx(0.1)
    for label, plane in (("one, plane 1", 0), ("two, plane 2", 1)):
        operator = basis.operator(basis.field(label), (SIDE, SIDE))
        for place in ([40, 40], [60, 150], [150, 100]):
            widths = torch.from_numpy(widths_at(np.array([place], float), plane)).float()
            true = family("gaussian-2").kernels(widths, basis.kernel_size_px)[0].numpy()
            found = operator.psf_at(*place)
            assert np.linalg.norm(found - true) < 0.08 * np.linalg.norm(true)


def test_planes_farther_from_focus_count_where_asked_for():
    stack = bead_stack(0, planes=(-2, -1, 0, 1, 2))
    near = BeadBasis(planes_around=0).measure_basis([stack])
    assert len(near.labels) == 1
    assert len(BeadBasis(planes_around=1).measure_basis([stack]).labels) == 3


def test_a_single_plane_will_do():
    stack = bead_stack(0)
    run = Run()
    basis = BeadBasis().measure_basis([Image(stack.data[1], "yx", name="plane")], run)
    assert basis.labels == ("plane, plane 0",)
    assert run.facts["beads_used"] == basis.record["beads_used"] >= 20


def test_stacks_that_are_no_beads_or_not_alike_are_refused():
    with pytest.raises(InvalidInputError, match="one bead stack or more"):
        BeadBasis().measure_basis([])
    other = Image(bead_stack(0).data[:, :100], "zyx", name="other")
    with pytest.raises(InvalidInputError, match="must all have the height and width"):
        BeadBasis().measure_basis([bead_stack(0), other])
    coarse = bead_stack(0)
    coarse = Image(coarse.data, "zyx", (0.2, 0.2), name="coarse")
    with pytest.raises(InvalidInputError, match="pixels of"):
        BeadBasis().measure_basis([bead_stack(1), coarse])
    noise = np.random.default_rng(0).normal(100, 5, (1, SIDE, SIDE)).astype(np.float32)
    with pytest.raises(InvalidInputError, match="isolated, unsaturated beads"):
        BeadBasis().measure_basis([Image(noise, "zyx", name="noise")])
    with pytest.raises(InvalidInputError, match="size_px must be odd"):
        BeadBasis(size_px=20).measure_basis([bead_stack(0)])
