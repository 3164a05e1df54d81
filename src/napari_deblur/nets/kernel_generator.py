"""The kernel generator of SelfDeblur: a small perceptron whose softmax is a PSF."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_CODE, _HIDDEN = 200, 1000
_TINY = 1e-6


class KernelGenerator(nn.Module):
    """Map a fixed random code to a kernel that is positive and sums to 1 (Ren et al. 2020).

    Parameters
    ----------
    shape : tuple of int
        Odd height and width of the kernel.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.hidden = nn.Linear(_CODE, _HIDDEN)
        self.out = nn.Linear(_HIDDEN, shape[0] * shape[1])
        self.code: Tensor
        self.register_buffer("code", torch.zeros(_CODE))

    def start_from(self, kernel: Tensor | None, generator: torch.Generator) -> None:
        """Draw the code, and make the first output a given kernel."""
        self.code.uniform_(0, 1, generator=generator)
        if kernel is not None:
            with torch.no_grad():
                self.out.weight.zero_()
                self.out.bias.copy_((kernel.flatten() + _TINY * kernel.max()).log())

    def forward(self) -> Tensor:
        """Return the kernel ``(y, x)``."""
        kernel: Tensor = self.out(self.hidden(self.code).relu()).softmax(dim=0).view(self.shape)
        return kernel


def valid_convolution(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve an object ``(y, x)`` with a kernel, both differentiable, where no border is touched.

    As `napari_deblur.blur.convolution.Convolution`, the result is smaller by the kernel's size less one.
    """
    height, width = kernel.shape
    spectrum = torch.fft.rfft2(x) * torch.fft.rfft2(kernel, s=x.shape[-2:])
    blurred: Tensor = torch.fft.irfft2(spectrum, s=x.shape[-2:])
    return blurred[height - 1 :, width - 1 :]


def centred(kernel: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Move a kernel's centre of mass to its middle and the object the other way, by whole pixels.

    Blurring both gives the same image: only their places cannot be told from it.

    Parameters
    ----------
    kernel : Tensor, shape (h, w)
    x : Tensor, shape (y, x)

    Returns
    -------
    kernel, x : Tensor
        Same shapes; what enters from outside is zero in the kernel, the nearest value in the object.
    """
    height, width = kernel.shape
    rows, cols = torch.arange(height, device=kernel.device), torch.arange(width, device=kernel.device)
    dy = round(float((kernel.sum(dim=1) * rows).sum())) - height // 2
    dx = round(float((kernel.sum(dim=0) * cols).sum())) - width // 2
    moved = torch.zeros_like(kernel)
    target = moved[max(0, -dy) : height - max(0, dy), max(0, -dx) : width - max(0, dx)]
    target.copy_(kernel[max(0, dy) : height - max(0, -dy), max(0, dx) : width - max(0, -dx)])
    y_from = (torch.arange(x.shape[0], device=x.device) - dy).clamp(0, x.shape[0] - 1)
    x_from = (torch.arange(x.shape[1], device=x.device) - dx).clamp(0, x.shape[1] - 1)
    return moved / moved.sum(), x[y_from][:, x_from]
