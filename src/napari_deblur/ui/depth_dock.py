"""The dock that turns a PSF map into depth."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from qtpy.QtWidgets import QLabel, QPushButton, QVBoxLayout

from napari_deblur.core.errors import InvalidInputError, NapariDeblurError
from napari_deblur.core.run import Run
from napari_deblur.steps.depth import EstimateDepth
from napari_deblur.ui.alone_in_3d import AloneIn3D
from napari_deblur.ui.calibration_panel import CalibrationPanel
from napari_deblur.ui.dock import StepDock
from napari_deblur.ui.forms import FormWithReset
from napari_deblur.ui.history import history
from napari_deblur.ui.layers import LayerImage, Placement, length_um, provenance
from napari_deblur.ui.maps import MapEntry, map_store
from napari_deblur.ui.qt import caption
from napari_deblur.ui.region import Region, current_plane
from napari_deblur.ui.results import about_of, contrast_limits, put_layer

if TYPE_CHECKING:
    from napari.layers import Layer

    from napari_deblur.steps.depth import DepthResult
    from napari_deblur.steps.surface import Surface

_RELATIVE_HEIGHT = 0.2
_SURFACE = "surface"


class DepthDock(StepDock):
    """Depth: an image in µm, its confidence, and a surface."""

    title: ClassVar[str] = "Depth"
    uses_engine: ClassVar[bool] = False
    help: ClassVar[str] = "Turns the PSF map of an astigmatic image into depth."
    has_preview: ClassVar[bool] = False

    def build(self, body: QVBoxLayout) -> None:
        """Add the map, the form and the calibration."""
        self.store = map_store(self.viewer)
        self.map_text = caption(dim=True)
        self.form: FormWithReset[EstimateDepth] = FormWithReset(EstimateDepth, "Parameters")
        self.calibration = CalibrationPanel(self.entry, self.attempt, self.viewer, self.picker.layer)
        self.show_button = QPushButton("Show the surface in 3D")
        self.show_button.setCheckable(True)
        self.show_button.toggled.connect(self._show_surface)
        self.alone = AloneIn3D(self.viewer)
        for widget in (
            QLabel("<b>PSF map</b>"),
            self.map_text,
            self.calibration,
            self.form,
            self.show_button,
        ):
            body.addWidget(widget)
            body.addSpacing(4)
        self.store.changed.connect(self._maps_changed)
        self.viewer.layers.events.removed.connect(self._layer_removed)

    def layer_picked(self) -> None:
        """Offer the layer's map and pixel size."""
        layer = self.picker.layer()
        self.show_button.setChecked(False)
        with suppress(NapariDeblurError):  # said when the user presses the button
            if layer is not None:
                self.calibration.optics.fill(LayerImage.of(layer), layer.metadata)
        self._maps_changed()

    def entry(self) -> MapEntry | None:
        """Return the map that is offered for the layer."""
        layer = self.picker.layer()
        with suppress(NapariDeblurError):
            return self.store.best_for(LayerImage.of(layer)) if layer is not None else None
        return None

    def released(self) -> None:
        """Leave the window as it was, and stop listening to it."""
        self.alone.restore()
        self.viewer.layers.events.removed.disconnect(self._layer_removed)
        self.store.changed.disconnect(self._maps_changed)
        self.calibration.release()

    def prepare(
        self, source: LayerImage, region: Region | None
    ) -> tuple[Callable[[Run], Any], Callable[[Any], None]]:
        """Read the form."""
        del region
        step, calibration = self.form.value(), self.calibration.calibration
        entry = self.store.best_for(source)
        if entry is None:
            raise InvalidInputError("PSF map", "must exist: run the PSF map dock on this image", "none")
        layer = self.picker.layer()
        plane = current_plane(self.viewer, layer) if layer is not None else ()
        psf_map = entry.at(plane)

        def work(run: Run) -> tuple[DepthResult, Surface]:
            image = source.load(Region.whole_plane(source.shape, plane).index)
            result = step.run(psf_map, calibration=calibration, image=image, run=run)
            pixel = result.pixel_size_um or (1.0, 1.0)
            tall = None if result.calibrated else _RELATIVE_HEIGHT * psf_map.image_shape[0] * pixel[0]
            return result, result.surface(pixel_size_um=pixel, relative_height_um=tall)

        def done(found: tuple[DepthResult, Surface]) -> None:
            in_3d = self.show_button.isChecked()
            self.show_button.setChecked(False)
            self._add(source, *found)
            self.show_button.setChecked(in_3d)
            self.show_status(found[0].record.device, found[0].record.seconds)

        return work, done

    def _add(self, source: LayerImage, result: DepthResult, surface: Surface) -> None:
        flat = source.placement.last(2)
        history(self.viewer).add(result.record)

        def about(quantity: str) -> dict[str, Any]:
            more = {"role": "depth", "of": source.name, "quantity": quantity, "calibrated": result.calibrated}
            return provenance(result.record, **more)

        trust, depth, mesh = "depth confidence", f"depth ({result.unit})", _SURFACE
        look = {"colormap": "gray", "contrast_limits": (0, 1), "visible": False}
        put_layer(
            self.viewer,
            "image",
            result.confidence,
            flat,
            name=f"{source.name} · {trust}",
            metadata=about(trust),
            **look,
        )
        put_layer(
            self.viewer,
            "surface",
            (surface.vertices, surface.faces, surface.values),
            surface_placement(flat, result.pixel_size_um),
            name=f"{source.name} · {mesh}",
            metadata=about(mesh),
            colormap="gray",
            contrast_limits=contrast_limits(surface.values),
            shading="none",
        )
        layer = put_layer(
            self.viewer,
            "image",
            result.depth_um,
            flat,
            name=f"{source.name} · {depth}",
            metadata=about(depth),
            colormap="turbo",
            contrast_limits=contrast_limits(result.depth_um),
        )
        layer.colorbar.visible = True

    def _maps_changed(self) -> None:
        if not self._closed:
            entry = self.entry()
            self.map_text.setText(entry.describe() if entry else "None yet: run the PSF map dock first.")

    def surface(self) -> Layer:
        """Return the newest surface of the chosen layer.

        Raises
        ------
        InvalidInputError
            If there is none yet.
        """
        chosen = self.picker.layer()
        wanted = (chosen.name if chosen is not None else None, _SURFACE)
        for layer in reversed(self.viewer.layers):
            about = about_of(layer)
            if (about.get("of"), about.get("quantity")) == wanted:
                return layer
        raise InvalidInputError("surface", "must exist: press Run on this image first", "none")

    def _show_surface(self, on: bool) -> None:
        if not on:
            self.alone.restore()
            return
        self.attempt(lambda: self.alone.show(self.surface()))
        self.show_button.setChecked(self.alone.layer is not None)

    def _layer_removed(self, event: Any) -> None:
        if event.value is self.alone.layer:
            self.show_button.setChecked(False)


def surface_placement(flat: Placement, pixel_size_um: tuple[float, float] | None) -> Placement:
    """Return where a mesh in µm lies over its image.

    Parameters
    ----------
    flat : Placement
        Of the image, axes (y, x).
    pixel_size_um : tuple of float or None
        That the mesh was made with; None stands for pixels.
    """
    unit = flat.units[0]
    um = length_um(1.0, unit)
    if pixel_size_um is None or um is None:
        return flat.with_leading_axis(unit, "z", float(np.mean(flat.scale)))
    scaled = replace(flat, scale=flat.scale / np.asarray(pixel_size_um))
    return scaled.with_leading_axis(unit, "z", 1.0 / um)
