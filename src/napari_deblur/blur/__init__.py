"""Blur operators with exact adjoints."""
