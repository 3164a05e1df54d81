from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from napari_deblur.core.atomic import atomic_path, check_output
from napari_deblur.core.errors import OutputError


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_the_file_appears_whole(tmp_path):
    target = tmp_path / "result.ome.tif"
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".ome.tif")
        temporary.write_bytes(b"abc")
        assert not target.exists()
    assert target.read_bytes() == b"abc"
    assert names(tmp_path) == ["result.ome.tif"]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_nothing_is_left_after_a_failure(tmp_path, error):
    with pytest.raises(type(error)), atomic_path(tmp_path / "a.npy") as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert names(tmp_path) == []


def test_a_failure_keeps_what_was_there(tmp_path):
    target = tmp_path / "a.npy"
    target.write_bytes(b"before")
    with pytest.raises(RuntimeError), atomic_path(target, overwrite=True) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"before"
    assert names(tmp_path) == ["a.npy"]


def test_what_exists_is_replaced_only_when_allowed(tmp_path):
    target = tmp_path / "a.npy"
    target.write_bytes(b"before")
    with pytest.raises(OutputError, match=r"output must not exist yet.*a\.npy"), atomic_path(target):
        pytest.fail("the block must not run")
    with atomic_path(target, overwrite=True) as temporary:
        temporary.write_bytes(b"after")
    assert target.read_bytes() == b"after"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    target = tmp_path / "a.npy"
    with pytest.raises(OutputError, match="must not exist yet"), atomic_path(target) as temporary:
        temporary.write_bytes(b"mine")
        target.write_bytes(b"theirs")
    assert target.read_bytes() == b"theirs"
    assert names(tmp_path) == ["a.npy"]


def test_folders_are_replaced_whole(tmp_path):
    target = tmp_path / "a.zarr"
    for content in ("one", "two"):
        with atomic_path(target, overwrite=True) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert names(target) == ["two"]
    assert names(tmp_path) == ["a.zarr"]


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    target = tmp_path / "results"
    target.mkdir()
    with pytest.raises(OutputError, match="must be a file, not a folder"):
        check_output(target, overwrite=True)


def test_the_folder_must_exist(tmp_path):
    with pytest.raises(OutputError, match=r"map must lie in a folder that exists.*nowhere"):
        check_output(tmp_path / "nowhere" / "a.npy", argument="map")


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(OutputError, match="can be written to"):
        check_output(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied")],
)
def test_the_systems_reasons_are_said_plainly(tmp_path, number, text):
    with (
        pytest.raises(OutputError, match=rf"output .*{text}.*a\.npy"),
        atomic_path(tmp_path / "a.npy") as temporary,
    ):
        temporary.write_bytes(b"half")
        raise OSError(number, os.strerror(number))
    assert names(tmp_path) == []


def test_an_error_about_another_file_passes_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.npy"):
        (tmp_path.parent / "no such file").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_short_write_is_an_output_error(tmp_path):
    code = f"""
import resource, signal
import numpy as np
from napari_deblur.core.errors import OutputError
from napari_deblur.core.image import Image
from napari_deblur.io.write import write_image
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for suffix in ("npy", "tif"):
    try:
        write_image(Image(np.ones((400, 400), np.float32)), {str(tmp_path)!r} + "/a." + suffix)
    except OutputError as error:
        print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.count("could not be written") == 2
    assert names(tmp_path) == []
