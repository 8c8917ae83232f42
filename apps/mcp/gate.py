"""What is asked of a request before anything of it is read, and how a refusal is told.

A refusal is JSON, `{"error", "message"}`, and an event on the trail. Anybody can cause one, so
events are damped: a flood leaves one in a while, with the number of those that it stands for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.http.request import split_domain_port
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from apps.audit import emitter
from apps.audit.models import Result, Surface
from apps.mcp.events import McpAction
from apps.orgs.refusals import Damper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, MutableMapping

    from apps.orgs.types import Principal

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

_ONCE = (b"host", b"origin", b"authorization", b"mcp-session-id", b"mcp-protocol-version")
_SHOWN = 255
_damper = Damper()


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a request is not served. `shown` goes into the audit event, never into the answer."""

    status: int
    code: str
    message: str
    shown: dict[str, str] = field(default_factory=dict)


def problem(scope: Message, hosts: Collection[str]) -> Refused | None:
    """The refusal of a request that says something twice, or did not come for one of `hosts`."""
    names = [name for name, _ in scope["headers"] if name in _ONCE]
    if len(names) != len(set(names)):
        text = "Host, Origin, Authorization and the MCP headers come once."
        return Refused(400, "header_repeated", text)
    host, origin = header(scope, b"host"), header(scope, b"origin")
    if not _is_one(host, hosts):
        text = "This endpoint is not served under that host name."
        return Refused(421, "host_not_allowed", text, {"host": host[:_SHOWN]})
    scheme, _, rest = origin.partition("://")
    if origin and (scheme not in ("http", "https") or not _is_one(rest, hosts)):
        text = "Requests from pages of that origin are not served."
        return Refused(403, "origin_not_allowed", text, {"origin": origin[:_SHOWN]})
    return None


def header(scope: Message, name: bytes) -> str:
    """A header's value, or ""."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def bearer(scope: Message) -> str:
    """The token of `Authorization: Bearer …` (RFC 6750 section 2.1), or ""."""
    scheme, _, token = header(scope, b"authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def opens_session(scope: Message) -> bool:
    """Whether the SDK would open a session for this request: of an old era, and in none yet."""
    if header(scope, b"mcp-session-id") or scope["method"] != "POST":
        return False
    version = header(scope, b"mcp-protocol-version")
    return not version or version in HANDSHAKE_PROTOCOL_VERSIONS


def transport_security(hosts: Collection[str]) -> TransportSecuritySettings:
    """The same hosts and origins for the SDK's own check, which stands behind ours."""
    names = [name for name in hosts if not name.startswith((".", "*"))]
    origins = [f"{scheme}://{name}" for name in names for scheme in ("https", "http")]
    return TransportSecuritySettings(
        allowed_hosts=[*names, *(f"{name}:*" for name in names)],
        allowed_origins=[*origins, *(f"{origin}:*" for origin in origins)],
    )


async def refuse(send: Send, refused: Refused, principal: Principal | None = None) -> None:
    """Answer and audit a refusal."""
    record(refused, principal)
    await send_error(send, refused.status, refused.code, refused.message)


def record(refused: Refused, principal: Principal | None) -> None:
    """Audit a refusal, unless there were too many alike."""
    held_back = _damper.admit(str(principal.id) if principal else refused.code)
    if held_back is None:
        return
    metadata: dict[str, Any] = {"code": refused.code, **refused.shown}
    if held_back:
        metadata["more_like_this"] = held_back
    emitter.emit(
        emitter.event_of(
            principal,
            surface=Surface.AUTHENTICATION,
            action=McpAction.REQUEST_REFUSED,
            result=Result.DENIED,
            status=refused.status,
            reason=refused.message,
            metadata=metadata,
        )
    )


async def send_error(send: Send, status: int, code: str, message: str) -> None:
    """The whole answer to a request that is not served."""
    body = json.dumps({"error": code, "message": message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", _challenge(code, message)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _challenge(code: str, message: str) -> bytes:
    """RFC 6750 section 3: without a token only the realm, with a bad one also why."""
    if code == "token_missing":
        return b'Bearer realm="lens-agents"'
    return (
        f'Bearer realm="lens-agents", error="invalid_token", error_description="{message}"'.encode()
    )


def _is_one(host: str, hosts: Collection[str]) -> bool:
    name, _ = split_domain_port(host)
    return bool(name) and name in hosts
