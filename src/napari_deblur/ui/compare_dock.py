"""The dock that shows what several methods make of the same part of an image, side by side."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QPushButton, QVBoxLayout

from napari_deblur.comparison import Compared, able, compare, quick_methods
from napari_deblur.core.errors import CancelledError, InvalidInputError, NapariDeblurError
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
from napari_deblur.ui.side_by_side import SideBySide, among

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_deblur.core.params import Declared
    from napari_deblur.ui.chosen_psf import ChosenPsf

_INPUT, _COMPARED = "input", "compared"


@dataclass(frozen=True, eq=False)
class _Comparison:
    """What the worker found: the image as it was read, what became of it, and who could not do it."""

    image: Image
    found: list[Compared]
    remarks: list[str]


class CompareDock(PsfDock):
    """Comparison: methods to tick, a PSF, all results in a grid with one camera and one contrast."""

    title: ClassVar[str] = "Compare"
    help: ClassVar[str] = "Deblurs one part of an image with several methods and shows them side by side."
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
        self._compared: list[Callable[[], Any]] = []
        self._added: list[Callable[[], Any]] = []
        self._of: str | None = None
        self._show_found({})
        self.grid_button.toggled.connect(self._show_grid)
        self.table.chosen.connect(self._select)
        self.best_button.clicked.connect(self.run_selected)
        for signal in (self.list.changed, self.form.changed):
            signal.connect(self.chosen)

    @property
    def methods(self) -> list[type[Declared]]:
        """The methods that are ticked, or the one that is to be run alone."""
        return list(self.list.chosen.values()) if self._only is None else [registry()[self._only]]

    def a_method(self) -> Method:
        """Return the first method that is ticked."""
        return next(iter(self._steps().values())).method

    def run_selected(self) -> None:
        """Run the method of the selected row on the whole layer."""
        if self.table.current is None:
            return
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
            left = [f"{registry()[id_].title} works plane by plane and was left out." for id_ in left_out]
            result = _Comparison(image, [], left)

            def refused(label: str, error: NapariDeblurError) -> None:
                result.remarks.append(f"{label}: {error}")

            try:
                for one in compare(
                    taken, image, psf, engine=engine, run=run, optics=choice.optics, on_refusal=refused
                ):
                    result.found.append(one)
            except CancelledError:
                if not result.found:
                    raise
            return result

        def done(result: _Comparison) -> None:
            self.grid_button.setChecked(False)
            self._add(source, region, result, choice, layer)

        return work, done

    def layer_picked(self) -> None:
        """Forget what another layer was compared to."""
        super().layer_picked()
        if self._of is not None and (self.source is None or self.source.name != self._of):
            self.grid_button.setChecked(False)
            self._of = None
            self._show_found({})

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
        layer: Layer | None,
    ) -> None:
        """Make layers of the results, all with the same limits, and show them side by side."""
        limits = _common_limits([result.image.data, *(one.result.image.data for one in result.found)])
        several, look = len(result.found) > 1, look_of(layer) if layer is not None else {}
        added: list[Layer] = []
        own = [layer] if layer is not None and among(layer, self.viewer.layers) else []
        if region is not None:
            crop = Result(result.image.data, _INPUT, look, limits)
            about = {"compared": [one.method for one in result.found]}
            own = added = add_results(self.viewer, source, region, about, [crop], called=_COMPARED)
        for one in result.found:
            name = one.label + (" (cancelled)" if one.result.partial else "")
            shown = Result(one.result.image.data, name, look, limits)
            record = choice.noted_in(one.result.record)
            # A recipe repeats one method: that which is then run by itself.
            more = add_results(
                self.viewer, source, region, record, [shown], remembered=not several, called=_COMPARED
            )
            added = [*added, *more]
        first = own[0] if own else None
        self._compared = [_reference(one) for one in (first, *(one for one in added if one is not first))]
        self._added = [_reference(one) for one in added]
        self._of = source.name
        self._show_found({one.method: one for one in result.found})
        notes = [f"{one.label}: {note}" for one in result.found for note in one.result.record.notes]
        self.facts = "\n".join([*result.remarks, *notes])
        last = result.found[-1].result
        self.show_kernel(last.psf, source)
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
        layers = self._here(self._compared)
        if layers:
            self.grid.show(layers, self._here(self._added))
        else:
            self.grid_button.setChecked(False)

    def _here(self, references: list[Callable[[], Any]]) -> list[Any]:
        """Return those layers that are still in the viewer."""
        return [layer for one in references if among(layer := one(), self.viewer.layers)]

    def _select(self, row: int) -> None:
        """Make the layer of a row the active one; the first row is the input."""
        self.best_button.setEnabled(self.table.current is not None)
        if 0 <= row < len(self._compared) and (here := self._here([self._compared[row]])):
            self.viewer.layers.selection.active = here[0]


def _reference(layer: Layer | None) -> Callable[[], Any]:
    """Return what finds a layer while anybody else keeps it: deleted results must not fill the memory."""
    return (lambda: None) if layer is None else weakref.ref(layer)


def _common_limits(images: list[Any]) -> tuple[float, float]:
    """Return contrast limits for all: those of a middling image, which one with ringing does not spoil."""
    low, high = np.median([contrast_limits(image) for image in images], axis=0)
    return float(low), float(high)
