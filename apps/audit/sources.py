"""Which organization a producer's folder may speak for.

An app above tells audit, so that audit imports none: `sandboxes` registers a function from the name
of a sandbox's folder to its organization. The proxy that writes there is ours; should it ever be
taken over, it still cannot write into another organization's trail.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable

    Resolver = Callable[[uuid.UUID], uuid.UUID | None]

SANDBOX_FOLDER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

_resolvers: list[Resolver] = []


def owns_folders(resolver: Resolver) -> Resolver:
    """Decorator: `resolver` says which organization owns a UUID-named folder, None if unknown."""
    if _resolvers:
        raise TypeError("the owners of spool folders are resolved twice")
    _resolvers.append(resolver)
    return resolver


def resolver() -> Resolver | None:
    """The registered function, or None when nobody has registered one."""
    return _resolvers[0] if _resolvers else None
