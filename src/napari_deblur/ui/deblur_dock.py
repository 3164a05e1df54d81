"""The dock that deblurs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QCheckBox, QVBoxLayout

from napari_deblur.core.errors import NapariDeblurError
from napari_deblur.core.run import Run
from napari_deblur.methods.base import Method, registry
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.steps.deblur import Deblur
from napari_deblur.ui.device import NOT_KNOWN_YET, device_line, engine_on, wanted_device
from napari_deblur.ui.forms import Form, MethodPicker
from napari_deblur.ui.layers import LayerImage
from napari_deblur.ui.maps import MapEntry, map_store
from napari_deblur.ui.psf_dock import PsfDock
from napari_deblur.ui.psf_panel import BASIS, BLIND, OPTICS
from napari_deblur.ui.qt import caption
from napari_deblur.ui.region import Region, current_plane
from napari_deblur.ui.results import Result, add_results, look_of
from napari_deblur.ui.so_far import LiveLayer

if TYPE_CHECKING:
    from napari_deblur.core.params import Declared
    from napari_deblur.core.record import Record
    from napari_deblur.steps.deblur import DeblurResult

_FIRST = "tv-richardson-lucy"
_PLAN_AFTER_MS = 200


class DeblurDock(PsfDock):
    """Deblurring: a method, a PSF, the result next to the input."""

    title: ClassVar[str] = "Deblur"
    help: ClassVar[str] = "Restores an image with one PSF, a PSF map, or none at all."

    def build(self, body: QVBoxLayout) -> None:
        """Add PSF, method and the step's own form."""
        self.build_psf(body)
        self.method = MethodPicker(registry())
        self.method.combo.setCurrentIndex(max(0, self.method.combo.findData(_FIRST)))
        self.form: Form[Deblur] = Form(Deblur)
        self.residual = QCheckBox("Add the residual too")
        self.residual.setToolTip(
            "What the result does not explain: the input minus the result blurred again. "
            "Structure in it is a warning."
        )
        self.plan_text = caption(dim=True)
        for widget in (self.method, self.form, self.residual, self.plan_text):
            body.addSpacing(4)
            body.addWidget(widget)
        self._planning = QTimer(self)
        self._planning.setSingleShot(True)
        self._planning.setInterval(_PLAN_AFTER_MS)
        self._planning.timeout.connect(self.show_plan)
        for signal in (self.method.changed, self.form.changed):
            signal.connect(self.chosen)

    @property
    def methods(self) -> list[type[Declared]]:
        """The chosen method."""
        return [self.method.method_class]

    def a_method(self) -> Method:
        """Return the chosen method with the form's values."""
        return cast(Method, self.method.value())

    def chosen(self, _value: Any = None) -> None:
        """React to any choice, and plan anew."""
        super().chosen()
        self._planning.start()

    def show_plan(self) -> None:
        """Say how much memory a run will take, where that is known without reading or estimating anything."""
        self.plan_text.clear()
        if self._closed or self.source is None or device_line() == NOT_KNOWN_YET:
            return
        if self.psf.current not in (OPTICS, BLIND):
            return
        try:
            step = self.form.value(method=self.method.value())
            psf = self.psf.value(None, (), volumes=self.volumes).load()
            from napari_deblur.engine.shared import get_engine

            self.plan_text.setText(f"Plan: {step.plan(self.source.stub(), psf, engine=get_engine())}")
        except NapariDeblurError:
            return  # said when the user presses a button

    def released(self) -> None:
        """Let go of the viewer."""
        self._planning.stop()
        super().released()

    def prepare(
        self, source: LayerImage, region: Region | None
    ) -> tuple[Callable[[Run], Any], Callable[[Any], None]]:
        """Read the forms."""
        step = self.form.value(method=self.method.value())
        layer = self.picker.layer()
        look = look_of(layer) if layer is not None else {}
        plane = current_plane(self.viewer, layer) if layer is not None else ()
        choice = self.psf.value(region, plane, volumes=self.volumes)
        blind = self.psf.current in (BLIND, BASIS)
        wanted = wanted_device()
        with_residual = self.residual.isChecked()

        def work(run: Run) -> DeblurResult:
            image, psf, engine = source.checked(region), choice.load(), engine_on(wanted)
            run.step(0, 1, f"plan: {step.plan(image, psf, engine=engine)}")
            return step.run(image, psf, engine=engine, run=run, optics=choice.optics)

        def done(result: DeblurResult) -> None:
            title = step.method.label + (" (cancelled)" if result.partial else "")
            results = [Result(result.image.data, title, look=look)]
            if with_residual:
                rest = result.residual.data
                spread = float(np.abs(rest).max()) or 1.0
                results.append(Result(rest, f"{title} · residual", {"colormap": "PiYG"}, (-spread, spread)))
            record = choice.noted_in(result.record)
            added = add_results(self.viewer, source, region, record, results)
            if with_residual:
                added[-1].visible = False
            self.facts = summary(record)
            self.show_kernel(result.psf, source)
            if blind and region is None and not result.partial:
                self._keep_maps(source, result.psf)
            self.show_status(result.record.device, result.record.seconds)

        return work, done

    def live_view(self, source: LayerImage, region: Region | None) -> LiveLayer:
        """Show what there is of a run that takes its time."""
        layer = self.picker.layer()
        look = look_of(layer) if layer is not None else {}
        return LiveLayer(self.viewer, source, region, look)

    def _keep_maps(self, source: LayerImage, psf: Any) -> None:
        """Offer a blind estimate for the next run."""
        maps = [psf] if isinstance(psf, PsfMap) else psf
        if isinstance(maps, list) and all(isinstance(one, PsfMap) for one in maps):
            plane = None if len(maps) > 1 else (0,) * (len(source.shape) - 2)
            map_store(self.viewer).add(MapEntry.of(source, maps, plane))


def summary(record: Record) -> str:
    """Return the facts that tell whether to trust a result, in one line."""
    facts = record.facts
    words = []
    if isinstance(per_px := facts.get("flux_change_grey_values_per_px"), float):
        # Little light above a large background makes a percentage of it large, or without a meaning.
        words.append(f"flux {per_px:+.2g} grey values per pixel (a background that is too high adds light)")
    elif isinstance(change := facts.get("flux_change"), float):
        words.append(f"flux {change:+.2%}")
    if isinstance(rest := facts.get("reblur_residual_rms"), float):
        words.append(f"residual {rest:.3g} grey values (RMS)")
    if record.learned:
        words.append("pixels made by a trained network")
    return ", ".join(words)
