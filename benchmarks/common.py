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


def report(
    case: str,
    figures: dict[str, Any],
    path: Path | None,
    bars: dict[str, tuple[float, str, float]] | None = None,
) -> bool:
    """Print figures and, where asked, write them with the environment.

    Parameters
    ----------
    case : str
    figures : dict
    path : Path or None
    bars : dict of (value, "at least" or "at most", bar), optional
        What the case must reach.

    Returns
    -------
    bool
        Whether every bar was reached.
    """
    held = {
        name: {
            "value": value,
            "bar": f"{sense} {bar:g}",
            "met": value >= bar if sense == "at least" else value <= bar,
        }
        for name, (value, sense, bar) in (bars or {}).items()
    }
    content = {"case": case, "figures": figures, "bars": held, "environment": environment()}
    print(json.dumps(content, indent=2, ensure_ascii=False))
    if path is not None:
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return all(entry["met"] for entry in held.values())
