"""What zero-shot restorations share: a differentiable reblur, losses, and averaging of late iterates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from napari_deblur.blur.base import Blur

_WINDOW_PX, _WINDOW_SIGMA_PX = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


class _Reblur(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, blur: Blur) -> Tensor:
        ctx.blur = blur
        return blur.forward(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.blur.adjoint(gradients[0]), None


def reblur(x: Tensor, blur: Blur) -> Tensor:
    """Blur an object so that gradients flow back by the operator's exact adjoint.

    So any blur can be used, also one whose tensors were made where no gradients are recorded.
    """
    blurred: Tensor = _Reblur.apply(x, blur)  # type: ignore[no-untyped-call]
    return blurred


class Dissimilarity:
    """1 − SSIM against a fixed image (Wang et al. 2004, doi:10.1109/TIP.2003.819861), for a range of 1.

    Parameters
    ----------
    reference : Tensor, shape (y, x)
        At least 11 pixels wide.
    """

    def __init__(self, reference: Tensor) -> None:
        offsets = torch.arange(_WINDOW_PX, device=reference.device) - _WINDOW_PX // 2
        window = torch.exp(-0.5 * (offsets / _WINDOW_SIGMA_PX).square())
        self._window = (window / window.sum()).to(reference.dtype)
        self._reference = reference
        self._mean, square = self._smooth(torch.stack([reference, reference.square()]))
        self._variance = square - self._mean.square()

    def _smooth(self, images: Tensor) -> Tensor:
        along_y = functional.conv2d(images[:, None], self._window[None, None, :, None])
        return functional.conv2d(along_y, self._window[None, None, None, :])[:, 0]

    def __call__(self, image: Tensor) -> Tensor:
        """Return the mean dissimilarity of an image ``(y, x)``, over windows that lie inside."""
        mean, square, product = self._smooth(torch.stack([image, image.square(), image * self._reference]))
        variance, covariance = square - mean.square(), product - mean * self._mean
        likeness = (2 * mean * self._mean + _C1) * (2 * covariance + _C2)
        norm = (mean.square() + self._mean.square() + _C1) * (variance + self._variance + _C2)
        dissimilarity: Tensor = 1 - (likeness / norm).mean()
        return dissimilarity


def roughness(x: Tensor) -> Tensor:
    """Return the mean of |x_yy| + |x_xx| + 2 |x_xy|: Eq. 6 of Chobola et al. 2023."""
    along_y, along_x = x.diff(dim=-2), x.diff(dim=-1)
    straight = along_y.diff(dim=-2).abs().mean() + along_x.diff(dim=-1).abs().mean()
    return straight + 2 * along_y.diff(dim=-1).abs().mean()


class Descent:
    """NAdam with CiDeR's schedule for any length: halved after 2/3, 0.77 and 0.9 of the iterations.

    Dozat 2016, *Incorporating Nesterov momentum into Adam*; milestones of Chobola et al. 2023 (2000, 2300 and
    2700 of 3000). The first steps are shorter: they go by the signs of gradients that mean little yet, and
    would throw a good start away.

    Parameters
    ----------
    groups : list of (parameters, learning rate)
    n_iterations : int
    """

    _MILESTONES = (2000 / 3000, 2300 / 3000, 2700 / 3000)
    _WEIGHT_DECAY = 1e-5
    _WARM_UP = 20

    def __init__(self, groups: Sequence[tuple[Iterable[nn.Parameter], float]], n_iterations: int) -> None:
        parameters = [list(some) for some, _ in groups]
        self._rates = [rate for _, rate in groups]
        self._n_iterations = n_iterations
        self._done = 0
        device = parameters[0][0].device
        # A recorded step reads its rates from where they were when it was recorded.
        self._on_card = device.type == "cuda"
        rates = [torch.tensor(rate, device=device) if self._on_card else rate for rate in self._rates]
        self._optimizer = torch.optim.NAdam(
            [{"params": some, "lr": rate} for some, rate in zip(parameters, rates, strict=True)],
            weight_decay=self._WEIGHT_DECAY,
            capturable=self._on_card,
        )

    def advance(self) -> None:
        """Set the rates for the next step."""
        passed = sum(self._done >= share * self._n_iterations for share in self._MILESTONES)
        factor = min(1.0, (1 + self._done) / self._WARM_UP) * 0.5**passed
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            if self._on_card:
                group["lr"].fill_(rate * factor)
            else:
                group["lr"] = rate * factor
        self._done += 1

    def follow(self, loss: Tensor) -> None:
        """Follow the gradient of a loss once."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()


class Average:
    """Running mean of late iterates: their errors differ, what they agree on stays.

    Parameters
    ----------
    decay : float
        Share that an iterate keeps per iteration; early on it is less, so that the start is soon forgotten.
    """

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._count = 0
        self.value: Tensor | None = None

    def add(self, x: Tensor) -> Tensor:
        """Take in an iterate; return the mean."""
        self._count += 1
        decay = min(self._decay, (1 + self._count) / (10 + self._count))
        x = x.detach()
        self.value = x.clone() if self.value is None else self.value.lerp(x, 1 - decay)
        return self.value


def autocast(device: torch.device) -> torch.autocast:
    """Return the context in which networks compute: bfloat16 where the hardware does it fast."""
    kind = device.type if device.type in ("cuda", "cpu") else "cpu"
    return torch.autocast(kind, torch.bfloat16, enabled=has_fast_bfloat16(device))


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16 faster than in float32."""
    return {"cuda": _cuda_has_bfloat16, "cpu": _cpu_has_bfloat16}.get(device.type, lambda: False)()


def _cuda_has_bfloat16() -> bool:
    return bool(torch.cuda.get_device_capability() >= (8, 0))


def _cpu_has_bfloat16() -> bool:
    # Emulated, it is many times slower than float32.
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(known()) if known is not None else False
