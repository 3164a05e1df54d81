"""The button that saves what was run as a recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qtpy.QtWidgets import QFileDialog, QToolButton, QWidget

from napari_deblur.ui.history import history

if TYPE_CHECKING:
    from napari import Viewer


class RecipeButton(QToolButton):
    """Asks for a file and writes the steps run in the window to it.

    Parameters
    ----------
    viewer : Viewer
    attempt : callable
        Runs an action and shows its errors.
    parent : QWidget, optional
    """

    def __init__(
        self,
        viewer: Viewer,
        attempt: Callable[[Callable[[], object]], object],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._attempt = viewer, attempt
        self.setText("Recipe…")
        self.setToolTip("Save the steps run in this window, to run them over a folder of files")
        self.clicked.connect(self._ask)

    def _ask(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the recipe", "recipe.yaml", "Recipe (*.yaml)")
        if path:
            self._attempt(lambda: history(self._viewer).save_recipe(path))
