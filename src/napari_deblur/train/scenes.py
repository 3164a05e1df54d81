"""Procedural sharp scenes, seeded: what micrographs look like before any blur.

Each function draws one scene ``(size, size)``, float32 in 0 to 1, from a numpy generator.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
_TEXTURE_EXPONENTS = (0.3, 2.2)


def _unit(image: NDArray[np.floating]) -> Array:
    low, high = float(image.min()), float(image.max())
    return ((image - low) / max(high - low, 1e-9)).astype(np.float32)


def _blurred(image: NDArray[np.floating], sigma: float) -> NDArray[np.floating]:
    from scipy.ndimage import gaussian_filter

    blurred: NDArray[np.floating] = gaussian_filter(image, sigma, mode="reflect")
    return blurred


def _splat(
    y: NDArray[np.floating], x: NDArray[np.floating], weight: NDArray[np.floating], size: int
) -> Array:
    """Add weighted points at sub-pixel positions, bilinearly."""
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    image = np.zeros(size * size)
    for dy in (0, 1):
        for dx in (0, 1):
            part = weight * np.abs(1 - dy - (y - y0)) * np.abs(1 - dx - (x - x0))
            keep = (y0 + dy >= 0) & (y0 + dy < size) & (x0 + dx >= 0) & (x0 + dx < size)
            image += np.bincount((y0 + dy)[keep] * size + (x0 + dx)[keep], part[keep], size * size)
    return image.reshape(size, size).astype(np.float32)


def texture(rng: np.random.Generator, size: int) -> Array:
    """Noise with a power-law spectrum, sometimes band-limited, sometimes skewed."""
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    stretch = np.exp(rng.uniform(-0.5, 0.5))
    frequency = np.hypot(fy * stretch, fx / stretch) + 1 / size
    amplitude = frequency ** -rng.uniform(*_TEXTURE_EXPONENTS)
    if rng.random() < 0.5:
        amplitude *= np.exp(-((frequency / rng.uniform(0.1, 0.5)) ** 2))
    white = np.fft.rfft2(rng.standard_normal((size, size)))
    field = np.fft.irfft2(white * amplitude, s=(size, size))
    field = field / field.std()
    return _unit(np.exp(rng.uniform(0.3, 1.2) * field) if rng.random() < 0.5 else field)


def points(rng: np.random.Generator, size: int) -> Array:
    """Draw beads and vesicles: points of unequal brightness, a few larger, on a dark or hazy ground."""
    count = int(np.exp(rng.uniform(np.log(20), np.log(1500))))
    y, x = rng.uniform(0, size, (2, count))
    image = _splat(y, x, np.exp(rng.normal(0, rng.uniform(0.1, 0.8), count)), size)
    image = _blurred(image, rng.choice([0.4, 0.6, 0.9, 1.4], p=[0.35, 0.35, 0.2, 0.1]))
    return _unit(image)


def filaments(rng: np.random.Generator, size: int) -> Array:
    """Microtubules and actin: curved tubes, dense or sparse, of one or two widths."""
    image = np.zeros((size, size))
    for _ in range(rng.integers(1, 3)):
        count = int(np.exp(rng.uniform(np.log(4), np.log(90))))
        steps, step_px = int(rng.uniform(0.5, 2.5) * size), 0.5
        heading = (
            rng.uniform(0, 2 * np.pi, (count, 1)) if rng.random() < 0.7 else rng.normal(1, 0.3, (count, 1))
        )
        bending = rng.normal(0, np.exp(rng.uniform(-6.5, -3)), (count, steps)).cumsum(axis=1)
        heading = heading + bending
        y = rng.uniform(0, size, (count, 1)) + step_px * np.sin(heading).cumsum(axis=1)
        x = rng.uniform(0, size, (count, 1)) + step_px * np.cos(heading).cumsum(axis=1)
        weight = np.exp(rng.normal(0, 0.4, (count, 1))) * np.ones_like(y)
        layer = _splat(y.ravel(), x.ravel(), weight.ravel(), size)
        image += _blurred(layer, rng.choice([0.4, 0.6, 1.0, 1.8], p=[0.35, 0.3, 0.2, 0.15]))
    if rng.random() < 0.3:
        image = image / image.max() + rng.uniform(0.05, 0.4) * texture(rng, size)
    return _unit(image)


def _soft_inside(distance: NDArray[np.floating], edge_px: float) -> NDArray[np.floating]:
    """Turn a signed distance (negative inside) into coverage 0 to 1."""
    return np.asarray(np.clip(0.5 - distance / edge_px, 0, 1))


def cells(rng: np.random.Generator, size: int) -> Array:
    """Nuclei or cells: lobed ellipses with chromatin-like texture, spots and a faint surrounding."""
    yy, xx = np.mgrid[:size, :size].astype(np.float32)
    image = np.zeros((size, size))
    radius = np.exp(rng.uniform(np.log(5), np.log(45)))
    inner = texture(rng, size)
    depth, edge = rng.uniform(0.2, 1.0), rng.uniform(0.8, 3)
    for _ in range(int(np.clip(rng.uniform(0.1, 0.6) * size**2 / (np.pi * radius**2), 2, 150))):
        cy, cx, r = *rng.uniform(0, size, 2), radius * rng.uniform(0.7, 1.4)
        reach = int(1.8 * r) + 4
        box = np.s_[max(int(cy) - reach, 0) : int(cy) + reach, max(int(cx) - reach, 0) : int(cx) + reach]
        dy, dx = yy[box] - cy, xx[box] - cx
        angle = np.arctan2(dy, dx)
        lobes = 1 + sum(
            rng.normal(0, 0.12 / k) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 4, 5)
        )
        inside = _soft_inside(np.hypot(dy, dx) - r * lobes, edge)
        content = rng.uniform(0.4, 1) * (1 - depth + depth * inner[box])
        image[box] = np.maximum(image[box], inside * content)
    if rng.random() < 0.4:
        image += 0.3 * points(rng, size) * (image > 0)
    if rng.random() < 0.5:
        image += rng.uniform(0.02, 0.3) * texture(rng, size)
    return _unit(image)


def dead_leaves(rng: np.random.Generator, size: int) -> Array:
    """Overlapping discs and polygons of power-law sizes: edges at all scales, as in natural scenes."""
    yy, xx = np.mgrid[:size, :size].astype(np.float32)
    image = texture(rng, size)
    grain, smallest = texture(rng, size), rng.uniform(2, 6)
    strength, edge = rng.uniform(0, 0.6), rng.uniform(0.8, 1.6)
    for _ in range(int(rng.uniform(100, 350))):
        r = min(smallest * rng.uniform(0.005, 1) ** -0.5, 70)
        cy, cx, level = *rng.uniform(0, size, 2), rng.random()
        reach = int(1.5 * r) + 3
        box = np.s_[max(int(cy) - reach, 0) : int(cy) + reach, max(int(cx) - reach, 0) : int(cx) + reach]
        dy, dx = yy[box] - cy, xx[box] - cx
        if rng.random() < 0.5:
            distance = np.hypot(dy, dx) - r
        else:
            turn = rng.uniform(0, np.pi)
            u, v = dy * np.cos(turn) + dx * np.sin(turn), dx * np.cos(turn) - dy * np.sin(turn)
            distance = np.maximum(np.abs(u) - r, np.abs(v) - r * rng.uniform(0.2, 1))
        inside = _soft_inside(distance, edge)
        image[box] += inside * (level * (1 - strength) + strength * level * grain[box] - image[box])
    return _unit(image)


def grid(rng: np.random.Generator, size: int) -> Array:
    """Print a grid, a ruling or rows of dots: lines at any angle, unevenly inked, on an uneven ground."""
    yy, xx = np.mgrid[:size, :size].astype(np.float32)
    turn, skew = rng.uniform(0, np.pi), rng.normal(0, 0.1)
    period = np.exp(rng.uniform(np.log(8), np.log(60)))
    width = rng.uniform(0.06, 0.4) * period
    edge = rng.uniform(0.8, 1.6)
    lines = []
    for angle in (turn, turn + np.pi / 2 + skew):
        along = yy * np.sin(angle) + xx * np.cos(angle) + rng.uniform(0, period)
        lines.append(_soft_inside(np.abs(along % period - period / 2) - width / 2, edge))
    kind = rng.random()
    image = np.maximum(*lines) if kind < 0.65 else lines[0] * lines[1] if kind < 0.9 else lines[0]
    image = image * (1 - rng.uniform(0, 0.5) * texture(rng, size)) + rng.uniform(0, 0.3) * texture(rng, size)
    return _unit(-image if rng.random() < 0.5 else image)


def fabric(rng: np.random.Generator, size: int) -> Array:
    """Draw fibres and brushed surfaces: textures finer across a direction, at any angle, than along it."""
    yy, xx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    turn, stretch = rng.uniform(0, np.pi), np.exp(rng.uniform(0.3, 1.2))
    along, across = yy * np.sin(turn) + xx * np.cos(turn), yy * np.cos(turn) - xx * np.sin(turn)
    frequency = np.hypot(along * stretch, across / stretch) + 1 / size
    amplitude = frequency ** -rng.uniform(0.5, 1.8)
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) * amplitude, s=(size, size))
    field = field / field.std()
    kind = rng.random()
    if kind < 0.4:
        field = np.exp(rng.uniform(0.3, 1.0) * field)
    elif kind < 0.7:
        # Two phases with sharp borders.
        field = _soft_inside(field - rng.uniform(-0.8, 0.8), rng.uniform(0.3, 1.0)) + 0.1 * texture(rng, size)
    return _unit(field)


SCENES: dict[str, tuple[Callable[[np.random.Generator, int], Array], float]] = {
    "points": (points, 0.16),
    "filaments": (filaments, 0.26),
    "cells": (cells, 0.16),
    "dead leaves": (dead_leaves, 0.12),
    "texture": (texture, 0.1),
    "fabric": (fabric, 0.06),
    "grid": (grid, 0.14),
}
"""Each kind of scene with its share."""


def draw_scenes(count: int, size_px: int, seed: int | tuple[int, ...]) -> list[tuple[str, Array]]:
    """Draw ``count`` scenes, each with its kind; the same seed gives the same scenes.

    The kinds come in their shares exactly (to one scene), in random order.
    """
    rng = np.random.default_rng(seed)
    edges = np.cumsum([share for _, share in SCENES.values()])
    positions = (np.arange(count) + 0.5) / max(count, 1) * edges[-1]
    order = rng.permutation(np.searchsorted(edges, positions))
    names = list(SCENES)
    return [(names[index], SCENES[names[index]][0](rng, size_px)) for index in order]
