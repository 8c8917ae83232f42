"""What this app writes into the audit trail."""

from __future__ import annotations

from enum import StrEnum

from apps.audit.actions import actions


@actions
class PolicyAction(StrEnum):
    """Changes of policy documents."""

    CREATE = "policy.create"
    UPDATE = "policy.update"
    ROLLBACK = "policy.rollback"
    DELETE = "policy.delete"
