"""The dock that removes the background."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from qtpy.QtWidgets import QVBoxLayout

from napari_deblur.core.run import Run
from napari_deblur.steps.background import RemoveBackground
from napari_deblur.ui.below import keep_below
from napari_deblur.ui.dock import StepDock
from napari_deblur.ui.forms import FormWithReset
from napari_deblur.ui.layers import LayerImage
from napari_deblur.ui.region import Region
from napari_deblur.ui.results import Result, add_results, look_of

if TYPE_CHECKING:
    from napari_deblur.steps.background import BackgroundResult


class BackgroundDock(StepDock):
    """Background removal: foreground and background as new layers."""

    title: ClassVar[str] = "Background"
    uses_engine: ClassVar[bool] = False
    help: ClassVar[str] = "Splits an image into foreground and smooth background."
    # The coarsest wavelets reach far: to agree with the whole, a preview is computed on more than it shows.
    preview_margin_px: ClassVar[int] = 384

    def build(self, body: QVBoxLayout) -> None:
        """Add the step's form."""
        self.form: FormWithReset[RemoveBackground] = FormWithReset(RemoveBackground, "Parameters")
        body.addWidget(self.form)

    def prepare(
        self, source: LayerImage, region: Region | None
    ) -> tuple[Callable[[Run], Any], Callable[[Any], None]]:
        """Read the form."""
        step = self.form.value()
        layer = self.picker.layer()
        look = look_of(layer) if layer is not None else {}

        def work(run: Run) -> BackgroundResult:
            return step.run(source.checked(region), run)

        def done(result: BackgroundResult) -> None:
            background = Result(result.background.data, "background", look=look)
            foreground = Result(result.image.data, "foreground", look=look)
            added = add_results(self.viewer, source, region, result.record, [background, foreground])
            if region is None:
                keep_below(added[-1], result.clipped.data)
            self.show_status(result.record.device, result.record.seconds)

        return work, done
