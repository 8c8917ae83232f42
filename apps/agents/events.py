"""What this app writes into the audit trail."""

from __future__ import annotations

from enum import StrEnum

from apps.audit.actions import actions


@actions
class AgentAction(StrEnum):
    """Changes of agents and their tokens. Token values are never in an event."""

    AGENT_CREATE = "agent.create"
    AGENT_UPDATE = "agent.update"
    AGENT_DISABLE = "agent.disable"
    AGENT_ENABLE = "agent.enable"
    AGENT_DELETE = "agent.delete"
    TOKEN_CREATE = "token.create"  # noqa: S105  the name of an action
    TOKEN_REVOKE = "token.revoke"  # noqa: S105  the name of an action
