"""Batched transforms in place, by the MKL that torch's own library holds.

Torch transforms into new memory, plans every call anew and changes the memory's order on the way. MKL itself
transforms strided lines where they lie, with a plan that is kept: for what `Chain` does it takes a fifth less
time. Torch's builds for x86-64 Linux export MKL's documented interface (Intel, *oneMKL Developer Reference
for C*, "Fourier Transform Functions"); other builds do not, and there `available` is false.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Names and numbers of mkl_dfti.h.
_BACKWARD_SCALE, _NUMBER_OF_TRANSFORMS, _CONJUGATE_EVEN_STORAGE, _PLACEMENT = 5, 7, 10, 11
_INPUT_STRIDES, _OUTPUT_STRIDES, _INPUT_DISTANCE, _OUTPUT_DISTANCE, _THREAD_LIMIT = 12, 13, 14, 15, 27
_COMPLEX, _REAL, _COMPLEX_COMPLEX, _NOT_INPLACE = 32, 33, 39, 44

_Long = ctypes.c_long
_Strides = _Long * 2


class Plan:
    """Transforms of many lines of one length, by one thread.

    Parameters
    ----------
    length : int
        Number of values in a line.
    count : int
        Number of lines.
    stride, distance : int
        From one value of a complex line to the next, and from one line to the next, in complex numbers.
    real_distance : int
        From one real line to the next where the lines are real on one side; 0 for complex ones, which are
        transformed in place.
    """

    def __init__(self, length: int, count: int, stride: int, distance: int, real_distance: int = 0) -> None:
        self._made: list[Any] = []
        found = library()
        assert found is not None
        self._library = found
        if real_distance:
            here, there = (1, real_distance), (stride, distance)
            self._forward = self._commit(_REAL, length, count, here, there)
            self._backward = self._commit(_REAL, length, count, there, here)
        else:
            both = (stride, distance)
            self._forward = self._backward = self._commit(_COMPLEX, length, count, both, both)

    def forward(self, source: int, target: int | None = None) -> None:
        """Transform lines at an address; real ones to another address."""
        _check(self._library.DftiComputeForward(self._forward, *_addresses(source, target)))

    def backward(self, source: int, target: int | None = None) -> None:
        """Transform back, divided by the length."""
        _check(self._library.DftiComputeBackward(self._backward, *_addresses(source, target)))

    def _commit(
        self, domain: int, length: int, count: int, here: tuple[int, int], there: tuple[int, int]
    ) -> ctypes.c_void_p:
        plan, mkl = ctypes.c_void_p(), self._library
        _check(mkl.DftiCreateDescriptor_s_1d(ctypes.byref(plan), domain, _Long(length)))
        self._made.append(ctypes.byref(plan))
        settings: list[tuple[int, Any]] = [
            (_NUMBER_OF_TRANSFORMS, _Long(count)),
            (_INPUT_STRIDES, _Strides(0, here[0])),
            (_OUTPUT_STRIDES, _Strides(0, there[0])),
            (_INPUT_DISTANCE, _Long(here[1])),
            (_OUTPUT_DISTANCE, _Long(there[1])),
            (_THREAD_LIMIT, _Long(1)),
            (_BACKWARD_SCALE, ctypes.c_double(1 / length)),
        ]
        if domain == _REAL:
            settings += [(_PLACEMENT, _NOT_INPLACE), (_CONJUGATE_EVEN_STORAGE, _COMPLEX_COMPLEX)]
        for name, value in settings:
            _check(mkl.DftiSetValue(plan, name, value))
        _check(mkl.DftiCommitDescriptor(plan))
        return plan

    def __del__(self) -> None:
        # At the process's end modules may be gone already: nothing but what the plan holds is used here.
        for place in self._made:
            self._library.DftiFreeDescriptor(place)


def address(values: Tensor) -> int:
    """Return where a tensor's first number lies."""
    return values.data_ptr()


@cache
def available() -> bool:
    """Return whether torch's MKL can be called, and does what torch does with it."""
    if library() is None:
        return False
    import torch

    with torch.inference_mode(False), torch.no_grad():
        lines = torch.arange(60, dtype=torch.float32).reshape(5, 12).sin()
        spectrum, back = torch.zeros(5, 7, dtype=torch.complex64), torch.zeros(5, 12)
        along, across = Plan(12, 5, 1, 7, 12), Plan(5, 7, 7, 1)
        try:
            along.forward(address(lines), address(spectrum))
            across.forward(address(spectrum))
            same = torch.allclose(spectrum, torch.fft.rfftn(lines), atol=1e-4)
            across.backward(address(spectrum))
            along.backward(address(spectrum), address(back))
        except RuntimeError:
            return False
        return same and torch.allclose(back, lines, atol=1e-5)


@cache
def library() -> ctypes.CDLL | None:
    """Return torch's library where it exports MKL's transforms and their calling convention is known."""
    import platform

    import torch

    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    try:
        found = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"))
        for name in ("CreateDescriptor_s_1d", "SetValue", "CommitDescriptor", "FreeDescriptor"):
            getattr(found, f"Dfti{name}").restype = _Long
        found.DftiComputeForward.restype = found.DftiComputeBackward.restype = _Long
    except (OSError, AttributeError):
        return None
    return found


def _addresses(source: int, target: int | None) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(place) for place in (source, target) if place is not None]


def _check(status: int) -> None:
    if status:
        raise RuntimeError(f"MKL's transform failed with status {status}")
