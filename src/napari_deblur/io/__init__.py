"""Files in and out: images with their pixel size in µm, records, depth maps and meshes."""
