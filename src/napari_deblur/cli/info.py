"""The commands that tell and show: methods, models, doctor, demo."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from napari_deblur.cli.options import Option, Values
from napari_deblur.cli.session import DEVICE, JSON, OVERWRITE, engine_for, report, session, table
from napari_deblur.core.errors import InvalidInputError, NapariDeblurError
from napari_deblur.core.params import parameters
from napari_deblur.methods.base import registry

_EXTRAS = {
    "napari": ("napari", "qtpy"),
    "zarr": ("zarr",),
    "batch": ("dask", "distributed"),
    "mesh": ("trimesh",),
}
_PACKAGES = (
    "napari-deblur", "numpy", "torch", "scikit-image", "PyWavelets", "tifffile", "pydantic", "napari",
    "PySide6_Essentials", "PyQt6", "zarr", "dask",
)  # fmt: skip


def methods(values: Values) -> int | None:
    """List the deblurring methods and what they can do."""
    found = [
        {
            "id": id_,
            "title": cls.title,
            "summary": cls.summary,
            "family": cls.family,
            "blind": cls.blind,
            "learned": cls.learned,
            "space_varying": cls.space_varying,
            "ndim": list(cls.ndim),
            "default_psf": cls.default_psf,
            "reference": cls.reference,
            "parameters": {info.name: info.default for info in parameters(cls)},
        }
        for id_, cls in registry().items()
    ]
    marks = ("blind", "learned", "space_varying")
    rows = [["id", "family", "can", "what it is"]]
    for entry, cls in zip(found, registry().values(), strict=True):
        can = [mark.replace("_", "-") for mark in marks if entry[mark]]
        can += ["3D"] if 3 in cls.ndim else []
        rows.append([str(entry["id"]), str(entry["family"]), ", ".join(can) or "-", str(entry["summary"])])
    report(values, {"methods": found}, table(rows))
    return None


def models(values: Values) -> int | None:
    """List the trained networks, and check that their files are what their cards say."""
    found = _models()
    rows = [["id", "parameters", "file"]]
    for entry in found:
        ranges = ", ".join(
            f"{name} {low:g} to {high:g}" for name, (low, high) in entry["parameter_ranges"].items()
        )
        rows.append([entry["id"], ranges, entry["state"]])
    lines = table(rows) if found else ["no networks are installed"]
    report(values, {"models": found}, lines)
    return None


def _models() -> list[dict[str, Any]]:
    """Return what is known of every network; one whose card is damaged does not hide the others."""
    from napari_deblur.core.checksums import file_sha256
    from napari_deblur.nets.weights import card_paths, find_model

    found = []
    for id_, path in sorted(card_paths().items()):
        try:
            model = find_model(id_)
        except NapariDeblurError as error:
            empty: dict[str, Any] = {
                "parameter_names": [],
                "parameter_ranges": {},
                "sha256": None,
                "card": None,
            }
            found.append({"id": id_, **empty, "path": str(path), "state": str(error)})
            continue
        if not model.path.is_file():
            state = "missing"
        else:
            state = "verified" if file_sha256(model.path) == model.sha256 else "changed or damaged"
        found.append(
            {
                "id": model.id,
                "parameter_names": list(model.parameter_names),
                "parameter_ranges": {name: list(span) for name, span in model.parameter_ranges.items()},
                "sha256": model.sha256,
                "path": str(model.path),
                "state": state,
                "card": model.card,
            }
        )
    return found


def doctor(values: Values) -> int | None:
    """Tell what is installed, which hardware is used and why, and what is missing."""
    found = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "packages": _versions(),
        "device": _device(),
        "memory": _memory(),
        "models": _model_states(),
        "extras": {name: _extra(name) for name in _EXTRAS},
        "can_write": {
            "here": _writable(Path.cwd()),
            "temporary folder": _writable(Path(tempfile.gettempdir())),
        },
        "environment": {name: text for name, text in os.environ.items() if name.startswith("NAPARI_DEBLUR_")},
    }
    rows = []
    for name, value in found.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        rows += [[name if index == 0 else "", key, str(text)] for index, (key, text) in enumerate(inner)]
    report(values, found, table(rows))
    return None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _device() -> dict[str, str]:
    from napari_deblur.engine.device import choose_device

    try:
        chosen = choose_device()
    except NapariDeblurError as error:
        return {"used": "none", "why": str(error)}
    return {"used": chosen.device, "name": chosen.name, "why": chosen.reason}


def _memory() -> dict[str, str]:
    import psutil

    memory = psutil.virtual_memory()
    found = {"total": f"{memory.total / 2**30:.1f} GiB", "free": f"{memory.available / 2**30:.1f} GiB"}
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            found["GPU"] = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    return found


def _model_states() -> dict[str, str]:
    try:
        return {entry["id"]: f"{entry['state']} ({entry['path']})" for entry in _models()} or {
            "": "none installed"
        }
    except NapariDeblurError as error:
        return {"": str(error)}


def _extra(name: str) -> str:
    missing = [module for module in _EXTRAS[name] if importlib.util.find_spec(module) is None]
    return f'missing (pip install "napari-deblur[{name}]")' if missing else "installed"


def _writable(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return f"yes ({folder})"
    except OSError as error:
        return f"no: {error.strerror or error} ({folder})"


def demo_options() -> list[Option]:
    """Return the options of the command ``demo``."""
    output = Option(
        "output", "Folder for what the demo writes; made if missing. [default demo-output]", "DIR", short="-o"
    )
    return [output, OVERWRITE, JSON, DEVICE]


def demo(values: Values) -> int | None:
    """Run the main job on a sample, from background to a depth surface, and show what it found."""
    from napari_deblur.batch import make_folder
    from napari_deblur.demo import run_demo

    target = Path(values.get("output", "demo-output")).expanduser()
    if target.is_dir() and any(target.iterdir()) and not values.get("overwrite"):
        raise InvalidInputError(
            "output", "must be an empty or a new folder (or use --overwrite)", repr(str(target))
        )
    folder = make_folder(target)
    engine_for(values)
    with session("demo") as run:
        found = run_demo(folder, run)
    lines = [
        f"{key}: {', '.join(value) if isinstance(value, list) else value}" for key, value in found.items()
    ]
    report(values, found, [*lines, f"results: {folder.resolve()}"], list(run.notes))
    return None


LISTING = [JSON]
