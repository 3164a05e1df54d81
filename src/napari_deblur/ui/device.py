"""The engine as the docks use it, without importing torch in the window's thread."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_deblur.engine.engine import Engine

NOT_KNOWN_YET = "The device is found at the first run"
_applied = ["auto"]


def device_line() -> str:
    """Return the engine's description where it exists already."""
    module = sys.modules.get("napari_deblur.engine.shared")
    shared = getattr(module, "_shared", None)
    return str(shared.describe()) if shared is not None else NOT_KNOWN_YET


def wanted_device() -> str:
    """Return the device chosen in napari's preferences; for the window's thread."""
    from napari.settings import get_plugin_settings

    try:
        return str(get_plugin_settings("napari-deblur").engine.device)
    except (KeyError, AttributeError):
        # The docks also work where napari does not know the plugin, as in a script.
        return "auto"


def engine_on(wanted: str) -> Engine:
    """Return the engine, moved to another device where the preferences changed; for the worker's thread.

    Raises
    ------
    DeviceError
        If that device cannot be used here; the engine stays as it was.
    """
    from napari_deblur.engine.shared import get_engine, use_device

    if wanted == _applied[0]:
        return get_engine()
    engine = use_device(wanted)
    _applied[0] = wanted
    return engine


def warm_up(show: Callable[[str], None]) -> None:
    """Make the engine in another thread and pass its description on; errors are left to the first run."""
    from napari.qt.threading import create_worker

    if device_line() != NOT_KNOWN_YET:
        show(device_line())
        return
    wanted = wanted_device()
    worker = create_worker(lambda: engine_on(wanted).describe(), _start_thread=False, _ignore_errors=True)
    worker.returned.connect(show)
    worker.start()
