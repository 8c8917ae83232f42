"""Database connections of threads that live outside a request."""

from __future__ import annotations

from django.db import close_old_connections, connection


def drop_stale_connections() -> None:
    """What Django does around a request: close connections that are broken or too old.

    Within a transaction it does nothing, since Django's own function would break it.
    """
    if not connection.in_atomic_block:
        close_old_connections()
