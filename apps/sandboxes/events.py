"""What this app writes into the audit trail."""

from __future__ import annotations

from enum import StrEnum

from apps.audit.actions import actions


@actions
class SandboxAction(StrEnum):
    """The life of a sandbox, and credentials that its proxy asked for and did not get."""

    CREATE = "sandbox.create"
    READY = "sandbox.ready"
    FAIL = "sandbox.fail"
    STOP = "sandbox.stop"
    POLICY = "sandbox.policy"
    SERVICE_RESTART = "sandbox_service.restart"
    CREDENTIAL_REFUSED = "sandbox.credential_refuse"
