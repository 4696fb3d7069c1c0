"""For all tests: saves happen where a test can reach them, unless it is about saves in the background.

And what a killed trainer leaves in memory stays there no longer than its test.
"""

from __future__ import annotations

import os

os.environ.setdefault("HOLDFAST_BACKGROUND", "0")
os.environ.setdefault("HOLDFAST_MEMORY_SECONDS", "0")
