"""``python -m napari_deblur.cli``."""

from __future__ import annotations

import sys

from napari_deblur.cli import main

sys.exit(main())
