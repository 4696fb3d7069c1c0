"""A connection between trainer and agent: whole messages over a local socket, with descriptors.

The address is an abstract one, so that nothing is left behind by whoever dies; since anybody may
take such an address, each side makes sure that the other belongs to the same user.
"""

from __future__ import annotations

import errno
import hashlib
import os
import select
import socket
import struct
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from holdfast.node.messages import MAX_DESCRIPTORS, MAX_MESSAGE_BYTES, Message

SEND_SECONDS = 30
"""How long who has called waits for the other side to take a message, when hundreds lie there untaken."""
_CREDENTIALS = struct.Struct("3i")
_PERIOD = struct.Struct("@ll")
_open_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


class ChannelClosedError(Exception):
    """The other side is gone."""


class ChannelFullError(ChannelClosedError):
    """The other side lives, and takes no messages: it is stopped."""


def address(repository_id: str, location: str, run: str) -> bytes:
    """Where the agent of a run listens, by whichever path the repository is reached."""
    place = str(Path(location).resolve()) if location.startswith("/") else location
    name = "\0".join((repository_id, place, run)).encode()
    return b"\0holdfast-%d-%s" % (os.getuid(), hashlib.sha256(name).hexdigest()[:32].encode())


class Channel:
    """One end of a connection.

    Parameters
    ----------
    connection : socket
        Of messages (``SOCK_SEQPACKET``); owned from now on.
    understood : type
        Union of the messages that may come.
    """

    def __init__(self, connection: socket.socket, understood: Any) -> None:
        self._socket = connection
        self._decoder = msgspec.msgpack.Decoder(understood)
        self._sending = threading.Lock()
        _open_channels.add(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def peer_pid(self) -> int:
        """Process id of the other side, as the kernel has it."""
        return self._credentials()[0]

    def belongs_to_this_user(self) -> bool:
        return self._credentials()[1] == os.getuid()

    def _credentials(self) -> tuple[int, int, int]:
        found = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(found)
        return pid, uid, gid

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send a message whole.

        Raises
        ------
        ChannelClosedError
        """
        try:
            with self._sending:
                socket.send_fds(self._socket, [msgspec.msgpack.encode(message)], list(descriptors))
        except BlockingIOError as error:
            raise ChannelFullError from error
        except OSError as error:
            raise ChannelClosedError from error

    def receive(self, wait_seconds: float | None = 0.0) -> tuple[Any, list[int]] | None:
        """Take one message and its descriptors; None if none came in time.

        Raises
        ------
        ChannelClosedError
            The other side is gone, or does not speak this language.
        """
        try:
            if not _readable(self._socket, wait_seconds):
                return None
            data, descriptors, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
        except OSError as error:
            raise ChannelClosedError from error
        if not data:
            raise ChannelClosedError
        try:
            return self._decoder.decode(data), descriptors
        except msgspec.MsgspecError as error:
            for descriptor in descriptors:
                os.close(descriptor)
            raise ChannelClosedError from error

    def hung_up(self, wait_seconds: float) -> bool:
        """Whether the other side is gone, or goes within this time; what it has said stays to be heard."""
        poll = select.poll()
        poll.register(self._socket, 0)  # the end of a connection is told all the same
        return bool(poll.poll(wait_seconds * 1000))

    def close(self) -> None:
        _open_channels.discard(self)
        self._socket.close()


def _forget_in_child() -> None:
    for channel in list(_open_channels):
        channel.close()


os.register_at_fork(after_in_child=_forget_in_child)


def connect(where: bytes, understood: Any) -> Channel | None:
    """Connect to whoever listens there; None if nobody of this user does."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PERIOD.pack(SEND_SECONDS, 0))
    try:
        connection.connect(where)
    except OSError:
        connection.close()
        return None
    channel = Channel(connection, understood)
    if channel.belongs_to_this_user():
        return channel
    channel.close()
    return None


def listen(where: bytes) -> socket.socket | None:
    """Listen there; None if somebody does already."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listener.bind(where)
        listener.listen(4)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return listener


def _readable(connection: socket.socket, wait_seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(None if wait_seconds is None else wait_seconds * 1000))
