"""Images larger than memory: deblurred block by block from one store to another, here or on a cluster."""
