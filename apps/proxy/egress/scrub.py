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
from itertools import chain
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# A shorter secret would match by accident; such credentials need path rules.
SHORTEST = 16
_MASK = b"*"
# A piece shorter than this would be found by accident too often.
_SHORTEST_ANCHOR = 8
# So much of the end of a beginning is kept: whole ones need the square of a secret's length.
_TAIL = 8
_PLAIN = re.compile(rb"[A-Za-z0-9]+")
_ESCAPE = re.compile("%[0-9A-F]{2}")


class Needles(tuple[bytes, ...]):  # noqa: SLOT001  of what varies in size there are no slots
    """Byte strings to look for, longest first, with what makes that fast.

    `groups`: a piece that several needles have in common, and those needles; where it is absent
    they all are, and one search did for all. `begun`: by the last byte of a text, how it ends when
    it may end with the beginning of a needle. Not cached anywhere: it lives as long as the secret.
    """

    groups: tuple[tuple[bytes, tuple[bytes, ...]], ...]
    begun: tuple[tuple[bytes, ...], ...]

    def __new__(cls, needles: Iterable[bytes]) -> Self:
        made = super().__new__(cls, sorted(set(needles), key=_order))
        made.groups = tuple(_groups(made))
        made.begun = _beginnings(made)
        return made


def _order(needle: bytes) -> tuple[int, bytes]:
    """Longest first."""
    return -len(needle), needle


def _groups(needles: tuple[bytes, ...]) -> Iterator[tuple[bytes, tuple[bytes, ...]]]:
    """What contains a shorter needle contains its piece too: it is in that group."""
    left = needles
    while left:
        anchor = max(_PLAIN.findall(left[-1]), key=len, default=b"")
        if len(anchor) < _SHORTEST_ANCHOR:
            anchor = left[-1]
        yield anchor, tuple(needle for needle in left if anchor in needle)
        left = tuple(needle for needle in left if anchor not in needle)


def _beginnings(needles: tuple[bytes, ...]) -> tuple[tuple[bytes, ...], ...]:
    """The last bytes of all beginnings (a short one is there as a whole), by the very last."""
    found: list[set[bytes]] = [set() for _ in range(256)]
    for needle in needles:
        for length in range(1, len(needle)):
            found[needle[length - 1]].add(needle[max(0, length - _TAIL) : length])
    return tuple(map(tuple, found))


NONE = Needles(())


def forms(value: str, *rendered: str) -> Needles:
    """The byte strings under which a secret may come back, longest first.

    `rendered` are other strings that carry it (the base64 of `basic`). Each counts raw, escaped for
    URLs, JSON (as Python, PHP and Go write it) and HTML, and as base64 in all three alignments.
    """
    found: set[bytes] = set()
    for text in (value, *rendered):
        found |= {form.encode() for form in (text, *_escaped(text))}
        found |= set(_base64_cores(text.encode()))
    return Needles(form for form in found if len(form) >= SHORTEST)


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


def mask(data: bytes, needles: Needles) -> bytes:
    """`data` with every needle replaced by as many asterisks."""
    near = [group for anchor, group in needles.groups if anchor in data]
    # Longest first: a shorter one that overlaps must not leave the better part of a longer one.
    for needle in sorted(chain.from_iterable(near), key=_order):
        if needle in data:
            data = data.replace(needle, _MASK * len(needle))
    return data


def overlap(text: bytes, needles: Needles) -> int:
    """Length of the longest end of `text` that begins a needle (never the whole of one)."""
    begun = needles.begun[text[-1]] if text else ()
    if not text.endswith(begun):
        return 0
    return max(_begun(text, needle) for needle in needles)


def _begun(text: bytes, needle: bytes) -> int:
    """Length of the longest end of `text` that begins this needle (never the whole of it)."""
    tail = text[-_TAIL:]
    length = len(needle)
    while (at := needle.rfind(tail, 0, length - 1)) >= 0:
        length = at + len(tail)
        if text.endswith(needle[:length]):
            return length
    shorter = range(min(_TAIL, len(needle)) - 1, 0, -1)
    return next((count for count in shorter if text.endswith(needle[:count])), 0)


class Scrubber:
    """Masks a stream; holds back at most one needle's length."""

    __slots__ = ("_held", "_needles")

    def __init__(self, needles: Needles) -> None:
        self._needles = needles
        self._held = b""

    def feed(self, data: bytes | memoryview) -> bytes:
        """The bytes that are safe to pass now (may be none)."""
        text = b"".join((self._held, data)) if self._held else bytes(data)
        text = mask(text, self._needles)
        cut = len(text) - overlap(text, self._needles)
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
