"""What the record of deblurring tells: light, PSFs, networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from napari_deblur.core.image import Image
from napari_deblur.methods.base import Method
from napari_deblur.optics.settings import Optics
from napari_deblur.steps.base import describe_input


def flux_facts(before: float, after: float, cut_off: float) -> dict[str, float]:
    """Return what a record tells of the light before and after.

    A method without negative values is given the image with what lies below zero cut off, which adds light.
    That is told for itself, so that the change of flux is the method's own. Where a background was estimated
    too high a change remains: no object without negative light can explain an image that is darker than none.

    Parameters
    ----------
    before, after : float
        Sum of the image and of the result, the camera's offset taken off.
    cut_off : float
        Sum of what was cut off, positive.
    """
    given = before + cut_off
    return {
        "flux_in": given,
        "flux_out": after,
        "flux_change": (after - given) / given if given else 0.0,
        "flux_cut_off": cut_off,
    }


def described_run(
    image: Image, psf: Mapping[str, Any], optics: Optics | None, *, background: bool = False
) -> dict[str, Any]:
    """Return what a record keeps of the image, and of what was given beside it and had an effect.

    Parameters
    ----------
    image : Image
    psf : mapping
        What the record keeps of the PSF.
    optics : Optics or None
        Kept where they helped to estimate the PSF: a recipe takes them for the PSF itself where no other is.
    background : bool
        Whether a background was given to be taken off; whoever knows its file names it in place of this.
    """
    found = describe_input(image)
    start = psf.get("started_from") or psf
    if optics is not None and (start.get("blind") or start.get("simulated")):
        found["optics"] = optics.model_dump(mode="json")
    if background:
        found["background"] = "in memory"
    return found


def described_psf(found: Mapping[int, dict[str, Any]], image: Image, ndim: int) -> dict[str, Any]:
    """Return what a record keeps of the PSFs, each channel's for itself where they differ.

    Parameters
    ----------
    found : mapping of int to dict
        Descriptions by the number of the plane or volume.
    image : Image
    ndim : {2, 3}
    """
    channels: dict[int, dict[str, Any]] = {}
    for number, one in sorted(found.items()):
        channels.setdefault(image.channel_of_block(number, ndim), one)
    described = list(channels.values())
    if not described:
        return {}
    if all(one == described[0] for one in described):
        return described[0]
    return {**described[0], "channels": described}


def checksums(method: Method) -> dict[str, str]:
    """Return the sha256 of the trained networks that make a method's pixels, by id.

    Raises
    ------
    UnknownNameError
        If one is not installed: known before a PSF is estimated.
    """
    from napari_deblur.nets.weights import find_model

    return {id: find_model(id).sha256 for id in method.network_ids()}
