"""The signatures that we accept, all asymmetric: no shared secret ever proves who somebody is."""

from __future__ import annotations

# algorithm (RFC 7518 section 3.1) → type of the key that makes it
KEY_TYPES = {
    "RS256": "RSA",
    "RS384": "RSA",
    "RS512": "RSA",
    "PS256": "RSA",
    "PS384": "RSA",
    "PS512": "RSA",
    "ES256": "EC",
    "ES384": "EC",
    "ES512": "EC",
}


def hash_name(algorithm: str) -> str:
    """The hash that an algorithm signs, which `at_hash` uses too (Core section 3.1.3.6)."""
    return f"sha{algorithm[-3:]}"
