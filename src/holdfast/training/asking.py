"""Saves that somebody asks for: the script, or another process through the repository."""

from __future__ import annotations

from holdfast.repository.run import Run
from holdfast.training.saves import Save
from holdfast.training.triggers import Requests


class Asked:
    """What is asked for and not taken up yet.

    Parameters
    ----------
    run : Run
        Where other processes leave their requests.
    """

    def __init__(self, run: Run) -> None:
        self._requests = Requests(run)
        self._saves: list[Save] = []
        self._of_requests: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._saves)

    @property
    def reason(self) -> str:
        """What the checkpoint says it was made for."""
        return ", ".join(self._of_requests) or "save()"

    def add(self, save: Save) -> None:
        self._saves.append(save)

    def look(self, *, now: bool) -> None:
        """Find new requests; the storage is asked at most once a second unless ``now``."""
        for request in self._requests.poll(now=now):
            self._saves.append(Save(request.tag))
            self._of_requests.append(f"request {request.nonce}")

    def take(self) -> list[Save]:
        """All of them, which are the caller's from now on; one that nobody asked for if there is none."""
        taken, self._saves, self._of_requests = self._saves or [Save()], [], []
        return taken
