"""The point spread function of a widefield microscope in 3D, from its optics.

One point emits below the coverslip at depth d in a medium of index n_s; the objective, made for the immersion
n_i, is focused nominally at z. A ray that meets the focus under the angle θ in the immersion takes the path
``W = d √(n_s² − n_i² sin² θ) − z n_i cos θ`` (Gibson & Lanni 1992, doi:10.1364/JOSAA.9.000154, with a
coverslip of the immersion's index). With k = 2π / λ and the lateral distance r the fields are

- scalar: ``∫ J₀(k r n_i sin θ) exp(i k W) sin θ cos θ dθ``, a uniform pupil;
- vectorial: ``I_m = ∫ √cos θ sin θ g_m(θ) J_m(k r n_i sin θ) exp(i k W) dθ`` with g₀ = t_s + t_p cos θ_s,
  g₁ = t_p sin θ_s, g₂ = t_s − t_p cos θ_s, and the intensity |I₀|² + 2 |I₁|² + |I₂|² of randomly oriented
  dipoles (Richards & Wolf 1959, doi:10.1098/rspa.1959.0200; with Fresnel's t_s, t_p at the interface: Török
  et al. 1995, doi:10.1364/JOSAA.12.000325; Aguet et al. 2009, doi:10.1364/OE.17.006829).

All rays within the aperture end at the camera whatever the focus, so every plane holds the same light.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError

if TYPE_CHECKING:
    from napari_deblur.core.run import Run
    from napari_deblur.optics.settings import Optics

_LEAST_NODES = 48
_LARGEST_AXIS_PX = 511
_AXIAL_RINGS = 3.0
_AIRY_RADII = 2.5
_OUTERMOST = 0.95
_LEAST_FOCI, _MOST_FOCI = 101, 20001
_COARSE_ANGLES = 257

FloatArray = NDArray[np.float32]
Doubles = NDArray[np.float64]


def optics_psf_3d(
    optics: Optics,
    shape: tuple[int, int, int] | None = None,
    voxel_size_um: tuple[float, float, float] | None = None,
) -> FloatArray:
    """Make the 3D kernel of a perfect widefield microscope.

    Parameters
    ----------
    optics : Optics
    shape : tuple of int, optional
        Odd sizes along z, y and x; by default three axial rings and the light cone at their ends.
    voxel_size_um : tuple of float, optional
        Size of a voxel along z (as the stage moves), y and x; by default the optics' own.

    Returns
    -------
    ndarray, float32, shape (z, y, x), sum 1
        The brightest plane along the axis is the middle one, wherever a depth in another index moves it.

    Raises
    ------
    InvalidInputError
        If sizes are missing, even or too large.
    """
    voxel = voxel_size_um or optics.voxel_size_um
    if voxel is None:
        raise InvalidInputError("z_step_um", "is needed for a PSF in 3D", "nothing")
    if len(voxel) != 3 or not all(math.isfinite(size) and size > 0 for size in voxel):
        raise InvalidInputError("voxel_size_um", "must be three positive numbers (z, y, x)", voxel)
    sizes = shape or natural_shape(optics, voxel)
    for size in sizes:
        if size % 2 == 0 or not 1 <= size <= _LARGEST_AXIS_PX:
            rule = f"must hold three odd numbers from 1 to {_LARGEST_AXIS_PX} (z, y, x)"
            raise InvalidInputError("shape", rule, sizes)
    planes = (np.arange(sizes[0]) - sizes[0] // 2) * voxel[0] + focus_um(optics)
    y = (np.arange(sizes[1]) - sizes[1] // 2) * voxel[1]
    x = (np.arange(sizes[2]) - sizes[2] // 2) * voxel[2]
    radii, place = np.unique(np.round(np.hypot(y[:, None], x[None, :]), 9), return_inverse=True)
    profile = radial_intensity(optics, radii, planes)
    kernel = profile[:, place.reshape(sizes[1], sizes[2])]
    return np.ascontiguousarray(kernel / kernel.sum(), dtype=np.float32)


def natural_shape(optics: Optics, voxel_size_um: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return the odd sizes that hold three axial rings and the light cone at their ends.

    The rings are λ / (n − √(n² − NA²)) apart, in the paraxial limit 2 n λ / NA².
    """
    n, na = optics.refractive_index, optics.na
    ring = optics.wavelength_um / (n - math.sqrt(n * n - na * na))
    aberration = abs(focus_um(optics) - optics.depth_um * n / (optics.sample_index or n))
    reach = _AXIAL_RINGS * ring + aberration
    sine = min(na / n, 0.97)
    radius = reach * sine / math.sqrt(1 - sine * sine) + _AIRY_RADII * 0.61 * optics.wavelength_um / na
    reaches = (reach, radius, radius)
    halves = [math.ceil(size / step) for size, step in zip(reaches, voxel_size_um, strict=True)]
    z, y, x = (min(2 * half + 1, _LARGEST_AXIS_PX) for half in halves)
    return z, y, x


def fitted_shape(optics: Optics, image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the natural shape of the optics' PSF, cut to the largest odd one that an image holds."""
    voxel = optics.voxel_size_um
    if voxel is None:
        raise InvalidInputError("z_step_um", "is needed for a PSF in 3D", "nothing")
    largest = (size if size % 2 else size - 1 for size in image_shape[-3:])
    z, y, x = (min(own, most) for own, most in zip(natural_shape(optics, voxel), largest, strict=True))
    return z, y, x


def fitted_psf_3d(optics: Optics, image_shape: tuple[int, ...], run: Run | None = None) -> FloatArray:
    """Make the 3D kernel for an image, no larger than that.

    Parameters
    ----------
    optics : Optics
        With ``z_step_um``.
    image_shape : tuple of int
        Ends with z, y, x.
    run : Run, optional
        Receives a note where the image is too small for the whole PSF.
    """
    shape = fitted_shape(optics, image_shape)
    assert optics.voxel_size_um is not None
    natural = natural_shape(optics, optics.voxel_size_um)
    if shape != natural and run is not None:
        sizes = " × ".join(str(size) for size in natural)
        run.note(f"The PSF of these optics spans {sizes} voxels; it was cut to what the image holds.")
    return optics_psf_3d(optics, shape)


@lru_cache(maxsize=64)
def focus_um(optics: Optics) -> float:
    """Return the nominal focus at which a point at the optics' depth is brightest on the axis.

    Without a mismatch that is the depth itself; for small apertures it is the depth times n_i / n_s.
    """
    index, depth = optics.sample_index or optics.refractive_index, optics.depth_um
    if depth == 0 or index == optics.refractive_index:
        return depth
    # A ray of sine s crosses the axis at d √((n_i² − s²) / (n_s² − s²)): between the first and the last of
    # them lies the focus.
    n_i = optics.refractive_index
    sine = min(optics.na, _OUTERMOST * index, _OUTERMOST * n_i)
    crossings = [depth * math.sqrt((n_i**2 - s**2) / (index**2 - s**2)) for s in (0.0, sine)]
    ring = optics.wavelength_um * n_i / optics.na**2
    low, high = min(crossings) - ring, max(crossings) + ring
    count = min(max(_LEAST_FOCI, math.ceil(8 * (high - low) / ring)), _MOST_FOCI)
    for _ in range(3):
        planes = np.linspace(low, high, count)
        axial = radial_intensity(optics, np.zeros(1), planes)[:, 0]
        best = float(planes[int(axial.argmax())])
        step = float(planes[1] - planes[0])
        low, high, count = best - step, best + step, _LEAST_FOCI
    return best


def radial_intensity(optics: Optics, radii_um: NDArray[Any], planes_um: NDArray[Any]) -> Doubles:
    """Return the intensity at lateral distances and nominal focus positions.

    Parameters
    ----------
    optics : Optics
        Its depth and sample index count; its pixel size does not.
    radii_um : ndarray, shape (n,)
    planes_um : ndarray, shape (m,)
        Nominal focus below the coverslip, in the immersion's index.

    Returns
    -------
    ndarray, float64, shape (m, n)
        In units in which each plane's integral over the area is the same.
    """
    from scipy.special import jv

    k = 2 * math.pi / optics.wavelength_um
    n_i, n_s = optics.refractive_index, optics.sample_index or optics.refractive_index
    largest = math.asin(min(optics.na / n_i, 1.0))

    def path_of(theta: Doubles) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        """Return cos θ_s, and the path of every plane, compared with the path along the axis."""
        # The root with the positive imaginary part: beyond the critical angle fields decay with depth.
        cosine_s = np.sqrt((1 - (n_i * np.sin(theta) / n_s) ** 2).astype(np.complex128))
        focus = np.multiply.outer(planes_um, n_i * (np.cos(theta) - 1))
        return cosine_s, optics.depth_um * n_s * (cosine_s - 1) - focus

    coarse = path_of(np.linspace(0, largest, _COARSE_ANGLES))[1].real
    radians = k * float(np.abs(np.diff(coarse, axis=-1)).sum(axis=-1).max(initial=0))
    radians += k * optics.na * float(np.max(radii_um, initial=0))
    # A rule of n nodes resolves about 2 n radians of phase; the margin serves the edge of the aperture.
    theta, weight = _gauss_legendre(_LEAST_NODES + math.ceil(0.75 * radians), largest)
    sine, cosine = np.sin(theta), np.cos(theta)
    cosine_s, path = path_of(theta)
    wave = np.exp(1j * k * path)
    argument = k * n_i * np.multiply.outer(sine, radii_um)
    if optics.theory == "scalar":
        field = (wave * (weight * sine * cosine)) @ jv(0, argument)
        intensity: Doubles = np.abs(field) ** 2
        return intensity
    t_s = 2 * n_s * cosine_s / (n_s * cosine_s + n_i * cosine)
    t_p = 2 * n_s * cosine_s / (n_i * cosine_s + n_s * cosine)
    sine_s = n_i * sine / n_s
    terms = (t_s + t_p * cosine_s, t_p * sine_s, t_s - t_p * cosine_s)
    total: Doubles = np.zeros((len(planes_um), len(radii_um)))
    for order, (term, share) in enumerate(zip(terms, (1, 2, 1), strict=True)):
        field = (wave * (weight * np.sqrt(cosine) * sine * term)) @ jv(order, argument)
        total += share * np.abs(field) ** 2
    return total


@lru_cache(maxsize=8)
def _gauss_legendre(count: int, end: float) -> tuple[Doubles, Doubles]:
    """Return nodes and weights of a Gauss–Legendre rule from 0 to ``end``."""
    from scipy.special import roots_legendre

    nodes, weights = roots_legendre(count)
    return (nodes + 1) * end / 2, weights * end / 2
