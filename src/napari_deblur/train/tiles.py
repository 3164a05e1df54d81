"""Sharp images to train on: procedural scenes and a folder of micrographs with its manifest."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.train.scenes import draw_scenes

Array = NDArray[np.float32]

OVERSAMPLED_BELOW_CYC_PER_PX = 0.13
"""An image whose power lies 99 % below this frequency is halved before it counts as sharp."""
VALIDATION_SOURCES = ("examples",)
TEST_SOURCES = ("training-resources",)
_FOLDERS = {"train_micro": "micrographs", "train_natural": "photographs"}
SCENE_PX = 256
SCENE_GROUP = "scenes: "
CONTENT_SHARE = 0.4
"""A crop holds content if it varies this much, against its whole image (standard deviations)."""
_TRIES = 4


@dataclass
class Pool:
    """Sharp images in groups; crops are drawn by group, then by image.

    Attributes
    ----------
    images : dict of list of ndarray
        By group; each float16 in 0 to 1, at least ``crop_px`` high and wide.
    shares : dict of float
        Probability of each group.
    crop_px : int
    """

    crop_px: int
    images: dict[str, list[NDArray[np.float16]]] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)

    def add(self, group: str, image: NDArray[np.floating], share: float) -> None:
        """Add an image to a group, mirrored where it is smaller than a crop."""
        short = [max(0, self.crop_px - side) for side in image.shape]
        padded = np.pad(image, [(0, short[0]), (0, short[1])], mode="symmetric")
        self.images.setdefault(group, []).append(padded.astype(np.float16))
        self.shares[group] = share

    def __len__(self) -> int:
        return sum(len(images) for images in self.images.values())

    def crop(self, rng: np.random.Generator) -> Array:
        """Draw one crop, preferring places with content, flipped and turned at random."""
        groups = list(self.images)
        share = np.array([self.shares[group] for group in groups])
        images = self.images[groups[rng.choice(len(groups), p=share / share.sum())]]
        area = np.sqrt([image.size for image in images])
        image = images[rng.choice(len(images), p=area / area.sum())]
        size, margin = self.crop_px, self.crop_px // 6
        wanted = CONTENT_SHARE * float(image[::4, ::4].astype(np.float32).std())
        for _ in range(_TRIES):
            y, x = (int(rng.integers(0, side - size + 1)) for side in image.shape)
            tile = image[y : y + size, x : x + size]
            if float(tile[margin:-margin:3, margin:-margin:3].astype(np.float32).std()) >= wanted:
                break
        turned = np.rot90(tile, int(rng.integers(4)))
        return np.ascontiguousarray(turned[::-1] if rng.random() < 0.5 else turned, dtype=np.float32)

    def crops(self, count: int, rng: np.random.Generator) -> Array:
        """Draw (count, crop, crop)."""
        return np.stack([self.crop(rng) for _ in range(count)])


def source_name(url: str) -> str:
    """Return the repository's name in a manifest's ``source_repo``."""
    return url.rstrip("/").rsplit("/", 1)[-1]


def _read(path: Path) -> Array:
    from skimage.io import imread

    image = np.asarray(imread(path), dtype=np.float32)
    image = image.mean(axis=-1) if image.ndim == 3 else image
    low, high = np.percentile(image, [0.1, 99.95])
    return np.asarray(np.clip((image - low) / max(high - low, 1e-9), 0, 1), dtype=np.float32)


def _halved(image: Array) -> Array:
    height, width = (side // 2 * 2 for side in image.shape)
    blocks = image[:height, :width].reshape(height // 2, 2, width // 2, 2)
    return np.asarray(blocks.mean(axis=(1, 3)), dtype=np.float32)


def read_folder(data_dir: Path, split: str) -> list[tuple[str, str, Array]]:
    """Read the images of one split: (folder's kind, source repository, image in 0 to 1).

    Parameters
    ----------
    data_dir : Path
        Holds ``train_micro`` and ``train_natural``, each with a MANIFEST.csv.
    split : {"train", "validation", "test"}
        Whole source repositories are held out, for tiles of one image are not independent.
    """
    found = []
    for folder, kind in _FOLDERS.items():
        manifest = Path(data_dir) / folder / "MANIFEST.csv"
        if not manifest.is_file():
            raise InvalidInputError("data_dir", f"must hold {folder}/MANIFEST.csv", str(data_dir))
        with manifest.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        for row in rows:
            source = source_name(row["source_repo"])
            held = (
                "validation"
                if source in VALIDATION_SOURCES
                else "test"
                if source in TEST_SOURCES
                else "train"
            )
            if held != split:
                continue
            image = _read(manifest.parent / row["file"])
            band = float(row.get("band99_cyc_per_px") or 1)
            found.append((kind, source, _halved(image) if band < OVERSAMPLED_BELOW_CYC_PER_PX else image))
    return found


def training_pool(
    crop_px: int, *, data_dir: Path | None, n_scenes: int, seed: int, micrograph_share: float = 0.5
) -> Pool:
    """Gather what a training run draws from.

    With a data folder: micrographs by source (in proportion to the square root of their number, so that the
    largest source does not rule), a tenth photographs, and scenes. Without: scenes alone.
    """
    pool = Pool(crop_px)
    folder = read_folder(data_dir, "train") if data_dir else []
    counts: dict[str, int] = {}
    for kind, source, _ in folder:
        counts[f"{kind}: {source}"] = counts.get(f"{kind}: {source}", 0) + 1
    totals = {
        kind: sum(n**0.5 for group, n in counts.items() if group.startswith(kind))
        for kind in _FOLDERS.values()
    }
    weights = {"micrographs": micrograph_share, "photographs": 0.1}
    for kind, source, image in folder:
        group = f"{kind}: {source}"
        share = weights[kind] * counts[group] ** 0.5 / totals[kind]
        pool.add(group, image, share)
        if kind == "micrographs" and min(image.shape) >= crop_px:
            pool.add(f"{group} (halved)", _halved(image), share / 2)
    for kind, scene in draw_scenes(n_scenes, max(SCENE_PX, crop_px), seed):
        pool.add(SCENE_GROUP + kind, scene, 1.0)
    scenes = [group for group in pool.images if group.startswith(SCENE_GROUP)]
    for group in scenes:
        share = len(pool.images[group]) / n_scenes
        pool.shares[group] = share * (1 - sum(weights.values()) if folder else 1.0)
    return pool


def micrograph_pool(crop_px: int, data_dir: Path, split: str) -> Pool:
    """Gather the micrographs of a held-out split, each source as a group."""
    pool = Pool(crop_px)
    for kind, source, image in read_folder(data_dir, split):
        if kind == "micrographs":
            pool.add(source, image, 1.0)
    return pool


def scene_pool(crop_px: int, n_scenes: int, seed: int) -> Pool:
    """Gather held-out procedural scenes of another seed."""
    pool = Pool(crop_px)
    for kind, scene in draw_scenes(n_scenes, max(SCENE_PX, crop_px), seed):
        pool.add(SCENE_GROUP + kind, scene, 0.0)
    pool.shares = {group: len(images) / n_scenes for group, images in pool.images.items()}
    return pool
