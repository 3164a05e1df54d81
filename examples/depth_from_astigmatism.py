"""Calibrate depth on a tilted grid, then measure the depth of another surface in µm."""

import napari_deblur as nd
from napari_deblur.samples import tilted_grid
from napari_deblur.steps.calibration import DepthCalibration

plane = tilted_grid(256, tilt_deg=15.0, seed=3)
calibration_map = nd.estimate_psf_map(plane.image, "zernike-3", stride_px=32, optics=plane.optics)
calibration = DepthCalibration.from_tilted_plane(calibration_map, tilt_deg=15.0, azimuth_deg=90.0)

sample = tilted_grid(256, tilt_deg=10.0, seed=4)
psf_map = nd.estimate_psf_map(sample.image, "zernike-3", stride_px=32, optics=sample.optics)
depth = nd.estimate_depth(psf_map, calibration)
print(f"depth in {depth.unit}: {depth.depth_um.min():.1f} to {depth.depth_um.max():.1f}")
print(f"true depth: {sample.depth_um.min():.1f} to {sample.depth_um.max():.1f}")
print("mesh:", depth.surface().vertices.shape)
