"""A storage whose user dies before its n-th change."""

from __future__ import annotations

from holdfast.storage.memory import MemoryStorage


class Killed(BaseException):
    """What SIGKILL looks like to the storage: nothing more happens."""


class Mortal(MemoryStorage):
    """A storage whose user dies before its n-th change."""

    left = 10**9

    def _live(self):
        if self.left == 0:
            raise Killed
        self.left -= 1

    def put(self, key, parts):
        self._live()
        super().put(key, parts)

    def put_if_absent(self, key, data):
        self._live()
        return super().put_if_absent(key, data)

    def delete(self, key):
        self._live()
        super().delete(key)
