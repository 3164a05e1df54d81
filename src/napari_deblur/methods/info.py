"""What each method can do, as data."""

from __future__ import annotations

from dataclasses import dataclass

from napari_deblur.methods.base import registry


@dataclass(frozen=True)
class MethodInfo:
    """What a deblurring method can do.

    Attributes
    ----------
    id, title, summary, reference : str
    family : str
        Where it stands: linear, iterative, zero-shot or learned.
    blind : bool
        Whether it finds the PSF itself.
    learned : bool
        Whether a trained network makes the pixels.
    space_varying : bool
        Whether it takes a PSF map.
    tiles_agree : bool
        Whether an image in tiles gives the same as in one piece, to 1e-4 of its range.
    ndim : tuple of int
    default_psf : str or None
        What is estimated when no PSF is given.
    """

    id: str
    title: str
    summary: str
    reference: str
    family: str
    blind: bool
    learned: bool
    space_varying: bool
    tiles_agree: bool
    ndim: tuple[int, ...]
    default_psf: str | None


def methods() -> list[MethodInfo]:
    """List the deblurring methods."""
    return [
        MethodInfo(
            id=name,
            title=cls.title,
            summary=cls.summary,
            reference=cls.reference,
            family=cls.family,
            blind=cls.blind,
            learned=cls.learned,
            space_varying=cls.space_varying,
            tiles_agree=cls.tiles_agree,
            ndim=cls.ndim,
            default_psf=cls.default_psf,
        )
        for name, cls in registry().items()
    ]
