"""`/mcp`: the endpoint of agents, a raw ASGI callable in front of the official SDK's transport.

Rules.
1. Host and Origin are looked at first, then the token, then the body: a request that may not be
   here is not read (`apps.mcp.gate`).
2. Every request authenticates, also one within a session; a session belongs to the token that
   opened it, and to any other it does not exist (404).
3. While a request runs it can be cut (`apps.mcp.live`): a stream ends, a call gets no answer.
4. One endpoint speaks 2025-11-25 and earlier (with sessions) and 2026-07-28 (without).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken

from apps.common.errors import LensError
from apps.mcp import gate
from apps.mcp.caller import SCOPE_KEY, Caller, current_catalog
from apps.mcp.catalog import catalog_of
from apps.mcp.host import MAX_SESSIONS, Host
from apps.orgs.authentication import aauthenticate
from apps.orgs.types import PrincipalKind

if TYPE_CHECKING:
    from apps.mcp.gate import Message, Receive, Send
    from apps.orgs.types import Principal

# A sandbox's own token opens nothing here: a narrow audience never opens a wider one.
KINDS = (PrincipalKind.AGENT, PrincipalKind.SUBAGENT, PrincipalKind.USER)
WRONG_AUDIENCE = gate.Refused(401, "token_audience", "This token is not for this endpoint.")
TOO_MANY = gate.Refused(
    429,
    "too_many_sessions",
    f"This token has {MAX_SESSIONS} open sessions. End some, or let them idle out.",
)
FOREIGN = gate.Refused(404, "session_of_other_token", "The session belongs to another token.")


class Endpoint:
    """The ASGI callable. It keeps one `Host` for the event loop that calls it."""

    def __init__(self) -> None:
        self._host: Host | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        refused = gate.problem(scope)
        if refused:
            await gate.refuse(send, refused)
            return
        try:
            bearer = gate.bearer(scope)
            principal = await aauthenticate(bearer)
            caller = Caller(bearer, principal, await catalog_of(principal))
        except LensError as error:
            await gate.send_error(send, error.status, error.error_code, error.message)
            return
        if principal.kind not in KINDS:
            await gate.refuse(send, WRONG_AUDIENCE, principal)
            return
        await self._serve(caller, scope, receive, send)

    async def _serve(self, caller: Caller, scope: Message, receive: Receive, send: Send) -> None:
        host = await self._ready_host()
        if gate.opens_session(scope) and host.crowded(caller.principal):
            await gate.refuse(send, TOO_MANY, caller.principal)
            return
        if host.foreign(gate.header(scope, b"mcp-session-id"), caller.principal):
            gate.record(FOREIGN, caller.principal)
        reply = _Reply(send)
        current_catalog.set(caller.catalog)
        inner = {**scope, SCOPE_KEY: caller, "user": _owner(caller.principal)}
        with host.live.under(caller.bearer) as running:
            await host.manager.handle_request(inner, receive, reply.send)
        if running.cut:
            await reply.cut(running.cut)

    async def _ready_host(self) -> Host:
        if self._host is None or not self._host.usable():
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
            await gate.send_error(self._send, error.status, error.error_code, error.message)
        elif not self._ended:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _owner(principal: Principal) -> AuthenticatedUser:
    """What the SDK binds a session to: the token's row, never the token."""
    token = AccessToken(
        token="", client_id=str(principal.token_id), scopes=[], subject=str(principal.id)
    )
    return AuthenticatedUser(token)


endpoint = Endpoint()
