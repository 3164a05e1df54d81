"""What all docks share: layer on top, form in the middle, Preview / Run / Cancel, progress, status."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from napari.utils.notifications import show_error
from qtpy.QtCore import QEvent, Qt, QTimer
from qtpy.QtWidgets import (
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.run import Progress, Run
from napari_deblur.ui.device import NOT_KNOWN_YET, device_line, warm_up
from napari_deblur.ui.layers import LayerImage
from napari_deblur.ui.picker import LayerPicker
from napari_deblur.ui.qt import alive, caption
from napari_deblur.ui.recipe_button import RecipeButton
from napari_deblur.ui.region import Region, preview_region
from napari_deblur.ui.worker import Job, LiveView, Outcome, in_words, job_board, show_failure

if TYPE_CHECKING:
    from napari import Viewer

_NARROWEST_PX = 300
_BAR_STEPS = 1000
_WARM_UP_MS = 500


class StepDock(QWidget):
    """Base of the docks.

    Parameters
    ----------
    napari_viewer : Viewer
        The name is what napari looks for.

    Attributes
    ----------
    facts : str
        What a job found out about its result, set by what it does at its end; empty when one starts.
    """

    title: ClassVar[str]
    help: ClassVar[str] = ""
    has_preview: ClassVar[bool] = True
    uses_engine: ClassVar[bool] = True
    preview_px: ClassVar[int] = 256
    preview_margin_px: ClassVar[int] = 32

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        # napari hands out a proxy whose layers are proxies too, so that `is` no longer holds.
        self.viewer: Viewer = getattr(napari_viewer, "__wrapped__", napari_viewer)
        self.board = job_board()
        self._closed = False
        self._was_docked = False
        self.facts = ""
        self._message_before: str | None = None
        self.setMinimumWidth(_NARROWEST_PX)
        self.picker = LayerPicker(self.viewer)
        self.body = QVBoxLayout()
        self.preview_button = QPushButton("Preview")
        self.run_button = QPushButton("Run")
        self.cancel_button = QPushButton("Cancel")
        self.bar = QProgressBar()
        self.message = caption()
        self.status = caption(device_line(), dim=True)
        self.recipe_button = RecipeButton(self.viewer, self.attempt)
        self._lay_out()
        self.build(self.body)
        self.body.addStretch(1)
        self.preview_button.clicked.connect(self.preview)
        self.run_button.clicked.connect(self.run)
        self.cancel_button.clicked.connect(self.cancel)
        self.picker.picked.connect(self._layer_picked)
        self.board.changed.connect(self._board_changed)
        self.board.progressed.connect(self._progressed)
        self.board.ended.connect(self._ended)
        self._layer_picked()
        self._board_changed()
        if self.uses_engine:
            self._warm = QTimer(self)
            self._warm.setSingleShot(True)
            self._warm.timeout.connect(self._warm_up)
            self._warm.start(_WARM_UP_MS)

    # What a dock adds -------------------------------------------------------------------------------------

    @abstractmethod
    def build(self, body: QVBoxLayout) -> None:
        """Fill the middle of the dock."""

    @abstractmethod
    def prepare(
        self, source: LayerImage, region: Region | None
    ) -> tuple[Callable[[Run], Any], Callable[[Any], None]]:
        """Read the form and return what the worker does and what the window does with its result.

        Parameters
        ----------
        source : LayerImage
        region : Region or None
            The part that a preview takes; None for everything.

        Raises
        ------
        NapariDeblurError
            If the form or the layer breaks a rule.
        """

    def layer_picked(self) -> None:
        """React to another input layer."""

    def released(self) -> None:
        """Let go of whatever outlives the dock."""

    # What the buttons do ----------------------------------------------------------------------------------

    def preview(self) -> None:
        """Run on the part of the image in view."""
        self._start(preview=True)

    def run(self) -> None:
        """Run on the whole layer."""
        self._start(preview=False)

    def cancel(self) -> None:
        """Stop at the next iteration."""
        self.cancel_button.setEnabled(False)
        self.message.setText("Cancelling…")
        self.board.cancel()

    def attempt(self, action: Callable[[], Any]) -> Any:
        """Do something and tell the user what went wrong with it, if anything."""
        try:
            return action()
        except Exception as error:  # as in a slot nobody else would tell the user
            show_failure(error)
        return None

    def refuse(self, error: Exception) -> None:
        """Tell the user why nothing was started."""
        show_failure(error)
        self.message.setText(in_words(error))

    def submit(
        self,
        title: str,
        work: Callable[[Run], Any],
        done: Callable[[Any], None],
        live: LiveView | None = None,
    ) -> bool:
        """Start a job; tells the user if another one runs."""
        if self.board.start(Job(title, work, done, self, live)):
            return True
        show_error("Another napari-deblur job is running: wait for it or cancel it first")
        return False

    def _start(self, *, preview: bool) -> None:
        try:
            layer = self.picker.layer()
            if layer is None:
                raise InvalidInputError("layer", "must be chosen: open an image first", "no image layer")
            source = LayerImage.of(layer)
            region = self.region(layer) if preview else None
            work, done = self.prepare(source, region)
        except Exception as error:  # as in a slot nobody else would tell the user
            self.refuse(error)
            return
        what = "Preview of " if preview else ""
        self.submit(f"{what}{self.title} on {source.name}", work, done, self.live_view(source, region))

    def live_view(self, source: LayerImage, region: Region | None) -> LiveView | None:
        """Return what shows the result so far, where a dock does."""
        return None

    def region(self, layer: Any) -> Region:
        """Return the part that a preview takes."""
        return preview_region(self.viewer, layer, size_px=self.preview_px, margin_px=self.preview_margin_px)

    # Progress ---------------------------------------------------------------------------------------------

    def show_status(self, device: str, seconds: float) -> None:
        """Show what computed and how long it took."""
        self.status.setText(f"{device} · {seconds:.2g} s" if seconds < 10 else f"{device} · {seconds:.0f} s")

    def _board_changed(self) -> None:
        if self._closed or not alive(self):
            return
        job = self.board.current
        mine = job is not None and job.owner is self
        self.run_button.setEnabled(job is None)
        self.preview_button.setEnabled(job is None)
        self.cancel_button.setEnabled(mine)
        if mine:
            self.facts = ""
        if job is not None:
            self.bar.setValue(0)
            self.bar.setVisible(mine)
            if not mine and self._message_before is None:
                self._message_before = self.message.text()
            self.message.setText(f"{job.title}…" if mine else f"Busy: {job.title}")
        else:
            self.bar.setVisible(False)
            if self._message_before is not None:
                self.message.setText(self._message_before)
            self._message_before = None

    def _progressed(self, job: Job, progress: Progress) -> None:
        if self._closed or job.owner is not self or job is not self.board.current:
            return
        self.bar.setValue(round(_BAR_STEPS * progress.fraction))
        if not job.run.cancelled:
            self.message.setText(progress.message)

    def _ended(self, outcome: Outcome) -> None:
        if self._closed or outcome.job.owner is not self:
            return
        if outcome.error is None:
            lines = [self.facts, *outcome.job.run.notes]
            self.message.setText("\n".join(line for line in lines if line) or "Done")
        else:
            self.message.setText(in_words(outcome.error))

    def _warm_up(self) -> None:
        """Load the engine once the dock is drawn, so that the first preview need not."""
        if not self._closed:
            warm_up(self._found_device)

    def _found_device(self, line: str) -> None:
        if not self._closed and self.status.text() == NOT_KNOWN_YET:
            self.status.setText(line)

    # Life -------------------------------------------------------------------------------------------------

    def _layer_picked(self) -> None:
        if not self._closed:
            self.layer_picked()

    def event(self, event: QEvent | None) -> bool:
        """Notice that the dock was closed: napari takes this widget out of it and forgets it."""
        if event is not None and event.type() == QEvent.Type.ParentChange:
            if self.parent() is not None:
                self._was_docked = True
            elif self._was_docked and not self._closed:
                self.release()
                self.deleteLater()
        return super().event(event)  # type: ignore[arg-type] # PySide's stub knows no None, PyQt's does

    def release(self) -> None:
        """Cancel the dock's job and let go of the viewer."""
        if self._closed:
            return
        self._closed = True
        self.board.drop(self)
        self.board.changed.disconnect(self._board_changed)
        self.board.progressed.disconnect(self._progressed)
        self.board.ended.disconnect(self._ended)
        self.released()
        self.picker.release()

    def _lay_out(self) -> None:
        layout = QVBoxLayout(self)
        if self.help:
            layout.addWidget(caption(self.help, dim=True))
        top = QFormLayout()
        top.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        top.addRow("Image", self.picker)
        layout.addLayout(top)
        inner = QWidget()
        inner.setLayout(self.body)
        self.body.setContentsMargins(0, 0, 6, 0)
        self.scroller = QScrollArea()
        self.scroller.setWidget(inner)
        self.scroller.setWidgetResizable(True)
        self.scroller.setFrameShape(QFrame.Shape.NoFrame)
        self.scroller.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        layout.addWidget(self.scroller, 1)
        buttons = QHBoxLayout()
        self.preview_button.setVisible(self.has_preview)
        self.preview_button.setToolTip(
            "Run on the middle of the view, or on a rectangle drawn in the active Shapes layer"
        )
        for button in (self.preview_button, self.run_button, self.cancel_button):
            buttons.addWidget(button)
        layout.addLayout(buttons)
        self.bar.setRange(0, _BAR_STEPS)
        self.bar.setTextVisible(False)
        self.bar.setVisible(False)
        layout.addWidget(self.bar)
        layout.addWidget(self.message)
        foot = QHBoxLayout()
        foot.addWidget(self.status, 1)
        foot.addWidget(self.recipe_button)
        layout.addLayout(foot)
