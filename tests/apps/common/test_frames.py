"""Frames between our own processes: whatever a peer sends is an object, or one kind of error."""

from __future__ import annotations

import socket

import pytest

from apps.common import frames

NONSENSE = {
    "no JSON": b"{",
    "no object": b"[]",
    "a number too long": b"9" * 5000,
    "no UTF-8": b'{"a": "\xff"}',
    "depth": b"[" * 16_000,
    "depth of objects": b'{"a":' * 16_000,
}


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_a_frame_error(body: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode_body(body)


def test_there_and_back() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        frames.send_frame(ours, {"a": ["é", 1, None]})
        assert frames.recv_frame(theirs) == {"a": ["é", 1, None]}
        frames.send_frame(ours, {"a": "b" * 100})
        with pytest.raises(frames.FrameError):
            frames.recv_frame(theirs, 50)
        theirs.sendall(b"\0\0\0\x09{")
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(frames.FrameError):
            frames.recv_frame(ours)
