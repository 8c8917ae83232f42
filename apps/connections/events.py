"""What this app writes into the audit trail."""

from __future__ import annotations

from enum import StrEnum

from apps.audit.actions import actions


@actions
class CredentialAction(StrEnum):
    """Changes of the vault. Values are never in an event."""

    CREATE = "credential.create"
    UPDATE = "credential.update"
    DELETE = "credential.delete"
