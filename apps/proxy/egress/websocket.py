"""WebSockets: the one upgrade there is, where a rule opens it, after a handshake without doubt.

The request must be a handshake by RFC 6455 section 4.2.1 and nothing else, and the upstream must
prove that it understood it as one (section 4.2.2). Only then do bytes pass without being read as
HTTP; a server that did not switch never gets any.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import select
import ssl
import time
from typing import TYPE_CHECKING

from apps.proxy.egress import framed
from apps.proxy.egress.answers import Answer, RefusedError, denied
from apps.proxy.egress.inject import response_fields
from apps.proxy.egress.response import UpstreamBrokenError
from apps.proxy.egress.scrub import NONE

if TYPE_CHECKING:
    from typing import NoReturn

    from apps.proxy.egress.audit import Record
    from apps.proxy.egress.head import RequestHead, ResponseHead
    from apps.proxy.egress.scrub import Needles
    from apps.proxy.egress.wire import Wire

HEADERS = ("Connection: Upgrade", "Upgrade: websocket")
EXTENSIONS = "sec-websocket-extensions"
_OPTIONS = frozenset({"upgrade", "keep-alive"})
_ACCEPT = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES = 16
# More than a TLS record, so that no decrypted byte waits where `poll` does not see it.
_PIECE = 64 * 1024
# How long bytes that look like the beginning of a secret wait for more, whatever else comes.
_HELD_SECONDS = 0.05


def key_of(head: RequestHead) -> str:
    """The key of a handshake; raises RefusedError (403) for any other upgrade."""
    if [value.lower() for value in _values(head, "upgrade")] != ["websocket"]:
        _refuse("protocol upgrades other than WebSocket are not available")
    plain = head.body == 0 and head.first("content-length") is None and not head.expects_continue
    if head.method != "GET" or not plain or not {"upgrade"} <= head.options <= _OPTIONS:
        _refuse("a WebSocket begins with a GET without a body and with `Connection: Upgrade`")
    if _values(head, "sec-websocket-version") != ["13"]:
        _refuse("a WebSocket has the version 13")
    keys = _values(head, "sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        _refuse("a WebSocket has one Sec-WebSocket-Key of 16 bytes")
    return keys[0]


def check_answer(answer: ResponseHead, key: str, *, extensions: bool) -> None:
    """Raise RefusedError (502) unless the 101 answers this very handshake."""
    # SHA-1 is what RFC 6455 asks for; nothing is protected by it.
    digest = hashlib.sha1(f"{key}{_ACCEPT}".encode(), usedforsecurity=False).digest()
    proven = _values(answer, "sec-websocket-accept") == [base64.b64encode(digest).decode()]
    switched = [value.lower() for value in _values(answer, "upgrade")] == ["websocket"]
    agreed = extensions or not _values(answer, EXTENSIONS)
    if not (switched and proven and agreed and "upgrade" in answer.options):
        reason = "the upstream did not complete the WebSocket handshake"
        raise RefusedError(Answer(502, "upstream_failed", reason, "upgrade"))


def answer_bytes(answer: ResponseHead) -> bytes:
    """The head of the 101 for the agent."""
    lines = ["HTTP/1.1 101 Switching Protocols", *HEADERS, *response_fields(answer), "\r\n"]
    return "\r\n".join(lines).encode("latin-1")


def _values(head: RequestHead | ResponseHead, name: str) -> list[str]:
    """All values of a field, read as the laxest server would (`_` for `-`)."""
    return [value for key, _, value in head.fields if key.replace("_", "-") == name]


def _is_key(text: str) -> bool:
    with contextlib.suppress(binascii.Error, ValueError):
        raw = base64.b64decode(text, validate=True)
        return len(raw) == _KEY_BYTES and base64.b64encode(raw).decode() == text
    return False


def _refuse(reason: str) -> NoReturn:
    raise RefusedError(denied(reason, "upgrade"))


class _Way:
    """One direction: at most one piece is held, and nothing is read while it is."""

    __slots__ = ("_buffer", "_due", "_scrubber", "count", "ended", "held", "sink", "source")

    def __init__(self, source: Wire, sink: Wire, needles: Needles) -> None:
        self.source = source.sock
        self.sink = sink.sock
        self.count = 0
        self.ended = False
        self._scrubber = framed.FrameScrubber(needles) if needles else None
        self._due = 0.0
        self._buffer = memoryview(bytearray(_PIECE))
        self.held = memoryview(b"")
        if source.pending:
            self._take(source.some(source.pending))

    def wait(self) -> float | None:
        """How many seconds more the scrubber may keep back all there is; None when it does not."""
        if self.held or self._scrubber is None or not self._scrubber.holds:
            self._due = 0.0
            return None
        now = time.monotonic()
        self._due = self._due or now + _HELD_SECONDS
        return max(0.0, self._due - now)

    def read(self) -> None:
        """Take one piece, if there is one."""
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            count = self.source.recv_into(self._buffer)
            if count:
                self._take(self._buffer[:count])
            else:
                self.let_go()
                self.ended = True

    def write(self) -> None:
        """Pass on what is held, as far as the other side takes it."""
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            count = self.sink.send(self.held)
            self.count += count
            self.held = self.held[count:]

    def let_go(self) -> None:
        """Nothing followed in time: what the scrubber kept back cannot wait."""
        if self._scrubber is not None:
            self.held = memoryview(self._scrubber.flush())

    def _take(self, data: memoryview) -> None:
        try:
            self.held = data if self._scrubber is None else memoryview(self._scrubber.feed(data))
        except framed.FrameError as error:
            raise UpstreamBrokenError(f"the upstream's WebSocket was malformed: {error}") from None


def splice(client: Wire, upstream: Wire, needles: Needles, idle: float, record: Record) -> None:
    """Pass bytes both ways until one side ends or `idle` seconds pass without any.

    What comes from the upstream is searched for `needles`, frame by frame. Raises OSError, or
    UpstreamBrokenError for what is no frame.
    """
    out, back = _Way(client, upstream, NONE), _Way(upstream, client, needles)
    client.sock.settimeout(0)
    upstream.sock.settimeout(0)
    try:
        while _turn(out, back, idle):
            pass
    finally:
        record.bytes_out, record.bytes_in = out.count, back.count


def _turn(out: _Way, back: _Way, idle: float) -> bool:
    """Wait for something to do and do it; False at the end."""
    ways = (out, back)
    if any(way.ended and not way.held for way in ways):
        return False
    wait = back.wait()
    if wait == 0:
        back.let_go()
        return True
    ready = _ready(ways, (idle if wait is None else wait) * 1000)
    if not ready and wait is not None:
        return True
    for way in ways:
        if way.held and ready.get(way.sink.fileno(), 0) & select.POLLOUT:
            way.write()
        elif not way.held and not way.ended and ready.get(way.source.fileno(), 0) & select.POLLIN:
            way.read()
    # A connection that broke while nobody wanted to use it would be reported again and again.
    usable = select.POLLIN | select.POLLOUT
    return bool(ready) and all(flags & usable for flags in ready.values())


def _ready(ways: tuple[_Way, _Way], wait_ms: float) -> dict[int, int]:
    wanted = {way.source.fileno(): 0 for way in ways}
    for way in ways:
        if way.held:
            wanted[way.sink.fileno()] |= select.POLLOUT
        elif not way.ended:
            wanted[way.source.fileno()] |= select.POLLIN
    poller = select.poll()
    for descriptor, events in wanted.items():
        poller.register(descriptor, events)
    return dict(poller.poll(wait_ms))
