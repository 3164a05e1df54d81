"""What a file says of the microscope: aperture, index and wavelengths, as a suggestion for the optics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from napari_deblur.io.units import length_um

if TYPE_CHECKING:
    from napari_deblur.core.image import Image
    from napari_deblur.io.lazy import LazyImage

# Refractive indices near 550 nm of the immersions that the OME model knows.
_IMMERSIONS = {"air": 1.0, "water": 1.333, "waterdipping": 1.333, "oil": 1.515, "glycerol": 1.47}


def suggest_optics(image: Image | LazyImage, channel: int | None = None) -> dict[str, float]:
    """Return what an image knows of its optics, by the names of `Optics`' fields.

    Parameters
    ----------
    image : Image or LazyImage
        Read from a file, whose metadata are kept in ``source["microscope"]``.
    channel : int, optional
        Of which channel the wavelength is wanted; without it only one that all channels share is given.

    Returns
    -------
    dict
        Some of ``na``, ``refractive_index``, ``wavelength_um``, ``pixel_size_um`` and ``z_step_um``: a field
        that is missing is not known.
    """
    known = image.source.get("microscope") or {}
    found = {name: float(known[name]) for name in ("na", "refractive_index") if name in known}
    waves = [one.get("wavelength_um") for one in known.get("channels", [])]
    if channel is not None:
        waves = waves[channel : channel + 1]
    if waves and waves[0] is not None and all(wave == waves[0] for wave in waves):
        found["wavelength_um"] = float(waves[0])
    if image.pixel_size_um is not None and math.isclose(*image.pixel_size_um, rel_tol=0.01):
        found["pixel_size_um"] = sum(image.pixel_size_um) / 2
    if image.z_step_um is not None and "z" in image.axes:
        found["z_step_um"] = image.z_step_um
    return found


def from_ome_xml(xml: str, series: int = 0) -> dict[str, Any]:
    """Return what OME-XML says of an image's objective and channels.

    Parameters
    ----------
    xml : str
    series : int
        Which of its images.

    Returns
    -------
    dict
        ``na`` and ``refractive_index`` where they are known, and ``channels``: a list of dicts with ``name``,
        ``wavelength_um`` (emission) and ``excitation_um`` where known. Empty where there is nothing.
    """
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return {}
    images = list(_named(root, "Image"))
    if series >= len(images):
        return {}
    image = images[series]
    settings = next(_named(image, "ObjectiveSettings"), None)
    found: dict[str, Any] = {}
    objective = _objective(root, image, settings)
    if objective is not None:
        _put(found, "na", _positive(objective.get("LensNA")))
        immersion = str(objective.get("Immersion", "")).lower()
        _put(found, "refractive_index", _IMMERSIONS.get(immersion))
    if settings is not None:
        _put(found, "refractive_index", _positive(settings.get("RefractiveIndex")))
    channels = [_channel(node) for node in _named(image, "Channel")]
    if any(channels):
        found["channels"] = channels
    return found


def from_omero(channels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what the ``omero`` block of an OME-Zarr says of its channels; wavelengths are in nm there."""
    found = []
    for channel in channels:
        one: dict[str, Any] = {}
        if channel.get("label"):
            one["name"] = str(channel["label"])
        _put(one, "wavelength_um", length_um(channel.get("emissionWave"), "nm"))
        _put(one, "excitation_um", length_um(channel.get("excitationWave"), "nm"))
        found.append(one)
    return {"channels": found} if any(found) else {}


def beside_zarr(path: Path, series: int) -> dict[str, Any]:
    """Return what the OME-XML that bioformats2raw puts into or beside an image says."""
    places = [(path / "OME", series)]
    if path.name.isdecimal():
        places.append((path.parent / "OME", int(path.name)))
    for folder, number in places:
        try:
            xml = (folder / "METADATA.ome.xml").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        return from_ome_xml(xml, number)
    return {}


def _objective(root: Any, image: Any, settings: Any | None) -> Any | None:
    """Return the objective that an image was taken with; the only one where it does not say."""
    objectives = list(_named(root, "Objective"))
    if settings is not None:
        wanted = settings.get("ID")
        return next((one for one in objectives if one.get("ID") == wanted), None)
    reference = next(_named(image, "InstrumentRef"), None)
    if reference is not None:
        for instrument in _named(root, "Instrument"):
            if instrument.get("ID") == reference.get("ID"):
                objectives = list(_named(instrument, "Objective"))
    return objectives[0] if len(objectives) == 1 else None


def _channel(node: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if node.get("Name"):
        found["name"] = str(node.get("Name"))
    for name, attribute in (
        ("wavelength_um", "EmissionWavelength"),
        ("excitation_um", "ExcitationWavelength"),
    ):
        _put(found, name, length_um(node.get(attribute), node.get(f"{attribute}Unit", "nm")))
    return found


def _named(node: Any, name: str) -> Iterator[Any]:
    """Yield the elements of a name, whatever the version of the namespace."""
    for element in node.iter():
        if isinstance(element.tag, str) and element.tag.rpartition("}")[2] == name:
            yield element


def _positive(text: str | None) -> float | None:
    try:
        value = float(text) if text else 0.0
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _put(found: dict[str, Any], name: str, value: float | None) -> None:
    if value is not None:
        found[name] = value
