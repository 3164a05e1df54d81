"""Calibration of depth: made from a map, from optics, or from a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from qtpy.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QPushButton, QVBoxLayout, QWidget

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.params import Declared, Param
from napari_deblur.steps.calibration import DepthCalibration
from napari_deblur.ui.forms import Form
from napari_deblur.ui.known_points import KnownPoints
from napari_deblur.ui.maps import MapEntry
from napari_deblur.ui.optics_panel import OpticsPanel
from napari_deblur.ui.qt import Signal, WheelGuard, caption, collapsible

if TYPE_CHECKING:
    from napari import Viewer
    from napari.layers import Layer

_FILTER = "Depth calibration (*.json)"
_NONE = "None: the depth is relative, without a unit."


class TiltedPlane(Declared):
    """What is known of a flat sample that is tilted on purpose."""

    kind: Literal["tilted-plane"] = "tilted-plane"
    tilt_deg: float = Param(
        gt=0, le=80, step=0.5, title="Tilt", help="Angle between the sample and the focal plane.", unit="°"
    )
    azimuth_deg: float = Param(
        90.0,
        ge=-360,
        le=360,
        step=5.0,
        title="Falls towards",
        help="Where the sample goes away from the objective: 0 to the right, 90 down the image.",
        unit="°",
    )
    fit_azimuth: bool = Param(
        False,
        title="Refine direction",
        help="Find the direction from the map; the above tells which way round.",
    )

    def calibrate(self, entry: MapEntry) -> DepthCalibration:
        """Fit a calibration to the map of such a sample."""
        return DepthCalibration.from_tilted_plane(
            entry.maps[0],
            tilt_deg=self.tilt_deg,
            azimuth_deg=self.azimuth_deg,
            fit_azimuth=self.fit_azimuth,
            pixel_size_um=entry.placement.sizes_um()[0],
        )


class FocusStack(Declared):
    """A flat sample at several distances, one plane of a stack for each."""

    kind: Literal["focus-stack"] = "focus-stack"
    first_um: float = Param(
        title="First plane",
        help="Depth of the sample in the first plane, negative before focus.",
        ge=-100_000,
        step=0.5,
        unit="µm",
    )
    step_um: float = Param(
        title="Step", help="Change of depth from plane to plane.", ge=-100_000, step=0.1, unit="µm"
    )

    def calibrate(self, entry: MapEntry) -> DepthCalibration:
        """Fit a calibration to the maps of every plane."""
        if not entry.per_plane:
            raise InvalidInputError("PSF map", "must cover every plane of the stack", "one plane")
        depths = [self.first_um + index * self.step_um for index in range(len(entry.maps))]
        return DepthCalibration.from_stack(entry.maps, depths)


class LensAxis(Declared):
    """The cylinder lens's axis, for calibrating by theory alone."""

    kind: Literal["lens-axis"] = "lens-axis"
    axis_deg: float = Param(
        title="Lens axis",
        help="Axis of astigmatism for what lies beyond focus.",
        ge=0,
        le=180,
        step=1.0,
        unit="°",
    )


class CalibrationPanel(QWidget):
    """Shows the calibration in use and makes new ones.

    Parameters
    ----------
    entry : callable
        Returns the PSF map to fit to, or None.
    attempt : callable
        Runs an action and shows its errors.
    viewer : Viewer
        Where points of known depth are clicked.
    layer : callable
        Returns the image layer, or None.
    """

    changed = Signal()

    def __init__(
        self,
        entry: Callable[[], MapEntry | None],
        attempt: Callable[[Callable[[], object]], object],
        viewer: Viewer,
        layer: Callable[[], Layer | None],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._entry, self._attempt = entry, attempt
        self.points = KnownPoints(viewer, layer, attempt)
        self.calibration: DepthCalibration | None = None
        self.text = caption(_NONE)
        self.kind = QComboBox()
        self._guard = WheelGuard(self)
        self._guard.guard(self.kind)
        self.tilted: Form[TiltedPlane] = Form(TiltedPlane)
        self.stack: Form[FocusStack] = Form(FocusStack)
        self.lens: Form[LensAxis] = Form(LensAxis)
        self.optics = OpticsPanel()
        self.fit_button, self.load_button = QPushButton("Calibrate"), QPushButton("Load…")
        self.save_button, self.clear_button = QPushButton("Save…"), QPushButton("None")
        self._lay_out()
        self.fit_button.clicked.connect(lambda _checked: self._attempt(self.fit))
        self.load_button.clicked.connect(self._ask_load)
        self.save_button.clicked.connect(self._ask_save)
        self.clear_button.clicked.connect(lambda _checked: self.use(None))
        self.kind.currentIndexChanged.connect(self._show_kind)
        self._show_kind()
        self.use(None)

    def use(self, calibration: DepthCalibration | None) -> None:
        """Take a calibration, or none."""
        self.calibration = calibration
        self.text.setText(_NONE if calibration is None else describe(calibration))
        self.save_button.setEnabled(calibration is not None)
        self.clear_button.setEnabled(calibration is not None)
        self.changed.emit()

    def fit(self) -> DepthCalibration:
        """Make a calibration from what the form says.

        Raises
        ------
        InvalidInputError
            If there is no map yet, or it does not show what the form claims.
        """
        kind = self.kind.currentData()
        if kind == "optics":
            optics = self.optics.value()
            assert optics is not None
            made = DepthCalibration.from_optics(optics, axis_deg=self.lens.value().axis_deg)
        else:
            entry = self._entry()
            if entry is None:
                raise InvalidInputError("PSF map", "must exist: run the PSF map dock on this image", "none")
            made = self._maker(kind).calibrate(entry)
        self.use(made)
        return made

    def _maker(self, kind: str) -> TiltedPlane | KnownPoints | FocusStack:
        if kind == "points":
            return self.points
        return self.tilted.value() if kind == "tilted" else self.stack.value()

    def release(self) -> None:
        """Let go of the viewer."""
        self.points.release()

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(caption("<b>Calibration</b>"))
        layout.addWidget(self.text)
        buttons = QHBoxLayout()
        for button in (self.load_button, self.save_button, self.clear_button):
            buttons.addWidget(button)
        layout.addLayout(buttons)
        self.maker = collapsible("Make a calibration")
        inside = QWidget()
        column = QVBoxLayout(inside)
        column.setContentsMargins(0, 0, 0, 0)
        for title, key in (
            ("This image shows a tilted plane", "tilted"),
            ("I click a plane where I know its depth", "points"),
            ("This stack shows a plane at known depths", "stack"),
            ("From the optics alone", "optics"),
        ):
            self.kind.addItem(title, key)
        self.kind.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        for widget in (
            self.kind,
            self.tilted,
            self.points,
            self.stack,
            self.lens,
            self.optics,
            self.fit_button,
        ):
            column.addWidget(widget)
        self.maker.addWidget(inside)
        layout.addWidget(self.maker)

    def _show_kind(self, _index: int = 0) -> None:
        kind = self.kind.currentData()
        self.tilted.setVisible(kind == "tilted")
        self.points.setVisible(kind == "points")
        self.stack.setVisible(kind == "stack")
        self.lens.setVisible(kind == "optics")
        self.optics.setVisible(kind == "optics")

    def _ask_load(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "Load a depth calibration", "", _FILTER)
        if path:
            self._attempt(lambda: self.use(DepthCalibration.load(path)))

    def _ask_save(self) -> None:
        calibration = self.calibration
        path, _ = QFileDialog.getSaveFileName(self, "Save the calibration", "calibration.json", _FILTER)
        if path and calibration is not None:
            target = Path(path).with_suffix(".json")
            self._attempt(lambda: calibration.save(target, overwrite=True))


def describe(calibration: DepthCalibration) -> str:
    """Return a line about a calibration."""
    source = str(calibration.source.get("kind", "file"))
    low, high = calibration.depth_range_um
    spread = f", ± {calibration.residual_um:.2g} µm" if calibration.residual_um is not None else ""
    over = "" if source == "optics" else f", {low:.3g} to {high:.3g} µm"
    return f"From {source}, {calibration.model}{over}{spread}"
