"""Map the PSF from the image alone, look at it, and deblur with it."""

import tempfile
from pathlib import Path

import napari_deblur as nd
from napari_deblur.io.write import write_image
from napari_deblur.samples import tilted_cells

sample = tilted_cells(192)
foreground = nd.remove_background(sample.image, count_scale=1500.0).image

psf_map = nd.estimate_psf_map(foreground, "gaussian-2")
print(psf_map.parameter_names, psf_map.grid_shape, f"{psf_map.valid.mean():.0%} valid")
print("PSF in the middle:", psf_map.psf_at(96, 96).shape)

result = nd.deblur(foreground, "tv-richardson-lucy", psf_map, n_iterations=10)
with tempfile.TemporaryDirectory() as folder:
    path = write_image(result.image, Path(folder) / "sharp.ome.tif", result.record)
    print("written:", path.name, "flux change:", f"{result.record.facts['flux_change']:.2%}")
