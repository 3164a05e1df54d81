"""The state of a training, and its way to disk and back."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_deblur.core.errors import WeightsError
from napari_deblur.train.joint import Networks


@dataclass
class State:
    """All that a checkpoint holds."""

    networks: Networks
    average: Networks
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the checkpoint, first to a temporary name."""
        partial = path.with_suffix(".part")
        content = {
            "networks": self.networks.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
        }
        torch.save(content, partial)
        partial.replace(path)

    def load(self, path: Path, device: torch.device) -> None:
        """Go on from a checkpoint; only tensors and plain values are read."""
        try:
            content = torch.load(path, map_location=device, weights_only=True)
            self.networks.load_state_dict(content["networks"])
            self.average.load_state_dict(content["average"])
            self.optimizer.load_state_dict(content["optimizer"])
            self.step, self.seconds, self.history = content["step"], content["seconds"], content["history"]
        except (pickle.UnpicklingError, RuntimeError, KeyError, ValueError, EOFError) as error:
            reason = f"the checkpoint {path} does not fit this recipe; move it away or train without resuming"
            raise WeightsError(f"{reason} ({type(error).__name__})") from None

    def update_average(self, decay: float) -> None:
        """Move the averaged weights and statistics towards the network's."""
        with torch.no_grad():
            # By module, not by name: what families share must move once.
            pairs = zip(_tensors(self.average), _tensors(self.networks), strict=True)
            for kept, new in pairs:
                if kept.is_floating_point():
                    kept.lerp_(new, 1 - decay)
                else:
                    kept.copy_(new)


def _tensors(networks: Networks) -> list[Tensor]:
    """Return parameters and buffers, each once."""
    return [*networks.parameters(), *networks.buffers()]
