from __future__ import annotations

import numpy as np
import pytest

from napari_deblur.core.errors import InvalidInputError, OutputError
from napari_deblur.io.mesh import write_mesh
from napari_deblur.steps.surface import Surface, make_surface

SUFFIXES = (".ply", ".obj", ".stl")


def bowl(height=40, width=61, hole=False):
    y, x = np.mgrid[:height, :width]
    depth = (0.01 * ((y - 20) ** 2 + (x - 30) ** 2) - 2).astype(np.float32)
    if hole:
        depth[10:15, 20:28] = np.nan
    image = (100 + x).astype(np.float32)
    return make_surface(depth, image, pixel_size_um=(0.2, 0.1)), depth


def load(path):
    trimesh = pytest.importorskip("trimesh")
    return trimesh.load(path, process=False)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("hole", [False, True])
def test_another_program_reads_scale_and_faces(tmp_path, suffix, hole):
    surface, depth = bowl(hole=hole)
    mesh = load(write_mesh(surface, tmp_path / f"a{suffix}"))
    assert len(mesh.faces) == len(surface.faces)
    expected = [[0, 0, np.nanmin(depth)], [6.0, 7.8, np.nanmax(depth)]]
    np.testing.assert_allclose(mesh.bounds, expected, atol=1e-5)
    mesh.merge_vertices()
    assert mesh.is_winding_consistent
    assert (mesh.face_normals[:, 2] > 0).all()


def test_intensity_travels_as_a_number_and_as_grey(tmp_path):
    surface, _ = bowl()
    mesh = load(write_mesh(surface, tmp_path / "a.ply"))
    np.testing.assert_allclose(mesh.metadata["_ply_raw"]["vertex"]["data"]["quality"], surface.values)
    grey = mesh.visual.vertex_colors[:, 0].astype(int)
    assert np.corrcoef(grey, surface.values)[0, 1] > 0.99
    assert grey.min() == 0
    assert grey.max() == 255
    obj = load(write_mesh(surface, tmp_path / "a.obj"))
    assert np.corrcoef(obj.visual.vertex_colors[:, 0].astype(int), surface.values)[0, 1] > 0.99


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_surface_without_calibration_says_so(tmp_path, suffix):
    surface, _ = bowl()
    relative = Surface(surface.vertices, surface.faces, surface.values, calibrated=False)
    assert b"RELATIVE" in write_mesh(relative, tmp_path / f"a{suffix}").read_bytes()
    known = write_mesh(surface, tmp_path / f"b{suffix}").read_bytes()
    assert b"RELATIVE" not in known
    assert not known.startswith(b"solid")


def test_an_existing_file_is_kept_unless_allowed(tmp_path):
    surface, _ = bowl()
    path = tmp_path / "a.ply"
    path.write_text("mine")
    with pytest.raises(OutputError, match="must not exist"):
        write_mesh(surface, path)
    assert path.read_text() == "mine"
    write_mesh(surface, path, overwrite=True)
    assert path.read_bytes().startswith(b"ply")
    assert [p.name for p in tmp_path.iterdir()] == ["a.ply"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    surface, _ = bowl()
    monkeypatch.setattr(np, "savetxt", lambda *args, **kwargs: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(OutputError, match="disk is full"):
        write_mesh(surface, tmp_path / "a.obj")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.tif"])
def test_unknown_suffixes_are_refused(tmp_path, name):
    with pytest.raises(InvalidInputError, match=r"output must end in \.ply"):
        write_mesh(bowl()[0], tmp_path / name)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(OutputError, match="folder that exists"):
        write_mesh(bowl()[0], tmp_path / "no" / "a.ply")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"faces": np.zeros((0, 3), np.int32)}, "faces"),
        ({"faces": np.array([[0, 1, 10**6]], np.int32)}, "between its vertices"),
        ({"values": np.zeros(3, np.float32)}, "n values"),
        ({"vertices": np.full((40 * 61, 3), np.nan, np.float32)}, "finite"),
    ],
)
def test_broken_surfaces_are_refused(tmp_path, change, said):
    surface, _ = bowl()
    parts = {"vertices": surface.vertices, "faces": surface.faces, "values": surface.values} | change
    with pytest.raises(InvalidInputError, match=said):
        write_mesh(Surface(**parts), tmp_path / "a.ply")
    assert list(tmp_path.iterdir()) == []
