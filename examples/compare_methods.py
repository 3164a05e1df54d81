"""Deblur one image with every quick method and the same PSF, and compare what comes out."""

import napari_deblur as nd
from napari_deblur.samples import CAMERA_OFFSET, tilted_cells

sample = tilted_cells(192)
psf_map = sample.psf_map(stride_px=48)

for method in nd.methods():
    # Zero-shot methods take minutes instead of seconds, and some methods take no map.
    if method.family == "zero-shot" or not method.space_varying:
        continue
    result = nd.deblur(sample.image, method.id, psf_map, camera_offset=CAMERA_OFFSET)
    sharpness = nd.quality.frc_resolution_px(result.image)
    print(f"{method.title:20} {result.record.seconds:6.2f} s  resolution {sharpness:.1f} px")
