"""`platform.internal`: one project's part of the platform, and nothing else of it, by any name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from apps.common import frames
from apps.policies.types import Action, Bundle, DomainRule
from tests.apps.proxy.egress.conftest import Agent, Reply, Rig, raw, request, unix_listener
from tests.apps.proxy.egress.test_websocket import handshake
from tests.twins.egress import PROJECT, TOKEN, EgressTwin
from tests.twins.upstream import UpstreamTwin

if TYPE_CHECKING:
    from pathlib import Path

HOST = "platform.internal"
OWN = f"/mcp/p/{PROJECT}"


def plainly(rig: Rig, target: str, *fields: str, host: str = HOST, method: str = "GET") -> Reply:
    """A request over plain http."""
    with rig.agent() as agent:
        return agent.ask(raw(f"{method} http://{host}{target} HTTP/1.1", f"Host: {host}", *fields))


@pytest.mark.parametrize("target", [OWN, "/mcp/p/sho%70", "/llm", "/llm/v1/messages?beta=true"])
def test_its_own_part_is_reached_with_its_own_token(rig: Rig, target: str) -> None:
    reached = OWN if "llm" not in target else target
    for reply in (rig.get(HOST, target), plainly(rig, target)):
        assert reply.status == 200
        assert reply.json["target"] == reached
    assert [seen.header("authorization") for seen in rig.platform.seen] == [f"Bearer {TOKEN}"] * 2
    assert [seen.header("host") for seen in rig.platform.seen] == [HOST] * 2
    event = rig.egress.wait_for_event(host=HOST, scheme="http", result="success")
    assert (event["metadata"]["rule"], event["metadata"]["layer"]) == ("platform", "proxy")


def test_a_body_and_the_fields_of_mcp_pass_but_no_credential_of_the_agent(rig: Rig) -> None:
    fields = ("Authorization: Bearer mine", "authorization_: x", "Cookie: a=b", "X-Api-Key: mine",
              "X-Forwarded-For: 1.2.3.4", "X-Original-URL: /admin", "Mcp-Session-Id: s1",
              "Accept: text/event-stream", "Content-Length: 2", "Accept-Encoding: br")  # fmt: skip
    with rig.tunnel(HOST) as agent:
        assert agent.ask(request(HOST, OWN, *fields, method="POST", body=b"{}")).status == 200
    (seen,) = rig.platform.seen
    assert seen.body == b"{}"
    assert seen.header("authorization") == f"Bearer {TOKEN}"
    assert seen.header("mcp-session-id") == "s1"
    assert seen.header("accept-encoding") == "identity"
    names = {name for name, _ in seen.headers}
    assert names.isdisjoint({"cookie", "x-api-key", "x-forwarded-for", "x-original-url"})


@pytest.mark.parametrize("path", ["/llm/echo", "/llm"])
def test_the_token_never_comes_back(rig: Rig, path: str) -> None:
    reply = rig.get(HOST, path)
    assert b"authorization" in reply.body
    assert TOKEN.encode() not in reply.head + reply.body
    assert b"*" * len(TOKEN) in reply.body
    assert TOKEN not in str(rig.egress.events())


@pytest.mark.parametrize(
    "target",
    [
        "/", "/mcp", "/mcp/", "/mcp/p", "/mcp/p/", "/mcp/p/other", f"{OWN}/", f"{OWN}/x", f"/{OWN}",
        "/mcp/p/0190a0a0-0000-7000-8000-000000000009", "/mcp/p/SHOP", f"{OWN}?x=1", f"{OWN}?",
        f"{OWN};x", f"{OWN}%2f", f"{OWN}%00", f"{OWN}/..", f"{OWN}/../other", f"/llm/..{OWN}",
        "/llm/../admin", "/llm/..;/admin", "/llm/%2e%2e/admin", "/llm%2f..%2fadmin", "/llm\\..\\x",
        "/LLM", "/llmx", "/mcp%2fp%2fshop", "/%6d%63%70/p/other", "/admin/", "/api/v1/teams",
        "/login/", "/livez", "/readyz", "/setup/", f"/mcp/s/x/..{OWN}", "/mcp/p/%EF%BC%8Eshop",
    ],
)  # fmt: skip
def test_everything_else_of_the_platform_is_refused(rig: Rig, target: str) -> None:
    for reply in (rig.get(HOST, target), plainly(rig, target)):
        assert (reply.status, reply.json["error"]) == (403, "egress_denied")
        assert (reply.json["rule"], reply.json["layer"]) == ("platform", "proxy")
        assert rig.egress.event(reply.json["decision_id"])["result"] == "denied"
    assert rig.untouched()


@pytest.mark.parametrize("authority", [f"{HOST}:22", f"{HOST}:8000", f"{HOST}:80", f"{HOST}.:8443"])
def test_no_other_port(rig: Rig, authority: str) -> None:
    with rig.agent() as agent:
        reply = agent.ask(raw(f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"))
    assert (reply.status, reply.json["rule"]) == (403, "platform")
    assert plainly(rig, OWN, host=f"{HOST}:8000").status == 403
    assert rig.untouched()


@pytest.mark.parametrize("host", [f"a.{HOST}", f"x.y.{HOST}", "127.0.0.1", "localhost", "[::1]"])
def test_no_other_name_of_the_platform_opens(rig: Rig, host: str) -> None:
    rig.apply(DomainRule("any", "*", Action.ALLOW), DomainRule("in", "*.internal", Action.ALLOW))
    try:
        assert plainly(rig, OWN, host=host).status == 403
        with rig.agent() as agent:
            assert agent.ask(raw(f"CONNECT {host}:443 HTTP/1.1", f"Host: {host}:443")).status == 403
    finally:
        rig.apply()
    assert rig.untouched()


def test_no_rule_closes_or_widens_it(rig: Rig) -> None:
    for action in (Action.DENY, Action.ALLOW):
        rig.apply(DomainRule("named", HOST, action))
        assert rig.get(HOST, OWN).status == 200
        assert rig.get(HOST, "/admin/").status == 403
    rig.apply()
    assert [seen.target for seen in rig.platform.seen] == [OWN, OWN]


def test_another_spelling_of_the_name_is_the_same_place(rig: Rig) -> None:
    assert plainly(rig, OWN, host="PLATFORM.internal.").status == 200
    assert plainly(rig, "/admin/", host="PLATFORM.internal.").status == 403


def test_it_has_no_websockets(rig: Rig) -> None:
    reply = rig.get(HOST, OWN, *handshake())
    assert (reply.status, reply.json["rule"]) == (403, "upgrade")
    assert rig.untouched()


def test_requests_on_one_connection_are_decided_one_by_one(rig: Rig) -> None:
    with rig.tunnel(HOST) as agent:
        assert agent.ask(request(HOST, OWN)).status == 200
        assert agent.ask(request(HOST, "/mcp")).status == 403
        assert agent.ask(request(HOST, OWN)).status == 200
    assert {seen.connection for seen in rig.platform.seen} == {rig.platform.seen[0].connection}


def test_the_kill_switch_cuts_a_stream(rig: Rig) -> None:
    with rig.tunnel(HOST) as agent:
        agent.send(request(HOST, "/llm"))
        agent.reply()
        frames.send_frame(rig.egress.control, {"op": "cut"})
        assert agent.ended()


def test_without_a_policy_or_a_platform_there_is_nothing(tmp_path: Path) -> None:
    door = tmp_path / "platform.sock"
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    with EgressTwin(tmp_path / "with", platform_socket=door) as egress:
        with UpstreamTwin(listener=unix_listener(door)):
            assert _asked(egress)[:2] == (403, "platform")
            egress.apply(Bundle(1, 1, ()))
            assert _asked(egress)[0] == 200
        assert _asked(egress)[0] == 502
    with EgressTwin(tmp_path / "without") as bare:
        bare.apply(Bundle(1, 1, ()))
        assert _asked(bare) == (403, "platform", "platform.internal is not available on this host")


def _asked(egress: EgressTwin) -> tuple[int, str, str]:
    agent = Agent(egress.port)
    try:
        reply = agent.ask(raw(f"GET http://{HOST}{OWN} HTTP/1.1", f"Host: {HOST}"))
    finally:
        agent.close()
    return reply.status, reply.json.get("rule", ""), reply.json.get("reason", "")
