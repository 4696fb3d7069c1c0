"""Where an agent begins, run as a file: ``python -I __main__.py ADDRESS TRAINER_PID DESCRIPTORS PATH ...``.

It is detached first: nobody's child, it leaves no zombie, and its end is nobody's signal. The paths
are those of the trainer, Holdfast's first; the trainer's own folder cannot shadow a module of Python.
"""

from __future__ import annotations

import os
import sys


def _main(address_hex: str, trainer_pid: str, inherited: str, root: str, *others: str) -> None:
    if os.fork():
        os._exit(0)
    os.chdir("/")
    sys.path.insert(0, root)
    sys.path.extend(path for path in others if path not in sys.path)
    from holdfast.agent.serve import main

    main(bytes.fromhex(address_hex), int(trainer_pid), *map(int, inherited.split(",")))


if __name__ == "__main__":
    _main(*sys.argv[1:])
