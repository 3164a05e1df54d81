"""The one engine of a process."""

from __future__ import annotations

import threading

from napari_deblur.engine.engine import Engine

_shared: Engine | None = None
_shared_lock = threading.Lock()


def get_engine() -> Engine:
    """Return the process-wide engine, made at the first call."""
    global _shared  # noqa: PLW0603 - one engine per process is the point
    with _shared_lock:
        if _shared is None:
            _shared = Engine()
        return _shared


def use_device(device: str) -> Engine:
    """Replace the process-wide engine by one on another device."""
    global _shared  # noqa: PLW0603
    engine = Engine(device)
    with _shared_lock:
        _shared = engine
    return engine
