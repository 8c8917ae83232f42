"""Undo gzip and deflate as a stream, within bounds, so that an answer can be searched.

Only for answers to requests that carried a credential, from upstreams that compress although they
were asked not to (RFC 9110 section 8.4.1, RFC 1950 to 1952).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CODINGS = frozenset({"gzip", "x-gzip", "deflate"})
MOST_BYTES = 64 * 1024 * 1024
MOST_RATIO = 100
# Small answers may be as repetitive as they like.
_ALWAYS = 64 * 1024
_PIECE = 64 * 1024
_GZIP = 16 + zlib.MAX_WBITS
_ZLIB_HEADER = 2


class InflateError(Exception):
    """Compressed bytes that are malformed, incomplete, or too many once they are not."""


class Inflater:
    """Inflates one body; `most` bounds the bytes that come out."""

    def __init__(self, coding: str, most: int = MOST_BYTES) -> None:
        self._gzip = coding != "deflate"
        self._most = most
        self._came = self._gave = 0
        self._early = b""
        self._member: zlib._Decompress | None = None

    def feed(self, data: bytes | memoryview) -> Iterator[bytes]:
        """The inflated bytes, piece by piece; raises InflateError."""
        self._came += len(data)
        rest = self._early + bytes(data)
        self._early = b""
        while rest or self._member is not None:
            if self._member is None:
                if len(rest) < _ZLIB_HEADER:
                    self._early = rest
                    return
                self._member = self._begin(rest)
            piece = self._inflate(self._member, rest)
            if piece:
                yield piece
            if self._member.eof:
                rest = self._member.unused_data
                self._member = None
            else:
                rest = self._member.unconsumed_tail
                if not rest and len(piece) < _PIECE:
                    return

    def finish(self) -> None:
        """The body is complete; raises InflateError when what was compressed is not."""
        if self._member is not None or self._early:
            raise InflateError("the upstream's compressed answer broke off")

    def _begin(self, data: bytes) -> zlib._Decompress:
        if self._gzip:
            return zlib.decompressobj(_GZIP)
        if self._gave:
            raise InflateError("bytes follow the upstream's compressed answer")
        # Servers send `deflate` with the zlib header that it should have, and without.
        wrapped = data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2]) % 31 == 0
        return zlib.decompressobj(zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)

    def _inflate(self, member: zlib._Decompress, data: bytes) -> bytes:
        try:
            piece = member.decompress(data, _PIECE)
        except zlib.error:
            raise InflateError("the upstream's compressed answer is malformed") from None
        self._gave += len(piece)
        if self._gave > min(self._most, max(_ALWAYS, MOST_RATIO * self._came)):
            raise InflateError("the upstream's compressed answer is too large to be searched")
        return piece
