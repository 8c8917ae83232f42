"""What an agent wrote, an admin reads: hostile text made harmless to look at.

Control characters, bidirectional overrides and zero-width characters become visible escapes, long
text is cut with its size. HTML escaping is left to the template's autoescape (`inert` returns a
plain `str`, never marked safe). CSV cells that a spreadsheet would run as a formula are quoted.
"""

from __future__ import annotations

import unicodedata

MAX_SHOWN = 2_000
_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def inert(text: object, *, limit: int = MAX_SHOWN) -> str:
    """`text` with every character visible, at most `limit` characters plus a size note."""
    raw = str(text)
    shown = "".join(_visible(char) for char in raw[:limit])
    if len(raw) <= limit:
        return shown
    return f"{shown}… ({len(raw)} characters)"


def inert_csv(text: object) -> str:
    """`inert` for a CSV cell: a leading formula character is defused by an apostrophe."""
    raw = str(text)
    shown = inert(raw)
    return f"'{shown}" if raw.startswith(_FORMULA_STARTS) else shown


def _visible(char: str) -> str:
    if char in "\n " or unicodedata.category(char) not in _HIDDEN_CATEGORIES:
        return char
    return f"\\u{ord(char):04x}" if ord(char) > 0xFF else f"\\x{ord(char):02x}"
