"""Deblurring methods; calling the package lists them.

The public API offers a function ``napari_deblur.methods()``, and importing this package sets an attribute of
the same name. So the package itself is that function.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_deblur.methods.info import MethodInfo


class _Callable(ModuleType):
    def __call__(self) -> list[MethodInfo]:
        """List the deblurring methods."""
        from napari_deblur.methods.info import methods

        return methods()


sys.modules[__name__].__class__ = _Callable
