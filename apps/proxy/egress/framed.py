"""Masking in what a WebSocket server sends: across the frames of a message, and across messages.

Rules.
1. Frames are read by RFC 6455 section 5.2 and passed on as they are, but for masked bytes of the
   same number: no length changes. What a server may not send (a masked frame, a reserved bit or
   opcode, a large control frame) ends the connection: it could be read in another way.
2. The payloads of all data frames are one stream, those of control frames another one. A secret
   that is cut anywhere, with anything of the other stream in between, is found.
3. The beginning of a secret at the end of what came is held for more. When nothing comes it has to
   be let go, or a conversation would stand still. Then fewer than `TOLD` bytes of it pass, and the
   rest is still found: what was let go is remembered. Longer beginnings are masked.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from apps.proxy.egress.scrub import overlap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apps.proxy.egress.scrub import Needles

TOLD = 8
_MASK = b"*"
_DATA, _CONTROL = 0, 1
_OPCODES = frozenset({0x0, 0x1, 0x2, 0x8, 0x9, 0xA})
_FIRST_CONTROL = 0x8
_FIN, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
# What the seven bits of a length say of the bytes that follow with the real one.
_LONGER = {126: 2, 127: 8}
_MOST_CONTROL = 125


class FrameError(Exception):
    """What came is no frame that a server may send."""


class Masker:
    """Masks one stream; remembers enough of what has passed to find what goes on."""

    __slots__ = ("_context", "_held", "_needles", "_reach")

    def __init__(self, needles: Needles) -> None:
        self._needles = needles
        self._reach = max(map(len, needles)) - 1
        self._context = b""
        self._held = b""

    @property
    def holds(self) -> int:
        """How many bytes are held back."""
        return len(self._held)

    def feed(self, data: bytes | memoryview) -> bytes:
        """The bytes that are safe to pass now (may be none)."""
        window = b"".join((self._context, self._held, data))
        begun = overlap(window, self._needles)
        return self._pass(window, min(begun, len(self._held) + len(data)))

    def flush(self) -> bytes:
        """What was held; masked when it is more than a few bytes of a secret."""
        window = self._context + self._held
        begun = overlap(window, self._needles)
        count = len(self._held)
        passed = self._pass(window, 0)
        return _MASK * count if begun >= TOLD else passed

    def _pass(self, window: bytes, keep: int) -> bytes:
        """Pass what follows the context, but for the last `keep` bytes."""
        start, end = len(self._context), len(window) - keep
        clean = bytearray(window[start:end])
        for first, last in self._found(window):
            first, last = max(first, start), min(last, end)  # noqa: PLW2901 the part that passes
            if first < last:
                clean[first - start : last - start] = _MASK * (last - first)
        self._context, self._held = window[:end][-self._reach :], window[end:]
        return bytes(clean)

    def _found(self, window: bytes) -> Iterator[tuple[int, int]]:
        for needle in self._needles:
            at = window.find(needle)
            while at >= 0:
                yield at, at + len(needle)
                at = window.find(needle, at + 1)


class FrameScrubber:
    """Masks what one server sends; raises FrameError."""

    def __init__(self, needles: Needles) -> None:
        self._streams = (Masker(needles), Masker(needles))
        self._ready = (bytearray(), bytearray())
        self._head = bytearray()
        self._kind = _DATA
        self._left = 0
        # What leaves, in order: heads, and (stream, how many of its bytes).
        self._queue: deque[bytes | tuple[int, int]] = deque()

    @property
    def holds(self) -> bool:
        """Whether bytes are held back."""
        return any(stream.holds for stream in self._streams)

    def feed(self, data: bytes | memoryview) -> bytes:
        """The bytes that are safe to pass now (may be none)."""
        view = memoryview(data)
        while view:
            view = self._payload(view) if self._left else self._header(view)
        return self._leaving()

    def flush(self) -> bytes:
        """What was held: nothing followed in time, or at all."""
        for stream, ready in zip(self._streams, self._ready, strict=True):
            ready.extend(stream.flush())
        return self._leaving()

    def _payload(self, view: memoryview) -> memoryview:
        piece = view[: self._left]
        self._left -= len(piece)
        self._ready[self._kind].extend(self._streams[self._kind].feed(piece))
        self._queue.append((self._kind, len(piece)))
        return view[len(piece) :]

    def _header(self, view: memoryview) -> memoryview:
        """Take one byte more of a head, and begin its frame when that was the last one."""
        self._head.append(view[0])
        if len(self._head) > 1:
            _check(self._head)
            more = _LONGER.get(self._head[1] & _LENGTH, 0)
            if len(self._head) == 2 + more:
                self._begin(more)
        return view[1:]

    def _begin(self, more: int) -> None:
        head = bytes(self._head)
        self._head.clear()
        self._left = int.from_bytes(head[2:]) if more else head[1] & _LENGTH
        if self._left >> 63:
            raise FrameError("a frame's length has its highest bit set")
        self._kind = _CONTROL if head[0] & _OPCODE >= _FIRST_CONTROL else _DATA
        self._queue.append(head)

    def _leaving(self) -> bytes:
        out = bytearray()
        while self._queue:
            item = self._queue[0]
            if isinstance(item, bytes):
                out += item
            else:
                kind, count = item
                ready = self._ready[kind]
                out += ready[:count]
                count -= min(count, len(ready))
                del ready[: item[1]]
                if count:
                    self._queue[0] = (kind, count)
                    break
            self._queue.popleft()
        return bytes(out)


def _check(head: bytearray) -> None:
    """Raise FrameError for the first two bytes of what no server sends without an extension."""
    opcode, length = head[0] & _OPCODE, head[1] & _LENGTH
    if head[0] & _RESERVED or opcode not in _OPCODES:
        raise FrameError("a frame has a reserved bit or opcode")
    if head[1] & _MASKED:
        raise FrameError("a server's frame is masked")
    if opcode >= _FIRST_CONTROL and (length > _MOST_CONTROL or not head[0] & _FIN):
        raise FrameError("a control frame is too large or in parts")
