"""`record()`: the control plane's audit, one row in the caller's own transaction.

If the change is rolled back, so is its event; if the event cannot be written, the change is not
made. No phantom and no gap, by construction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apps.audit import events  # noqa: F401  registers audit's own actions
from apps.audit.actions import is_registered
from apps.audit.cleaning import clean_changes, clean_metadata, clean_text
from apps.audit.models import AuditEvent, Result, Surface

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping

    from apps.audit.types import ActorLike, Scope, SecretChange


def record(
    *,
    actor: ActorLike | None,
    org_id: uuid.UUID | None,
    surface: str,
    action: str,
    resource_type: str = "",
    resource_id: object = "",
    result: str = Result.SUCCESS,
    status: int | None = None,
    reason: str = "",
    decision_id: str = "",
    changes: Mapping[str, tuple[object, object] | SecretChange] | None = None,
    metadata: Mapping[str, object] | None = None,
    team: Scope | None = None,
    project: Scope | None = None,
) -> AuditEvent:
    """Write one event in the current transaction and return it.

    `org_id` is None only where no organization is known. `changes` is `{field: (old, new)}`; give
    `apps.audit.types.SECRET` instead of the pair for a secret field. Raises ValueError on an
    undeclared action or a surface or result that does not exist: these are programming errors.
    """
    _require_known(surface, action, result)
    details = clean_metadata(metadata or {})
    if changes:
        details["changes"] = clean_changes(changes)
    return AuditEvent.objects.create(
        org_id=org_id,
        **_who(actor),
        **_where(team, project),
        surface=surface,
        action=action,
        resource_type=clean_text(resource_type, 50),
        resource_id=clean_text(resource_id, 500),
        result=result,
        status=status,
        reason=clean_text(reason),
        decision_id=clean_text(decision_id, 64),
        metadata=details,
    )


def _require_known(surface: str, action: str, result: str) -> None:
    if surface not in Surface.values:
        raise ValueError(f"{surface!r} is no audit surface")
    if result not in Result.values:
        raise ValueError(f"{result!r} is no audit result")
    if not is_registered(action):
        raise ValueError(f"audit action {action!r} is not declared in any events.py")


def _who(actor: ActorLike | None) -> dict[str, Any]:
    """The principal columns; an unknown caller leaves them empty."""
    if actor is None:
        return {}
    return {
        "principal_kind": clean_text(actor.kind, 16),
        "principal_id": clean_text(actor.id, 64),
        "principal_name": clean_text(actor.name, 254),
        "on_behalf_of": clean_text(getattr(actor, "on_behalf_of", ""), 254),
        "chain": [clean_text(name, 254) for name in getattr(actor, "chain", ())],
        "tier": clean_text(getattr(actor, "tier", ""), 16),
    }


def _where(team: Scope | None, project: Scope | None) -> dict[str, Any]:
    """Copies of team and project, which outlive their rows."""
    return {
        "team_id": team.id if team else None,
        "team_slug": team.slug if team else "",
        "project_id": project.id if project else None,
        "project_slug": project.slug if project else "",
    }
