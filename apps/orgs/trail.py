"""The one audit event of a control-plane service, with the columns that follow from its row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apps.audit.models import Surface
from apps.audit.services import record
from apps.orgs.models import Organization, Project, Team

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apps.audit.types import SecretChange
    from apps.orgs.types import Actor


def note(
    actor: Actor,
    action: str,
    row: Any,
    changes: Mapping[str, tuple[object, object] | SecretChange],
    **metadata: object,
) -> None:
    """Record that `actor` did `action` (`<noun>.<verb>`) to `row`, in the current transaction."""
    record(
        actor=actor,
        org_id=row.pk if isinstance(row, Organization) else row.org_id,
        surface=Surface.ADMIN_CHANGE,
        action=action,
        resource_type=action.partition(".")[0],
        resource_id=row.pk,
        changes=changes,
        metadata={"name": str(row), **metadata},
        team=row if isinstance(row, Team) else getattr(row, "team", None),
        project=row if isinstance(row, Project) else getattr(row, "project", None),
    )


def created(row: Any, *fields: str) -> dict[str, tuple[object, object]]:
    """The changes of a new row: each field from nothing to its value."""
    return {field: (None, getattr(row, field)) for field in fields}
