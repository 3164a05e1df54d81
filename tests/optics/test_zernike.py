from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.optics.zernike import (
    DEFOCUS,
    OBLIQUE_ASTIGMATISM,
    VERTICAL_ASTIGMATISM,
    noll_to_nm,
    zernike,
)

# Noll 1976, table I.
_NOLL_TABLE = {
    1: (0, 0),
    2: (1, 1),
    3: (1, -1),
    4: (2, 0),
    5: (2, -2),
    6: (2, 2),
    7: (3, -1),
    8: (3, 1),
    9: (3, -3),
    10: (3, 3),
    11: (4, 0),
    12: (4, 2),
    13: (4, -2),
    14: (4, 4),
    15: (4, -4),
}


def test_indices_follow_nolls_table():
    assert {index: noll_to_nm(index) for index in _NOLL_TABLE} == _NOLL_TABLE


def test_index_starts_at_one():
    with pytest.raises(InvalidInputError, match="index must be a Noll index"):
        noll_to_nm(0)


def _quadrature() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gauss-Legendre in ρ², equidistant in φ: exact for these products; the weights sum to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    rho = torch.tensor(np.sqrt((nodes + 1) / 2))
    phi = torch.arange(32, dtype=torch.float64) * 2 * math.pi / 32
    weight = torch.tensor(weights / 2)[:, None].expand(-1, 32) / 32
    return rho[:, None].expand(-1, 32), phi[None, :].expand(12, -1), weight


def test_polynomials_are_orthonormal_over_the_disc():
    rho, phi, weight = _quadrature()
    values = torch.stack([zernike(index, rho, phi) for index in _NOLL_TABLE])
    gram = torch.einsum("iab,jab,ab->ij", values, values, weight)
    torch.testing.assert_close(gram, torch.eye(len(_NOLL_TABLE), dtype=torch.float64), atol=1e-12, rtol=0)


def test_the_terms_of_the_psf_families_have_their_closed_form():
    rho, phi, _ = _quadrature()
    torch.testing.assert_close(zernike(DEFOCUS, rho, phi), math.sqrt(3) * (2 * rho**2 - 1))
    torch.testing.assert_close(
        zernike(OBLIQUE_ASTIGMATISM, rho, phi), math.sqrt(6) * rho**2 * torch.sin(2 * phi)
    )
    torch.testing.assert_close(
        zernike(VERTICAL_ASTIGMATISM, rho, phi), math.sqrt(6) * rho**2 * torch.cos(2 * phi)
    )
