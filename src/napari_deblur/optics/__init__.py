"""Optics: settings, Zernike polynomials, PSF families, maps of them, and measured PSFs."""
