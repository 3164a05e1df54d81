"""The dock that shows what several methods make of the same part of an image, side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QPushButton, QVBoxLayout

from napari_deblur.comparison import Compared, able, compare, quick_methods
from napari_deblur.core.errors import CancelledError, InvalidInputError
from napari_deblur.core.image import Image
from napari_deblur.core.run import Run
from napari_deblur.methods.base import Method, registry
from napari_deblur.steps.deblur import Deblur
from napari_deblur.ui.comparison_table import ComparisonTable
from napari_deblur.ui.device import engine_on, wanted_device
from napari_deblur.ui.forms import Form
from napari_deblur.ui.layers import LayerImage
from napari_deblur.ui.method_list import MethodList
from napari_deblur.ui.psf_dock import PsfDock
from napari_deblur.ui.qt import caption
from napari_deblur.ui.region import Region, current_plane
from napari_deblur.ui.results import Result, add_results, contrast_limits, look_of
from napari_deblur.ui.side_by_side import SideBySide

if TYPE_CHECKING:
    from napari_deblur.core.params import Declared
    from napari_deblur.ui.chosen_psf import ChosenPsf

_INPUT = "input"


@dataclass(frozen=True, eq=False)
class _Comparison:
    """What the worker found: the image as it was read, what became of it, and who was left out."""

    image: Image
    found: list[Compared]
    left_out: list[str]


class CompareDock(PsfDock):
    """Comparison: methods to tick, a PSF, all results in a grid with one camera and one contrast."""

    title: ClassVar[str] = "Compare"
    help: ClassVar[str] = "Deblurs one part of an image with several methods and shows them side by side."
    facts = ""
    _only: str | None = None

    def build(self, body: QVBoxLayout) -> None:
        """Add PSF, methods, the step's own form and the table of results."""
        self.build_psf(body)
        self.list = MethodList(registry(), quick_methods())
        self.form: Form[Deblur] = Form(Deblur)
        self.grid = SideBySide(self.viewer)
        self.grid_button = QPushButton("Side by side")
        self.grid_button.setCheckable(True)
        self.grid_button.setToolTip("Show input and results in a grid; once more for the window as it was")
        self.table = ComparisonTable()
        self.best_button = QPushButton("Run the selected method on everything")
        self.best_button.setToolTip("Restore the whole layer with the method of the selected row")
        body.addSpacing(4)
        body.addWidget(caption("<b>Methods</b>"))
        for widget in (self.list, self.form, self.grid_button, self.table, self.best_button):
            body.addWidget(widget)
        self._compared: list[Any] = []
        self._added: list[Any] = []
        self._show_found({})
        self.grid_button.toggled.connect(self._show_grid)
        self.table.chosen.connect(self._select)
        self.best_button.clicked.connect(self.run_selected)
        for signal in (self.list.changed, self.form.changed):
            signal.connect(self.chosen)

    @property
    def methods(self) -> list[type[Declared]]:
        """The methods that are ticked."""
        return list(self.list.chosen.values())

    def a_method(self) -> Method:
        """Return the first method that is ticked."""
        return next(iter(self._steps().values())).method

    def run_selected(self) -> None:
        """Run the method of the selected row on the whole layer."""
        self._only = self.table.current
        try:
            self.run()
        finally:
            self._only = None

    def prepare(
        self, source: LayerImage, region: Region | None
    ) -> tuple[Callable[[Run], Any], Callable[[Any], None]]:
        """Read the forms."""
        steps = self._steps()
        layer = self.picker.layer()
        plane = current_plane(self.viewer, layer) if layer is not None else ()
        choice = self.psf.value(region, plane, volumes=self.volumes)
        wanted = wanted_device()

        def work(run: Run) -> _Comparison:
            image, psf, engine = source.checked(region), choice.load(), engine_on(wanted)
            taken, left_out = able(steps, psf, image, chosen=len(steps) == 1)
            result = _Comparison(image, [], left_out)
            try:
                for one in compare(taken, image, psf, engine=engine, run=run, optics=choice.optics):
                    result.found.append(one)
            except CancelledError:
                if not result.found:
                    raise
            return result

        def done(result: _Comparison) -> None:
            self.grid_button.setChecked(False)
            look = look_of(layer) if layer is not None else {}
            self._add(source, region, result, choice, look)

        return work, done

    def ended_text(self) -> str:
        """Return what is to be said of the methods, each with its name."""
        return self.facts

    def released(self) -> None:
        """Leave the window as it was."""
        self.grid.restore()
        super().released()

    def _steps(self) -> dict[str, Deblur]:
        values = self.list.values() if self._only is None else {self._only: self.list.value(self._only)}
        if not values:
            raise InvalidInputError("methods", "must hold at least one: tick some", "none")
        return {id_: self.form.value(method=cast(Method, method)) for id_, method in values.items()}

    def _add(
        self,
        source: LayerImage,
        region: Region | None,
        result: _Comparison,
        choice: ChosenPsf,
        look: dict[str, Any],
    ) -> None:
        """Make layers of the results, all with the same limits, and show them side by side."""
        limits = _common_limits([result.image.data, *(one.result.image.data for one in result.found)])
        several = len(result.found) > 1
        self._added = []
        own = [layer for layer in (self.picker.layer(),) if layer is not None]
        if region is not None:
            crop = Result(result.image.data, _INPUT, look, limits)
            about = {"compared": [one.method for one in result.found]}
            own = self._added = add_results(self.viewer, source, region, about, [crop])
        for one in result.found:
            name = one.label + (" (cancelled)" if one.result.partial else "")
            shown = Result(one.result.image.data, name, look, limits)
            record = choice.noted_in(one.result.record)
            # A recipe repeats one method: that which is then run by itself.
            more = add_results(self.viewer, source, region, record, [shown], remembered=not several)
            self._added = [*self._added, *more]
        self._compared = [*own, *(layer for layer in self._added if layer not in own)]
        self._show_found({one.method: one for one in result.found})
        left = [f"{registry()[id_].title} works plane by plane and was left out." for id_ in result.left_out]
        notes = [f"{one.label}: {note}" for one in result.found for note in one.result.record.notes]
        self.facts = "\n".join([*left, *notes])
        last = result.found[-1].result
        self.show_kernel(last.psf)
        self.show_status(last.record.device, sum(one.result.record.seconds for one in result.found))
        self.grid_button.setChecked(several or region is not None)
        QTimer.singleShot(0, self._scroll_down)

    def _show_found(self, found: dict[str, Compared]) -> None:
        self.table.show_rows(found)
        for widget in (self.table, self.grid_button, self.best_button):
            widget.setVisible(bool(found))
        self.best_button.setEnabled(self.table.current is not None)

    def _scroll_down(self) -> None:
        if not self._closed:
            self.scroller.ensureWidgetVisible(self.best_button)

    def _show_grid(self, shown: bool) -> None:
        if not shown:
            self.grid.restore()
            return
        here = list(self.viewer.layers)
        layers = [layer for layer in self._compared if any(layer is other for other in here)]
        if layers:
            self.grid.show(layers, self._added)
        else:
            self.grid_button.setChecked(False)

    def _select(self, row: int) -> None:
        """Make the layer of a row the active one; the first row is the input."""
        self.best_button.setEnabled(self.table.current is not None)
        here = list(self.viewer.layers)
        if row < len(self._compared) and any(self._compared[row] is other for other in here):
            self.viewer.layers.selection.active = self._compared[row]


def _common_limits(images: list[Any]) -> tuple[float, float]:
    """Return contrast limits for all: those of a middling image, which one with ringing does not spoil."""
    low, high = np.median([contrast_limits(image) for image in images], axis=0)
    return float(low), float(high)
