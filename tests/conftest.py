from __future__ import annotations

import os
from importlib.util import find_spec

# Tests must neither read nor change the settings of whoever runs them.
os.environ["NAPARI_CONFIG"] = ""

# Where only the base package is installed there is no window to test.
collect_ignore = [] if find_spec("napari") and find_spec("pytestqt") else ["ui"]
