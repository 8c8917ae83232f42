"""What this app writes into the audit trail."""

from __future__ import annotations

from enum import StrEnum

from apps.audit.actions import actions


@actions
class McpAction(StrEnum):
    """One `tool.call` for each call, refused ones too; beside it what was done in a sandbox."""

    REQUEST_REFUSED = "mcp.refuse"
    TOOL_CALL = "tool.call"
    SHELL_EXEC = "shell.exec"
    FILE_READ = "file.read"
    FILE_WRITE = "file.write"
    FILE_LIST = "file.list"
