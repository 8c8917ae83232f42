"""Credentials: they reach the upstream they are bound to, and nobody else, and do not come back."""

from __future__ import annotations

import base64
import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from apps.policies.types import (
    Action,
    AgentCredentials,
    Binding,
    DomainRule,
    HttpRule,
    Injection,
)
from tests.apps.proxy.egress.conftest import SECRET, binding, request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.apps.proxy.egress.conftest import Rig

OWN = ("Authorization: Bearer mine", "X-Api-Key: mine", "Cookie: mine", "Private-Token: mine")


@contextmanager
def policy(rig: Rig, *first: DomainRule, bindings: tuple[Binding, ...] = ()) -> Iterator[None]:
    """Another policy for a moment; each one empties the proxy's memory of credentials."""
    rig.apply(*first, bindings=bindings)
    try:
        yield
    finally:
        rig.apply()


@pytest.mark.parametrize(
    ("host", "field", "value"),
    [
        ("cred.example.com", "authorization", f"Bearer {SECRET}"),
        ("key.example.com", "x-api-key", f"Token {SECRET}"),
        (
            "basic.example.com",
            "authorization",
            "Basic " + base64.b64encode(f"robot:{SECRET}".encode()).decode(),
        ),
    ],
)
def test_injection_replaces_what_the_agent_sent(
    rig: Rig, host: str, field: str, value: str
) -> None:
    reply = rig.get(host, "/echo", *OWN, "Accept-Encoding: gzip, br")
    assert reply.status == 200
    (seen,) = rig.up.seen
    assert seen.header(field) == value
    assert b"mine" not in rig.up.raw
    assert seen.header("accept-encoding") == "identity"
    assert SECRET.encode() not in reply.head + reply.body
    assert value.encode() not in reply.head + reply.body


@pytest.mark.parametrize(
    "own",
    ["authorization: mine", "AUTHORIZATION: mine", "Authorization:mine", "Authorization:\tmine"],
)
def test_own_authorization_in_other_spellings(rig: Rig, own: str) -> None:
    assert rig.get("cred.example.com", "/echo", own).status == 200
    assert b"mine" not in rig.up.raw


def test_connection_cannot_remove_the_injected_header(rig: Rig) -> None:
    fields = ("Connection: keep-alive, Authorization", "Authorization: mine")
    assert rig.get("cred.example.com", "/echo", *fields).status == 200
    (seen,) = rig.up.seen
    assert seen.header("authorization") == f"Bearer {SECRET}"
    assert seen.header("connection") is None


def test_without_a_binding_the_agents_own_credentials_pass(rig: Rig) -> None:
    assert rig.get("api.example.com", "/echo", *OWN).status == 200
    assert rig.up.raw.count(b"mine") == 4
    assert SECRET.encode() not in rig.up.raw


def test_strip_without_a_binding(rig: Rig) -> None:
    rule = DomainRule(
        "strip", "strip.example.com", Action.ALLOW, agent_credentials=AgentCredentials.STRIP
    )
    with policy(rig, rule):
        assert rig.get("strip.example.com", "/echo", *OWN, "X_Api_Key: mine").status == 200
    assert b"mine" not in rig.up.raw


def test_keep_with_a_binding_still_replaces_the_bound_header(rig: Rig) -> None:
    rule = DomainRule(
        "keep", "cred.example.com", Action.ALLOW, agent_credentials=AgentCredentials.KEEP
    )
    with policy(rig, rule):
        assert rig.get("cred.example.com", "/echo", *OWN).status == 200
    assert rig.up.seen[0].header("authorization") == f"Bearer {SECRET}"
    assert rig.up.seen[0].header("cookie") == "mine"


@pytest.mark.parametrize("step", [1, 3, 7, 16, 37, 1000])
@pytest.mark.parametrize("host", ["cred.example.com", "key.example.com", "basic.example.com"])
def test_an_echoed_secret_is_masked_across_chunk_borders(rig: Rig, host: str, step: int) -> None:
    reply = rig.get(host, f"/leak/{step}")
    came_back = reply.head + reply.body
    assert SECRET.encode() not in came_back
    assert base64.b64encode(f"robot:{SECRET}".encode()) not in came_back
    assert reply.body.startswith(b"before ")
    assert reply.body.endswith(b" after")
    assert len(reply.body) == len(rig.up.seen[0].headers[-1][1]) + len("before  after")


def test_a_secret_in_a_redirect_is_masked_and_not_followed(rig: Rig) -> None:
    reply = rig.get("cred.example.com", "/redirect")
    assert reply.status == 302
    assert reply.header("location") == "https://elsewhere.test/?t=" + "*" * len(SECRET)
    assert len(rig.up.seen) == 1


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw"])
def test_a_compressed_answer_to_an_injected_request_is_inflated_and_searched(
    rig: Rig, coding: str
) -> None:
    with rig.tunnel("cred.example.com") as agent:
        reply = agent.ask(request("cred.example.com", f"/packed/{coding}", "Accept-Encoding: gzip"))
        assert reply.body == b"before Bearer " + b"*" * len(SECRET) + b" after. " * 20
        assert reply.header("content-encoding") is None
        assert reply.header("content-md5") is None
        assert reply.header("transfer-encoding") == "chunked"
        assert agent.ask(request("cred.example.com", "/gzip")).body == b"compressed " * 50
        head = agent.ask(request("cred.example.com", "/status/200", method="HEAD"))
        assert head.status == 200
    assert rig.get("api.example.com", "/gzip").header("content-encoding") == "gzip"


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "gzip, br", "lie", "part"])
def test_an_answer_that_cannot_be_searched_is_refused(rig: Rig, coding: str) -> None:
    reply = rig.get("cred.example.com", "/packed/" + coding.replace(", ", ",%20"))
    assert (reply.status, reply.json["error"]) == (502, "upstream_compressed")


@pytest.mark.parametrize("kind", ["bomb", "cut"])
def test_a_compressed_answer_that_goes_wrong_is_cut(rig: Rig, kind: str) -> None:
    before = rig.egress.memory_kb()
    with rig.tunnel("cred.example.com") as agent:
        agent.send(request("cred.example.com", f"/packed/{kind}"))
        with pytest.raises(EOFError):
            agent.reply()
    event = rig.egress.wait_for_event(path=f"/packed/{kind}")
    assert event["result"] == "failure"
    assert event["metadata"]["bytes_in"] < 4_000_000
    assert rig.egress.memory_kb() - before < 8_000


def test_the_secret_is_nowhere_in_the_audit_trail(rig: Rig) -> None:
    reply = rig.get("cred.example.com", f"/echo/{SECRET[:10]}?q={SECRET}")
    assert reply.status == 200
    event = rig.egress.wait_for_event(path=f"/echo/{SECRET[:10]}")
    assert event["metadata"]["credential"] == "the token"
    assert SECRET not in json.dumps(rig.egress.events())


def test_no_injection_over_plain_http(rig: Rig) -> None:
    with policy(rig, bindings=(binding("plain.example.com"),)), rig.agent() as agent:
        host = "plain.example.com"
        assert agent.ask(request(host, f"http://{host}/x", *OWN)).status == 200
    assert SECRET.encode() not in rig.plain.raw
    assert b"mine" not in rig.plain.raw


def test_a_binding_beyond_the_credentials_hosts_is_not_used(rig: Rig) -> None:
    loose = Binding("b", "cred-1", "x", "api.example.com", Injection.BEARER, ("other.test",))
    with policy(rig, bindings=(loose,)):
        reply = rig.get("api.example.com", "/echo")
    assert SECRET.encode() not in rig.up.raw
    assert reply.status in (200, 403)


def test_a_refusing_broker_denies(rig: Rig) -> None:
    refused = Binding("b", "cred-2", "x", "api.example.com", Injection.BEARER, ("api.example.com",))
    with policy(rig, bindings=(refused,)):
        reply = rig.get("api.example.com", "/echo")
    assert reply.status == 403
    assert "credential_refused" in reply.json["reason"]
    assert rig.untouched()


@pytest.mark.parametrize("value", ["", "a\r\nX-Evil: 1", "a\nb", "a\0b", "na\xefve", " a", "a\tb"])
def test_a_value_that_would_break_the_header_is_not_sent(rig: Rig, value: str) -> None:
    rig.egress.broker.values["cred-odd"] = value
    odd = Binding("b", "cred-odd", "x", "api.example.com", Injection.BEARER, ("api.example.com",))
    with policy(rig, bindings=(odd,)):
        reply = rig.get("api.example.com", "/echo")
    assert reply.status == 403
    assert rig.untouched()
    assert value not in reply.body.decode("latin-1") or not value


def test_values_are_remembered_for_a_while_and_forgotten_with_the_policy(rig: Rig) -> None:
    with policy(rig):
        asked = len(rig.egress.broker.asked)
        for _ in range(3):
            assert rig.get("cred.example.com", "/echo").status == 200
        assert len(rig.egress.broker.asked) == asked + 1
        rig.apply()
        assert rig.get("cred.example.com", "/echo").status == 200
        assert len(rig.egress.broker.asked) == asked + 2
    question = rig.egress.broker.asked[-1]
    assert (question["credential_id"], question["host"]) == ("cred-1", "cred.example.com")


def test_a_short_life_set_by_the_broker_is_respected(rig: Rig) -> None:
    with policy(rig):
        rig.egress.broker.ttl = 0
        asked = len(rig.egress.broker.asked)
        try:
            for _ in range(2):
                assert rig.get("cred.example.com", "/echo").status == 200
                time.sleep(0.01)
        finally:
            rig.egress.broker.ttl = 60
        assert len(rig.egress.broker.asked) == asked + 2


def test_without_a_broker_nothing_is_sent(rig: Rig) -> None:
    broker = rig.egress.broker
    hidden = broker.path.with_suffix(".away")
    with policy(rig):
        broker.path.rename(hidden)
        try:
            reply = rig.get("cred.example.com", "/echo")
        finally:
            hidden.rename(broker.path)
        assert (reply.status, reply.json["error"]) == (502, "credential_unavailable")
        assert rig.untouched()
        assert rig.egress.event(reply.json["decision_id"])["result"] == "error"
        assert rig.get("cred.example.com", "/echo").status == 200


URL_SECRET = "123456:AAH-s3cr3t_Token+xyz=0123456789"
URL_ESCAPED = "123456%3AAAH-s3cr3t_Token%2Bxyz%3D0123456789"
A = "a.wild.example.com"


@contextmanager
def in_url(rig: Rig, injection: Injection, *rules: HttpRule, value: str = "") -> Iterator[None]:
    """A host whose credential goes into the URL."""
    rig.egress.broker.values["cred-url"] = value or URL_SECRET
    name = "key" if injection is Injection.QUERY else "LENS_TOKEN"
    bound = Binding("b", "cred-url", "x", A, injection, (A,), parameter=name)
    with policy(rig, DomainRule("url", A, Action.ALLOW, rules), bindings=(bound,)):
        yield


def test_a_credential_in_the_query_replaces_the_agents_own(rig: Rig) -> None:
    with in_url(rig, Injection.QUERY):
        reply = rig.get(A, "/echo?a=1&key=mine&KEY=mine", *OWN)
    assert reply.status == 200
    assert rig.up.seen[0].target == f"/echo?a=1&key={URL_ESCAPED}"
    assert b"mine" not in rig.up.raw
    assert reply.json["target"] == "/echo?a=1&key=" + "*" * len(URL_ESCAPED)


def test_a_credential_in_the_path_and_what_is_recorded_of_it(rig: Rig) -> None:
    rules = (HttpRule("h", "GET", "/*/getMe", Action.ALLOW),)
    with in_url(rig, Injection.URI_PLACEHOLDER, *rules):
        # Telegram's form: a part of a segment.
        reply = rig.get(A, "/botLENS_TOKEN/getMe?q=1")
        event = rig.egress.wait_for_event(path="/botLENS_TOKEN/getMe")
    assert rig.up.seen[0].target == f"/bot{URL_ESCAPED}/getMe?q=1"
    assert URL_SECRET not in reply.head.decode() + reply.body.decode()
    assert URL_ESCAPED not in reply.head.decode() + reply.body.decode()
    assert event["metadata"]["credential"] == "x"
    trail = json.dumps(rig.egress.events())
    assert URL_SECRET not in trail
    assert URL_ESCAPED not in trail


@pytest.mark.parametrize(
    ("value", "target"),
    [
        ("plain-value-0123456789", "/LENS_TOKEN/deleteMe"),  # no rule before injection
        ("plain-value-0123456789", "/x/getMe"),  # no placeholder: the agent's own token
        ("plain-value-0123456789", "/x/LENS_TOKEN/LENS_TOKEN"),
        ("slash/value-0123456789", "/LENS_TOKEN/getMe"),
        ("..", "/LENS_TOKEN/getMe"),
        ("semi;colon-0123456789", "/LENS_TOKEN/getMe"),
        ("per%cent-0123456789", "/LENS_TOKEN/getMe"),
        ("admin", "/LENS_TOKEN/getMe"),  # a rule denies what it becomes
    ],
)
def test_a_url_that_is_not_allowed_with_the_credential_in_it(
    rig: Rig, value: str, target: str
) -> None:
    rules = (
        HttpRule("d", "*", "/admin/**", Action.DENY),
        HttpRule("h", "GET", "/*/getMe", Action.ALLOW),
    )
    with in_url(rig, Injection.URI_PLACEHOLDER, *rules, value=value):
        reply = rig.get(A, target)
    assert reply.status == 403
    assert rig.untouched()
    assert value not in reply.body.decode() or value == ".."


def test_no_credential_in_the_url_over_plain_http(rig: Rig) -> None:
    host = "plain.example.com"
    bound = Binding("b", "cred-1", "x", host, Injection.QUERY, (host,), parameter="key")
    with policy(rig, bindings=(bound,)), rig.agent() as agent:
        assert agent.ask(request(host, f"http://{host}/x")).status == 200
    assert [seen.target for seen in rig.plain.seen] == ["/x"]
