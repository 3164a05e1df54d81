from __future__ import annotations

import csv

import numpy as np
import pytest
from skimage.io import imsave

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.train.tiles import (
    Pool,
    micrograph_pool,
    read_folder,
    scene_pool,
    source_name,
    training_pool,
)

_SOURCES = (
    "https://host/lab/cells",
    "https://host/CellProfiler/examples",
    "https://host/NEUBIAS/training-resources",
)


@pytest.fixture
def data_dir(tmp_path):
    """A data folder with one image per source, each in a band of its own; one is oversampled."""
    rng = np.random.default_rng(0)
    for folder, sources in (("train_micro", _SOURCES), ("train_natural", _SOURCES[:1])):
        (tmp_path / folder).mkdir()
        rows = []
        for index, source in enumerate(sources):
            file = f"{index}.png"
            imsave(
                tmp_path / folder / file,
                rng.integers(0, 255, (200, 240), dtype=np.uint8),
                check_contrast=False,
            )
            rows.append(
                {"file": file, "source_repo": source, "band99_cyc_per_px": 0.1 if index == 2 else 0.3}
            )
        with (tmp_path / folder / "MANIFEST.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return tmp_path


def test_whole_sources_are_held_out(data_dir):
    found = {
        split: {name for _, name, _ in read_folder(data_dir, split)}
        for split in ("train", "validation", "test")
    }
    assert found == {"train": {"cells"}, "validation": {"examples"}, "test": {"training-resources"}}
    pool = training_pool(96, data_dir=data_dir, n_scenes=6, seed=0)
    assert not any("examples" in group or "training-resources" in group for group in pool.images)


def test_oversampled_images_are_halved_and_values_span_zero_to_one(data_dir):
    ((_, _, image),) = read_folder(data_dir, "test")
    assert image.shape == (100, 120)
    ((_, _, image),) = read_folder(data_dir, "validation")
    assert image.shape == (200, 240)
    assert float(image.min()) == 0
    assert float(image.max()) == 1


def test_shares_add_up(data_dir):
    pool = training_pool(96, data_dir=data_dir, n_scenes=6, seed=0, micrograph_share=0.5)
    scenes = sum(share for group, share in pool.shares.items() if group.startswith("scenes"))
    photographs = sum(share for group, share in pool.shares.items() if group.startswith("photographs"))
    assert scenes == pytest.approx(0.4)
    assert photographs == pytest.approx(0.1)
    alone = training_pool(96, data_dir=None, n_scenes=6, seed=0)
    assert sum(alone.shares.values()) == pytest.approx(1)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match=r"data_dir must hold train_micro/MANIFEST.csv"):
        read_folder(tmp_path, "train")


def test_crops_are_turned_and_small_images_mirrored():
    pool = Pool(64)
    image = np.linspace(0, 1, 50 * 70).reshape(50, 70)
    pool.add("ramp", image, 1.0)
    assert len(pool) == 1
    crops = pool.crops(16, np.random.default_rng(0))
    assert crops.shape == (16, 64, 64)
    assert crops.dtype == np.float32
    np.testing.assert_array_equal(crops, pool.crops(16, np.random.default_rng(0)))
    steepest_along_y = {abs(crop[32, 10] - crop[31, 10]) > abs(crop[32, 10] - crop[32, 11]) for crop in crops}
    assert steepest_along_y == {True, False}


def test_held_out_pools_name_their_sources(data_dir):
    assert list(micrograph_pool(96, data_dir, "test").images) == ["training-resources"]
    assert sum(scene_pool(96, 10, 1).shares.values()) == pytest.approx(1)


def test_source_name_is_the_repository():
    assert source_name("https://github.com/CellProfiler/examples/") == "examples"
