"""The three that are compared: the Simulate page, a running egress proxy and an MCP endpoint."""

from __future__ import annotations

import base64
import html
import json
import re
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from apps.policies.core.asking import RequestError, split_target
from tests.apps.admin_support import browser
from tests.apps.proxy.egress.conftest import Agent

if TYPE_CHECKING:
    from apps.policies.simulator import Question
    from tests.factories import World
    from tests.twins.egress import EgressTwin
    from tests.twins.upstream import UpstreamTwin

OWN = "the-agents-own-credential"
_KEY = base64.b64encode(bytes(16)).decode()
_SIDE = re.compile(
    r'<td\s+data-side="now"\s+data-action="(\w+)"\s+data-layer="(\w*)"\s+data-rule="([^"]*)">'
    r"(.*?)</td>",
    re.DOTALL,
)
_TEXT = re.compile(r'<p class="lens-reason">\s*<bdi[^>]*>(.*?)</bdi>\s*</p>', re.DOTALL)
_CREDENTIAL = re.compile(r'<dd class="lens-credential">\s*<bdi[^>]*>(.*?)</bdi>\s*</dd>')
_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')
_TUNNELS = "direct"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one side says. For what is let through, who decided is not told on the wire."""

    action: str
    layer: str = ""
    rule: str = ""
    reason: str = ""
    credential: str = ""
    strips: bool = False


class SimulatePage:
    """The Simulate page of the running platform, as an admin's browser has it."""

    def __init__(self, base: str, world: World) -> None:
        cookies = {name: found.value for name, found in browser(world.admin).cookies.items()}
        self._http = httpx.Client(base_url=base, cookies=cookies, timeout=60)
        self._page = f"/policies/policy/{world.policy.pk}/simulate/"
        self._data = {
            "sim-agent": str(world.agent.pk),
            "sim-project": str(world.project.pk),
            "sim-tier": "api",
        }
        found = _TOKEN.search(self._http.get(self._page).raise_for_status().text)
        assert found is not None
        self._data["csrfmiddlewaretoken"] = found.group(1)

    def ask(self, questions: list[Question]) -> list[Verdict]:
        """One verdict a question, by one post."""
        data = self._data | {"sim-requests": "\n".join(one.line for one in questions)}
        headers = {"Referer": f"{self._http.base_url}{self._page}"}
        answer = self._http.post(self._page, data=data, headers=headers).raise_for_status()
        found = [_verdict(*side) for side in _SIDE.findall(answer.text)]
        assert len(found) == len(questions), answer.text[-2_000:]
        return found


def _verdict(action: str, layer: str, rule: str, inner: str) -> Verdict:
    reason, credential = _TEXT.search(inner), _CREDENTIAL.search(inner)
    return Verdict(
        action,
        layer,
        html.unescape(rule),
        html.unescape(reason.group(1)) if reason else "",
        html.unescape(credential.group(1)) if credential else "",
        "credential is removed" in inner,
    )


class Egress:
    """A client of the running proxy. It sends a credential of its own with every request."""

    def __init__(
        self, twin: EgressTwin, upstreams: tuple[UpstreamTwin, ...], names: dict[str, str]
    ) -> None:
        self._twin = twin
        self._upstreams = upstreams
        self._names = names  # the value of each credential → its name
        self._context = ssl.create_default_context(cadata=twin.ca_pem)
        self._context.load_verify_locations(cadata=twin.upstream_ca_pem)  # type: ignore[attr-defined]  # set by the main program
        self._count = 0

    def ask(self, question: Question) -> Verdict:
        """What comes of really sending it."""
        agent = Agent(self._twin.port)
        try:
            return self._asked(agent, question)
        finally:
            agent.close()

    def _asked(self, agent: Agent, question: Question) -> Verdict:
        if question.method == "CONNECT":
            return self._tunnel(agent, question.url) or Verdict("open")
        scheme, _, rest = question.url.partition("://")
        secure = scheme in ("https", "wss")
        where, target = _split(rest, 443 if secure else 80)
        if secure:
            refused = self._tunnel(agent, where)
            if refused is not None:
                return refused
            if self._secured(agent, where.rpartition(":")[0]):
                return Verdict(_TUNNELS)
        host = where.removesuffix(":443" if secure else ":80")
        asked = target if secure else f"http://{host}{target}"
        return self._request(agent, question.method, asked, host)

    def _tunnel(self, agent: Agent, where: str) -> Verdict | None:
        """Ask for a tunnel; None when it is open."""
        agent.send(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n\r\n".encode())
        reply = agent.reply()
        return None if reply.status == 200 else _refusal(reply.status, reply.body)

    def _secured(self, agent: Agent, host: str) -> bool:
        """Do TLS inside; whether it is the upstream itself that answers."""
        agent.sock = self._context.wrap_socket(agent.sock, server_hostname=host)
        certificate: Any = agent.sock.getpeercert()
        return dict(pair[0] for pair in certificate["issuer"]).get("commonName") == "twin CA"

    def _request(self, agent: Agent, method: str, target: str, host: str) -> Verdict:
        for upstream in self._upstreams:
            upstream.seen.clear()
        lines = [f"{'GET' if method == 'WEBSOCKET' else method} {target} HTTP/1.1", f"Host: {host}"]
        lines.append(f"Authorization: Bearer {OWN}")
        if method == "WEBSOCKET":
            lines += ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
            lines.append(f"Sec-WebSocket-Key: {_KEY}")
        agent.send("\r\n".join((*lines, "", "")).encode("latin-1"))
        reply = agent.reply("HEAD" if method == "WEBSOCKET" else "GET")
        seen = [one for upstream in self._upstreams for one in upstream.seen]
        if not seen:
            if method == "WEBSOCKET":
                reply.body = agent._exactly(int(reply.header("content-length") or 0))
            return _refusal(reply.status, reply.body)
        sent = (seen[0].header("authorization") or "").removeprefix("Bearer ")
        return Verdict("allow", credential=self._names.get(sent, ""), strips=sent != OWN)


def _split(rest: str, port: int) -> tuple[str, str]:
    """`host:port` and target; what the proxy is to refuse is sent to it as it was typed."""
    with suppress(RequestError):
        authority, target = split_target(rest, port)
        return f"{authority.host}:{authority.port}", target
    host, slash, path = rest.partition("/")
    return host if ":" in host else f"{host}:{port}", slash + path or "/"


def _refusal(status: int, body: bytes) -> Verdict:
    told = json.loads(body)
    reason = str(told["reason"])
    held = re.fullmatch(r"needs approval; [^(]*\((.*)\)", reason, re.DOTALL)
    assert status in (400, 403), told
    action = "ask" if held else "deny"
    return Verdict(action, told["layer"], told["rule"], held.group(1) if held else reason)


async def mcp_verdicts(base: str, token: str, tools: tuple[str, ...]) -> dict[str, str]:
    """For each tool, what the endpoint does: it is listed, or calling it says there is none."""
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60) as http:
        transport = streamable_http_client(f"{base}/mcp", http_client=http)
        async with Client(transport, mode="2026-07-28") as client:
            listed = {tool.name for tool in (await client.list_tools()).tools}
            found = {}
            for tool in tools:
                found[tool] = "allow" if tool in listed else "deny"
                if tool not in listed and not await _unknown(client, tool):
                    found[tool] = "called"
            return found


async def _unknown(client: Client, tool: str) -> bool:
    """Whether a call says that there is no such tool."""
    try:
        await client.call_tool(tool, {})
    except MCPError as error:
        return "Unknown tool" in str(error)
    return False


def agree(simulated: Verdict, real: Verdict) -> bool:
    """Whether both say the same, as far as the wire tells."""
    if real.action == "open":
        return simulated.action in ("allow", _TUNNELS)
    if _TUNNELS in (real.action, simulated.action):
        return simulated.action == real.action
    if real.action == "allow":
        injected = bool(simulated.credential)
        return (simulated.action, simulated.credential, simulated.strips or injected) == (
            "allow",
            real.credential,
            real.strips,
        )
    said = (simulated.action, simulated.layer, simulated.rule, simulated.reason)
    return said == (real.action, real.layer, real.rule, real.reason)
