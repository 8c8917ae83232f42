"""One reading of a request path, or none: what two servers could read differently is refused.

`canonical` decodes a request target once (RFC 3986 §2.1, §5.2.4 and §6.2.2) and refuses, never
repairs, whatever a server behind us might read as another path: dot segments in any spelling,
encoded separators, path parameters (`;`), double encoding, empty segments, control and invisible
characters, bytes that are not UTF-8, and letters that turn into separators or dots when a server
applies Unicode NFKC. The request itself is sent on unchanged; only the decision reads this form.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

MAX_TARGET = 16_384
MAX_SEGMENTS = 256

_VISIBLE_ASCII = re.compile(r"[!-~]+")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PLAIN = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9_~.:@!$&'()*+,=-]*)+/?|/")
_SEPARATORS = frozenset("/\\.;%?#")
# Letters that code pages and fonts take for a slash, and that NFKC leaves alone.
_SLASH_LOOKALIKES = frozenset("\u2044\u2215\u2216\u29f5\u29f8\u29f9")
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """A target that could be read in two ways. `reason` completes "the path ..."."""

    reason: str


def canonical(target: str) -> str | Ambiguous:
    """The decoded path of an origin-form target (RFC 9112 §3.2.1), without the query.

    The result starts with `/`, holds no empty segment (a trailing slash apart), no dot segment and
    no percent escape, and is the only path that any server can read from the target.
    """
    problem = _raw_problem(target)
    if problem is not None:
        return problem
    path = target.partition("?")[0]
    return _checked_count(path) if _PLAIN.fullmatch(path) else _decoded(path)


def segments(path: str) -> tuple[str, ...]:
    """The segments of a canonical path; a trailing slash adds none, so `/a/` is `/a`."""
    return tuple(path.removesuffix("/").split("/")[1:])


def _raw_problem(target: str) -> Ambiguous | None:
    if len(target) > MAX_TARGET:
        return Ambiguous(f"is longer than {MAX_TARGET} characters")
    if not target.startswith("/"):
        return Ambiguous("does not start with `/`")
    if not _VISIBLE_ASCII.fullmatch(target):
        return Ambiguous("holds spaces, control characters or letters that are not escaped")
    if "#" in target:
        return Ambiguous("holds a fragment (`#`)")
    return None


def _decoded(path: str) -> str | Ambiguous:
    if _BAD_ESCAPE.search(path):
        return Ambiguous("holds a `%` that is no escape")
    if "%2f" in path.lower():
        return Ambiguous("holds an encoded slash")
    try:
        text = unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        return Ambiguous("is not UTF-8")
    problem = _text_problem(text)
    if problem:
        return Ambiguous(problem)
    return _checked_count(text)


def _text_problem(text: str) -> str:
    """What is wrong with a decoded path, as a phrase, or an empty string."""
    if "\\" in text:
        return "holds a backslash"
    if ";" in text:
        return "holds a semicolon (path parameters)"
    if "%" in text:
        return "is encoded twice"
    if any(unicodedata.category(letter) in _HIDDEN_CATEGORIES for letter in text):
        return "holds control or invisible characters"
    if not text.isascii() and _becomes_separator(text):
        return "holds letters that a server may read as a slash or a dot"
    return next(filter(None, map(segment_problem, _inner(text))), "")


def segment_problem(segment: str) -> str:
    """What is wrong with one decoded segment, as a phrase, or an empty string."""
    if not segment:
        return "holds an empty segment (`//`)"
    if not segment.strip(". \u00a0"):
        return "holds a dot segment"
    if segment != segment.strip():
        return "holds a segment that starts or ends with a space"
    return ""


def _inner(text: str) -> list[str]:
    """The segments between the first and an optional last slash."""
    return [] if text == "/" else text[1:].removesuffix("/").split("/")


def _becomes_separator(text: str) -> bool:
    """Whether NFKC gives some letter a separator or a dot that it did not show (RFC 8264 §5)."""
    return any(
        not _SEPARATORS.isdisjoint(folded) or not _SLASH_LOOKALIKES.isdisjoint(folded)
        for letter in text
        if not letter.isascii()
        for folded in (unicodedata.normalize("NFKC", letter),)
    )


def _checked_count(path: str) -> str | Ambiguous:
    if path.count("/") > MAX_SEGMENTS:
        return Ambiguous(f"has more than {MAX_SEGMENTS} segments")
    return path
