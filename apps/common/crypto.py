"""Secrets at rest: AES-256-GCM (NIST SP 800-38D) with a random 96-bit IV and a key id.

A sealed value is `key id, IV, ciphertext+tag`. The row's identity is bound in as associated data,
so that a ciphertext copied to another row or organization does not open. Keys are 32 random bytes
in a ring: the first seals, all open; rotation adds one in front.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
IV_BYTES = 12


class CryptoError(Exception):
    """A value cannot be opened: unknown key, wrong row, or changed bytes."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is stored: `key_id` (8 hex digits), `iv` (12 bytes), `ciphertext` (with 16-byte tag)."""

    key_id: str
    iv: bytes
    ciphertext: bytes


class KeyRing:
    """The installation's keys. `repr` shows ids only."""

    def __init__(self, keys: list[bytes]) -> None:
        if not keys:
            raise CryptoError("no encryption key is configured")
        for key in keys:
            if len(key) != KEY_BYTES:
                raise CryptoError(f"an encryption key has {len(key)} bytes; it must have 32")
        self._keys = {key_id(key): AESGCM(key) for key in keys}
        self.primary = key_id(keys[0])

    def __repr__(self) -> str:
        return f"KeyRing({', '.join(self._keys)})"

    def seal(self, value: bytes, *, context: str) -> Sealed:
        """Encrypt under the primary key; `context` names the row and must be given to open it."""
        iv = os.urandom(IV_BYTES)
        ciphertext = self._keys[self.primary].encrypt(iv, value, context.encode())
        return Sealed(self.primary, iv, ciphertext)

    def open(self, sealed: Sealed, *, context: str) -> bytes:
        """Decrypt; CryptoError when the key is unknown or anything was changed."""
        key = self._keys.get(sealed.key_id)
        if key is None:
            raise CryptoError(f"no key {sealed.key_id} in the key ring")
        try:
            return key.decrypt(sealed.iv, sealed.ciphertext, context.encode())
        except InvalidTag as error:
            raise CryptoError("the sealed value does not belong here or was changed") from error


def key_id(key: bytes) -> str:
    """A public name for a key: the first 8 hex digits of a domain-separated SHA-256."""
    return hashlib.sha256(b"lensagents key id\0" + key).hexdigest()[:8]
