"""What a deblurring run will take, before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.plane_psf import BlurFactory
from napari_deblur.steps.psf_rules import BlindPsf, PsfSource
from napari_deblur.steps.psf_source import resolve

if TYPE_CHECKING:
    from napari_deblur.engine.engine import Engine
    from napari_deblur.steps.deblur import Deblur

_MAP_KERNELS = 8


def planned_blurs(step: Deblur, image: Image, psf: PsfSource, engine: Engine) -> BlurFactory:
    """Return a blur of the size that the run's will have; what takes long to compute is left blank."""
    from napari_deblur.optics.psf_3d import fitted_shape

    one = psf[0] if isinstance(psf, list) and psf else psf
    if isinstance(one, Optics) and one.z_step_um is not None:
        return BlurFactory(kernel=np.zeros(fitted_shape(one, image.block_shape(3)), np.float32))
    if isinstance(one, PsfMap | PsfBasis):
        return _many_kernels(one.kernel_size_px)
    if isinstance(one, BlindPsf):
        one = one.model
    if one is None or isinstance(one, str):
        from napari_deblur.optics.psf import FAMILIES

        model = one or step.method.default_psf
        known = [FAMILIES[model]] if isinstance(model, str) and model in FAMILIES else FAMILIES.values()
        return _many_kernels(max(family.default_size_px for family in known))
    found = resolve(psf, image, 0, method=step.method, engine=engine, run=Run(), optics=None)
    return found.blurs(step.eigen_tolerance, engine.device, Run())


def _many_kernels(size: int) -> BlurFactory:
    """Return a stand-in for the blur of a map, with as many eigen-PSFs as most maps need."""
    from napari_deblur.blur.space_varying import EigenPsfs

    eigen = EigenPsfs(
        np.zeros((_MAP_KERNELS, size, size), np.float32),
        np.zeros((_MAP_KERNELS, 1, 1), np.float32),
        np.zeros(1, np.float32),
        np.zeros(1, np.float32),
        0.0,
    )
    return BlurFactory(eigen=eigen)
