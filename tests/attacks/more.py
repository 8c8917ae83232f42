"""Cases that only the catalogue needs: controls for families without one, and a few attacks."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import pytest

from apps.common.errors import Invalid
from apps.connections.hosts import checked_hosts
from apps.policies.types import Action, DomainRule
from tests.apps.proxy.egress.conftest import SECRET, http, raw, request
from tests.apps.proxy.egress.test_websocket import handshake
from tests.twins.upstream import pattern

if TYPE_CHECKING:
    from tests.apps.proxy.egress.conftest import Agent, Rig

H = "api.example.com"
HOST = f"Host: {H}"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def allowed_methods(rig: Rig, method: str) -> None:
    """A method that the policy allows arrives as sent."""
    assert rig.get(H, "/open/x", "Content-Length: 0", method=method).status == 200
    assert [seen.method for seen in rig.up.seen] == [method]


@pytest.mark.parametrize(
    "head",
    [
        raw("GET /open/x HTTP/1.1", f"host:{H}", "x-empty:"),
        raw("GET /open/x HTTP/1.1", f"HOST: {H}:443", "Accept: a, b;q=0.5"),
        raw("GET /open/x HTTP/1.1", HOST, "Connection: keep-alive", "X_Y: z"),
    ],
)
def odd_but_legal_heads(rig: Rig, head: bytes) -> None:
    """Unusual, but with one meaning."""
    with rig.tunnel() as agent:
        assert agent.ask(head).status == 200


@pytest.mark.parametrize("target", ["/open/%zz", "/open/%", "/open/%2"])
def a_broken_escape_is_named(rig: Rig, target: str) -> None:
    """It would also look like double encoding; the reason must not send people to look there."""
    reply = rig.get(H, target)
    assert reply.status == 403
    assert "no escape" in reply.json["reason"]
    assert rig.untouched()


def chunked_upload(rig: Rig) -> None:
    """Chunks of several sizes arrive as one body."""
    data = pattern(70_001)
    pieces = (data[:1], data[1:40_000], data[40_000:])
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    with rig.tunnel() as agent:
        sent = request(H, "/open/x", "Transfer-Encoding: chunked", method="POST", body=body)
        assert agent.ask(sent).status == 200
    assert hashlib.sha256(rig.up.seen[0].body).digest() == hashlib.sha256(data).digest()


def an_answer_while_others_are_silent(rig: Rig) -> None:
    """One tunnel that says nothing, one that works."""
    with rig.tunnel(), rig.tunnel() as agent:
        assert agent.ask(request(H, "/open/x")).status == 200


@pytest.mark.parametrize("path", ["/x", "/open/y?z=1"])
def plain_http_that_is_allowed(rig: Rig, path: str) -> None:
    """Plain http to an allowed host and path."""
    host = "plain.example.com"
    with rig.agent() as agent:
        assert agent.ask(request(host, f"http://{host}{path}")).status == 200
    assert rig.plain.seen[0].target == path


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "169.254.169.254", "10.0.0.1", "168.63.129.16", "100.100.100.200", "0.0.0.0",  # noqa: S104  asked for, not bound
     "224.0.0.1", "192.168.1.1", "255.255.255.255"],
)  # fmt: skip
def an_address_that_is_refused_though_allowed(rig: Rig, address: str) -> None:
    """No team's rule opens the host, its network or the metadata service."""
    rig.apply(DomainRule("every", "*", Action.ALLOW), DomainRule("ip", address, Action.ALLOW))
    try:
        with rig.agent() as agent:
            reply = agent.ask(f"CONNECT {address}:443 HTTP/1.0\r\n\r\n".encode())
            assert reply.status == 403
            assert reply.json["layer"] == "builtin"
    finally:
        rig.apply()
    assert rig.untouched()


def a_mapped_name(rig: Rig) -> None:
    """A name below a wildcard."""
    assert rig.get("a.wild.example.com", "/x").status == 200


@pytest.mark.parametrize("host", ["evil.wild.example.com", "wrong.wild.example.com"])
def an_upstream_with_another_certificate(rig: Rig, host: str) -> None:
    """Signed by a stranger, or for another host: no request byte is sent."""
    reply = rig.get(host, "/x")
    assert (reply.status, reply.json["error"]) == (502, "upstream_tls")
    assert rig.untouched()


@pytest.mark.parametrize("kind", ["garbage", "two-lengths", "both", "fold", "large", "split"])
def an_answer_that_is_none(rig: Rig, kind: str) -> None:
    """An answer with more than one meaning is not passed on."""
    reply = rig.get(H, f"/raw/{kind}")
    assert (reply.status, reply.json["error"]) == (502, "upstream_failed")


def an_upstream_that_verifies(rig: Rig) -> None:
    """The same request, to the certificate that belongs to the host."""
    assert rig.get(H, "/open/x").status == 200


def a_head_that_never_ends(rig: Rig) -> None:
    """A byte a second: the deadline is for the head, not for each byte."""
    with rig.agent() as agent:
        agent.send(b"GET http://")
        started = time.monotonic()
        agent.sock.settimeout(1)
        while not _something(agent) and time.monotonic() - started < 20:
            agent.send(b"a")
        assert agent.reply().status == 408
        assert time.monotonic() - started < 13


def _something(agent: Agent) -> bool:
    try:
        return bool(agent.more())
    except TimeoutError:
        return False


def a_flood_of_hosts(rig: Rig) -> None:
    """Each name below a wildcard needs a certificate: their number in memory is bounded."""
    rig.apply(DomainRule("flood", "*.flood.example.com", Action.ALLOW))
    try:
        before = rig.egress.memory_kb()
        for number in range(600):
            with rig.tunnel(f"n{number}.flood.example.com"):
                pass
        assert rig.egress.memory_kb() - before < 40_000
        assert rig.get(H, "/open/x").status == 200
    finally:
        rig.apply()


def a_redirect_followed_to_another_host(rig: Rig) -> None:
    """The agent follows where the answer leads: the credential belongs to the first host only."""
    reply = rig.get("cred.example.com", "/redirect")
    assert reply.status == 302
    assert SECRET not in (reply.header("location") or "")
    assert rig.get("a.wild.example.com", "/next").status == 200
    assert rig.up.seen[0].header("authorization") == f"Bearer {SECRET}"
    assert SECRET.encode() not in rig.up.seen[1].head


def a_redirect_followed_to_a_denied_path(rig: Rig) -> None:
    """A redirect within the host is another request, decided like any."""
    with rig.tunnel() as agent:
        assert agent.ask(request(H, "/redirect")).status == 302
        assert agent.ask(request(H, "/admin/x")).status == 403
    assert [seen.target for seen in rig.up.seen] == ["/redirect"]


def a_redirect_followed_where_it_may(rig: Rig) -> None:
    """Both requests are allowed."""
    with rig.tunnel() as agent:
        assert agent.ask(request(H, "/redirect")).status == 302
        assert agent.ask(request(H, "/open/x")).status == 200


@pytest.mark.parametrize(
    "head",
    [
        raw("CONNECT evil.example.net:443 HTTP/1.1", "Host: evil.example.net:443"),
        raw(f"CONNECT {H}:443 HTTP/1.1", f"Host: {H}:443"),
        raw("GET http://evil.example.net/ HTTP/1.1", "Host: evil.example.net"),
        raw(f"GET https://{H}/open/x HTTP/1.1", HOST),
        raw("GET evil.example.net:443 HTTP/1.1", HOST),
    ],
)
def an_upstream_used_as_a_proxy(rig: Rig, head: bytes) -> None:
    """An allowed host that is itself a proxy must not be asked to go on."""
    with rig.tunnel() as agent:
        assert agent.ask(head).status in (400, 403)
    assert rig.untouched()


# Hosts at which anybody can have a name, or which sign in another way.
@pytest.mark.parametrize(
    "pattern",
    ["*.s3.amazonaws.com", "bucket.s3.eu-west-1.amazonaws.com", "*.amazonaws.com", "*.github.io",
     "*.vercel.app", "*.herokuapp.com", "*.blob.core.windows.net",
     "*.cloudfront.net", "*"],
)  # fmt: skip
def a_host_that_strangers_can_have(_: Rig, pattern: str) -> None:
    """A static credential is never saved for it; the same check runs again at each injection."""
    with pytest.raises(Invalid):
        checked_hosts([pattern], static=True)


@pytest.mark.parametrize("pattern", ["api.github.com", "*.example.com", "gitlab.example.org:8443"])
def a_host_of_one_owner(_: Rig, pattern: str) -> None:
    """A static credential may be saved for it."""
    assert checked_hosts([pattern], static=True) == [pattern]


def a_websocket_that_is_allowed(rig: Rig) -> None:
    """The handshake passes, and bytes after it."""
    host = "a.wild.example.com"
    rule = DomainRule("ws", host, Action.ALLOW, (http("ws", "WEBSOCKET", "/ws/**"),))
    rig.apply(rule)
    try:
        with rig.tunnel(host) as agent:
            agent.send(request(host, "/ws/echo", *handshake()))
            assert agent.reply("HEAD").status == 101
            agent.send(b"\x82\x82aaaa" + bytes((ord("h") ^ 97, ord("i") ^ 97)))
            while not agent._held:
                agent.more()
            assert agent._held == b"\x82\x02hi"
    finally:
        rig.apply()
