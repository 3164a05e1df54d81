"""Zernike polynomials in Noll's order and normalisation (Noll 1976, doi:10.1364/JOSA.66.000207)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from napari_deblur.core.errors import InvalidInputError

if TYPE_CHECKING:
    import torch

DEFOCUS = 4
"""Noll index of √3 (2ρ² - 1)."""
OBLIQUE_ASTIGMATISM = 5
"""Noll index of √6 ρ² sin 2φ."""
VERTICAL_ASTIGMATISM = 6
"""Noll index of √6 ρ² cos 2φ."""
VERTICAL_COMA = 7
"""Noll index of √8 (3ρ³ - 2ρ) sin φ."""
HORIZONTAL_COMA = 8
"""Noll index of √8 (3ρ³ - 2ρ) cos φ."""
VERTICAL_TREFOIL = 9
"""Noll index of √8 ρ³ sin 3φ."""
OBLIQUE_TREFOIL = 10
"""Noll index of √8 ρ³ cos 3φ."""


def noll_to_nm(index: int) -> tuple[int, int]:
    """Return radial order n and azimuthal frequency m (negative: sine) of a Noll index, which starts at 1.

    Raises
    ------
    InvalidInputError
        For an index below 1.
    """
    if index < 1:
        raise InvalidInputError("index", "must be a Noll index, 1 or more", index)
    n = (math.isqrt(8 * index - 7) - 1) // 2
    position = index - n * (n + 1) // 2 - 1
    m = 2 * ((position + 1) // 2) if n % 2 == 0 else 2 * (position // 2) + 1
    return n, m if index % 2 == 0 else -m


def zernike(index: int, rho: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    """Evaluate the polynomial of a Noll index; its mean square over the unit disc is 1.

    Parameters
    ----------
    index : int
        Noll index, from 1.
    rho, phi : Tensor
        Polar coordinates in the pupil; the polynomial is continued beyond ``rho = 1``.
    """
    import torch

    n, m = noll_to_nm(index)
    order = abs(m)
    radial = torch.zeros_like(rho)
    for k in range((n - order) // 2 + 1):
        factor = (
            (-1) ** k
            * math.factorial(n - k)
            / (
                math.factorial(k)
                * math.factorial((n + order) // 2 - k)
                * math.factorial((n - order) // 2 - k)
            )
        )
        radial = radial + factor * rho ** (n - 2 * k)
    if m == 0:
        return math.sqrt(n + 1) * radial
    angular = torch.cos(order * phi) if m > 0 else torch.sin(order * phi)
    return math.sqrt(2 * (n + 1)) * radial * angular
