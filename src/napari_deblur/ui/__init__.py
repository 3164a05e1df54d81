"""The napari docks, their layers and their worker; the only part that knows Qt and napari."""
