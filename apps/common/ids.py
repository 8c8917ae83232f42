"""Identifiers and opaque tokens.

Rows are keyed by UUIDv7 (RFC 9562 section 5.7), so that primary keys sort by time on both
databases. Tokens are 256 random bits behind a prefix that says what they are, so that a leaked one
is recognised by secret scanners; only their SHA-256 is ever stored.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
import uuid


def uuid7() -> uuid.UUID:
    """A new UUIDv7: 48 bits of Unix milliseconds, then random bits."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return uuid.UUID(int=value)


def token(prefix: str) -> str:
    """A new opaque token, `<prefix>_<43 URL-safe characters>` (256 random bits)."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def token_hash(value: str) -> str:
    """What is stored of a token: its SHA-256 as 64 hex digits.

    A plain hash is right here: the input has 256 random bits, so there is nothing to stretch.
    """
    return hashlib.sha256(value.encode()).hexdigest()
