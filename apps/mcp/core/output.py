"""Bytes that a command or file produced, as JSON that a model can read.

Text is text. What is no UTF-8 or holds a NUL is base64 in a field of its own, and the text says so;
what was cut off says so too, with the size of the whole.
"""

from __future__ import annotations

import base64
from typing import Any


def as_text(data: bytes, *, cut: bool) -> str | None:
    """The text, or None when it is binary. A character cut in two at the end is dropped."""
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        if cut and error.start >= len(data) - 3 and error.reason == "unexpected end of data":
            return data[: error.start].decode()
        return None


def stream(name: str, encoded: str, total: int) -> tuple[dict[str, Any], str]:
    """(fields, text) of one stream: `name`, or `name_base64`; `name_bytes`, `name_truncated`."""
    data = base64.b64decode(encoded)
    cut = total > len(data)
    text = as_text(data, cut=cut)
    fields: dict[str, Any] = {f"{name}_bytes": total, f"{name}_truncated": cut}
    if text is None:
        fields[f"{name}_base64"] = encoded
        shown = f"[binary {name}: {len(data)} bytes as base64 in `{name}_base64`]"
    else:
        fields[name] = shown = text
    if cut:
        shown += f"\n[{name} truncated: {len(data)} of {total} bytes shown]"
    return fields, shown
