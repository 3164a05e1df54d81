"""Weight files and their cards: which networks there are, and loading one that is what its card says.

A network is two files: ``<id>.safetensors`` (fp16 tensors, nothing executable) and ``<id>.json``, its
card. The card holds the file's sha256, the architecture's configuration, what it was trained on and how
well it did. A user's own folder, named by the environment variable NAPARI_DEBLUR_WEIGHTS, comes before the
shipped one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_deblur.core.checksums import file_sha256
from napari_deblur.core.errors import UnknownNameError, WeightsError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

WEIGHTS_VARIABLE = "NAPARI_DEBLUR_WEIGHTS"
CARD_FORMAT = 1
_REQUIRED = ("id", "format", "config", "sha256", "parameter_names", "parameter_ranges", "licence")


@dataclass(frozen=True)
class ModelInfo:
    """One network that can be used.

    Attributes
    ----------
    id : str
    parameter_names : tuple of str
    parameter_ranges : dict of (low, high)
        What it was trained for.
    card : dict
    sha256 : str
        Of the weight file.
    path : Path
        The weight file.
    """

    id: str
    parameter_names: tuple[str, ...]
    parameter_ranges: dict[str, tuple[float, float]]
    card: dict[str, Any] = field(repr=False)
    sha256: str
    path: Path = field(repr=False)


def folders() -> list[Path]:
    """Return the folders with weights, the user's first.

    Raises
    ------
    WeightsError
        If the user's folder does not exist.
    """
    found = []
    if named := os.environ.get(WEIGHTS_VARIABLE):
        folder = Path(named).expanduser()
        if not folder.is_dir():
            raise WeightsError(f"{WEIGHTS_VARIABLE} must name an existing folder; received {named}")
        found.append(folder)
    return [*found, Path(__file__).resolve().parent.parent / "weights"]


def read_card(path: Path) -> dict[str, Any]:
    """Read and check a card.

    Raises
    ------
    WeightsError
    """
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise WeightsError(f"the card {path} cannot be read: {error}") from None
    missing = [key for key in _REQUIRED if not isinstance(card, dict) or key not in card]
    if missing:
        raise WeightsError(f"the card {path} lacks {', '.join(missing)}")
    if card["format"] != CARD_FORMAT or card["id"] != path.stem:
        rule = f"must be of format {CARD_FORMAT} and for the id {path.stem!r}"
        raise WeightsError(f"the card {path} {rule}; it is of format {card['format']!r} for {card['id']!r}")
    return card


def _info(path: Path) -> ModelInfo:
    card = read_card(path)
    return ModelInfo(
        id=str(card["id"]),
        parameter_names=tuple(card["parameter_names"]),
        parameter_ranges={
            name: (float(low), float(high)) for name, (low, high) in card["parameter_ranges"].items()
        },
        card=card,
        sha256=str(card["sha256"]),
        path=path.with_suffix(".safetensors"),
    )


def list_models() -> list[ModelInfo]:
    """Return every network by its card, sorted by id; a user's own hides a shipped one of the same id.

    Raises
    ------
    WeightsError
        If a card cannot be read.
    """
    cards = card_paths()
    return [_info(cards[id_]) for id_ in sorted(cards)]


def card_paths() -> dict[str, Path]:
    """Return where every card lies, by id; a user's own hides a shipped one of the same id."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.json")):
            found.setdefault(path.stem, path)
    return found


def find_model(id: str) -> ModelInfo:
    """Return one network's description.

    Raises
    ------
    UnknownNameError
        If no card of that id exists.
    """
    for folder in folders():
        if (path := folder / f"{id}.json").is_file():
            return _info(path)
    raise UnknownNameError(
        "model", id, [model.id for model in list_models()] or ["(no weights are installed)"]
    )


def load_network(id: str, device: torch.device | str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """Load a network for inference.

    Parameters
    ----------
    id : str
    device : torch.device or str

    Returns
    -------
    module : Module
        In evaluation mode, float32, without gradients.
    card : dict

    Raises
    ------
    UnknownNameError
        If no card of that id exists.
    WeightsError
        If the file is missing, is not the one that the card names, or does not fit the architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from napari_deblur.nets import identification

    info = find_model(id)
    files = {info.path: info.sha256}
    if shared := info.card.get("shared"):
        files[info.path.parent / str(shared["file"])] = str(shared["sha256"])
    for path, sha256 in files.items():
        _check_file(path, sha256, id)
    try:
        module = build_network(info.card["config"])
        state: dict[str, Tensor] = {}
        for path in files:
            state |= {name: _widened(tensor) for name, tensor in load_file(path).items()}
        module.load_state_dict(state)
        if (factors := info.card.get("error_scale")) and isinstance(module, identification.IdentificationNet):
            module.set_error_scale(factors)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise WeightsError(f"the weight file {info.path} does not fit its card: {error}") from None
    return module.to(device).eval().requires_grad_(False), info.card


def _check_file(path: Path, sha256: str, id: str) -> None:
    if not path.is_file():
        raise WeightsError(f"the weight file {path} of model {id!r} is missing; reinstall the package")
    found = file_sha256(path)
    if found != sha256:
        raise WeightsError(
            f"the weight file {path} must have the sha256 that its card states ({sha256[:12]}…); "
            f"it has {found[:12]}…, so it was changed or damaged"
        )


def build_network(config: Mapping[str, Any]) -> nn.Module:
    """Build the network that a card's configuration describes."""
    from napari_deblur.nets import deformable, features, identification, unrolled

    builders = {
        identification.ARCHITECTURE: identification.build,
        features.ARCHITECTURE: features.build,
        unrolled.ARCHITECTURE: unrolled.build,
        deformable.ARCHITECTURE: deformable.build,
    }
    architecture = str(config.get("architecture"))
    if architecture not in builders:
        raise WeightsError(f"no architecture {architecture!r} is known (known: {', '.join(builders)})")
    return builders[architecture](dict(config))


def _widened(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def save_network(
    state: Mapping[str, Tensor],
    card: Mapping[str, Any],
    folder: Path,
    shared: tuple[str, tuple[str, ...]] | None = None,
) -> Path:
    """Write weights as fp16 safetensors and their card, each to a temporary name first.

    Parameters
    ----------
    state : mapping of Tensor
        The module's state.
    card : mapping
        Everything but the sha256, which is filled in.
    folder : Path
    shared : (str, tuple of str), optional
        Stem of a second file, and the beginnings of the names of the tensors that go there because other
        networks hold the same ones. The card states that file's sha256 too.

    Returns
    -------
    Path
        The weight file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{card['id']}.safetensors"
    common: dict[str, Tensor] = {}
    extra: dict[str, Any] = {}
    if shared is not None:
        stem, prefixes = shared
        common = {name: value for name, value in state.items() if name.startswith(prefixes)}
        second = folder / f"{stem}.safetensors"
        _write_tensors(common, second)
        extra["shared"] = {"file": second.name, "sha256": file_sha256(second)}
    _write_tensors({name: value for name, value in state.items() if name not in common}, path)
    complete = {"format": CARD_FORMAT, **card, **extra, "sha256": file_sha256(path)}
    card_partial = path.with_suffix(".json.part")
    card_partial.write_text(json.dumps(complete, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    card_partial.replace(path.with_suffix(".json"))
    return path


def _write_tensors(state: Mapping[str, Tensor], path: Path) -> None:
    import torch
    from safetensors.torch import save

    half = {
        name: (tensor.half() if tensor.is_floating_point() else tensor)
        .detach()
        .cpu()
        .clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    partial = path.with_suffix(".part")
    # Written by us, not by safetensors' own writer: that one leaves a file that only its owner can read.
    partial.write_bytes(save(half))
    partial.replace(path)
