"""Optional optical settings, filled from the layer as far as it knows them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

from qtpy.QtWidgets import QCheckBox, QVBoxLayout, QWidget

from napari_deblur.optics.settings import VOLUME_FIELDS, Optics
from napari_deblur.ui.forms import Form
from napari_deblur.ui.layers import METADATA_KEY, LayerImage
from napari_deblur.ui.qt import Signal

_SQUARE = 0.01
# Names under which files and readers give what we ask for, in lower case without signs between words.
_NAMES = {
    "na": ("na", "lensna", "nominalna", "numericalaperture", "objectivena"),
    "wavelength_um": ("emissionwavelength", "emissionwavelengthnm", "emwavelength", "wavelengthum"),
    "refractive_index": ("refractiveindex", "immersionindex", "mediumrefractiveindex"),
}
_CHANNEL_NAMES = ("name", "channelname", "label")
_SHORTEST_IN_NM = 100
# Metadata of OME-XML as a dictionary: ome / OME / Image / one of them / Pixels / Channel / one of them.
_DEEPEST = 8
# A value, None where a channel has none while others have, and the channel's name, empty where it has none.
_Hit = tuple[float | None, str]


def known_optics(metadata: Mapping[Any, Any], layer_name: str = "") -> dict[str, float]:
    """Return what a layer's metadata says of NA, wavelength and index, wherever it says so.

    Readers give every channel of a file the metadata of the whole file. Where values differ, that of the
    channel is taken after which the layer is named; without one nothing is said, as any would be a guess.

    Parameters
    ----------
    metadata : mapping
        Nested to any reader's liking; wavelengths of 100 and more are in nm.
    layer_name : str
        Tells which channel of the file the layer is, where it holds the channel's name.

    Returns
    -------
    dict of float
        Some of ``na``, ``wavelength_um`` and ``refractive_index``.
    """
    own = metadata.get(METADATA_KEY)
    found: dict[str, float] = {}
    for place in (own, metadata):
        for name, words in _NAMES.items():
            if name in found:
                continue
            hits = list(_search(place, words, _DEEPEST))
            values = {value for value, _ in hits}
            if len(values) > 1:
                values = _of_channel(hits, layer_name)
            value = next(iter(values)) if len(values) == 1 else None
            if value is not None:
                found[name] = value
    return found


def _search(place: Any, words: tuple[str, ...], depth: int) -> Iterator[_Hit]:
    if isinstance(place, Mapping):
        yield from _hits(place, words)
        inner = list(place.values())
    elif isinstance(place, list | tuple):
        inner = list(place)
        alike = [one for one in inner if isinstance(one, Mapping)]
        known = [any(_hits(one, words)) for one in alike]
        if any(known):  # of the other channels we know that they are other ones
            yield from ((None, _name_in(one)) for one, here in zip(alike, known, strict=True) if not here)
    else:
        return
    if depth > 0:
        for one in inner:
            yield from _search(one, words, depth - 1)


def _hits(place: Mapping[Any, Any], words: tuple[str, ...]) -> list[_Hit]:
    numbers = {_plain(key): _positive(value) for key, value in place.items()}
    values = [value for word, value in numbers.items() if word in words and value is not None]
    if words == _NAMES["wavelength_um"]:
        values = [value / 1000 if value >= _SHORTEST_IN_NM else value for value in values]
    return [(value, _name_in(place)) for value in values]


def _name_in(place: Mapping[Any, Any]) -> str:
    return next((str(value) for key, value in place.items() if _plain(key) in _CHANNEL_NAMES), "")


def _plain(key: Any) -> str:
    return str(key).lower().replace("_", "").replace(" ", "").replace("@", "")


def _positive(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, Real | str):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None


def _of_channel(hits: list[_Hit], layer_name: str) -> set[float | None]:
    """Return the values of the channel after which a layer is named; none where several may be meant."""
    named = {name for _, name in hits if _is_word_of(name, layer_name)}
    # "GFP" is a word of "GFP far red" too: the layer is named after the longer one.
    longest = max(named, key=len, default="")
    if not all(_is_word_of(name, longest) for name in named):
        return set()
    return {value for value, name in hits if name and name == longest}


def _is_word_of(name: str, text: str) -> bool:
    """Tell whether a name stands in a text by itself; numbers stand in names for many reasons."""
    if name == text or not re.search(r"[^\W\d_]", name):
        return bool(name) and name == text
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None


class OpticsPanel(QWidget):
    """Form of `Optics` behind a tick.

    Parameters
    ----------
    text : str
        Of the tick; empty where the optics are always used.
    parent : QWidget, optional
    volumes : bool
        Whether a PSF in 3D may be made of them.
    """

    changed = Signal()

    def __init__(self, text: str = "", parent: QWidget | None = None, *, volumes: bool = False) -> None:
        super().__init__(parent)
        self.form: Form[Optics] = Form(Optics, skip=() if volumes else VOLUME_FIELDS)
        self.tick: QCheckBox | None = None
        self._filled: dict[str, Any] = {}
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        if text:
            self.tick = QCheckBox(text)
            self.tick.setToolTip("Without them the cut-off that the network was trained for is assumed")
            self.tick.toggled.connect(self._toggled)
            self.form.setVisible(False)
            layout.addWidget(self.tick)
        layout.addWidget(self.form)
        self.form.changed.connect(self.changed)

    def value(self) -> Optics | None:
        """Return the optics, or None where they are not to be used.

        Raises
        ------
        InvalidInputError
            If a value is missing or breaks a rule.
        """
        if self.tick is not None and not self.tick.isChecked():
            return None
        return self.form.value()

    def fill(
        self,
        source: LayerImage,
        metadata: Mapping[Any, Any] | None = None,
    ) -> None:
        """Take what a layer knows: sizes where it has units, NA, wavelength and index from its metadata.

        What came from the layer before and is not known of this one is emptied; what the user typed stays.

        Parameters
        ----------
        source : LayerImage
            Its pixel size is taken if that along y and that along x agree.
        metadata : mapping, optional
            Of the layer.
        """
        one_channel = source.name if "c" not in source.axes else ""
        known: dict[str, float] = known_optics(metadata, one_channel) if metadata else {}
        if source.pixel_size_um is not None:
            y, x = source.pixel_size_um
            if abs(y - x) <= _SQUARE * x:
                known["pixel_size_um"] = (y + x) / 2
        if source.z_step_um is not None and "z_step_um" in self.form.fields:
            known["z_step_um"] = source.z_step_um
        for name, value in self._filled.items():
            field = self.form.fields[name]
            if name not in known and field.value() == value:
                field.set(field.info.default)
        self._filled = known
        for name, value in known.items():
            self.form.fields[name].set(value)

    def _toggled(self, on: bool) -> None:
        self.form.setVisible(on)
        self.changed.emit()
