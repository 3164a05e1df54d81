"""Richardson–Lucy by other packages, as their documentation calls it; see benchmarks/rivals.txt."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.float32]
Solver = Callable[[], NDArray[Any]]


def rivals(image: Volume, kernel: Volume, iterations: int) -> tuple[dict[str, Solver], dict[str, str]]:
    """Return the packages that run here, and why the others do not.

    Parameters
    ----------
    image : ndarray, shape (y, x) or (z, y, x)
    kernel : ndarray
        Sums to 1.
    iterations : int

    Returns
    -------
    dict of callables, dict of reasons
    """
    makers = {
        "scikit-image": _skimage,
        "RedLionfish": _redlionfish,
        "pyclesperanto": _pyclesperanto,
        "sdeconv": _sdeconv,
        "deepinv": _deepinv,
    }
    running: dict[str, Solver] = {}
    absent: dict[str, str] = {}
    for name, make in makers.items():
        try:
            solve = make(image, kernel, iterations)
            found = solve()  # some fail only here
            if found.shape != image.shape:
                raise ValueError(f"its result has the shape {found.shape}")
            running[f"{name} {version(name)}"] = solve
        except Exception as error:  # each fails in its own ways
            absent[name] = f"{type(error).__name__}: {error}".splitlines()[0][:120]
    return running, absent


def _skimage(image: Volume, kernel: Volume, iterations: int) -> Solver:
    from skimage.restoration import richardson_lucy

    return lambda: richardson_lucy(image, kernel, num_iter=iterations, clip=False)


def _redlionfish(image: Volume, kernel: Volume, iterations: int) -> Solver:
    if image.ndim != 3:
        raise ValueError("volumes only")
    from RedLionfishDeconv import doRLDeconvolutionFromNpArrays

    return lambda: np.asarray(
        doRLDeconvolutionFromNpArrays(image, kernel, niter=iterations, method="cpu", resAsUint8=False)
    )


def _pyclesperanto(image: Volume, kernel: Volume, iterations: int) -> Solver:
    _point_to_pocl()
    import pyclesperanto as cle

    cle.select_device()
    return lambda: np.asarray(cle.fft.deconvolve(cle.push(image), cle.push(kernel), iteration=iterations))


def _point_to_pocl() -> None:
    """Let OpenCL find the CPU driver of ``pocl-binary-distribution``, which lies beside pyopencl's files."""
    package = find_spec("pyopencl")
    if "OCL_ICD_VENDORS" in os.environ or package is None or package.origin is None:
        return
    for library in Path(package.origin).parent.glob(".libs/libpocl*.so*"):
        folder = Path(tempfile.mkdtemp())
        (folder / "pocl.icd").write_text(str(library), encoding="utf-8")
        os.environ["OCL_ICD_VENDORS"] = str(folder)


def _sdeconv(image: Volume, kernel: Volume, iterations: int) -> Solver:
    import torch
    from sdeconv.deconv import SRichardsonLucy

    method = SRichardsonLucy(_same_size(torch.from_numpy(kernel), image.shape), niter=iterations)

    def solve() -> NDArray[Any]:
        with torch.inference_mode():
            return np.asarray(method(torch.from_numpy(image)))

    return solve


def _same_size(kernel: Any, shape: tuple[int, ...]) -> Any:
    """Return a kernel in the middle of an image's shape, as sdeconv wants it."""
    import torch

    whole = torch.zeros(shape)
    spans = [slice(n // 2 - k // 2, n // 2 - k // 2 + k) for n, k in zip(shape, kernel.shape, strict=True)]
    whole[tuple(spans)] = kernel
    return whole


def _deepinv(image: Volume, kernel: Volume, iterations: int) -> Solver:
    """Return the loop over deepinv's operator, with a circular boundary; its tour of physics has it so."""
    import deepinv
    import torch

    if image.ndim != 2:
        raise ValueError("its Fourier operator takes planes only")
    y, psf = torch.from_numpy(image)[None, None], torch.from_numpy(kernel)[None, None]
    physics = deepinv.physics.BlurFFT((1, *image.shape), filter=psf)

    def solve() -> NDArray[Any]:
        with torch.inference_mode():
            x = torch.full_like(y, float(y.mean()))
            ones = physics.A_adjoint(torch.ones_like(y))
            for _ in range(iterations):
                x = x * physics.A_adjoint(y / physics.A(x).clamp_min(1e-7)) / ones.clamp_min(1e-7)
            return np.asarray(x[0, 0])

    return solve
