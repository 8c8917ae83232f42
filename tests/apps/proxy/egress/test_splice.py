"""The relay of WebSockets on its own: what the search for a credential holds back, and how long."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from apps.proxy.egress import websocket
from apps.proxy.egress.audit import Record
from apps.proxy.egress.scrub import forms
from apps.proxy.egress.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    Ends = tuple[socket.socket, socket.socket]

SECRET = "s3cr3t-Token_0123456789/abcdefghij+xyz"
AGENT, SERVER = 0, 1
PING = b"\x89\x00"
EMPTY = b"\x01\x00"


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The agent's and the server's end of a relay that searches for `SECRET`."""
    (agent, near), (far, server) = socket.socketpair(), socket.socketpair()
    record = Record("GET", "ws.test", 443, "/")

    def relay() -> None:
        with suppress(OSError):
            websocket.splice(Wire(near), Wire(far), forms(SECRET), 5.0, record)

    thread = threading.Thread(target=relay)
    thread.start()
    agent.settimeout(0.02)
    server.settimeout(0)
    yield agent, server
    server.close()
    agent.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    near.close()
    far.close()


def begin(server: socket.socket) -> bytes:
    """A message that ends like a secret begins."""
    message = b"\x81\x05" + SECRET[:5].encode()
    server.sendall(message)
    return message


def seconds_until(ends: Ends, wanted: bytes, speaker: int, say: bytes) -> float:
    """When the agent has `wanted`, while one of the ends says something all the time."""
    started, got = time.monotonic(), b""
    while wanted not in got:
        assert time.monotonic() - started < 4, got
        ends[speaker].sendall(say)
        with suppress(TimeoutError):
            got += ends[AGENT].recv(65536)
        with suppress(BlockingIOError):
            ends[SERVER].recv(65536)
    return time.monotonic() - started


@pytest.mark.parametrize(("speaker", "say"), [(SERVER, PING), (SERVER, EMPTY), (AGENT, b"x")])
def test_who_goes_on_does_not_keep_a_message_back(ends: Ends, speaker: int, say: bytes) -> None:
    """What is kept back for the search also keeps back all that comes after it."""
    assert seconds_until(ends, begin(ends[SERVER]), speaker, say) < 3


def test_a_beginning_waits_for_the_rest(ends: Ends) -> None:
    ends[SERVER].sendall(b"\x81" + bytes([len(SECRET)]) + SECRET[:20].encode())
    ends[SERVER].sendall(SECRET[20:].encode())
    assert seconds_until(ends, b"*" * len(SECRET), AGENT, b"") < 3
