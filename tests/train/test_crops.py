from __future__ import annotations

import numpy as np
import pytest
import torch

from napari_deblur.train.crops import CropSampler, SceneRenewal, content_places
from napari_deblur.train.scenes import draw_scenes
from napari_deblur.train.tiles import Pool, scene_pool

CPU = torch.device("cpu")


def _half_textured(size=160):
    """An image whose right half holds texture and whose left half is empty."""
    image = np.zeros((size, size), np.float32)
    image[:, size // 2 :] = np.random.default_rng(0).random((size, size - size // 2))
    return image


def test_places_with_content_are_those_whose_middle_varies():
    image, crop = _half_textured(), 48
    places = content_places(image, crop)
    margin = crop // 6
    wanted = 0.4 * image[::4, ::4].std()
    grid = np.arange(0, 160 - crop + 1, 8)
    expected = [
        (row, col)
        for row in grid
        for col in grid
        if image[row + margin : row + crop - margin, col + margin : col + crop - margin].std() >= wanted
    ]
    assert [tuple(place) for place in places] == expected
    assert 0 < len(places) < len(grid) ** 2
    assert len(content_places(np.zeros((160, 160)), crop)) == len(grid) ** 2


def test_crops_are_pieces_of_the_image_in_all_eight_views():
    image = np.random.default_rng(1).random((64, 64)).astype(np.float16)
    pool = Pool(64)
    pool.add("one", image, 1.0)
    crops = CropSampler(pool, CPU).crops(64, np.random.default_rng(0))
    assert crops.dtype == torch.float32
    turned = [np.rot90(image, k) for k in range(4)]
    views = {view.tobytes() for view in [*turned, *(view[::-1] for view in turned)]}
    assert {crop.numpy().astype(np.float16).tobytes() for crop in crops} == views


def test_groups_are_drawn_by_their_shares_and_the_seed_decides():
    pool = Pool(32)
    pool.add("dark", np.zeros((40, 40), np.float32), 1.0)
    pool.add("bright", np.ones((40, 40), np.float32), 3.0)
    sampler = CropSampler(pool, CPU)
    crops = sampler.crops(2000, np.random.default_rng(0))
    assert float(crops.mean()) == pytest.approx(0.75, abs=0.05)
    torch.testing.assert_close(crops, sampler.crops(2000, np.random.default_rng(0)))


def test_scenes_are_renewed_as_the_seed_says():
    sampler = CropSampler(scene_pool(96, 8, 0), CPU)
    before = {name: list(group.images) for name, group in sampler.groups.items()}
    renewal = SceneRenewal(sampler, 16, 96, 7, 1)
    try:
        renewal.step(0)
        renewal.step(1)
        assert all(sampler.groups[name].images[0] is images[0] for name, images in before.items())
        renewal.step(2)
    finally:
        renewal.close()
    new = dict(draw_scenes(32, 96, (7, 1)))
    kind = next(name for name in before if name.removeprefix("scenes: ") in new)
    group = sampler.groups[kind]
    assert group.images[0] is not before[kind][0]
    drawn = [scene for name, scene in draw_scenes(32, 96, (7, 1)) if f"scenes: {name}" == kind]
    latest = torch.from_numpy(drawn[-1].astype(np.float16))
    assert any(torch.equal(image, latest) for image in group.images)
