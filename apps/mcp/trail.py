"""A call in the audit trail: one `mcp_tool` event, and one for what it did in its sandbox.

Parameters are kept with secrets masked and cut to size; results as size and SHA-256 only. Events go
to the spool: a call never waits for the database.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from apps.audit import emitter
from apps.audit.models import Result, Surface
from apps.common import clock
from apps.common.ids import uuid7
from apps.mcp.core.decisions import is_decision
from apps.mcp.core.secrets import mask
from apps.mcp.events import McpAction

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Mapping

    from apps.orgs.types import Grant, Principal

MAX_PARAMETERS = 16_000
_SHOWN = 200
# What a tool does in a sandbox, as an event of its own: (surface, action).
_BESIDE = {
    "shell_exec": (Surface.SHELL_COMMAND, McpAction.SHELL_EXEC),
    "file_read": (Surface.SANDBOX_OPERATION, McpAction.FILE_READ),
    "file_write": (Surface.SANDBOX_OPERATION, McpAction.FILE_WRITE),
    "file_list": (Surface.SANDBOX_OPERATION, McpAction.FILE_LIST),
}


@dataclass(slots=True)
class Record:
    """What is known of one call; filled while it runs and emitted once."""

    principal: Principal
    tool: str
    arguments: Mapping[str, Any]
    grant: Grant | None = None
    sandbox_id: uuid.UUID | None = None
    result: str = Result.SUCCESS
    status: int = 200
    reason: str = ""
    decision_id: str = ""
    detail: dict[str, Any] = field(default_factory=dict)
    trace_id: str = field(default_factory=lambda: str(uuid7()))
    at: dt.datetime = field(default_factory=clock.now)
    started: float = field(default_factory=time.perf_counter)

    def refuse(self, reason: str, **detail: object) -> str:
        """A decision said no; the id under which it can be explained."""
        self.decision_id = str(uuid7())
        self.result, self.status, self.reason = Result.DENIED, 403, reason
        self.detail.update(detail)
        return self.decision_id

    def fail(self, result: str, status: int, reason: str) -> None:
        """It went wrong: `failure` is the asked thing's own, `error` is ours."""
        self.result, self.status, self.reason = result, status, reason

    def emit(self, answer: Mapping[str, Any] | None = None) -> None:
        """Write the events of this call."""
        parameters = _parameters(self.arguments)
        metadata: dict[str, Any] = {"parameters": parameters, **self.detail, **_measure(answer)}
        self._emit(Surface.MCP_TOOL, McpAction.TOOL_CALL, "tool", self.tool[:_SHOWN], metadata)
        beside = _BESIDE.get(self.tool)
        if beside and self.sandbox_id:
            surface, action = beside
            metadata = {**parameters, **self.detail}
            self._emit(surface, action, "sandbox", str(self.sandbox_id), metadata)

    def _emit(
        self, surface: str, action: str, kind: str, resource: str, metadata: dict[str, Any]
    ) -> None:
        project = _Place(self.grant.project_id, self.grant.slug) if self.grant else None
        emitter.emit(
            emitter.event_of(
                self.principal,
                surface=surface,
                action=action,
                result=self.result,
                project=project,
                at=self.at.isoformat(timespec="microseconds"),
                duration_ms=round((time.perf_counter() - self.started) * 1000, 3),
                resource_type=kind,
                resource_id=resource,
                status=self.status,
                reason=self.reason,
                decision_id=self.decision_id if is_decision(self.decision_id) else "",
                trace_id=self.trace_id,
                metadata=metadata,
            )
        )


@dataclass(frozen=True, slots=True)
class _Place:
    id: uuid.UUID
    slug: str


def _parameters(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with secrets masked; of what is too long in all, the longest is left out."""
    masked: dict[str, Any] = mask(arguments)
    room = MAX_PARAMETERS
    kept = dict.fromkeys(masked)
    sizes = {name: len(json.dumps(value)) for name, value in masked.items()}
    for name, size in sorted(sizes.items(), key=lambda named: named[1]):
        value = masked[name]
        kept[name] = value if size <= room else f"[{size} bytes]"
        room -= min(size, room)
    return kept


def _measure(answer: Mapping[str, Any] | None) -> dict[str, Any]:
    if answer is None:
        return {}
    data = json.dumps(answer, separators=(",", ":")).encode()
    return {"result_bytes": len(data), "result_sha256": hashlib.sha256(data).hexdigest()}
