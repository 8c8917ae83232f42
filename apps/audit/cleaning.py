"""Make any value storable: bounded, without NUL or lone surrogates, without secrets by name or
shape.

Pure. PostgreSQL refuses NUL in text and `\\u0000`, NaN and lone surrogates in JSON; SQLite takes
some of them and fails on reading. Hostile text is otherwise kept as it came: it is made harmless
where it is shown (`apps.common.inert`), since changing evidence would be worse.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

from apps.audit.types import SecretChange

MAX_TEXT: Final = 4_000
MAX_METADATA_BYTES: Final = 32 * 1024
MAX_ITEMS: Final = 200
MAX_DEPTH: Final = 6
MASK: Final = "[secret]"
CHANGED: Final = "changed"

_SECRET_NAMES = frozenset(
    (
        *(
            "value",
            "secret",
            "secrets",
            "password",
            "passphrase",
            "token",
            "tokens",
            "access_token",
        ),
        *("refresh_token", "id_token", "authorization", "cookie", "api_key", "apikey"),
        *("private_key", "client_secret", "ciphertext", "iv", "secret_ciphertext", "secret_iv"),
    )
)
_TOKEN = re.compile(r"\b(ln[a-z]{1,3})_[A-Za-z0-9_-]{43}")
_SURROGATES = re.compile(r"[\ud800-\udfff]")
_SUSPECT = re.compile(r"[\x00\ud800-\udfff]|\bln[a-z]{1,3}_")
_MAX_INTEGER = 2**63


def clean_text(value: object, limit: int = MAX_TEXT) -> str:
    """`value` as text of at most `limit` characters; platform tokens in it are masked."""
    text = str(value)[: limit * 2]
    if _SUSPECT.search(text):
        text = _SURROGATES.sub("\ufffd", text.replace("\x00", ""))
        text = _TOKEN.sub(r"\1_[masked]", text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def is_secret_name(name: str) -> bool:
    """Whether a field of this name is never written into the trail, whatever it holds."""
    return name.lower().replace("-", "_") in _SECRET_NAMES


def clean_json(value: object, depth: int = 0) -> Any:
    """`value` as plain JSON data within the bounds of this module."""
    if value is None or isinstance(value, bool | int | float | Decimal):
        return _clean_scalar(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if depth < MAX_DEPTH and isinstance(value, Mapping):
        pairs = list(value.items())[:MAX_ITEMS]
        return {clean_text(key, 200): _clean_item(str(key), item, depth) for key, item in pairs}
    if depth < MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
        return [clean_json(item, depth + 1) for item in list(value)[:MAX_ITEMS]]
    return clean_text(value.isoformat() if isinstance(value, dt.datetime | dt.date) else value)


def clean_metadata(metadata: Mapping[str, object]) -> dict[str, Any]:
    """An event's metadata; what does not fit is left out and named in `truncated`."""
    return _fit(clean_json(metadata))


def clean_changes(
    changes: Mapping[str, tuple[object, object] | SecretChange],
) -> dict[str, Any]:
    """`{field: [old, new]}`; a secret field is only said to have changed."""
    return _fit({clean_text(field, 200): _change(field, pair) for field, pair in changes.items()})


def _change(field: str, pair: tuple[object, object] | SecretChange) -> list[Any] | str:
    if isinstance(pair, SecretChange) or is_secret_name(field):
        return CHANGED
    return [clean_json(pair[0]), clean_json(pair[1])]


def _fit(cleaned: dict[str, Any]) -> dict[str, Any]:
    if _size(cleaned) <= MAX_METADATA_BYTES:
        return cleaned
    kept: dict[str, Any] = {}
    left_out: list[str] = []
    room = MAX_METADATA_BYTES - 1024
    for key, item in cleaned.items():
        room -= _size({key: item})
        if room < 0:
            left_out.append(key[:50])
            room += _size({key: item})
        else:
            kept[key] = item
    return {**kept, "truncated": left_out[:10]}


def _clean_item(key: str, item: object, depth: int) -> Any:
    counts = item is None or item == "" or isinstance(item, int | float)
    if isinstance(item, SecretChange) or (is_secret_name(key) and not counts):
        return MASK
    return clean_json(item, depth + 1)


def _clean_scalar(value: float | Decimal | None) -> float | str | None:
    """Numbers that both databases hold in JSON stay numbers; others become text."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < _MAX_INTEGER else clean_text(hex(value), 100)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return clean_text(value, 100)


def _size(value: object) -> int:
    return len(json.dumps(value))
