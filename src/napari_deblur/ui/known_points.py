"""Points of known depth, clicked in the image: what a tilted plane calibrates by when its tilt is unknown."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from qtpy.QtWidgets import QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.params import Declared, Param
from napari_deblur.steps.calibration import DepthCalibration
from napari_deblur.steps.known_plane import KnownPlane, plane_through
from napari_deblur.ui.forms import Form
from napari_deblur.ui.layers import METADATA_KEY, Placement
from napari_deblur.ui.maps import MapEntry, position_in
from napari_deblur.ui.qt import caption
from napari_deblur.ui.results import put_layer

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

_HINT = "Give a depth, press Click and click the image there. Three points or more, not on one line."


class NextDepth(Declared):
    """Depth of the point that is clicked next."""

    kind: Literal["next-depth"] = "next-depth"
    depth_um: float = Param(
        0.0,
        ge=-100_000,
        le=100_000,
        step=1.0,
        title="Depth",
        help="Of the point that you click next; positive away from the objective.",
        unit="µm",
    )


class KnownPoints(QWidget):
    """Collects clicks, shows them as a Points layer, and fits the plane through them.

    Parameters
    ----------
    viewer : Viewer
    layer : callable
        Returns the image layer that is clicked, or None.
    attempt : callable
        Runs an action and shows its errors.
    """

    def __init__(
        self,
        viewer: Viewer,
        layer: Callable[[], Layer | None],
        attempt: Callable[[Callable[[], object]], object],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.viewer, self._layer, self._attempt = viewer, layer, attempt
        self.points: list[tuple[float, float]] = []
        self.depths_um: list[float] = []
        self.form: Form[NextDepth] = Form(NextDepth)
        self.click_button = QPushButton("Click")
        self.click_button.setCheckable(True)
        self.click_button.setToolTip("While pressed, a click in the image marks a point of the depth above")
        self.undo_button, self.clear_button = QPushButton("Undo"), QPushButton("Clear")
        self.text = caption(_HINT, dim=True)
        row = QHBoxLayout()
        for button in (self.click_button, self.undo_button, self.clear_button):
            row.addWidget(button)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.form)
        layout.addLayout(row)
        layout.addWidget(self.text)
        self.undo_button.clicked.connect(lambda _checked: self.keep(len(self.points) - 1))
        self.clear_button.clicked.connect(lambda _checked: self.keep(0))
        viewer.mouse_drag_callbacks.append(self._mouse)
        self._refresh()

    def release(self) -> None:
        """Stop listening to the mouse."""
        callbacks = self.viewer.mouse_drag_callbacks
        callbacks[:] = [callback for callback in callbacks if callback != self._mouse]

    def add(self, y: float, x: float) -> None:
        """Mark a point, in pixels of the image, with the depth that the form says."""
        depth = self.form.value().depth_um
        self.points.append((y, x))
        self.depths_um.append(depth)
        self._refresh()

    def keep(self, count: int) -> None:
        """Forget all but the first points."""
        del self.points[max(0, count) :], self.depths_um[max(0, count) :]
        self._refresh()

    def plane(self, entry: MapEntry) -> KnownPlane:
        """Return the plane through the points.

        Raises
        ------
        InvalidInputError
            If the points do not say what a plane is, or the layer's pixels have no size in µm.
        """
        pixel = entry.placement.sizes_um()[0]
        if pixel is None:
            raise InvalidInputError("pixel_size_um", "is needed: give the layer a scale in µm", "pixels")
        return plane_through(self.points, self.depths_um, pixel)

    def calibrate(self, entry: MapEntry) -> DepthCalibration:
        """Fit a calibration to the map, the sample being the plane through the points."""
        plane = self.plane(entry)
        self.text.setText(
            f"{len(self.points)} points: tilt {plane.tilt_deg:.3g}°, "
            f"falling towards {plane.azimuth_deg:.3g}°, ± {plane.residual_um:.2g} µm"
        )
        return DepthCalibration.from_tilted_plane(
            entry.maps[0],
            tilt_deg=plane.tilt_deg,
            azimuth_deg=plane.azimuth_deg,
            pixel_size_um=entry.placement.sizes_um()[0],
            zero_at_px=plane.zero_at_px,
        )

    def _mouse(self, viewer: Viewer, event: Any) -> Generator[None, None, None]:
        moved = False
        yield
        while event.type == "mouse_move":
            moved = True
            yield
        layer = self._layer()
        wanted = self.click_button.isChecked() and self.isVisibleTo(self.window())
        if wanted and not moved and layer is not None and viewer.dims.ndisplay == 2:
            self._attempt(lambda: self._clicked(layer, event.position))

    def _clicked(self, layer: Layer, world: Any) -> None:
        _, y, x = position_in(self.viewer, layer, world)
        shape = layer.data[0].shape if layer.multiscale else layer.data.shape
        height, width = shape[-2:]
        if not (-0.5 <= y <= height - 0.5 and -0.5 <= x <= width - 0.5):
            raise InvalidInputError("point", "must lie inside the image", (round(y, 1), round(x, 1)))
        self.add(y, x)

    def _refresh(self) -> None:
        self.undo_button.setEnabled(bool(self.points))
        self.clear_button.setEnabled(bool(self.points))
        depths = ", ".join(f"{depth:g}" for depth in self.depths_um)
        self.text.setText(f"{len(self.points)} points at {depths} µm" if self.points else _HINT)
        self._show()

    def _show(self) -> None:
        layer = self._layer()
        name = layer.name if layer is not None else ""
        about = {METADATA_KEY: {"role": "overlay", "of": name, "quantity": "known depths"}}
        if not self.points or layer is None:
            for old in list(self.viewer.layers):
                if old.metadata.get(METADATA_KEY, {}).get("quantity") == "known depths":
                    self.viewer.layers.remove(old)
            return
        selected = self.viewer.layers.selection.active
        shown = put_layer(
            self.viewer,
            "points",
            np.asarray(self.points),
            Placement.of(layer).last(2),
            name=f"{name} · known depths",
            metadata=about,
            symbol="cross",
            size=max(6.0, min(layer.data.shape[-2:]) / 60),
            face_color="yellow",
        )
        shown.features = {"depth_um": np.asarray(self.depths_um)}
        shown.text = {"string": "{depth_um:g} µm", "color": "yellow", "anchor": "upper_left"}
        self.viewer.layers.selection.active = selected
