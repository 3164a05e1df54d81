"""What all benchmarks share: the environment they ran in, and how they report."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

from napari_deblur.core.record import versions


def environment() -> dict[str, Any]:
    """Return what a figure depends on beside the code."""
    import torch

    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        **versions(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def arguments(description: str | None, **more: dict[str, Any]) -> argparse.Namespace:
    """Parse ``--json`` and a case's own options."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write figures and environment to this file")
    for name, options in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **options)
    return parser.parse_args()


def report(case: str, figures: dict[str, Any], path: Path | None) -> None:
    """Print figures and, where asked, write them with the environment."""
    print(json.dumps({"case": case, **figures}, indent=2))
    if path is not None:
        content = {"case": case, "figures": figures, "environment": environment()}
        path.write_text(json.dumps(content, indent=2) + "\n")
