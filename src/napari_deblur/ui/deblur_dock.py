"""The dock that deblurs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QCheckBox, QPushButton, QVBoxLayout, QWidget

from napari_deblur.core.errors import NapariDeblurError
from napari_deblur.core.run import Run
from napari_deblur.methods.base import Method, registry
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.steps.deblur import Deblur
from napari_deblur.ui.device import NOT_KNOWN_YET, device_line, engine_on, wanted_device
from napari_deblur.ui.dock import StepDock
from napari_deblur.ui.forms import Form, MethodPicker
from napari_deblur.ui.layers import LayerImage
from napari_deblur.ui.maps import MapEntry, map_store
from napari_deblur.ui.psf_panel import BASIS, BLIND, FILE, LAYER, MAP, OPTICS, PsfPanel
from napari_deblur.ui.psf_view import PsfViewer
from napari_deblur.ui.qt import caption
from napari_deblur.ui.region import Region, current_plane, preview_region
from napari_deblur.ui.results import Result, add_results, look_of
from napari_deblur.ui.worker import show_failure

if TYPE_CHECKING:
    from napari_deblur.core.record import Record
    from napari_deblur.steps.deblur import DeblurResult

_FIRST = "tv-richardson-lucy"
_DEEP_SOURCES = (OPTICS, FILE, LAYER)
_PLAN_AFTER_MS = 200


def _has_volumes(source: LayerImage) -> bool:
    """Tell whether a layer has a z axis with more than one plane."""
    return "z" in source.axes and source.shape[source.axes.index("z")] > 1


class DeblurDock(StepDock):
    """Deblurring: a method, a PSF, the result next to the input."""

    title: ClassVar[str] = "Deblur"
    help: ClassVar[str] = "Restores an image with one PSF, a PSF map, or none at all."
    preview_margin_px: ClassVar[int] = 48
    preview_box_px: ClassVar[int] = 96
    preview_box_margin_px: ClassVar[int] = 32
    preview_box_planes: ClassVar[int] = 6
    preview_box_margin_planes: ClassVar[int] = 8
    facts = ""
    _source: LayerImage | None = None

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
        self.deep = QCheckBox("In 3D, over the z axis")
        self.deep.setToolTip("Restore the stack as a volume with a PSF in 3D, instead of plane by plane")
        self.show_button = QPushButton("Show the PSF")
        self.show_button.setToolTip("Compute or read the PSF as it will be used, with its widths")
        self.viewer_of_psf = PsfViewer()
        self.plan_text = caption(dim=True)
        above: list[QWidget] = [self.psf, self.deep, self.show_button, self.viewer_of_psf]
        below: list[QWidget] = [self.method, self.form, self.residual, self.plan_text]
        for widget in above:
            body.addWidget(widget)
        for widget in below:
            body.addSpacing(4)
            body.addWidget(widget)
        self._planning = QTimer(self)
        self._planning.setSingleShot(True)
        self._planning.setInterval(_PLAN_AFTER_MS)
        self._planning.timeout.connect(self.show_plan)
        self.show_button.clicked.connect(self.show_psf)
        for signal in (self.psf.changed, self.psf.optics.changed, self.method.changed, self.form.changed):
            signal.connect(self._chosen)
        self.deep.toggled.connect(self._chosen)

    def layer_picked(self) -> None:
        """Offer the layer's map and what it knows of the optics."""
        layer = self.picker.layer()
        try:
            source = LayerImage.of(layer) if layer is not None else None
        except NapariDeblurError:
            source = None  # said when the user presses a button
        self._source = source
        self.deep.setChecked(source is not None and _has_volumes(source) and source.z_step_um is not None)
        self.psf.set_source(source, layer.metadata if layer is not None else None)
        self._chosen()

    @property
    def volumes(self) -> bool:
        """Whether the PSF may have a z axis: the user wants it, and layer, method and source know it."""
        return self._can_be_deep() and self.deep.isChecked()

    def _can_be_deep(self) -> bool:
        if self._source is None or not _has_volumes(self._source):
            return False
        return 3 in getattr(self.method.method_class, "ndim", ()) and self.psf.current in _DEEP_SOURCES

    def _chosen(self, _value: Any = None) -> None:
        """React to any choice: offer 3D where it has a meaning, and plan anew."""
        self.deep.setVisible(self._can_be_deep())
        self.psf.set_volumes(self.volumes)
        self.show_button.setVisible(self.psf.current in (*_DEEP_SOURCES, MAP))
        self._planning.start()

    def region(self, layer: Any) -> Region:
        """Return the part that a preview takes: a box of a few planes where volumes are restored."""
        if not self.volumes or self._source is None:
            return super().region(layer)
        flat = preview_region(
            self.viewer, layer, size_px=self.preview_box_px, margin_px=self.preview_box_margin_px
        )
        axis = self._source.axes.index("z")
        return flat.with_planes(
            axis, self._source.shape[axis], self.preview_box_planes, self.preview_box_margin_planes
        )

    def show_plan(self) -> None:
        """Say how much memory a run will take, where that is known without reading or estimating anything."""
        self.plan_text.clear()
        if self._closed or self._source is None or device_line() == NOT_KNOWN_YET:
            return
        if self.psf.current not in (OPTICS, BLIND):
            return
        try:
            step = self.form.value(method=self.method.value())
            psf = self.psf.value(None, (), volumes=self.volumes).load()
            from napari_deblur.engine.engine import get_engine

            self.plan_text.setText(f"Plan: {step.plan(self._source.stub(), psf, engine=get_engine())}")
        except NapariDeblurError:
            return  # said when the user presses a button

    def show_psf(self) -> None:
        """Show the PSF as it will be used."""
        source, layer = self._source, self.picker.layer()
        if source is None or layer is None:
            return
        volumes, wanted = self.volumes, wanted_device()
        plane = current_plane(self.viewer, layer)
        try:
            method = cast(Method, self.method.value())
            choice = self.psf.value(None, plane, volumes=volumes)
        except NapariDeblurError as error:
            show_failure(error)
            return

        def work(run: Run) -> Any:
            from napari_deblur.steps.psf_source import resolve

            psf = choice.load()
            one = psf[0] if isinstance(psf, list) else psf
            # In a basis the blur is found in the pixels; all else needs the image's sizes only.
            seen = isinstance(one, PsfBasis)
            image = source.checked(Region.whole_plane(source.shape, plane)) if seen else source.stub()
            found = resolve(
                one, image, 0, method=method, engine=engine_on(wanted), run=run, optics=choice.optics
            ).psf
            middle = [(size - 1) / 2 for size in source.shape[-2:]]
            return found.psf_at(*middle) if isinstance(found, PsfMap) else found

        self.submit(f"PSF of {source.name}", work, self._show_kernel)

    def _show_kernel(self, psf: Any) -> None:
        """Show a kernel at the scale of the layer's voxels."""
        if self._closed or not isinstance(psf, np.ndarray) or self._source is None:
            return
        image = self._source.stub()
        self.viewer_of_psf.show_psf(psf, image.voxel_size_um if psf.ndim == 3 else image.pixel_size_um)

    def released(self) -> None:
        """Let go of the viewer."""
        self._planning.stop()
        self.psf.release()

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
            self._show_kernel(result.psf)
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
