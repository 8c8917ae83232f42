"""Keep an injected secret from coming back: exact-match masking of what an upstream answers.

This is the second line; the first is a policy that allows only methods and paths that do not echo.
Replacement keeps the length, so no framing changes. A suffix that may be the beginning of a secret
is held until the next bytes decide, so chunk borders hide nothing. Every body is looked through,
whatever its `Content-Type` says. What escapes is told in docs/egress.md.
"""

from __future__ import annotations

import base64
import html
import json
import re
import urllib.parse

# A shorter secret would match by accident; such credentials need path rules.
SHORTEST = 16
_MASK = b"*"
_ESCAPE = re.compile("%[0-9A-F]{2}")


def forms(value: str, *rendered: str) -> tuple[bytes, ...]:
    """The byte strings under which a secret may come back, longest first.

    `rendered` are other strings that carry it (the base64 of `basic`). Each counts raw, escaped for
    URLs, JSON (as Python, PHP and Go write it) and HTML, and as base64 in all three alignments.
    """
    found: set[bytes] = set()
    for text in (value, *rendered):
        found |= {form.encode() for form in (text, *_escaped(text))}
        found |= set(_base64_cores(text.encode()))
    return tuple(sorted((form for form in found if len(form) >= SHORTEST), key=len, reverse=True))


def _escaped(text: str) -> list[str]:
    quoted = [urllib.parse.quote(text, safe=safe) for safe in ("", "/")]
    quoted += [urllib.parse.quote_plus(text)]
    written = json.dumps(text)[1:-1]
    return [
        *quoted,
        *(_ESCAPE.sub(lambda match: match[0].lower(), form) for form in quoted),
        written,
        written.replace("/", "\\/"),
        written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"),
        html.escape(text),
    ]


def _base64_cores(secret: bytes) -> list[bytes]:
    """What of the secret's base64 does not depend on its neighbours, for each alignment."""
    cores = []
    for shift in range(3):
        whole = base64.b64encode(b"\0" * shift + secret)
        first = (shift * 8 + 5) // 6
        last = (shift + len(secret)) * 8 // 6
        core = whole[first:last]
        cores += [core, core.translate(bytes.maketrans(b"+/", b"-_"))]
    return cores


def mask(data: bytes, needles: tuple[bytes, ...]) -> bytes:
    """`data` with every needle replaced by as many asterisks."""
    for needle in needles:
        if needle in data:
            data = data.replace(needle, _MASK * len(needle))
    return data


class Scrubber:
    """Masks a stream; holds back at most one needle's length."""

    __slots__ = ("_held", "_needles")

    def __init__(self, needles: tuple[bytes, ...]) -> None:
        self._needles = needles
        self._held = b""

    def feed(self, data: bytes | memoryview) -> bytes:
        """The bytes that are safe to pass now (may be none)."""
        text = mask(self._held + bytes(data), self._needles)
        keep = max((overlap(text, needle) for needle in self._needles), default=0)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut]

    @property
    def holds(self) -> bool:
        """Whether bytes are held back."""
        return bool(self._held)

    def flush(self) -> bytes:
        """What was held, at the end of the stream."""
        held, self._held = self._held, b""
        return held


def overlap(text: bytes, needle: bytes) -> int:
    """Length of the longest end of `text` that begins `needle` (never the whole of it)."""
    at = text.find(needle[:1], max(0, len(text) - len(needle) + 1))
    while at >= 0:
        if needle.startswith(text[at:]):
            return len(text) - at
        at = text.find(needle[:1], at + 1)
    return 0
