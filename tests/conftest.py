"""For all tests: nothing that a killed trainer leaves in memory stays there longer than its test."""

from __future__ import annotations

import os

os.environ.setdefault("HOLDFAST_MEMORY_SECONDS", "0")
