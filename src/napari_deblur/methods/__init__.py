"""Deblurring methods."""
