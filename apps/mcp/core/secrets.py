"""Secrets in what an agent sends: recognised by their form, masked before anything is recorded.

Commands and parameters go into the audit trail, where many people read them. A detector names what
it found, so that an investigator learns that there was a token without learning the token.
Detectors know the forms that issuers publish; a password in prose looks like prose, and stays.
Every repetition in them is bounded and none is nested, so that hostile text costs linear time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MAX_TEXT: Final = 4_000
MAX_NAME: Final = 200
MAX_TOTAL: Final = 40_000
MAX_DEPTH: Final = 6
_BEYOND: Final = 16_384
# Beyond it a number may have no decimal form (Python bounds that), nor fit a database.
_LARGEST: Final = 2**63

_NAMED = (
    ("private key", r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[A-Za-z0-9+/=\s\\]{0,8000}"),
    ("platform token", r"\bln[a-z]{1,3}_[A-Za-z0-9_-]{43}"),
    ("AWS key id", r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    ("GitHub token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255})"),
    ("GitLab token", r"\bglpat-[A-Za-z0-9_-]{20,64}"),
    ("Slack token", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,250}"),
    ("API key", r"\bsk-[A-Za-z0-9_-]{20,250}"),
    ("Google API key", r"\bAIza[A-Za-z0-9_-]{35}"),
    ("Stripe key", r"\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,128}"),
    ("npm token", r"\bnpm_[A-Za-z0-9]{36}"),
    ("JSON web token", r"\beyJ[A-Za-z0-9_-]{8,2000}\.eyJ[A-Za-z0-9_-]{8,4000}\.[\w-]{0,2000}"),
)
_TELLING = (
    r"((?:password|passwd|passphrase|secret|api[_-]?key|access[_-]?key|token)"
    r"[\"']?\s{0,3}[=:]\s{0,3}"
)
_QUOTED = r"\"[^\"\n]{1,500}\"?|'[^'\n]{1,500}'?"
# What stands before the secret is kept, so that the reader sees where it was.
_AFTER = (
    ("authorization", r"(\b(?:bearer|basic|token)\s{1,4})[A-Za-z0-9._~+/=-]{8,4000}"),
    ("password", r"(://[^\s/:@]{0,200}:)[^\s/@]{1,500}(?=@)"),
    # Between quotes a blank does not end it; between single ones nothing stands for something else.
    ("secret", _TELLING + r"')(?!\[)[^'\n]{4,500}"),
    ("secret", _TELLING + r"\")(?!\$|\[)[^\"\n]{4,500}"),
    ("secret", _TELLING + r"[\"']?)(?!\s|\$|\[)[^\s\"'&;,]{4,500}"),
    ("secret", r"([?&](?:key|sig|signature)=)(?!\$|\[)[^\s\"'&#]{4,500}"),
    ("secret", r"(\s--?(?:password|passwd|token|secret|api-key|user)[= ]{1,2})(?!\$)[^\s]{4,500}"),
    # `-u 1000:1000` is a user and a group.
    ("password", r"(\s-[A-Za-z]{0,5}u[= ]{0,2}'[^\s:\"']{1,200}:)[^'\n]{1,500}"),
    ("password", r"(\s-[A-Za-z]{0,5}u[= ]{0,2}\"[^\s:\"']{1,200}:)(?!\$)[^\"\n]{1,500}"),
    (
        "password",
        r"(\s-[A-Za-z]{0,5}u[= ]{0,2}[^\s:\"']{1,200}:)(?!\$|\d{1,9}(?:\s|$))[^\s\"']{1,500}",
    ),
    (
        "password",
        r"(\b(?:mysql|mariadb)[a-z-]{0,10}\s(?:[^\n|;&]{0,200}\s)?-p)(?![\s$]|\"\$)(?:"
        + _QUOTED
        + r"|[^\s\"']{1,500})",
    ),
)
_ANY_CASE = ("secret", "authorization")
_DETECTORS = tuple(
    (re.compile(pattern, re.IGNORECASE if name in _ANY_CASE else 0), name)
    for name, pattern in (*_NAMED, *_AFTER)
)
_SECRET_HEADERS = frozenset(("authorization", "proxy-authorization", "cookie"))
_SECRET_ENDINGS = ("token", "secret", "password", "api-key", "api_key", "apikey")


def mask_text(text: str, limit: int = MAX_TEXT) -> str:
    """`text` with every recognised secret named instead of shown, at most `limit` characters.

    The cut comes after the masking, so that no half of a secret survives at the border; what is far
    beyond the limit is not looked at, since it is not shown.
    """
    shown = text[: limit + _BEYOND]
    for pattern, name in _DETECTORS:
        before = r"\1" if pattern.groups else ""
        shown = pattern.sub(f"{before}[{name}]", shown)
    if len(text) <= limit and len(shown) <= limit:
        return shown
    return f"{shown[:limit]}… ({len(text)} characters)"


def mask(value: Any) -> Any:
    """The same for JSON data; the values of headers that carry credentials are masked by name.

    About `MAX_TOTAL` characters are looked at in all, small values first, whatever their order: of
    what comes after, "…" is left, but names of arguments stay. So a call costs the same whatever
    was sent with it, and what it did is not hidden behind what is large.
    """
    return _Masker().mask(value, 0)


class _Masker:
    """One pass over one value, with what is left of the characters that it may look at."""

    def __init__(self) -> None:
        self._left = MAX_TOTAL

    def mask(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping | list) and (depth >= MAX_DEPTH or self._left <= 0):
            return "…"
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, list):
            return [self.mask(item, depth + 1) for item in value[:100]]
        if isinstance(value, int | float) and not abs(value) < _LARGEST:
            return "[number]"
        return value

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        items = [(str(key), item) for key, item in list(value.items())[:100]]
        names = [self._name(key, number) for number, (key, _) in enumerate(items)]
        kept = dict.fromkeys(names)
        for name, (key, item) in sorted(
            zip(names, items, strict=True), key=lambda named: _size(named[1][1])
        ):
            kept[name] = "[secret]" if _is_telling(key) else self.mask(item, depth + 1)
        return kept

    def _name(self, key: str, number: int) -> str:
        """A name is looked at as a whole or not at all: a cut one could show half of a secret."""
        if len(key) > MAX_NAME:
            return f"[name {number}: {len(key)} characters]"
        self._left -= len(key)
        return mask_text(key, MAX_NAME)

    def _text(self, text: str) -> str:
        if self._left <= 0:
            return "…"
        self._left -= min(len(text), MAX_TEXT + _BEYOND)
        return mask_text(text)


def _is_telling(key: str) -> bool:
    """Whether what stands under this name is a secret, whatever it looks like."""
    name = key[-MAX_NAME:].lower()
    return name in _SECRET_HEADERS or name.endswith(_SECRET_ENDINGS)


def _size(value: Any) -> tuple[bool, int]:
    """What to look at first: texts by their length, then what holds others."""
    nested = isinstance(value, Mapping | list)
    return nested, len(value) if nested or isinstance(value, str) else 0
