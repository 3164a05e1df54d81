from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_deblur.stream.grid import ALIGN_PX, Grid, choose_grid, scan_grid


def bytes_of(shape):
    return 100.0 * math.prod(shape)


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(16, 300), st.integers(16, 300)),
    reach=st.tuples(st.integers(0, 6), st.integers(0, 40), st.integers(0, 40)),
    budget=st.floats(1e5, 1e9),
)
@settings(max_examples=30, deadline=None)
def test_blocks_cover_the_image_once_with_their_halo(shape, reach, budget):
    halo = (0, *reach)
    grid = choose_grid(shape, halo, bytes_of=bytes_of, budget_bytes=budget, stored=(1, 8, 64, 64))
    seen = np.zeros(shape, int)
    for block in grid:
        seen[block.keep] += 1
        for keep, read, size, around in zip(block.keep, block.read, shape, halo, strict=True):
            assert read.start == max(0, keep.start - around)
            assert read.stop == min(size, keep.stop + around)
        assert np.zeros(shape)[block.read][block.inner].shape == block.shape
    assert (seen == 1).all()
    assert all(
        part.stop - part.start <= n
        for block in grid
        for part, n in zip(block.read, grid.largest_read, strict=True)
    )


def test_the_whole_is_one_block_where_it_fits():
    grid = choose_grid((30, 500, 400), (4, 20, 20), bytes_of=bytes_of, budget_bytes=1e9, stored=(1, 64, 64))
    assert len(grid) == 1
    assert grid.overhead == 1


def test_blocks_keep_within_the_memory_and_read_little_twice():
    shape, halo, budget = (2000, 2048, 2048), (24, 40, 40), 2e9
    grid = choose_grid(shape, halo, bytes_of=bytes_of, budget_bytes=budget, stored=(32, 512, 512))
    assert bytes_of(grid.largest_read) <= budget
    cube = (2e7 ** (1 / 3) / (2e7 ** (1 / 3) - 80)) ** 2 * (2e7 ** (1 / 3) / (2e7 ** (1 / 3) - 48))
    assert grid.overhead < cube  # what cubes of that memory would cost


def test_blocks_end_where_chunks_do():
    for side in (50, 200, 700, 5000):
        grid = choose_grid(
            (9000, 8000), (20, 20), bytes_of=bytes_of, budget_bytes=1, stored=(64, 64), block_px=side
        )
        for keep, chunk in zip(grid.keep, grid.chunks(), strict=True):
            assert keep % chunk == 0
            assert keep % ALIGN_PX == 0
            assert side <= keep < side + 1024


def test_planes_stored_in_one_piece_are_read_together():
    shape, stored = (40, 256, 256), (16, 128, 128)
    grid = choose_grid(shape, (0, 9, 9), bytes_of=bytes_of, budget_bytes=1e9, stored=stored)
    assert grid.keep[0] == 16
    small = choose_grid(shape, (0, 9, 9), bytes_of=bytes_of, budget_bytes=3 * 100 * 256**2, stored=stored)
    assert small.keep[0] == 3


def test_the_first_pass_reads_whole_pieces():
    grid = scan_grid((100, 1000, 1000), (10, 128, 128), largest_px=10 * 1000 * 256)
    assert grid.keep == (10, 256, 1000)
    assert sum(math.prod(block.shape) for block in grid) == 100 * 1000 * 1000
    assert scan_grid((4, 8), (64, 64), largest_px=1).keep == (4, 8)


def test_no_block_of_that_number():
    with pytest.raises(IndexError):
        Grid((10, 10), (5, 5), (0, 0))[4]


def test_every_pixel_belongs_to_the_block_that_keeps_it():
    grid = Grid((5, 70, 100), (2, 32, 48), (0, 9, 9))
    for number in range(len(grid)):
        keep = grid[number].keep
        assert grid.number_at(tuple(part.start for part in keep)) == number
        assert grid.number_at(tuple(part.stop - 1 for part in keep)) == number
