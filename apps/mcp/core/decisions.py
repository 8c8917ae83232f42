"""Ids of decisions, as they come from elsewhere."""

from __future__ import annotations

import uuid


def is_decision(value: object) -> bool:
    """Whether it is an id as the platform writes them: a UUID in its canonical form (RFC 9562)."""
    if not isinstance(value, str):
        return False
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:
        return False
