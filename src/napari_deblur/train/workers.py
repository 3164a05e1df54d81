"""Training by several processes at once, one per GPU or per CPU core, as ``torchrun`` starts them.

On a shared CPU, processes of one thread each that meet once per step lose far less than threads that meet at
every operation.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Workers:
    """The processes that train together.

    Attributes
    ----------
    rank : int
        This process's number; number 0 evaluates and writes.
    count : int
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def from_environment(cls, device: torch.device) -> Workers:
        """Join the group that ``torchrun`` describes in the environment, or be alone."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count < 2:
            return cls()
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(torch.distributed.get_rank(), count)

    @property
    def leads(self) -> bool:
        """Whether this process evaluates and writes."""
        return self.rank == 0

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes, in one exchange."""
        if self.count < 2:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view(gradient.shape))
            start += gradient.numel()

    def agree(self, values: tuple[float, ...], device: torch.device) -> tuple[float, ...]:
        """Return the leader's values in every process."""
        if self.count < 2:
            return values
        shared = torch.tensor(values, dtype=torch.float64, device=device)
        torch.distributed.broadcast(shared, 0)
        return tuple(shared.tolist())
