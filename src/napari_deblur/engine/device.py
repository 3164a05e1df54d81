"""Which hardware computes, and why."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

from napari_deblur.core.errors import DeviceError, InvalidInputError

CHOICES = ("auto", "cuda", "mps", "cpu")
ENV_VARIABLE = "NAPARI_DEBLUR_DEVICE"
_SHARE_OF_FREE_MEMORY = 0.6


@dataclass(frozen=True)
class DeviceReport:
    """The device in use.

    Attributes
    ----------
    device : str
        Name for torch: ``cuda``, ``mps`` or ``cpu``.
    name : str
        What a person calls it.
    reason : str
        Why this one, and why not a faster one.
    """

    device: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def choose_device(wanted: str = "auto") -> DeviceReport:
    """Choose CUDA, then MPS, then the CPU, or the one that is asked for.

    Parameters
    ----------
    wanted : {"auto", "cuda", "mps", "cpu"}
        ``auto`` also honours the environment variable ``NAPARI_DEBLUR_DEVICE``.

    Raises
    ------
    InvalidInputError
        If there is no such choice.
    DeviceError
        If the device asked for cannot be used here; the message says why.
    """
    if wanted == "auto":
        wanted = os.environ.get(ENV_VARIABLE, "auto").lower() or "auto"
    if wanted not in CHOICES:
        raise InvalidInputError("device", f"must be one of {', '.join(CHOICES)}", wanted)
    cuda_name, why_no_cuda = _probe_cuda()
    mps_name, why_no_mps = _probe_mps()
    asked = "fastest device found" if wanted == "auto" else "asked for"
    if wanted in ("auto", "cuda") and cuda_name:
        return DeviceReport("cuda", cuda_name, asked)
    if wanted == "cuda":
        raise DeviceError(f"device 'cuda' cannot be used: {why_no_cuda}")
    if wanted in ("auto", "mps") and mps_name:
        return DeviceReport("mps", mps_name, f"{asked}; no CUDA: {why_no_cuda}")
    if wanted == "mps":
        raise DeviceError(f"device 'mps' cannot be used: {why_no_mps}")
    if wanted == "cpu":
        return DeviceReport("cpu", _cpu_name(), "asked for")
    return DeviceReport("cpu", _cpu_name(), f"no GPU: {why_no_cuda}")


def _cpu_name() -> str:
    import torch

    return f"CPU, {torch.get_num_threads()} threads"


def _probe_cuda() -> tuple[str | None, str]:
    """Return (name, reason against it)."""
    import torch

    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return None, "the installed torch is a CPU build"
    if not torch.cuda.is_available():
        return None, "torch finds no usable NVIDIA driver or card"
    try:
        torch.zeros(1, device="cuda")
    except RuntimeError as error:
        return None, f"the card does not answer ({str(error).splitlines()[0]})"
    return str(torch.cuda.get_device_name()), ""


def _probe_mps() -> tuple[str | None, str]:
    import torch

    if not torch.backends.mps.is_available():
        return None, "this is no Apple-silicon Mac with a recent macOS"
    return f"Apple GPU ({platform.machine()})", ""


def memory_budget_bytes(device: str) -> int:
    """Return how much memory a run may take on a device now."""
    if device == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info()
        return int(free * _SHARE_OF_FREE_MEMORY)
    import psutil

    return int(psutil.virtual_memory().available * _SHARE_OF_FREE_MEMORY)


# As CUDA and MPS, Linux, Windows, and CUDA's libraries say it.
_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that the device's memory is used up."""
    if isinstance(error, MemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return any(words in text for words in _OUT_OF_MEMORY)


def free_cache(device: str) -> None:
    """Give back the memory that torch keeps for itself on a card."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
