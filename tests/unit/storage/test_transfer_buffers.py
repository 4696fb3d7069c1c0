from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from holdfast.storage.direct import transfer_buffer

FORKED = """
import os
from holdfast.storage.direct import transfer_buffer
buffer = transfer_buffer(1 << 20)
buffer[:] = 1
child = os.fork()
if child == 0:
    buffer[:] = 2
    os._exit(0)
os.waitpid(child, 0)
assert (buffer == 1).all()
"""


@pytest.mark.parametrize("size_bytes", [1, 4096, (4 << 20) + 8192])
def test_a_transfer_buffer_is_aligned_and_as_long_as_asked(size_bytes: int) -> None:
    buffer = transfer_buffer(size_bytes)
    assert len(buffer) == size_bytes
    assert buffer.ctypes.data % 4096 == 0
    buffer[:] = 7
    assert np.all(buffer == 7)


def test_a_forked_child_cannot_write_into_a_save_of_its_parent() -> None:
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=60)
