"""The guide's commands for large images and clusters run as they are written, on small files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from napari_deblur.cli import main
from napari_deblur.core.image import Image
from napari_deblur.io.read import read_image
from napari_deblur.io.write import write_image

GUIDE = Path(__file__).parent.parent / "docs" / "guide.md"


def commands():
    chapter = GUIDE.read_text(encoding="utf-8").split("## Large images and clusters")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", chapter, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("napari-deblur ")]


@pytest.mark.filterwarnings("ignore")
def test_the_commands_work_as_written(tmp_path, monkeypatch, capsys):
    pytest.importorskip("zarr")
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-3:4, -3:4]
    np.save("psf.npy", np.exp(-(x**2 + y**2) / 3))
    stack = rng.poisson(40, (2, 48, 64)).astype(np.float32)
    write_image(Image(stack, "tyx", (0.1, 0.1)), "stack.ome.zarr")
    write_image(Image(stack[0], pixel_size_um=(0.1, 0.1)), "cells.ome.tif")
    found = commands()
    assert len(found) == 6
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp", dashboard_address=None
    ) as cluster:
        for command in found:
            arguments = shlex.split(command.replace("tcp://head:8786", cluster.scheduler_address))[1:]
            assert main(arguments) == 0, capsys.readouterr().err
    assert read_image("sharp.ome.zarr").data.shape == stack.shape
    names = {entry.name for entry in Path("results").iterdir()}
    assert names == {
        "stack_deblurred.ome.tif", "stack_record.json", "cells_deblurred.ome.tif", "cells_record.json",
    }  # fmt: skip
