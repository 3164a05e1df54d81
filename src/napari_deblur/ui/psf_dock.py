"""What the docks that deblur have in common: where the PSF comes from, and whether volumes are restored."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from qtpy.QtWidgets import QCheckBox, QPushButton, QVBoxLayout

from napari_deblur.core.errors import NapariDeblurError
from napari_deblur.core.run import Run
from napari_deblur.optics.psf_basis import PsfBasis
from napari_deblur.optics.psf_map import PsfMap
from napari_deblur.ui.device import engine_on, wanted_device
from napari_deblur.ui.dock import StepDock
from napari_deblur.ui.layers import LayerImage
from napari_deblur.ui.psf_panel import FILE, LAYER, MAP, OPTICS, PsfPanel
from napari_deblur.ui.psf_view import PsfViewer
from napari_deblur.ui.region import Region, current_plane, preview_region
from napari_deblur.ui.worker import show_failure

if TYPE_CHECKING:
    from napari_deblur.core.params import Declared
    from napari_deblur.methods.base import Method

_DEEP_SOURCES = (OPTICS, FILE, LAYER)


def _has_volumes(source: LayerImage) -> bool:
    """Tell whether a layer has a z axis with more than one plane."""
    return "z" in source.axes and source.shape[source.axes.index("z")] > 1


class PsfDock(StepDock):
    """Base of the docks that deblur with a PSF."""

    preview_margin_px: ClassVar[int] = 48
    preview_box_px: ClassVar[int] = 96
    preview_box_margin_px: ClassVar[int] = 32
    preview_box_planes: ClassVar[int] = 6
    preview_box_margin_planes: ClassVar[int] = 8
    source: LayerImage | None = None

    @property
    @abstractmethod
    def methods(self) -> list[type[Declared]]:
        """Classes of the methods that would be run."""

    @abstractmethod
    def a_method(self) -> Method:
        """Return a method that would be run.

        Raises
        ------
        InvalidInputError
            If its form breaks a rule, or none is chosen.
        """

    def build_psf(self, body: QVBoxLayout) -> None:
        """Add where the PSF comes from."""
        self.psf = PsfPanel(self.viewer)
        self.deep = QCheckBox("In 3D, over the z axis")
        self.deep.setToolTip("Restore the stack as a volume with a PSF in 3D, instead of plane by plane")
        self.show_button = QPushButton("Show the PSF")
        self.show_button.setToolTip("Compute or read the PSF as it will be used, with its widths")
        self.viewer_of_psf = PsfViewer()
        for widget in (self.psf, self.deep, self.show_button, self.viewer_of_psf):
            body.addWidget(widget)
        self.show_button.clicked.connect(self.show_psf)
        for signal in (self.psf.changed, self.psf.optics.changed, self.deep.toggled):
            signal.connect(self.chosen)

    def layer_picked(self) -> None:
        """Offer the layer's map and what it knows of the optics."""
        layer = self.picker.layer()
        try:
            source = LayerImage.of(layer) if layer is not None else None
        except NapariDeblurError:
            source = None  # said when the user presses a button
        self.source = source
        self.deep.setChecked(source is not None and _has_volumes(source) and source.z_step_um is not None)
        self.psf.set_source(source, layer.metadata if layer is not None else None)
        self.chosen()

    @property
    def volumes(self) -> bool:
        """Whether the PSF may have a z axis: the user wants it, and layer, method and source know it."""
        return self._can_be_deep() and self.deep.isChecked()

    def _can_be_deep(self) -> bool:
        if self.source is None or not _has_volumes(self.source):
            return False
        known = any(3 in getattr(method, "ndim", ()) for method in self.methods)
        return known and self.psf.current in _DEEP_SOURCES

    def chosen(self, _value: Any = None) -> None:
        """React to any choice: offer 3D where it has a meaning."""
        self.deep.setVisible(self._can_be_deep())
        self.psf.set_volumes(self.volumes)
        self.show_button.setVisible(self.psf.current in (*_DEEP_SOURCES, MAP))

    def region(self, layer: Any) -> Region:
        """Return the part that a preview takes: a box of a few planes where volumes are restored."""
        if not self.volumes or self.source is None:
            return super().region(layer)
        flat = preview_region(
            self.viewer, layer, size_px=self.preview_box_px, margin_px=self.preview_box_margin_px
        )
        axis = self.source.axes.index("z")
        return flat.with_planes(
            axis, self.source.shape[axis], self.preview_box_planes, self.preview_box_margin_planes
        )

    def show_psf(self) -> None:
        """Show the PSF as it will be used."""
        source, layer = self.source, self.picker.layer()
        if source is None or layer is None:
            return
        volumes, wanted = self.volumes, wanted_device()
        plane = current_plane(self.viewer, layer)
        try:
            method = self.a_method()
            choice = self.psf.value(None, plane, volumes=volumes)
        except NapariDeblurError as error:
            show_failure(error)
            return

        entry = self.psf.entry() if self.psf.current == MAP else None

        def work(run: Run) -> Any:
            from napari_deblur.steps.psf_source import resolve

            one = entry.at(plane) if entry is not None else choice.load()
            # In a basis the blur is found in the pixels; all else needs the image's sizes only.
            seen = isinstance(one, PsfBasis)
            image = source.checked(Region.whole_plane(source.shape, plane)) if seen else source.stub()
            found = resolve(
                one, image, 0, method=method, engine=engine_on(wanted), run=run, optics=choice.optics
            ).psf
            middle = [(size - 1) / 2 for size in source.shape[-2:]]
            return found.psf_at(*middle) if isinstance(found, PsfMap) else found

        self.submit(f"PSF of {source.name}", work, partial(self.show_kernel, source=source))

    def show_kernel(self, psf: Any, source: LayerImage) -> None:
        """Show a kernel at the scale of the voxels of the layer that it was used on."""
        if self._closed or not isinstance(psf, np.ndarray):
            return
        image = source.stub()
        self.viewer_of_psf.show_psf(psf, image.voxel_size_um if psf.ndim == 3 else image.pixel_size_um)

    def released(self) -> None:
        """Let go of the viewer."""
        self.psf.release()
