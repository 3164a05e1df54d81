"""The rules of the house: which part may use which, and what an import may pull in."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import napari_deblur

PACKAGE = Path(napari_deblur.__file__).parent

# core ← optics ← blur ← nets ← engine ← methods ← steps ← {recipe, cli, ui}; each may use those before it.
LAYERS = ["core", "optics", "blur", "nets", "engine", "methods", "steps"]
MAY_USE = {layer: set(LAYERS[:number]) for number, layer in enumerate(LAYERS)}
MAY_USE |= {
    "train": {*LAYERS, "quality"},
    "quality": {"core", "optics", "blur"},
    "io": {"core", "optics"},
    "samples": {"core", "optics", "blur", "train"},
    "comparison": {*LAYERS, "quality"},
    "api": {*LAYERS, "quality", "io", "comparison"},
    "__init__": {*LAYERS, "quality", "api", "comparison"},
    "report": {"core"},
    "demo": {*LAYERS, "quality", "io", "samples", "report", "recipe"},
    "recipe": {*LAYERS, "quality", "io", "recipe_run", "recipe_psf"},
    "recipe_psf": {"core", "optics", "methods"},
    "recipe_run": {*LAYERS, "quality", "io", "recipe"},
    "stream": {*LAYERS, "io"},
    "batch": {*LAYERS, "quality", "io", "recipe", "recipe_run", "stream"},
    "cli": {
        *LAYERS,
        "quality",
        "io",
        "recipe",
        "batch",
        "stream",
        "train",
        "demo",
        "api",
        "samples",
        "comparison",
    },
    "ui": {*LAYERS, "quality", "io", "recipe", "batch", "samples", "api", "comparison"},
}

# (file, module it uses): why it may.
EXCEPTIONS: dict[tuple[str, str], str] = {}

WINDOW = {"napari", "qtpy", "magicgui", "superqt", "PySide6", "PyQt6", "PyQt5", "vispy"}
# (file, module): why a file outside ui/ may name a window's library.
WINDOW_EXCEPTIONS: dict[tuple[str, str], str] = {}

HEAVY = {"torch", "scipy", "skimage", "pywt", "tifffile", "PIL", "zarr", "dask", "trimesh", "matplotlib"}
# Parts that compute with torch in every function may import it at their head; nothing light imports them.
DECLARING = (
    "core",
    "optics/settings",
    "optics/psf_map",
    "methods",
    "steps",
    "io",
    "recipe",
    "cli",
    "api",
    "__init__",
)


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path, *, head_only: bool = False) -> Iterator[str]:
    """Yield the modules that a file imports, in functions too, but not those for type checkers only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        types_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        later = head_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if types_only or later:
            skipped |= {inner for inner in ast.walk(node) if inner is not node}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)} imports relatively, which this test cannot follow"
            module = node.module or ""
            yield module
            if module == "napari_deblur":
                yield from (f"napari_deblur.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", files(), ids=relative)
def test_arrows_never_run_back(path):
    part = part_of(path)
    assert part in MAY_USE, f"{part} has no place in the house yet: add it to MAY_USE"
    allowed = {part, *MAY_USE[part]}
    for module in imports(path):
        names = module.split(".")
        if names[0] != "napari_deblur" or len(names) == 1:
            continue
        if (relative(path), module) in EXCEPTIONS or not _is_part(names[1]):
            continue
        assert names[1] in allowed, (
            f"{relative(path)} uses {module}, but {part} may use only {sorted(allowed)}"
        )


def _is_part(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


@pytest.mark.parametrize("path", files(), ids=relative)
def test_only_ui_knows_the_window(path):
    if part_of(path) == "ui":
        return
    for module in imports(path):
        if (relative(path), module) not in WINDOW_EXCEPTIONS:
            assert module.split(".")[0] not in WINDOW, f"{relative(path)} imports {module}"


@pytest.mark.parametrize("path", files(), ids=relative)
def test_declarations_are_light(path):
    """Forms, help and recipes read the declarations, and must not wait for torch."""
    if not relative(path).startswith(DECLARING):
        return
    for module in imports(path, head_only=True):
        assert module.split(".")[0] not in HEAVY, f"{relative(path)} imports {module} at its head"


@pytest.mark.parametrize("table", [EXCEPTIONS, WINDOW_EXCEPTIONS])
def test_every_exception_is_used_and_has_its_reason(table):
    for (file, module), reason in table.items():
        assert module in set(imports(PACKAGE / file)), (
            f"{file} no longer imports {module}: drop the exception"
        )
        assert len(reason) > 20


@pytest.mark.parametrize("path", files(), ids=relative)
def test_files_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 500, f"{relative(path)} has {lines} lines"


@pytest.mark.parametrize(
    "statement",
    [
        "import napari_deblur as nd; dir(nd)",
        "import napari_deblur.cli",
        "from napari_deblur.methods.base import registry; registry()",
        "import napari_deblur.steps.deblur, napari_deblur.steps.psf_map, napari_deblur.recipe",
        "import napari_deblur.steps.background, napari_deblur.steps.depth",
    ],
)
def test_imports_are_lazy(statement):
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(found.stdout.split())
    assert not loaded & (HEAVY | WINDOW)
