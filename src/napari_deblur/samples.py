"""Rendered sample images whose truth is known: for the demo, the docks' sample menu, tests and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.image import FloatArray, Image
from napari_deblur.optics.psf import family
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics

# A dry objective whose cut-off is the networks' own, and the field of 1024 pixels that of the depth
# experiments of Shajkofci & Liebling 2020 (655 µm).
OPTICS = Optics(na=0.2, wavelength_um=0.5818, pixel_size_um=0.64, refractive_index=1.0)
CAMERA_OFFSET = 100.0
ASTIGMATISM_WAVES = 0.15
AXIS_RAD = 0.0
_LEVELS = 33
_MARGIN_PX = 48


@dataclass(frozen=True, eq=False)
class Sample:
    """A rendered image and everything that is true of it.

    Attributes
    ----------
    image : Image
        What the camera saw: counts with offset, haze and photon noise.
    sharp : ndarray, float32, shape (y, x)
        The object in photons, without blur, haze, noise and offset.
    haze : ndarray, float32, shape (y, x)
        The out-of-focus background in photons.
    depth_um : ndarray, float32, shape (y, x)
        Depth of the surface, positive away from the objective, 0 in focus.
    optics : Optics
    astigmatism_waves, axis_rad : float
        What the cylindrical lens adds; the axis as it is in front of the focus (positive defocus).
    """

    image: Image
    sharp: FloatArray
    haze: FloatArray
    depth_um: FloatArray
    optics: Optics
    astigmatism_waves: float
    axis_rad: float

    def psf_map(self, stride_px: int = 64) -> PsfMap:
        """Return the true PSF map at a regular grid of positions."""
        height, width = self.depth_um.shape
        rows = np.arange(stride_px / 2 - 0.5, height, stride_px)
        cols = np.arange(stride_px / 2 - 0.5, width, stride_px)
        centers = np.stack(np.meshgrid(rows, cols, indexing="ij"), axis=-1)
        index = np.round(centers).astype(int)
        waves = self.depth_um[index[..., 0], index[..., 1]] * self.optics.defocus_waves_per_um
        return PsfMap.from_parameters(
            "zernike-3",
            zernike_3_parameters(waves, self.astigmatism_waves, self.axis_rad),
            centers_px=centers,
            image_shape=(height, width),
            cutoff_cycles_per_px=self.optics.cutoff_cycles_per_px,
            pixel_size_um=(self.optics.pixel_size_um, self.optics.pixel_size_um),
        )


def zernike_3_parameters(
    defocus_waves: NDArray[np.floating], astigmatism_waves: float, axis_rad: float
) -> FloatArray:
    """Return (…, 3) parameters for a signed defocus.

    The intensity does not change when all even-order terms flip their sign, so a negative defocus is a
    positive one with the astigmatism turned by a right angle.
    """
    axis = np.where(defocus_waves >= 0, axis_rad, axis_rad + np.pi / 2) % np.pi
    power = np.full_like(defocus_waves, astigmatism_waves)
    return np.stack([np.abs(defocus_waves), power, axis], axis=-1).astype(np.float32)


def tilted_cells(
    size_px: int = 512, *, tilt_deg: float = 12.0, photons: float = 2000.0, seed: int = 1
) -> Sample:
    """Render cells with filaments on a tilted plane, under haze, through an astigmatic objective.

    Parameters
    ----------
    size_px : int
        Height and width.
    tilt_deg : float
        Angle between the plane and the focal plane; the depth grows down the rows.
    photons : float
        Photons in the brightest pixel of the object.
    seed : int
    """
    from napari_deblur.train.scenes import SCENES

    rng = np.random.default_rng(seed)
    padded = _padded(size_px)
    cells = SCENES["cells"][0](rng, padded)
    filaments = np.maximum.reduce([SCENES["filaments"][0](rng, padded) for _ in range(3)])
    points = sum(SCENES["points"][0](rng, padded) for _ in range(3))
    scene = 0.35 * cells + 0.8 * filaments + 0.4 * points
    depth = _plane_um(len(scene), tilt_deg)
    return _on_surface("tilted cells", scene, depth, photons=photons, haze=0.25, rng=rng)


def tilted_grid(
    size_px: int = 512,
    *,
    tilt_deg: float = 6.0,
    photons: float = 5000.0,
    period_px: float = 14.0,
    seed: int = 2,
) -> Sample:
    """Render a printed grid on a tilted plane: the target that calibrates depth.

    Lines are unevenly inked, as a laser printer leaves them: the texture is not strictly periodic.

    Parameters
    ----------
    size_px : int
    tilt_deg : float
        Angle between the plane and the focal plane; the depth grows down the rows.
    photons : float
    period_px : float
        Distance of the lines.
    seed : int
    """
    rng = np.random.default_rng(seed)
    scene = _grid_scene(_padded(size_px), period_px, rng)
    depth = _plane_um(len(scene), tilt_deg)
    return _on_surface("tilted grid", scene, depth, photons=photons, haze=0.02, rng=rng)


def domed_grid(
    size_px: int = 512,
    *,
    height_um: float = 80.0,
    photons: float = 5000.0,
    period_px: float = 14.0,
    seed: int = 3,
) -> Sample:
    """Render the same printed grid on a paraboloid whose summit is nearest to the objective.

    Parameters
    ----------
    size_px : int
    height_um : float
        Depth between the summit in the middle and the corners; focus lies half way.
    photons : float
    period_px : float
        Distance of the lines.
    seed : int
    """
    rng = np.random.default_rng(seed)
    scene = _grid_scene(_padded(size_px), period_px, rng)
    line = (np.arange(len(scene)) - (len(scene) - 1) / 2) / (size_px / 2)
    depth = height_um * ((line[:, None] ** 2 + line[None, :] ** 2) / 2 - 0.5)
    return _on_surface("domed grid", scene, depth, photons=photons, haze=0.02, rng=rng)


def _grid_scene(padded: int, period_px: float, rng: np.random.Generator) -> FloatArray:
    from napari_deblur.train.scenes import SCENES

    yy, xx = np.mgrid[:padded, :padded].astype(np.float32)
    ink = SCENES["texture"][0](rng, padded)
    lines = np.zeros((padded, padded), np.float32)
    for along in (yy, xx):
        wobble = 1.5 * SCENES["texture"][0](rng, padded)
        distance = np.abs((along + wobble + period_px / 2) % period_px - period_px / 2)
        lines = np.maximum(lines, np.clip(2.2 - distance, 0, 1))
    return np.asarray(lines * (0.5 + 0.5 * ink) + 0.1 * ink, dtype=np.float32)


def _padded(size_px: int) -> int:
    if size_px < 64 or size_px > 8192:
        raise InvalidInputError("size_px", "must be from 64 to 8192", size_px)
    return size_px + 2 * _MARGIN_PX


def _plane_um(size: int, tilt_deg: float) -> FloatArray:
    """Return the depth (size, size) of a plane that falls down the rows, 0 in the middle."""
    height = (np.arange(size) - (size - 1) / 2) * OPTICS.pixel_size_um * np.tan(np.radians(tilt_deg))
    return np.broadcast_to(height[:, None], (size, size)).astype(np.float32)


def _on_surface(
    name: str,
    scene: FloatArray,
    depth_um: NDArray[np.floating],
    *,
    photons: float,
    haze: float,
    rng: np.random.Generator,
) -> Sample:
    """Put a scene on a surface and take its image."""
    depth = depth_um.astype(np.float32)
    scene = (scene / scene.max() * photons).astype(np.float32)
    blurred = blur_at_depths(scene, depth * OPTICS.defocus_waves_per_um, ASTIGMATISM_WAVES, AXIS_RAD)
    yy, xx = np.mgrid[: len(blurred), : len(blurred)] / len(blurred)
    glow = haze * photons * (0.4 + 0.6 * np.exp(-((yy - 0.4) ** 2 + (xx - 0.6) ** 2) / 0.18))
    counts = rng.poisson(np.maximum(blurred + glow, 0)) + rng.normal(0, 2, blurred.shape) + CAMERA_OFFSET
    pixel = OPTICS.pixel_size_um
    inner = (slice(_MARGIN_PX, -_MARGIN_PX),) * 2
    image = Image(np.round(counts).astype(np.float32), "yx", (pixel, pixel), name=name)
    return Sample(
        image=image,
        sharp=scene[inner],
        haze=glow.astype(np.float32),
        depth_um=depth[inner].copy(),
        optics=OPTICS,
        astigmatism_waves=ASTIGMATISM_WAVES,
        axis_rad=AXIS_RAD,
    )


def blur_at_depths(
    scene: FloatArray, defocus_waves: FloatArray, astigmatism_waves: float, axis_rad: float
) -> FloatArray:
    """Blur every object point with the PSF of its own defocus, and cut a margin of 48 pixels off.

    The defocus is split into 33 levels and interpolated linearly between them, point by point.

    Parameters
    ----------
    scene : ndarray, shape (y, x)
    defocus_waves : ndarray, shape (y, x)
        Signed, Noll-normalised.
    astigmatism_waves, axis_rad : float
    """
    import torch

    from napari_deblur.blur.convolution import fft_shape, filter_with, otf

    low, high = float(defocus_waves.min()), float(defocus_waves.max())
    levels = np.linspace(low, high, _LEVELS if high > low else 1)
    position = (defocus_waves - low) / max(high - low, 1e-12) * (len(levels) - 1)
    parameters = torch.from_numpy(zernike_3_parameters(levels, astigmatism_waves, axis_rad))
    size = 2 * _MARGIN_PX + 1
    shape = fft_shape((scene.shape[0], scene.shape[1]))
    total = torch.zeros(shape)
    for level, kernel in enumerate(
        family("zernike-3").kernels(parameters, size, OPTICS.cutoff_cycles_per_px)
    ):
        share = np.clip(1 - np.abs(position - level), 0, None).astype(np.float32)
        if share.any():
            total += filter_with(torch.from_numpy(share * scene), otf(kernel, shape), shape)
    cut = total[_MARGIN_PX : scene.shape[0] - _MARGIN_PX, _MARGIN_PX : scene.shape[1] - _MARGIN_PX]
    blurred: FloatArray = cut.numpy()
    return blurred
