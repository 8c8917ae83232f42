"""`emit()`: the process-wide spool of the control plane, for events outside any transaction.

Use it where the hot path must not wait for the database, and for refusals, whose transaction is
rolled back. What changes the world is recorded by `services.record()` in its own transaction
instead.
"""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING, Any

from django.conf import settings

from apps.audit.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apps.audit.types import PrincipalLike, Scope

PRODUCER = "control"

_lock = threading.Lock()
_spool: Spool | None = None


def emit(event: Mapping[str, Any]) -> None:
    """Append an event (keys: the columns of AuditEvent, `org`, `team`, `project` as UUID text).

    `id` and `at` are added where absent. Never raises and never waits; docs/audit.md says what that
    costs.
    """
    spool().emit(event)


def spool() -> Spool:
    """This process's spool, opened on first use and sealed at exit."""
    global _spool  # noqa: PLW0603  one per process, that is the point
    if _spool is not None:
        return _spool
    with _lock:
        if _spool is None:
            _spool = Spool(settings.SPOOL_DIR / PRODUCER)
            atexit.register(_spool.close)
    return _spool


def event_of(
    principal: PrincipalLike | None,
    *,
    surface: str,
    action: str,
    result: str,
    project: Scope | None = None,
    **columns: Any,
) -> dict[str, Any]:
    """An event with the columns that follow from who acts; `columns` are the others."""
    return {
        **(who(principal) if principal is not None else {"org": None}),
        "project": str(project.id) if project else None,
        "project_slug": project.slug if project else "",
        "surface": surface,
        "action": action,
        "result": result,
        **columns,
    }


def who(principal: PrincipalLike) -> dict[str, Any]:
    """The identity columns of a principal, as the egress proxy's configuration carries them too."""
    return {
        "org": str(principal.org_id),
        "org_slug": principal.org_slug,
        "team": str(principal.team_id),
        "team_slug": principal.team_slug,
        "principal_kind": str(principal.kind),
        "principal_id": str(principal.id),
        "principal_name": principal.name,
        "on_behalf_of": principal.on_behalf_of,
        "chain": list(principal.chain),
        "tier": str(principal.tier),
    }
