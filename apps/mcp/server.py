"""The MCP server over the official SDK: lists the caller's catalog and calls what is in it.

The chain of a call: visible to this principal → arguments fit → sandbox → answer → audit. A tool
that is not visible and one that does not exist are answered alike; the audit trail knows the
difference.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import mcp_types
from mcp.server.caching import CacheHint
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError

from apps.audit.models import Result
from apps.common.errors import LensError, RateLimited
from apps.mcp.caller import caller_of, schema_of
from apps.mcp.tool import Call, Outcome
from apps.mcp.trail import Record
from apps.mcp.workplace import Warm, Workplace
from apps.sandboxes.models import note_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator

    from mcp.server.context import ServerRequestContext

    from apps.mcp.caller import Caller
    from apps.mcp.catalog import Catalog, Listed
    from apps.mcp.listening import Listeners
    from apps.mcp.live import Live, Running
    from apps.orgs.types import Principal
    from apps.sandboxes.client import AsyncSandboxd

    Context = ServerRequestContext[Any, Any]

NAME = "lens-agents"
CLIENT_GONE = 499
MAX_CALLS = 32
# Less than the connections to sandboxd (`host.py`): no organization can take every place.
MAX_ORG_CALLS = 128
INSTRUCTIONS = (
    "Tools of this platform run in a sandbox of your own and are governed: what your policy does "
    "not allow is refused with a reason and a decision id that an administrator can look up."
)
BUSY = RateLimited(
    f"You have {MAX_CALLS} calls under way.",
    code="too_many_calls",
    remedy="Wait until some of them have ended.",
)
ORG_BUSY = RateLimited(
    f"Your organization has {MAX_ORG_CALLS} calls under way.",
    code="too_many_calls",
    remedy="Wait until some of them have ended.",
)
logger = logging.getLogger(__name__)


class Governed:
    """The handlers. One for each event loop."""

    def __init__(self, sandboxd: AsyncSandboxd, live: Live, listeners: Listeners) -> None:
        self._sandboxd = sandboxd
        self._live = live
        self._listeners = listeners
        self._warm = Warm()
        self._under_way: Counter[uuid.UUID] = Counter()

    def server(self, version: str) -> Server[Any]:
        """The SDK's server with these handlers."""
        return Server(
            NAME,
            version=version,
            title="Lens Agents",
            instructions=INSTRUCTIONS,
            cache_hints={
                "tools/list": CacheHint(ttl_ms=0, scope="private"),
                "server/discover": CacheHint(ttl_ms=0, scope="private"),
            },
            get_tool_input_schema=schema_of,
            on_list_tools=self.list_tools,
            on_call_tool=self.call_tool,
            on_subscriptions_listen=self._listeners.listen,
        )

    async def list_tools(
        self, ctx: Context, _params: mcp_types.PaginatedRequestParams | None
    ) -> mcp_types.ListToolsResult:
        """All visible tools at once, by name."""
        catalog = caller_of(ctx).catalog
        return mcp_types.ListToolsResult(tools=[entry.wire for entry in catalog.listed.values()])

    async def call_tool(
        self, ctx: Context, params: mcp_types.CallToolRequestParams
    ) -> mcp_types.CallToolResult:
        """One call, audited however it ends."""
        caller = caller_of(ctx)
        record = Record(caller.principal, params.name, params.arguments or {})
        listed = caller.catalog.listed.get(params.name)
        if listed is None:
            raise _unknown(caller.catalog, record)
        if self._under_way[caller.principal.id] >= MAX_CALLS:
            return _answer(_failed(BUSY, record), record)
        if self._under_way[caller.principal.org_id] >= MAX_ORG_CALLS:
            return _answer(_failed(ORG_BUSY, record), record)
        with self._counted(caller.principal):
            return await self._watched(caller, listed, record)

    @contextmanager
    def _counted(self, principal: Principal) -> Iterator[None]:
        """Principals and organizations have bounded calls under way: none takes all places."""
        counted = (principal.id, principal.org_id)
        self._under_way.update(counted)
        try:
            yield
        finally:
            self._under_way.subtract(counted)
            for key in counted:
                if not self._under_way[key]:
                    del self._under_way[key]

    async def _watched(
        self, caller: Caller, listed: Listed, record: Record
    ) -> mcp_types.CallToolResult:
        """The call, so that it can be cut; however it ends, it is audited."""
        answer: mcp_types.CallToolResult | None = None
        with self._live.under(caller.audience) as running:
            try:
                answer = await self._call(caller, listed, record)
            finally:
                if answer is None:
                    _record_end(running, record)
        if answer is None:
            raise MCPError(mcp_types.INVALID_REQUEST, "The call was cut.")
        return answer

    async def _call(
        self, caller: Caller, listed: Listed, record: Record
    ) -> mcp_types.CallToolResult:
        workplace: Workplace | None = None
        try:
            arguments = listed.arguments.check(record.arguments)
            record.grant = caller.catalog.grant_for(arguments)
            workplace = Workplace(caller.principal, record.grant, self._sandboxd, self._warm)
            call = Call(caller.principal, record.grant, arguments, workplace)
            outcome = await listed.tool.handler(call)
        except LensError as error:
            outcome = _failed(error, record)
        except Exception:
            logger.exception("tool %s failed", listed.tool.name)
            outcome = _failed(_INTERNAL, record)
        finally:
            if workplace:
                record.sandbox_id = workplace.sandbox_id
                record.detail |= note_of(workplace.isolation)
        return _answer(outcome, record)


_INTERNAL = LensError("The platform failed to do this. An administrator finds it in the log.")


def _failed(error: LensError, record: Record) -> Outcome:
    """An error of ours as the caller's: `{"error", "message", "field"?, "remedy"?}`."""
    result = Result.ERROR if error.status >= 500 else Result.FAILURE
    if error.status in (403, 429):
        result = Result.DENIED
    record.fail(result, error.status, error.error_code)
    data: dict[str, Any] = {"error": error.error_code, "message": error.message}
    data |= {key: error.data[key] for key in ("field", "remedy") if error.data.get(key)}
    remedy = f" {data['remedy']}" if data.get("remedy") else ""
    return Outcome(f"{error.message}{remedy}", data, error=error.error_code)


def _answer(outcome: Outcome, record: Record) -> mcp_types.CallToolResult:
    record.detail.update(outcome.audited)
    if outcome.denied:
        record.fail(Result.DENIED, 403, str(outcome.data["message"]))
        record.decision_id = outcome.denied
    elif outcome.error and record.result == Result.SUCCESS:
        record.fail(Result.FAILURE, 200, outcome.error)
    elif outcome.audited.get("exit_code"):
        record.fail(Result.FAILURE, 200, f"exit code {outcome.audited['exit_code']}")
    record.emit(outcome.data)
    return mcp_types.CallToolResult(
        content=[mcp_types.TextContent(type="text", text=outcome.text)],
        structured_content=outcome.data,
        is_error=bool(outcome.error),
    )


def _unknown(catalog: Catalog, record: Record) -> MCPError:
    """The one answer for a tool that is hidden from this caller and for one that does not exist."""
    decision = catalog.why_not(record.tool)
    if decision is None:
        decision_id = record.refuse("There is no such tool.")
    else:
        decision_id = record.refuse(decision.reason, layer=str(decision.layer), rule=decision.rule)
    record.emit()
    message = f"Unknown tool: {json.dumps(record.tool[:80])}"
    data = {"error": "tool_unknown", "message": message, "decision_id": decision_id}
    return MCPError(mcp_types.INVALID_PARAMS, message, data)


def _record_end(running: Running, record: Record) -> None:
    """A call that got no answer: its token ended under it, or its caller went away."""
    if running.cut:
        record.fail(Result.DENIED, running.cut.status, f"cut: {running.cut.error_code}")
    else:
        record.fail(Result.FAILURE, CLIENT_GONE, "cancelled by the caller")
    record.emit()
