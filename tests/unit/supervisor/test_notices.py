"""Looking for notices never ends the supervisor, whatever is found."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from holdfast.supervisor.notices import Notices


def test_what_cannot_be_looked_at_is_no_notice(tmp_path: Path) -> None:
    assert Notices(file=str(tmp_path / ("x" * 300))).found(0.0) is None  # an error, as of a lost disk
    assert Notices(command="no-such-command").found(0.0) is None
    assert Notices(command="'").found(0.0) is None
    assert Notices(url="http://127.0.0.1:1/a b").found(0.0) is None


def test_a_server_that_does_not_speak_http_gives_no_notice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            caller, _ = server.accept()
            with caller:
                caller.recv(1000)
                caller.sendall(b"220 mail.example.com ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert Notices(url=f"http://127.0.0.1:{server.getsockname()[1]}/").found(0.0) is None
        thread.join()
