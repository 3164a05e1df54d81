"""The dock that maps the PSF over the field of view."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from qtpy.QtWidgets import QCheckBox, QFileDialog, QHBoxLayout, QPushButton, QVBoxLayout

from napari_deblur.core.errors import InvalidInputError, NapariDeblurError
from napari_deblur.core.run import Run
from napari_deblur.steps.identify import IdentifyOperator
from napari_deblur.steps.psf_map import EstimatePsfMap
from napari_deblur.steps.psf_rules import describe_map
from napari_deblur.ui.basis_panel import BasisPanel
from napari_deblur.ui.device import engine_on, wanted_device
from napari_deblur.ui.dock import StepDock
from napari_deblur.ui.forms import FormWithReset
from napari_deblur.ui.history import history
from napari_deblur.ui.layers import LayerImage
from napari_deblur.ui.map_comparison import MapComparison
from napari_deblur.ui.maps import MapEntry, map_store, position_in
from napari_deblur.ui.optics_panel import OpticsPanel
from napari_deblur.ui.psf_editor import PsfEditor
from napari_deblur.ui.psf_overlays import add_overlays, mosaics
from napari_deblur.ui.psf_view import PsfView
from napari_deblur.ui.qt import collapsible
from napari_deblur.ui.region import Region, current_plane

if TYPE_CHECKING:
    from napari import Viewer

    from napari_deblur.optics.psf_basis import PsfBasis
    from napari_deblur.optics.psf_map import PsfMap

_FILTER = "PSF map (*.npz)"


def trust_line(maps: list[PsfMap]) -> str:
    """Return the confidence of maps and what share of them is valid, in words."""
    known = np.concatenate([one.confidence[one.valid] for one in maps])
    count = sum(one.valid.size for one in maps)
    if not known.size:
        return "No patch is valid."
    return f"Confidence {np.median(known):.0%} (median), {known.size} of {count} patches valid"


class PsfMapDock(StepDock):
    """PSF map: where the blur changes, and what it is there."""

    title: ClassVar[str] = "PSF map"
    help: ClassVar[str] = "Reads the blur off the image itself, patch by patch."
    preview_px: ClassVar[int] = 320
    preview_margin_px: ClassVar[int] = 0

    def build(self, body: QVBoxLayout) -> None:
        """Add form, optics, the view of one PSF, and files."""
        self.store = map_store(self.viewer)
        self.form: FormWithReset[EstimatePsfMap] = FormWithReset(EstimatePsfMap, "Parameters")
        self.optics = OpticsPanel("Use the microscope's optics")
        self.all_planes = QCheckBox("Every plane, not only this one")
        self.view = PsfView()
        self.editor = PsfEditor(self.use_edited)
        self.editing = collapsible("Edit this PSF")
        self.editing.addWidget(self.editor)
        self.editing.setVisible(False)
        self.save_button, self.load_button = QPushButton("Save map…"), QPushButton("Load map…")
        self.save_button.clicked.connect(self._ask_save)
        self.load_button.clicked.connect(self._ask_load)
        files = QHBoxLayout()
        files.addWidget(self.save_button)
        files.addWidget(self.load_button)
        for widget in (self.form, self.optics, self.all_planes):
            body.addWidget(widget)
        body.addSpacing(6)
        body.addWidget(self.view)
        body.addWidget(self.editing)
        body.addLayout(files)
        self.bases = BasisPanel(self.viewer, self.submit, self.attempt, self.find_in)
        self.basis_section = collapsible("PSF basis of this microscope")
        self.basis_section.addWidget(self.bases)
        body.addWidget(self.basis_section)
        self.compare = MapComparison(self.viewer, self.store, self.shown, self.attempt)
        body.addWidget(self.compare)
        self.store.changed.connect(self._maps_changed)
        self.viewer.mouse_drag_callbacks.append(self._mouse)
        self._maps_changed()

    def layer_picked(self) -> None:
        """Fill in what the layer knows."""
        layer = self.picker.layer()
        self.all_planes.setVisible(layer is not None and layer.ndim > 2)
        with suppress(NapariDeblurError):  # said when the user presses a button
            if layer is not None:
                self.optics.fill(LayerImage.of(layer), layer.metadata)
        self.view.clear()
        self.editing.setVisible(False)
        self._maps_changed()

    def entry(self) -> MapEntry | None:
        """Return the map of the chosen layer, as it was estimated or loaded."""
        layer = self.picker.layer()
        with suppress(NapariDeblurError):
            source = LayerImage.of(layer) if layer is not None else None
            own = (entry for entry in self.store.entries if source and entry.belongs_to(source))
            return next((entry for entry in own if not entry.edited), None)
        return None

    def shown(self) -> tuple[MapEntry, str, PsfMap] | None:
        """Return the chosen layer's maps, and the name and map of the plane in view."""
        entry, layer = self.entry(), self.picker.layer()
        if entry is None or layer is None:
            return None
        return entry, *entry.named_at(current_plane(self.viewer, layer))

    def prepare(
        self, source: LayerImage, region: Region | None
    ) -> tuple[Callable[[Run], Any], Callable[[Any], None]]:
        """Read the form."""
        step, optics, wanted = self.form.value(), self.optics.value(), wanted_device()
        layer = self.picker.layer()
        plane: tuple[int, ...] | None = region.plane if region is not None else None
        if region is None and not (self.all_planes.isChecked() and len(source.shape) > 2):
            plane = current_plane(self.viewer, layer) if layer is not None else ()
        leading = source.shape[:-2] if plane is None else ()

        def work(run: Run) -> tuple[list[PsfMap], Any, str]:
            part = region if region is not None or plane is None else Region.whole_plane(source.shape, plane)
            image = source.checked(part)
            engine = engine_on(wanted)
            found = step.run(image, engine=engine, run=run, optics=optics)
            maps = found if isinstance(found, list) else [found]
            return maps, mosaics(maps, leading), engine.describe()

        def done(result: tuple[list[PsfMap], Any, str]) -> None:
            maps, mosaic_data, device = result
            placement = source.placement.at(region.offset_px) if region is not None else source.placement
            add_overlays(
                self.viewer, source.name, placement, maps, leading, mosaic_data, preview=region is not None
            )
            if region is None:
                self._keep(source, maps, plane)
                history(self.viewer).add(maps[0].record)
                if maps[0].grid_shape == (1, 1):
                    self._show_psf(maps[0], *map(float, maps[0].centers_px[0, 0]))
            self.show_status(device, sum(float(one.record.get("seconds", 0.0)) for one in maps))

        return work, done

    def save(self, path: str | Path) -> None:
        """Write the chosen layer's map; a stack's into one file per plane.

        Raises
        ------
        InvalidInputError
            If the layer has no map yet.
        """
        entry = self.entry()
        if entry is None:
            raise InvalidInputError("PSF map", "must be estimated or loaded before it can be saved", "none")
        target = Path(path).with_suffix(".npz")
        if not entry.per_plane:
            saved = entry.maps[0].save(target, overwrite=True)
            if "made" in describe_map(entry.maps[0]):  # else a recipe estimates it in every image anew
                self.store.saved(entry, saved.resolve())
            return
        for index, one in enumerate(entry.maps):
            one.save(target.with_name(f"{target.stem}_{index:04d}.npz"), overwrite=True)

    def load(self, path: str | Path) -> bool:
        """Read a map for the chosen layer, in the worker's thread; False if a job runs already."""
        layer = self.picker.layer()
        if layer is None:
            raise InvalidInputError("layer", "must be chosen: open an image first", "no image layer")
        source = LayerImage.of(layer)
        plane = current_plane(self.viewer, layer)

        def work(run: Run) -> tuple[PsfMap, Any]:
            from napari_deblur.optics.psf_map import PsfMap

            run.step(0, 1, "reading the map")
            loaded = PsfMap.load(path)
            if tuple(loaded.image_shape) != tuple(source.shape[-2:]):
                rule = f"must belong to an image of {source.shape[-2:]} pixels"
                raise InvalidInputError("psf_map", rule, f"a map of an image of {loaded.image_shape}")
            return loaded, mosaics([loaded], ())

        def done(result: tuple[PsfMap, Any]) -> None:
            loaded, mosaic_data = result
            add_overlays(self.viewer, source.name, source.placement, [loaded], (), mosaic_data)
            self._keep(source, [loaded], plane, Path(path).resolve())

        return self.submit(f"Loading {Path(path).name}", work, done)

    def find_in(self, basis: PsfBasis) -> bool:
        """Find the blur of the plane in view, or of all planes, in a basis; False if a job runs already."""
        layer = self.picker.layer()
        if layer is None:
            raise InvalidInputError("layer", "must be chosen: open an image first", "no image layer")
        source, wanted = LayerImage.of(layer), wanted_device()
        every = self.all_planes.isChecked() and len(source.shape) > 2
        plane = None if every else current_plane(self.viewer, layer)
        leading = source.shape[:-2] if plane is None else ()

        def work(run: Run) -> tuple[list[PsfMap], Any, str]:
            part = None if plane is None else Region.whole_plane(source.shape, plane)
            engine = engine_on(wanted)
            found = IdentifyOperator().run(source.checked(part), basis, engine=engine, run=run)
            maps = found if isinstance(found, list) else [found]
            return maps, mosaics(maps, leading), engine.describe()

        def done(result: tuple[list[PsfMap], Any, str]) -> None:
            maps, mosaic_data, device = result
            add_overlays(self.viewer, source.name, source.placement, maps, leading, mosaic_data)
            self._keep(source, maps, plane)
            self.show_status(device, sum(float(one.record.get("seconds", 0.0)) for one in maps))

        return self.submit(f"{source.name} in a PSF basis", work, done)

    def _keep(
        self,
        source: LayerImage,
        maps: list[PsfMap],
        plane: tuple[int, ...] | None,
        path: Path | None = None,
    ) -> None:
        """Offer maps to the other docks, and say how far they are to be trusted."""
        self.store.add(replace(MapEntry.of(source, maps, plane), path=path))
        self.facts = trust_line(maps)

    def released(self) -> None:
        """Stop listening to the mouse."""
        self.bases.release()
        self.store.changed.disconnect(self._maps_changed)
        callbacks = self.viewer.mouse_drag_callbacks
        callbacks[:] = [callback for callback in callbacks if callback != self._mouse]

    def show_at(self, world: Any) -> None:
        """Show the PSF at a position of the scene; nothing outside the image."""
        entry, layer = self.entry(), self.picker.layer()
        if entry is None or layer is None:
            return
        plane, y, x = position_in(self.viewer, layer, world)
        height, width = entry.image_shape
        inside = -0.5 <= y <= height - 0.5 and -0.5 <= x <= width - 0.5
        if inside and all(at < size for at, size in zip(plane, entry.leading, strict=True)):
            self._show_psf(entry.at(plane), y, x)

    def _show_psf(self, psf_map: PsfMap, y: float, x: float) -> None:
        self.view.show_at(psf_map, y, x)
        self.editor.show_at(psf_map, *psf_map.nearest(y, x))
        self.editing.setVisible(True)

    def use_edited(self, psf_map: PsfMap, path: Path | None = None) -> None:
        """Offer a PSF that the user made by hand to the Deblur dock, before what was estimated.

        Parameters
        ----------
        psf_map : PsfMap
        path : Path, optional
            File that it was saved to: only then can a recipe repeat what is restored with it.
        """
        layer = self.picker.layer()
        if layer is None:
            return
        source = LayerImage.of(layer)
        entry = MapEntry.of(source, [psf_map], None)
        self.store.add(replace(entry, name=f"{source.name} · edited PSF", edited=True, path=path))
        self.message.setText("The Deblur dock now offers the edited PSF as its PSF map.")

    def _mouse(self, viewer: Viewer, event: Any) -> Generator[None, None, None]:
        active = viewer.layers.selection.active
        drawing = active is not None and str(active.mode) not in ("pan_zoom", "Mode.PAN_ZOOM")
        yield
        while event.type == "mouse_move":
            drawing = True
            yield
        if not drawing and not self._closed and viewer.dims.ndisplay == 2:
            self.attempt(lambda: self.show_at(event.position))

    def _maps_changed(self) -> None:
        if not self._closed:
            self.save_button.setEnabled(self.entry() is not None)
            self.compare.refresh()

    def _ask_save(self) -> None:
        path, _ = QFileDialog.getSaveFileName(self, "Save the PSF map", "psf-map.npz", _FILTER)
        if path:
            self.attempt(lambda: self.save(path))

    def _ask_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load a PSF map", "", _FILTER)
        if path:
            self.attempt(lambda: self.load(path))
