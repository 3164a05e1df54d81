"""What a user can run: background, PSF map, deblurring, depth."""
