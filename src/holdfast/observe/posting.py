"""Sending JSON to a server; what comes back tells whether trying again is of use."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Mapping

from holdfast.errors import UsageError

PATIENCE_SECONDS = 10.0
"""For one message; at the end for all that are left."""
_WORTH_TRYING_AGAIN = (408, 425, 429)
Send = Callable[[bytes], None]
"""Raises OSError if it is worth trying again."""


def poster(url: str, what: str, headers: Mapping[str, str]) -> Send:
    """Posts messages there.

    Parameters
    ----------
    what : str
        What they are, for people.
    headers : mapping
        To send with each.

    Raises
    ------
    UsageError
        It is no address that can be posted to.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"The address for {what} is none.", do="Give one that begins with https://.")

    def send(data: bytes) -> None:
        request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
        try:
            urllib.request.urlopen(request, timeout=PATIENCE_SECONDS).close()  # its scheme was checked
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 and error.code not in _WORTH_TRYING_AGAIN:
                raise ValueError(f"it answers {error.code}") from None
            raise OSError(f"it answers {error.code}") from None

    return send
