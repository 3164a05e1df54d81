"""The dock that deblurs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from qtpy.QtWidgets import QCheckBox, QVBoxLayout

from napari_deblur.core.errors import NapariDeblurError
from napari_deblur.core.run import Run
from napari_deblur.methods.base import registry
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.steps.deblur import Deblur
from napari_deblur.ui.device import engine_on, wanted_device
from napari_deblur.ui.dock import StepDock
from napari_deblur.ui.forms import Form, MethodPicker
from napari_deblur.ui.layers import LayerImage
from napari_deblur.ui.maps import MapEntry, map_store
from napari_deblur.ui.psf_panel import BLIND, PsfPanel
from napari_deblur.ui.region import Region, current_plane
from napari_deblur.ui.results import Result, add_results, look_of

if TYPE_CHECKING:
    from napari_deblur.core.record import Record
    from napari_deblur.steps.deblur import DeblurResult

_FIRST = "tv-richardson-lucy"


class DeblurDock(StepDock):
    """Deblurring: a method, a PSF, the result next to the input."""

    title: ClassVar[str] = "Deblur"
    help: ClassVar[str] = "Restores an image with one PSF, a PSF map, or none at all."
    preview_margin_px: ClassVar[int] = 48
    facts = ""

    def build(self, body: QVBoxLayout) -> None:
        """Add PSF, method and the step's own form."""
        self.psf = PsfPanel(self.viewer)
        self.method = MethodPicker(registry())
        self.method.combo.setCurrentIndex(max(0, self.method.combo.findData(_FIRST)))
        self.form: Form[Deblur] = Form(Deblur)
        self.residual = QCheckBox("Add the residual too")
        self.residual.setToolTip(
            "What the result does not explain: the input minus the result blurred again. "
            "Structure in it is a warning."
        )
        for widget in (self.psf, self.method, self.form, self.residual):
            body.addWidget(widget)
            body.addSpacing(4)

    def layer_picked(self) -> None:
        """Offer the layer's map and pixel size."""
        layer = self.picker.layer()
        try:
            self.psf.set_source(LayerImage.of(layer) if layer is not None else None)
        except NapariDeblurError:
            self.psf.set_source(None)  # said when the user presses a button

    def released(self) -> None:
        """Let go of the viewer."""
        self.psf.release()

    def prepare(
        self, source: LayerImage, region: Region | None
    ) -> tuple[Callable[[Run], Any], Callable[[Any], None]]:
        """Read the forms."""
        step = self.form.value(method=self.method.value())
        layer = self.picker.layer()
        look = look_of(layer) if layer is not None else {}
        plane = current_plane(self.viewer, layer) if layer is not None else ()
        choice = self.psf.value(region, plane)
        blind = self.psf.current == BLIND
        wanted = wanted_device()
        with_residual = self.residual.isChecked()

        def work(run: Run) -> DeblurResult:
            image = source.checked(region)
            return step.run(image, choice.load(), engine=engine_on(wanted), run=run, optics=choice.optics)

        def done(result: DeblurResult) -> None:
            title = step.method.title + (" (cancelled)" if result.partial else "")
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
            if blind and region is None:
                self._keep_maps(source, result.psf)
            self.show_status(result.record.device, result.record.seconds)

        return work, done

    def ended_text(self) -> str:
        """Return what became of the flux and how well the result explains the input."""
        return self.facts

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
    if isinstance(change := facts.get("flux_change"), float):
        words.append(f"flux {change:+.2%}")
    if isinstance(rest := facts.get("reblur_residual_rms"), float):
        words.append(f"residual {rest:.3g} grey values (RMS)")
    if record.learned:
        words.append("pixels made by a trained network")
    return ", ".join(words)
