"""A sandbox's spool folder speaks for the organization of its row, and for no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apps.audit.sources import owns_folders
from apps.sandboxes.models import Sandbox

if TYPE_CHECKING:
    import uuid


@owns_folders
def organization_of(sandbox_id: uuid.UUID) -> uuid.UUID | None:
    """The organization of a sandbox that exists or existed; None when there never was one."""
    return Sandbox.objects.filter(pk=sandbox_id).values_list("org_id", flat=True).first()
