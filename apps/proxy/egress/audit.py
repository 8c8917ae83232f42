"""One audit event for each request, allowed or not, and for each tunnel."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from apps.common import clock, ids

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

SURFACE = "forward_proxy"
ACTION = "egress.request"
_LONGEST_PATH = 2048
_LONGEST_RESOURCE = 500
_DEFAULT_PORTS = {"https": 443, "http": 80}

_COLUMNS: dict[str, Any] = {
    "org": None,
    "team": None,
    "project": None,
    "org_slug": "",
    "team_slug": "",
    "project_slug": "",
    "principal_kind": "sandbox",
    "principal_id": "",
    "principal_name": "",
    "on_behalf_of": "",
    "chain": [],
    "tier": "",
    "trace_id": "",
}


class Sink(Protocol):
    """Where events go (`apps.audit.spool.Spool`): never blocks, never raises."""

    def emit(self, event: dict[str, Any]) -> None: ...


@dataclass(slots=True)
class Record:
    """What is known of one request; filled while it is handled and emitted once.

    `path` has no query; it is the path that was decided on where there was one reading of it. The
    result is an error until somebody says otherwise.
    """

    method: str
    host: str
    port: int
    path: str
    scheme: str = "https"
    result: str = "error"
    status: int = 0
    reason: str = ""
    rule: str = ""
    layer: str = ""
    credential: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    detail: dict[str, object] = field(default_factory=dict)
    decision_id: str = field(default_factory=lambda: str(ids.uuid7()))
    at: datetime = field(default_factory=clock.now)
    started: float = field(default_factory=time.monotonic)


class Auditor:
    """Writes records as events of one sandbox; `notes` go into the metadata of each."""

    def __init__(
        self,
        sink: Sink,
        sandbox_id: str,
        identity: Mapping[str, object],
        notes: Mapping[str, str] | None = None,
    ) -> None:
        self._sink = sink
        self._base = {
            **_COLUMNS,
            **identity,
            "surface": SURFACE,
            "action": ACTION,
            "resource_type": "url",
        }
        self._about = {"sandbox": sandbox_id, **(notes or {})}

    def emit(self, record: Record) -> None:
        """Emit one record."""
        metadata = {
            "method": record.method,
            "scheme": record.scheme,
            "host": record.host,
            "port": record.port,
            "path": record.path[:_LONGEST_PATH],
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
            "rule": record.rule,
            "layer": record.layer,
            **self._about,
            **record.detail,
        }
        if record.credential:
            metadata["credential"] = record.credential
        self._sink.emit(
            {
                **self._base,
                "id": record.decision_id,
                "at": record.at.isoformat(timespec="microseconds"),
                "resource_id": _url(record),
                "duration_ms": round((time.monotonic() - record.started) * 1000, 3),
                "result": record.result,
                "status": record.status,
                "reason": record.reason,
                "decision_id": record.decision_id,
                "metadata": metadata,
            }
        )


def _url(record: Record) -> str:
    """What was asked for, without the query."""
    host = f"[{record.host}]" if ":" in record.host else record.host
    if record.port and record.port != _DEFAULT_PORTS.get(record.scheme):
        host = f"{host}:{record.port}"
    return f"{record.scheme}://{host}{record.path}"[:_LONGEST_RESOURCE] if host else ""
