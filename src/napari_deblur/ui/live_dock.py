"""The dock in which the blur's parameters slide and the restored image follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QFormLayout, QVBoxLayout, QWidget
from superqt import QLabeledDoubleSlider

from napari_deblur.core.errors import NapariDeblurError
from napari_deblur.core.params import parameters
from napari_deblur.core.run import Run
from napari_deblur.engine.tiling import ALIGN_PX
from napari_deblur.methods.latent_deformation import LatentDeformation
from napari_deblur.methods.latent_image import NETWORKS, LatentImage, available, sampling
from napari_deblur.steps.deblur import Deblur
from napari_deblur.steps.deblur_solve import settle_window
from napari_deblur.ui.device import engine_on, wanted_device
from napari_deblur.ui.dock import StepDock
from napari_deblur.ui.layers import LayerImage
from napari_deblur.ui.qt import Signal, WheelGuard, caption
from napari_deblur.ui.region import Region, current_plane
from napari_deblur.ui.results import Result, add_results, look_of
from napari_deblur.ui.worker import Job

if TYPE_CHECKING:
    from napari_deblur.steps.deblur import DeblurResult

_TITLES = {
    "zone-plate": "Zone plate",
    "defocus": "Objective, defocus",
    "astigmatism": "Objective, astigmatism",
}
_START_AT = 0.3
_DECIMALS = 2


class ParameterSliders(QWidget):
    """One slider for every parameter that a network is told.

    Parameters
    ----------
    parent : QWidget, optional
    """

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._rows = QFormLayout(self)
        self._rows.setContentsMargins(0, 0, 0, 0)
        self._guard = WheelGuard(self)
        self.sliders: dict[str, QLabeledDoubleSlider] = {}
        self._made: dict[str, QLabeledDoubleSlider] = {}

    def show_parameters(self, told: dict[str, dict[str, Any]]) -> None:
        """Offer parameters as a network's card describes them; what stays keeps its value."""
        for name in self._made:
            self._rows.setRowVisible(self._made[name], name in told)
        self.sliders = {name: self._slider(name, about) for name, about in told.items()}

    def _slider(self, name: str, about: dict[str, Any]) -> QLabeledDoubleSlider:
        """Return the slider of a parameter, made at its first use and then only hidden."""
        low, high = about["range"]
        if name in self._made:
            self._made[name].setRange(low, high)
            return self._made[name]
        title = LatentDeformation.model_fields[name].title
        slider = QLabeledDoubleSlider(Qt.Orientation.Horizontal)
        slider.setRange(low, high)
        slider.setDecimals(_DECIMALS)
        slider.setSingleStep((high - low) / 100)
        slider.setValue(low + _START_AT * (high - low))
        slider.setToolTip(f"{title} in {about['unit']}, over the range that the network knows")
        slider.valueChanged.connect(self._moved)
        self._guard.guard(slider)
        self._rows.addRow(f"{title} ({about['unit']})", slider)
        self._made[name] = slider
        return slider

    def values(self) -> dict[str, float]:
        """Return the parameters by name."""
        return {name: float(slider.value()) for name, slider in self.sliders.items()}

    def in_words(self, values: dict[str, float]) -> str:
        """Return parameters with their titles and units."""
        fields = parameters(LatentDeformation)
        return ", ".join(
            f"{field.title.lower()} {values[field.name]:.3g} {field.unit}"
            for field in fields
            if field.name in values
        )

    def _moved(self, _value: float) -> None:
        self.changed.emit()


@dataclass(frozen=True, eq=False)
class _Encoded:
    """An image behind the encoder, and what of which layer it is."""

    key: tuple[Any, ...]
    latent: LatentImage


class LiveDock(StepDock):
    """Live defocus: a part of the image follows the sliders; Run restores the whole layer."""

    title: ClassVar[str] = "Live defocus"
    help: ClassVar[str] = "Slide the defocus until the image is sharp: a trained network follows at once."
    preview_px: ClassVar[int] = 384
    preview_margin_px: ClassVar[int] = 160

    def build(self, body: QVBoxLayout) -> None:
        """Add the choice of a network and its sliders."""
        self.combo = QComboBox()
        self.combo.setMinimumContentsLength(12)
        self.combo.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._guard = WheelGuard(self)
        self._guard.guard(self.combo)
        self.sliders = ParameterSliders()
        self.about = caption(dim=True)
        row = QFormLayout()
        row.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        row.addRow("Blur", self.combo)
        body.addLayout(row)
        for widget in (self.sliders, self.about):
            body.addWidget(widget)
        self._encoded: _Encoded | None = None
        self._region: Region | None = None
        self._wanted = False
        self._offer_networks()
        self.combo.currentIndexChanged.connect(self._network_chosen)
        self.sliders.changed.connect(self.follow)
        self.board.changed.connect(self._next)

    def _offer_networks(self) -> None:
        try:
            names = available()
        except NapariDeblurError as error:
            self.about.setText(f"No network for this is installed: {error}")
            return
        for name in names:
            self.combo.addItem(_TITLES[name], name)
        self._network_chosen()

    @property
    def network(self) -> str:
        """Name of the chosen network."""
        chosen = self.combo.currentData()
        if chosen is None:
            available()  # says which there are
        return str(chosen)

    def _network_chosen(self, _index: int = 0) -> None:
        from napari_deblur.nets.weights import find_model

        card = find_model(NETWORKS[self.network]).card
        self.sliders.show_parameters(card["told"])
        self.about.setText(f"{sampling(card)} Pixels are made by a trained network.".strip())
        if self._region is not None:
            self.follow()

    # The live part ----------------------------------------------------------------------------------------

    def region(self, layer: Any) -> Region:
        """Return the part in view, read from a place on where the network's grid is the whole image's too."""
        found = super().region(layer)
        top, left = found.read_top % ALIGN_PX, found.read_left % ALIGN_PX
        return replace(
            found,
            read_top=found.read_top - top,
            read_left=found.read_left - left,
            read_height=found.read_height + top,
            read_width=found.read_width + left,
        )

    def layer_picked(self) -> None:
        """Forget what was encoded of another layer."""
        self._encoded = self._region = None

    def preview(self) -> None:
        """Take the part in view anew, and restore it."""
        self._encoded = self._region = None
        if self.picker.layer() is None:
            super().preview()  # says that there is none; sliders that move without an image need not
            return
        self.follow()

    def follow(self) -> None:
        """Restore the part in view for the sliders as they are now, as soon as nothing else runs.

        However fast the sliders move, only their last position waits.
        """
        self._wanted = True
        self._next()

    def _next(self) -> None:
        if not self._wanted or self._closed or self.board.busy:
            return
        self._wanted = False
        try:
            layer = self.picker.layer()
            if layer is None:
                return
            source = LayerImage.of(layer)
            if self._region is None or self._region.plane != current_plane(self.viewer, layer):
                self._region = self.region(layer)
            work, done = self.prepare(source, self._region)
        except Exception as error:  # as in a slot nobody else would tell the user
            self.refuse(error)
            return
        self.board.start(Job(f"Live defocus of {source.name}", work, done, self))

    def prepare(
        self, source: LayerImage, region: Region | None
    ) -> tuple[Callable[[Run], Any], Callable[[Any], None]]:
        """Read the sliders; a region is encoded once, a whole layer goes through the step as always."""
        if region is None:
            return self._whole(source)
        network, values, wanted = self.network, self.sliders.values(), wanted_device()
        key = (source.layer_id, id(source.data), region, network, wanted)
        known = self._encoded if self._encoded is not None and self._encoded.key == key else None
        layer = self.picker.layer()
        look = look_of(layer) if layer is not None else {}

        def work(run: Run) -> Any:
            engine = engine_on(wanted)
            with engine.job(run):
                run.step(0, 2, "encoding" if known is None else "decoding")
                encoded = known or _Encoded(key, _encode(source, region, network, engine.device))
                return encoded, encoded.latent.restored(**values)

        def done(found: Any) -> None:
            self._encoded, image = found
            shape = (*(1,) * (len(source.shape) - 2), *image.shape)
            sha256 = self._encoded.latent.sha256
            record = {"method": LatentDeformation.model_fields["kind"].default, "learned": True}
            record |= {"network": network, "parameters": values, "weights": {NETWORKS[network]: sha256}}
            title = f"{self.title} (learned)"
            add_results(self.viewer, source, region, record, [Result(image.reshape(shape), title, look=look)])
            self.facts = f"Restored for {self.sliders.in_words(values)}"

        return work, done

    def _whole(self, source: LayerImage) -> tuple[Callable[[Run], Any], Callable[[Any], None]]:
        method = LatentDeformation(network=self.network, **self.sliders.values())
        step, wanted = Deblur(method=method), wanted_device()
        layer = self.picker.layer()
        look = look_of(layer) if layer is not None else {}

        def work(run: Run) -> DeblurResult:
            return step.run(source.checked(None), None, engine=engine_on(wanted), run=run)

        def done(result: DeblurResult) -> None:
            title = method.label + (" (cancelled)" if result.partial else "")
            add_results(
                self.viewer, source, None, result.record, [Result(result.image.data, title, look=look)]
            )
            self.facts = "pixels made by a trained network"
            self.show_status(result.record.device, result.record.seconds)

        return work, done

    def released(self) -> None:
        """Forget the encoded image."""
        self._wanted = False
        self._encoded = None
        self.board.changed.disconnect(self._next)


def _encode(source: LayerImage, region: Region, network: str, device: str) -> LatentImage:
    """Read and encode a region, by mean, contrast and noise of the part that a run measures them on."""
    image = source.checked(region).data
    plane = image.reshape(image.shape[-2:])
    window = settle_window(source.shape[-2:])
    index = (*(slice(i, i + 1) for i in region.plane), *window)
    middle = source.load(index).data
    whole = np.asarray(middle).reshape(middle.shape[-2:])
    return LatentImage.of(plane, network, device, whole=whole)
