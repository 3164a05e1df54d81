"""Declared benchmark cases; run one with ``python -m benchmarks.NAME``."""
