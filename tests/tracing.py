"""Run a function in a forked child and stop it at its system calls: to kill it there, or to fail one.

`strace` can do the same to a program; this does it to a function of a process that is loaded already,
so that thousands of points take seconds. The calling process should have one thread and be small.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from errno import ESRCH

SUPPORTED = sys.platform == "linux" and platform.machine() == "x86_64"
NUMBERS = {
    "write": 1, "close": 3, "pread64": 17, "pwrite64": 18, "writev": 20, "flock": 73, "fsync": 74,
    "fdatasync": 75, "getdents64": 217, "openat": 257, "mkdirat": 258, "newfstatat": 262, "unlinkat": 263,
    "renameat": 264, "linkat": 265, "preadv": 295, "syncfs": 306, "renameat2": 316,
}  # fmt: skip

_TRACEME, _CONT, _GETREGS, _SETREGS, _SYSCALL = 0, 7, 12, 13, 24
_SETOPTIONS = 0x4200
_SYSGOOD, _FORK, _VFORK, _CLONE, _EXITKILL = 1, 2, 4, 8, 1 << 20
_WALL = 0x40000000
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_REGISTERS = 27
_ORIG_RAX, _RAX = 15, 10


@dataclass
class Trace:
    """What became of the child.

    Attributes
    ----------
    calls : int
        System calls that it began (of all its threads).
    killed : bool
        Whether it was killed before it was done.
    status : int
        Its exit status, if not killed.
    counts : dict[int, int]
        How often it began each call, by number.
    """

    calls: int = 0
    killed: bool = False
    status: int = 0
    counts: dict[int, int] = field(default_factory=dict)
    injected: bool = False


@dataclass(frozen=True)
class Failure:
    """The ``occurrence``-th call (from 1) of that number returns ``errno`` and does nothing."""

    number: int
    occurrence: int
    errno: int
    after: bool = False  # let it do its work, and lie about it


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long
_Registers = ctypes.c_ulonglong * _REGISTERS


def _ptrace(request: int, pid: int, data: object = None) -> None:
    if _libc.ptrace(request, pid, None, data) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace {request}: {os.strerror(code)}")


def run_traced(
    body: Callable[[], int | None],
    *,
    kill_at: int | None = None,
    at_exit: bool = False,
    fail: Failure | None = None,
    count: bool = False,
) -> Trace:
    """Run ``body`` in a child; kill it as it begins (``at_exit``: ends) its ``kill_at``-th system call.

    The child's exit status is what ``body`` returns, or 99 if it raises.
    """
    child = os.fork()
    if child == 0:
        _be_traced(body)
    os.waitpid(child, 0)
    _ptrace(_SETOPTIONS, child, _SYSGOOD | _FORK | _VFORK | _CLONE | _EXITKILL)
    return _Tracer(child, kill_at, at_exit, fail, count or fail is not None).trace()


def _be_traced(body: Callable[[], int | None]) -> None:
    status = 99
    try:
        _ptrace(_TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        status = body() or 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(status)


class _Tracer:
    def __init__(
        self, child: int, kill_at: int | None, at_exit: bool, fail: Failure | None, look: bool
    ) -> None:
        self._child = child
        self._kill_at = kill_at
        self._at_exit = at_exit
        self._fail = fail
        self._look = look  # at each call's number: slower
        self._inside: dict[int, int] = {}  # thread → how many-eth call it is in
        self._spoil: set[int] = set()
        self._result = Trace()

    def trace(self) -> Trace:
        _ptrace(_SYSCALL, self._child)
        while True:
            thread, status = os.waitpid(-1, _WALL)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                if thread == self._child:
                    self._result.status = os.waitstatus_to_exitcode(status)
                    self._result.killed = os.WIFSIGNALED(status)
                    return self._result
                continue
            stop = os.WSTOPSIG(status)
            deliver = 0
            if stop == _SYSCALL_STOP:
                self._call(thread)
            elif stop not in (signal.SIGTRAP, signal.SIGSTOP):
                deliver = stop
            try:
                _ptrace(_SYSCALL, thread, deliver)
            except OSError as error:
                if error.errno != ESRCH:  # it was killed meanwhile
                    raise

    def _call(self, thread: int) -> None:
        if thread in self._inside:
            self._leave(thread)
        else:
            self._enter(thread)

    def _enter(self, thread: int) -> None:
        self._result.calls += 1
        self._inside[thread] = self._result.calls
        if self._look:
            self._count(thread)
        if not self._at_exit and self._result.calls == self._kill_at:
            os.kill(self._child, signal.SIGKILL)

    def _leave(self, thread: int) -> None:
        number = self._inside.pop(thread)
        if thread in self._spoil:
            self._spoil.discard(thread)
            assert self._fail is not None
            registers = self._registers(thread)
            registers[_RAX] = (1 << 64) - self._fail.errno
            _ptrace(_SETREGS, thread, registers)
        if self._at_exit and number == self._kill_at:
            os.kill(self._child, signal.SIGKILL)

    def _count(self, thread: int) -> None:
        registers = self._registers(thread)
        number = registers[_ORIG_RAX]
        counts = self._result.counts
        counts[number] = counts.get(number, 0) + 1
        fail = self._fail
        if fail is not None and (number, counts[number]) == (fail.number, fail.occurrence):
            self._result.injected = True
            self._spoil.add(thread)
            if not fail.after:
                registers[_ORIG_RAX] = (1 << 64) - 1  # no such call: the kernel skips it
                _ptrace(_SETREGS, thread, registers)

    def _registers(self, thread: int) -> ctypes.Array[ctypes.c_ulonglong]:
        registers = _Registers()
        _ptrace(_GETREGS, thread, ctypes.byref(registers))  # type: ignore[arg-type]  # a pointer
        return registers
