"""Interactive microscopy restoration: background, PSF maps, deblurring and depth.

Everything is imported when it is first used, so that neither torch nor Qt loads with the package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from napari_deblur import quality
    from napari_deblur.api import (
        compare,
        deblur,
        estimate_depth,
        estimate_psf_map,
        methods,
        models,
        remove_background,
    )
    from napari_deblur.core.image import Image
    from napari_deblur.core.run import Run
    from napari_deblur.optics.psf import make_psf
    from napari_deblur.optics.psf_3d import optics_psf_3d
    from napari_deblur.optics.psf_basis import PsfBasis
    from napari_deblur.optics.psf_map import PsfMap
    from napari_deblur.optics.settings import Optics

__version__ = "0.1.0"

_HOME = {
    "Image": "core.image",
    "Optics": "optics.settings",
    "PsfBasis": "optics.psf_basis",
    "PsfMap": "optics.psf_map",
    "Run": "core.run",
    "compare": "api",
    "deblur": "api",
    "estimate_depth": "api",
    "estimate_psf_map": "api",
    "make_psf": "optics.psf",
    "models": "api",
    "optics_psf_3d": "optics.psf_3d",
    "remove_background": "api",
}

# `methods` is a package that can be called.
_MODULES = ("methods", "quality")

__all__ = [
    "Image",
    "Optics",
    "PsfBasis",
    "PsfMap",
    "Run",
    "compare",
    "deblur",
    "estimate_depth",
    "estimate_psf_map",
    "make_psf",
    "methods",
    "models",
    "optics_psf_3d",
    "quality",
    "remove_background",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"napari_deblur.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'napari_deblur' has no attribute {name!r}")
    value = getattr(import_module(f"napari_deblur.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
