"""`/mcp` and `/mcp/p/<project>`: raw ASGI callables in front of the official SDK's transport.

Rules.
1. Host and Origin are looked at first, then the token, then the body: a request that may not be
   here is not read (`apps.mcp.gate`).
2. Every request authenticates, also one within a session; a session belongs to the token and the
   audience that opened it, and to any other it does not exist (404).
3. While a request runs it can be cut (`apps.mcp.live`): a stream ends, a call gets no answer.
4. One endpoint speaks 2025-11-25 and earlier (with sessions) and 2026-07-28 (without).
5. What comes from inside a sandbox comes to an endpoint of its own, which knows no other tokens
   (`apps.mcp.audience`).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken

from apps.common.errors import LensError
from apps.mcp import gate
from apps.mcp.audience import INSIDE, OUTSIDE, Audience
from apps.mcp.caller import SCOPE_KEY, Caller, current_catalog
from apps.mcp.catalog import catalog_of
from apps.mcp.host import MAX_SESSIONS, Host
from apps.orgs.authentication import aauthenticate

if TYPE_CHECKING:
    import uuid

    from apps.mcp.audience import Door
    from apps.mcp.gate import Message, Receive, Send

PROJECT_ROUTE = r"^mcp/p/(?P<project>.+)$"
# Of one principal, on one endpoint: streams and calls together.
MAX_REQUESTS = 256
WRONG_AUDIENCE = gate.Refused(401, "token_audience", "This token is not for this endpoint.")
TOO_MANY = gate.Refused(
    429,
    "too_many_sessions",
    f"This token has {MAX_SESSIONS} open sessions. End some, or let them idle out.",
)
BUSY = gate.Refused(
    429, "too_many_requests", f"You have {MAX_REQUESTS} requests under way. End some."
)
FOREIGN = gate.Refused(404, "session_of_other_token", "The session belongs to another token.")


class Endpoint:
    """The ASGI callable of one door. It keeps one `Host` for the event loop that calls it."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._host: Host | None = None
        self._under_way: Counter[uuid.UUID] = Counter()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one HTTP request; the route names the project, if any."""
        refused = gate.problem(scope, self._door.hosts())
        if refused:
            await gate.refuse(send, refused)
            return
        audience = Audience(gate.bearer(scope), _project(scope))
        try:
            whole = await aauthenticate(audience.bearer)
            if whole.kind not in self._door.kinds:
                await gate.refuse(send, WRONG_AUDIENCE, whole)
                return
            principal = audience.narrowed(whole)
            caller = Caller(audience, principal, await catalog_of(principal))
        except LensError as error:
            await gate.send_error(send, error.status, error.error_code, error.message)
            return
        await self._counted(caller, scope, receive, send)

    async def _counted(self, caller: Caller, scope: Message, receive: Receive, send: Send) -> None:
        """Serve it, if its sender has not too many under way: nobody takes all places."""
        who = caller.principal.id
        if self._under_way[who] >= MAX_REQUESTS:
            await gate.refuse(send, BUSY, caller.principal)
            return
        self._under_way[who] += 1
        try:
            await self._serve(caller, scope, receive, send)
        finally:
            self._under_way[who] -= 1
            if not self._under_way[who]:
                del self._under_way[who]

    async def _serve(self, caller: Caller, scope: Message, receive: Receive, send: Send) -> None:
        host = await self._ready_host()
        if gate.opens_session(scope) and host.crowded(caller.principal):
            await gate.refuse(send, TOO_MANY, caller.principal)
            return
        if host.foreign(gate.header(scope, b"mcp-session-id"), caller.principal):
            gate.record(FOREIGN, caller.principal)
        reply = _Reply(send)
        current_catalog.set(caller.catalog)
        inner = {**scope, SCOPE_KEY: caller, "user": _owner(caller)}
        with host.live.under(caller.audience) as running:
            await host.manager.handle_request(inner, receive, reply.send)
        if running.cut:
            await reply.cut(running.cut)

    async def _ready_host(self) -> Host:
        if self._host is None or not self._host.usable():
            self._host = Host(self._door)
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
            await gate.send_error(self._send, error.status, error.error_code, error.message)
        elif not self._ended:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _project(scope: Message) -> str:
    """The project that the route's pattern found in the path."""
    return str(scope.get("url_route", {}).get("kwargs", {}).get("project", ""))


def _owner(caller: Caller) -> AuthenticatedUser:
    """What the SDK binds a session to: the token's row (never the token) and its audience."""
    principal, project = caller.principal, caller.audience.project
    token = AccessToken(
        token="",
        client_id=str(principal.token_id),
        scopes=[],
        subject=f"{principal.id} {project}".rstrip(),
    )
    return AuthenticatedUser(token)


endpoint = Endpoint(OUTSIDE)
inside_endpoint = Endpoint(INSIDE)
