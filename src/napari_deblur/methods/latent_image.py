"""An image behind the encoder of a network with a deformable latent space, and the networks there are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_deblur.core.errors import InvalidInputError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor

    from napari_deblur.core.image import FloatArray
    from napari_deblur.nets.deformable import DeformableNet, Scale

NETWORKS = {
    "zone-plate": "latent-deformation-zone-plate",
    "defocus": "latent-deformation-defocus",
    "astigmatism": "latent-deformation-astigmatism",
}
"""Ids of the networks' weights."""
FAMILIES = {"zone-plate": "zone-plate", "defocus": "zernike-1", "astigmatism": "zernike-3"}
"""PSF families that the networks know."""
PARAMETERS = {
    "zone-plate": ("defocus_um",),
    "defocus": ("defocus_waves",),
    "astigmatism": ("defocus_waves", "astigmatism_waves", "axis_rad"),
}
"""What the networks are told."""


@dataclass(frozen=True, eq=False)
class LatentImage:
    """One plane behind the encoder: deformer and decoder alone restore it for any parameters.

    Attributes
    ----------
    name : str
        One of `NETWORKS`.
    net : DeformableNet
    latent : Tensor, shape (1, channels, y / 4, x / 4)
    scale : Scale
    shape : tuple of int
        Of the plane.
    sha256 : str
        Of the network's weights.
    """

    name: str
    net: DeformableNet
    latent: Tensor
    scale: Scale
    shape: tuple[int, int]
    sha256: str

    @classmethod
    def of(
        cls, image: FloatArray, network: str, device: str = "cpu", *, whole: FloatArray | None = None
    ) -> LatentImage:
        """Encode an image (y, x).

        Parameters
        ----------
        image : ndarray, shape (y, x)
        network : str
            One of `NETWORKS`.
        device : str
        whole : ndarray, shape (y, x), optional
            The plane that the image is a part of, whose mean, contrast and noise then count.

        Raises
        ------
        UnknownNameError, WeightsError
            If there is no such network, or its file is damaged.
        InvalidInputError
            If the image is no plane or too small.
        """
        import torch

        from napari_deblur.nets.deformable import Scale

        if network not in NETWORKS:
            raise UnknownNameError("network", network, list(NETWORKS))
        if np.ndim(image) != 2:
            raise InvalidInputError("image", "must be one plane (y, x)", f"shape {np.shape(image)}")
        measured = image if whole is None else whole
        with torch.inference_mode():
            y, all_of_it = (
                torch.from_numpy(np.ascontiguousarray(one, dtype=np.float32)).to(device)
                for one in (image, measured)
            )
            return cls.encode(y, network, Scale.of(all_of_it))

    @classmethod
    def encode(cls, y: Tensor, network: str, scale: Scale) -> LatentImage:
        """Encode a plane (y, x) by the mean and the contrast of the whole."""
        from napari_deblur.nets.deformable import padded_to_step

        net, card = load(network, y.device)
        latent = net.encode(padded_to_step((y - scale.mean) / scale.spread)[None])
        return cls(network, net, latent, scale, (int(y.shape[0]), int(y.shape[1])), str(card["sha256"]))

    def decode(self, parameters: tuple[float, ...]) -> Tensor:
        """Return the plane (y, x) restored for parameters of the family."""
        from napari_deblur.nets.deformable import restore

        return restore(self.net, self.latent, parameters, self.scale)[: self.shape[0], : self.shape[1]]

    def restored(self, **parameters: float) -> FloatArray:
        """Return the image (y, x) restored for parameters by name, such as ``defocus_um=5``.

        Raises
        ------
        InvalidInputError
            If a parameter is missing, unknown or breaks its rule.
        """
        import torch

        own = PARAMETERS[self.name]
        if unknown := [name for name in parameters if name not in own]:
            rule = f"is not a parameter of {self.name} (known: {', '.join(own)})"
            raise InvalidInputError(unknown[0], rule, parameters[unknown[0]])
        if missing := [name for name in own if name not in parameters]:
            raise InvalidInputError(missing[0], "is required", "nothing")
        for name, value in parameters.items():
            if not math.isfinite(value) or value < 0:
                raise InvalidInputError(name, "must be 0 or more", value)
        with torch.inference_mode():
            given = tuple(float(parameters[name]) for name in own)
            image: FloatArray = self.decode(given).clamp_min(0).float().cpu().numpy()
        return image


def sampling(card: dict[str, Any]) -> str:
    """Return for which optics and pixels a network's parameters count, as its card says."""
    if plate := card.get("optics"):
        zone_nm, pixel_nm = 1e3 * plate["outermost_zone_um"], 1e3 * plate["pixel_size_um"]
        light = f"{plate['energy_kev']:g} keV"
        return f"For a zone plate with zones down to {zone_nm:g} nm at {light} and pixels of {pixel_nm:g} nm."
    if cutoff := card.get("cutoff_cycles_per_px"):
        return f"For optics with a cut-off (NA · pixel / wavelength) of {cutoff:g} cycles per pixel."
    return ""


def available() -> list[str]:
    """Return the networks whose weights are there."""
    from napari_deblur.nets.weights import find_model

    found = []
    for name, id in NETWORKS.items():
        try:
            find_model(id)
        except UnknownNameError:
            continue
        found.append(name)
    if not found:
        find_model(NETWORKS["defocus"])  # says which there are
    return found


def load(name: str, device: Any) -> tuple[DeformableNet, dict[str, Any]]:
    """Return a network and its card from the engine's cache."""
    from napari_deblur.engine.shared import get_engine
    from napari_deblur.nets.deformable import DeformableNet

    net, card = get_engine().network(NETWORKS[name], device=str(device))
    assert isinstance(net, DeformableNet)
    return net, card
