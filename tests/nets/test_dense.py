from __future__ import annotations

import pytest
import torch

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.nets import dense
from napari_deblur.nets.dense import estimate_planes
from napari_deblur.nets.identification import build, default_config
from napari_deblur.nets.prepared import prepared, reach_px
from napari_deblur.nets.views import view
from napari_deblur.nets.weights import load_network

SMALL = {
    "widths": [16, 16, 16, 16],
    "blocks": [1, 1, 1, 1],
    "spectral_width": 16,
    "spectral_features": 8,
    "hidden": 16,
}
EXACT = torch.float32


@pytest.fixture(scope="module")
def network():
    """A random network whose batch norms are not the identity."""
    torch.manual_seed(0)
    net = build(default_config("zernike-3") | SMALL)
    with torch.no_grad():
        net(torch.rand((4, 128, 128)))
        for parameter in net.spatial.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def plane():
    smooth = torch.rand((1, 1, 30, 36), generator=torch.Generator().manual_seed(5))
    fine = torch.rand((240, 288), generator=torch.Generator().manual_seed(6))
    large = torch.nn.functional.interpolate(smooth, size=(240, 288), mode="bicubic")[0, 0]
    return 100 + 50 * large + 8 * fine


def same(one, other, atol=1e-4):
    for name in ("parameters", "predicted_error", "valid_probability", "signed_defocus"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=atol, rtol=1e-3)


def cut(plane, rows, cols):
    return torch.stack([plane[y : y + 128, x : x + 128] for y in rows for x in cols])


def test_patches_one_by_one_are_what_the_network_says_of_cut_outs(network, plane):
    rows, cols = [0, 57, 112], [0, 160]
    found = estimate_planes(network, plane[None], rows, cols, 1, dtype=EXACT, dense=False)
    same(found, network.estimate(cut(plane, rows, cols)))


def test_four_spectra_do_for_eight_views(network, plane):
    rows, cols = [0, 112], [3]
    found = estimate_planes(network, plane[None], rows, cols, 8, dtype=EXACT, dense=False)
    # The window of the spectrum is symmetric but for one pixel.
    same(found, network.estimate(cut(plane, rows, cols), 8), atol=5e-3)


def test_where_all_patches_have_one_mean_and_deviation_the_plane_is_normalised_by_them(network, plane):
    alike = plane[:128, :128].repeat(2, 2)
    reading = dense._Pass(network, alike[None], [0, 64, 128], [0, 64, 128], None, EXACT)
    even = reading.normalised()
    cell = even[0, 64:192, 64:192]
    shifted = plane[:128, :128].roll((64, 64), (0, 1))
    torch.testing.assert_close(
        cell, (shifted - shifted.mean()) / shifted.std(correction=0), atol=1e-3, rtol=0
    )


def test_tiles_make_no_difference(network, plane, monkeypatch):
    rows, cols = [0, 64, 112], [0, 64, 128, 160]
    whole = estimate_planes(network, plane[None], rows, cols, 4, dtype=EXACT, dense=True)
    monkeypatch.setattr(dense, "_TILE_PX", 96)
    same(estimate_planes(network, plane[None], rows, cols, 4, dtype=EXACT, dense=True), whole)


def test_planes_are_read_together(network, plane):
    rows, cols = [0, 64, 112], [0, 64]
    both = torch.stack([plane, plane.flip(0)])
    found = estimate_planes(network, both, rows, cols, 2, dtype=EXACT, dense=True)
    alone = estimate_planes(network, both[1:], rows, cols, 2, dtype=EXACT, dense=True)
    torch.testing.assert_close(found.parameters[6:], alone.parameters, atol=1e-4, rtol=1e-3)


def test_the_map_turns_with_the_plane(network, plane):
    square = plane[:, :240]
    starts = [0, 56, 112]
    back = {0: lambda grid: grid, 1: lambda grid: grid.transpose(0, 1), 2: lambda grid: grid.flip(0)}
    back[4] = lambda grid: grid.flip(1)
    regressed = {}
    for number, undo in back.items():
        turned = view(square, number)[None].contiguous()
        found = estimate_planes(network, turned, starts, starts, 8, dtype=EXACT, dense=True)
        regressed[number] = undo(found.signed_defocus.reshape(3, 3, 2))
    # Mirroring turns the sine around, exchanging the axes the cosine.
    for number, signs in ((1, (-1, 1)), (2, (1, -1)), (4, (1, -1))):
        torch.testing.assert_close(
            regressed[number] * torch.tensor(signs), regressed[0], atol=5e-3, rtol=1e-2
        )


def test_the_reach_holds_all_that_a_cell_sees(network):
    spatial, _ = prepared(network, EXACT)
    reach = reach_px(spatial)
    x = torch.zeros((1, 1, 256, 256), requires_grad=True)
    spatial.maps(x + 0.1)[0, :, 8, 8].sum().backward()
    seen = x.grad[0, 0].abs().sum(dim=1).nonzero().flatten()
    assert int(seen.min()) >= 128 - reach
    assert int(seen.max()) <= 143 + reach


def test_overlapping_patches_share_and_others_do_not(network, plane, monkeypatch):
    used = []
    for name in ("_patch_features", "_shared_features"):
        original = getattr(dense._Pass, name)
        monkeypatch.setattr(
            dense._Pass, name, lambda self, *given, o=original, n=name: used.append(n) or o(self, *given)
        )
    estimate_planes(network, plane[None, :128, :256], [0], [0, 128], dtype=EXACT)
    estimate_planes(network, plane[None], [0, 64, 112], [0, 64, 128, 160], dtype=EXACT)
    assert used == ["_patch_features", "_shared_features"]


@pytest.mark.parametrize("model", ["gaussian-2", "zernike-3"])
def test_shared_layers_and_bfloat16_move_trained_answers_by_less_than_their_error(model):
    from napari_deblur.samples import tilted_cells

    net, _ = load_network(model)
    planes = torch.from_numpy(tilted_cells(256).image.data)[None]
    starts = [0, 64, 128]
    one_by_one = estimate_planes(net, planes, starts, starts, dtype=EXACT, dense=False)
    shared = estimate_planes(net, planes, starts, starts, dtype=torch.bfloat16, dense=True)
    # The axis apart: it is uncertain by nature.
    moved = (shared.parameters - one_by_one.parameters)[:, :2].square().mean().sqrt()
    assert moved < 0.5 * one_by_one.predicted_error[:, :2].square().mean().sqrt()


def test_progress_counts_to_its_end_and_can_stop_the_pass(network, plane):
    seen = []
    estimate_planes(network, plane[None], [0, 64], [0], 2, dtype=EXACT, progress=lambda *at: seen.append(at))
    done, totals = zip(*seen, strict=True)
    assert list(done) == list(range(len(done)))
    assert set(totals) == {done[-1]}

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate_planes(network, plane[None], [0], [0], dtype=EXACT, progress=stop)


def test_views_are_checked(network, plane):
    with pytest.raises(InvalidInputError, match="views must be 1, 2, 4 or 8"):
        estimate_planes(network, plane[None], [0], [0], 3)


@pytest.mark.parametrize(("width", "groups"), [(240, [[0, 1, 2, 3]]), (288, [[0, 2], [1, 3]])])
def test_views_can_go_through_together(network, plane, monkeypatch, width, groups):
    """As on a GPU, where larger batches are faster; only views of one shape fit into one."""
    rows, cols = [0, 64, 112], [0, 64, width - 128]
    part = plane[None, :, :width]
    apart = estimate_planes(network, part, rows, cols, 4, dtype=EXACT, dense=True)
    used = []
    original = dense._Pass._groups

    def groups_as_on_a_gpu(self, views):
        self.on_cpu = False
        used.append(original(self, views))
        return used[-1]

    monkeypatch.setattr(dense._Pass, "_groups", groups_as_on_a_gpu)
    same(estimate_planes(network, part, rows, cols, 4, dtype=EXACT, dense=True), apart)
    assert used == [groups]
