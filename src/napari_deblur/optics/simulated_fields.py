"""Simulated microscopes whose aberrations vary over the field, to learn a PSF basis from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from napari_deblur.core.errors import InvalidInputError
from napari_deblur.core.params import Declared, Param
from napari_deblur.core.run import Run
from napari_deblur.optics.basis_learning import FieldPsfs, LearnBasis
from napari_deblur.optics.psf import family
from napari_deblur.optics.psf_basis import PsfBasis

_FAMILY = "zernike-7"
_BATCH = 512
_CUTOFFS = (0.08, 0.5)
# Standard deviations of an aberration's constant, linear and quadratic parts over the field.
_PARTS = (1.0, 0.5, 0.5, 0.35, 0.35, 0.35)


class SimulatedFields(Declared):
    """One microscope, refocused and realigned a little for every field that it takes.

    Each of the seven aberrations of `zernike-7` is a quadratic polynomial of the position: a constant, a tilt
    and a curvature over the field, drawn from normal laws once for the microscope. For every field the focus
    is drawn anew, and all else changes by a share. The strengths are our choice.
    """

    defocus_waves: float = Param(
        0.1, ge=0, le=1, step=0.01, title="Defocus", help="Standard deviation of the defocus.", unit="waves"
    )
    astigmatism_waves: float = Param(
        0.05, ge=0, le=1, step=0.01, title="Astigmatism", help="That of each astigmatism.", unit="waves"
    )
    coma_waves: float = Param(
        0.03, ge=0, le=1, step=0.01, title="Coma", help="That of each coma.", unit="waves"
    )
    trefoil_waves: float = Param(
        0.015, ge=0, le=1, step=0.01, title="Trefoil", help="That of each trefoil.", unit="waves"
    )
    drift: float = Param(
        0.25,
        ge=0,
        le=1,
        step=0.05,
        title="Drift",
        help="Share of everything but the focus that differs from field to field.",
    )
    n_fields: int = Param(80, ge=1, le=10_000, step=10, title="Fields", help="Number of simulated fields.")
    n_positions: int = Param(
        5, ge=2, le=33, step=1, title="Positions", help="PSFs along each side of a field."
    )
    size_px: int = Param(31, ge=5, le=255, step=2, title="Kernel size", help="Odd.", unit="px")
    cutoff_cycles_per_px: float = Param(
        0.261,
        gt=0.02,
        le=0.5,
        step=0.01,
        title="Cut-off",
        help="NA · pixel size / wavelength.",
        unit="cycles/px",
    )
    seed: int = Param(0, ge=0, le=2**31 - 1, title="Seed", help="Seed of the draws.")

    @property
    def waves(self) -> tuple[float, ...]:
        """Standard deviations of the seven aberrations, in the order of their Noll indices."""
        astigmatism, coma, trefoil = self.astigmatism_waves, self.coma_waves, self.trefoil_waves
        return (self.defocus_waves, astigmatism, astigmatism, coma, coma, trefoil, trefoil)

    def aberrations(
        self, count: int, rng: np.random.Generator, places: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Draw the aberrations (count, n, 7) of fields at n places (y, x), each from -1 to 1."""
        y, x = places.T
        terms = np.stack([np.ones_like(y), y, x, y**2 + x**2 - 2 / 3, y**2 - x**2, y * x])
        fixed = rng.standard_normal((1, 7, len(_PARTS)))
        drawn = (1 - self.drift) * fixed + self.drift * rng.standard_normal((count, 7, len(_PARTS)))
        drawn[:, 0, 0] = rng.standard_normal(count)
        drawn *= np.asarray(_PARTS)
        found: NDArray[np.float64] = np.einsum("fkt,tn->fnk", drawn, terms) * np.asarray(self.waves)
        return found

    @classmethod
    def at_cutoff(cls, cutoff_cycles_per_px: float) -> SimulatedFields:
        """Return a microscope of other optics, with kernels as large as they need to be.

        Raises
        ------
        InvalidInputError
            If the pixels are too large to sample the optics, or so small that the kernels become huge.
        """
        low, high = _CUTOFFS
        if not low <= cutoff_cycles_per_px <= high:
            rule = f"must give NA · pixel / wavelength from {low} to {high} cycles per pixel"
            raise InvalidInputError("pixel_size_um", rule, f"{cutoff_cycles_per_px:.3g}")
        size = family(_FAMILY).size_px(cutoff_cycles_per_px)
        return cls(cutoff_cycles_per_px=cutoff_cycles_per_px, size_px=size)

    def basis(self, settings: LearnBasis | None = None, run: Run | None = None) -> PsfBasis:
        """Render the fields and learn their basis, which stretches over images of any size."""
        fields, shape = self.render(run)
        learned = (settings or LearnBasis()).learn(
            fields, shape, cutoff_cycles_per_px=self.cutoff_cycles_per_px, any_size=True, run=run
        )
        learned.record["simulated"] = self.model_dump(mode="json")
        return learned

    def render(self, run: Run | None = None) -> tuple[list[FieldPsfs], tuple[int, int]]:
        """Render the fields.

        Returns
        -------
        fields : list of FieldPsfs
        image_shape : tuple of int
            Of the field that their positions are in.
        """
        import torch

        run = run or Run()
        side = 1024
        line = np.linspace(-1, 1, self.n_positions)
        places = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
        drawn = self.aberrations(self.n_fields, np.random.default_rng(self.seed), places)
        flat = torch.from_numpy(drawn.reshape(-1, 7)).float()
        chosen, parts = family(_FAMILY), list[NDArray[np.float32]]()
        for start in range(0, len(flat), _BATCH):
            run.step(start, len(flat), "rendering PSFs")
            some = flat[start : start + _BATCH]
            parts.append(chosen.kernels(some, self.size_px, self.cutoff_cycles_per_px).numpy())
        kernels = np.concatenate(parts).reshape(self.n_fields, -1, self.size_px, self.size_px)
        positions = (places + 1) / 2 * (side - 1)
        fields = [FieldPsfs(positions, one, f"simulated field {index}") for index, one in enumerate(kernels)]
        return fields, (side, side)
