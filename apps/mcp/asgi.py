"""`/mcp`: the endpoint of agents, a raw ASGI callable in front of the official SDK's transport.

Rules.
1. Host and Origin are looked at first, then the token, then the body: a request that may not be
   here is not read. What is refused gets JSON, `{"error", "message"}`.
2. Every request authenticates, also one within a session; a session belongs to the token that
   opened it, and to any other it does not exist (404).
3. While a request runs it can be cut (`apps.mcp.live`): a stream ends, a call gets no answer.
4. One endpoint speaks 2025-11-25 and earlier (with sessions) and 2026-07-28 (without). The SDK's
   manager needs a task group entered and left in one task; the web server gives no start-up event,
   so a task of our own holds it, begun with the first request.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.http.request import split_domain_port
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from apps.common.errors import LensError, Unauthenticated
from apps.mcp.catalog import catalog_of
from apps.mcp.live import Live
from apps.mcp.server import SCOPE_KEY, Caller, Governed, current_catalog
from apps.orgs.authentication import aauthenticate
from apps.orgs.types import PrincipalKind
from apps.sandboxes.client import AsyncSandboxd
from apps.sandboxes.paths import sandboxd_socket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from apps.orgs.types import Principal

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]

MAX_BODY = 4 * 1024 * 1024
MAX_SESSIONS = 100
VERSION = "0.1.0"
TOO_MANY = f"This token has {MAX_SESSIONS} open sessions. End some, or let them idle out."
_ONCE = (b"host", b"origin", b"authorization", b"mcp-session-id")
_KINDS = (PrincipalKind.AGENT, PrincipalKind.SUBAGENT, PrincipalKind.USER)


class Host:
    """What runs in one event loop: the manager in a task of its own, and the watch over calls."""

    def __init__(self) -> None:
        self.live = Live()
        self.loop = asyncio.get_running_loop()
        self._sandboxd = AsyncSandboxd(sandboxd_socket())
        self.manager = StreamableHTTPSessionManager(
            Governed(self._sandboxd, self.live).server(VERSION),
            security_settings=transport_security(),
            max_request_body_size=MAX_BODY,
        )
        self._started: asyncio.Future[None] = self.loop.create_future()
        # Kept here for as long as the loop runs; it ends with the loop.
        self._task = self.loop.create_task(self._serve(), name="lens-mcp")

    async def ready(self) -> None:
        """Return when requests can be served; raise what kept the manager from starting."""
        await asyncio.shield(self._started)

    def crowded(self, principal: Principal) -> bool:
        """Whether this token has as many sessions as it may, so that none takes all of them."""
        owners = self.manager._session_owners  # noqa: SLF001  the SDK bounds only the sum
        mine = str(principal.token_id)
        return sum(owner["client_id"] == mine for owner in owners.values()) >= MAX_SESSIONS

    async def _serve(self) -> None:
        try:
            async with self.manager.run():
                self._started.set_result(None)
                await self.live.watch()
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            raise
        finally:
            self._sandboxd.close()


class Endpoint:
    """The ASGI callable. It keeps one `Host` for the event loop that calls it."""

    def __init__(self) -> None:
        self._host: Host | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        headers = dict(scope["headers"])
        problem = _repeated(scope["headers"]) or _transport_problem(headers)
        if problem:
            await _send_error(send, *problem)
            return
        try:
            bearer = _bearer(headers)
            principal = _admitted(await aauthenticate(bearer))
            caller = Caller(bearer, principal, await catalog_of(principal))
        except LensError as error:
            await _send_error(send, error.status, error.error_code, error.message)
            return
        await self._serve(caller, scope, receive, send)

    async def _serve(self, caller: Caller, scope: Message, receive: Receive, send: Send) -> None:
        host = await self._ready_host()
        if _opens_session(scope) and host.crowded(caller.principal):
            await _send_error(send, 429, "too_many_sessions", TOO_MANY)
            return
        reply = _Reply(send)
        current_catalog.set(caller.catalog)
        inner = {**scope, SCOPE_KEY: caller, "user": _owner(caller.principal)}
        with host.live.under(caller.bearer) as running:
            await host.manager.handle_request(inner, receive, reply.send)
        if running.cut:
            await reply.cut(running.cut)

    async def _ready_host(self) -> Host:
        if self._host is None or self._host.loop is not asyncio.get_running_loop():
            self._host = Host()
        await self._host.ready()
        return self._host


class _Reply:
    """Passes a response on and knows how far it is, so that a cut one can be ended properly."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._started = False
        self._ended = False

    async def send(self, message: Message) -> None:
        self._started = True
        self._ended = message["type"] == "http.response.body" and not message.get("more_body")
        await self._send(message)

    async def cut(self, error: LensError) -> None:
        """End what was begun; where nothing was, say why."""
        if not self._started:
            await _send_error(self._send, error.status, error.error_code, error.message)
        elif not self._ended:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def transport_security() -> TransportSecuritySettings:
    """The hosts and origins that the platform itself is reached by, on any port."""
    names = [name for name in settings.ALLOWED_HOSTS if not name.startswith((".", "*"))]
    origins = [f"{scheme}://{name}" for name in names for scheme in ("https", "http")]
    return TransportSecuritySettings(
        allowed_hosts=[*names, *(f"{name}:*" for name in names)],
        allowed_origins=[*origins, *(f"{origin}:*" for origin in origins)],
    )


def _repeated(headers: list[tuple[bytes, bytes]]) -> tuple[int, str, str] | None:
    """The refusal of a request that says twice who it is: two readers could read two things."""
    names = [name for name, _ in headers if name in _ONCE]
    if len(names) == len(set(names)):
        return None
    return 400, "header_repeated", "Host, Origin, Authorization and Mcp-Session-Id come once."


def _transport_problem(headers: dict[bytes, bytes]) -> tuple[int, str, str] | None:
    """The refusal of a request that did not come for this host, or from a page of another one."""
    host = headers.get(b"host", b"").decode("latin-1")
    if not _is_ours(host):
        return 421, "host_not_allowed", "This endpoint is not served under that host name."
    origin = headers.get(b"origin")
    if origin is None:
        return None
    scheme, _, rest = origin.decode("latin-1").partition("://")
    if scheme not in ("http", "https") or not _is_ours(rest):
        return 403, "origin_not_allowed", "Requests from pages of that origin are not served."
    return None


def _opens_session(scope: Message) -> bool:
    """Whether the SDK would open a session for this request: of an old era, and in none yet."""
    headers = dict(scope["headers"])
    if b"mcp-session-id" in headers or scope["method"] != "POST":
        return False
    version = headers.get(b"mcp-protocol-version", b"").decode("latin-1")
    return not version or version in HANDSHAKE_PROTOCOL_VERSIONS


def _is_ours(host: str) -> bool:
    name, _ = split_domain_port(host)
    return bool(name) and name in settings.ALLOWED_HOSTS


def _bearer(headers: dict[bytes, bytes]) -> str:
    """The token of `Authorization: Bearer …` (RFC 6750 section 2.1), or ""."""
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _admitted(principal: Principal) -> Principal:
    """Only those whom this endpoint is for: a sandbox's own token opens nothing here."""
    if principal.kind not in _KINDS:
        raise Unauthenticated("This token is not for this endpoint.", code="token_audience")
    return principal


def _owner(principal: Principal) -> AuthenticatedUser:
    """What the SDK binds a session to: the token's row, never the token."""
    token = AccessToken(
        token="", client_id=str(principal.token_id), scopes=[], subject=str(principal.id)
    )
    return AuthenticatedUser(token)


async def _send_error(send: Send, status: int, code: str, message: str) -> None:
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


endpoint = Endpoint()
