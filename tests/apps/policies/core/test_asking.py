"""The simulator asks what the proxy asks: compared with the proxy's own reading of the request."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.policies.core.asking import RequestError, answer, asked, http_request
from apps.policies.types import (
    Action,
    Bundle,
    ConnectRequest,
    DomainRule,
    HttpRequest,
    HttpRule,
    Layer,
    LayerKind,
)
from apps.proxy.egress.head import (
    HeadError,
    connect_authority,
    parse_request,
    plain_target,
    tunnel_target,
)

HOSTS = st.sampled_from(
    ["api.example.com", "A.B.", "10.0.0.1", "[2001:db8::1]", "x_y.example.com", "127.1", "a..b",
     "0x7f000001", "[::ffff:10.0.0.1]", "u@a.b", "%61.b", "", "-a.b"],
)  # fmt: skip
PORTS = st.sampled_from(["", ":80", ":443", ":8443", ":0", ":99999", ":x", ":"])
METHODS = st.sampled_from(["GET", "POST", "DELETE", "TRACE", "get", "G T", "", "X-Y", "-"])
PATHS = st.text(st.sampled_from("/a%2F.;~?=&*+ ä\\"), max_size=12)


def seen_by_the_proxy(method: str, scheme: str, authority: str, target: str) -> HttpRequest | str:
    """What the proxy makes of the bytes that a client sends; its code where it refuses them."""
    try:
        if scheme == "http":
            raw = f"{method} http://{authority}{target} HTTP/1.1\r\nHost: {authority}"
            where, path = plain_target(parse_request(raw.encode()))
        else:
            to = authority if ":" in authority.rpartition("]")[2] else f"{authority}:443"
            where = connect_authority(
                parse_request(f"CONNECT {to} HTTP/1.1\r\nHost: {to}".encode())
            )
            raw = f"{method} {target} HTTP/1.1\r\nHost: {authority}"
            path = tunnel_target(parse_request(raw.encode()), where)
    except HeadError as error:
        return error.code
    return http_request(scheme, where.host, where.port, method, path, addresses=(), websocket=False)


@given(METHODS, st.sampled_from(["http", "https"]), HOSTS, PORTS, PATHS)
def test_a_url_is_the_request_that_the_proxy_sees(
    method: str, scheme: str, host: str, port: str, path: str
) -> None:
    target = path if path.startswith("/") else f"/{path}"
    seen = seen_by_the_proxy(method, scheme, host + port, target)
    try:
        found = asked(
            method, f"{scheme}://{host}{port}{path if path[:1] in ('/', '?') else target}"
        )
    except RequestError:
        assert isinstance(seen, str)
        return
    assert found[-1] == seen
    assert len(found) == (2 if scheme == "https" else 1)
    if scheme == "https":
        assert isinstance(seen, HttpRequest)
        assert found[0] == ConnectRequest(seen.host, seen.port)


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", "wss://a.x/live"),
        ("WEBSOCKET", "wss://a.x/live"),
        ("WEBSOCKET", "https://a.x/live"),
    ],
)
def test_three_ways_to_name_a_websocket(method: str, url: str) -> None:
    wanted = HttpRequest("https", "a.x", 443, "GET", "/live", websocket=True)
    assert asked(method, url) == (ConnectRequest("a.x", 443), wanted)


def test_another_method_stays_and_is_refused_by_the_decision() -> None:
    assert asked("POST", "ws://a.x/") == (
        HttpRequest("http", "a.x", 80, "POST", "/", websocket=True),
    )


def test_a_fragment_is_left_out_and_an_address_keeps_no_brackets() -> None:
    ends = ("2001:db8::1",)
    found = asked("GET", "HTTPS://[2001:db8::1]/a?b#c", ends)
    tunnel = ConnectRequest("2001:db8::1", 443)
    request = HttpRequest("https", "2001:db8::1", 443, "GET", "/a?b")
    assert found == (
        tunnel,
        replace(tunnel, addresses=ends),
        request,
        replace(request, addresses=ends),
    )


def test_a_tunnel_alone() -> None:
    assert asked("CONNECT", "db.x:5432") == (ConnectRequest("db.x", 5432),)
    with pytest.raises(RequestError, match="port"):
        asked("CONNECT", "db.x")


@pytest.mark.parametrize(
    "url",
    ["", "/path", "a.x/path", "ftp://a.x/", "https://", "https:///x", "https://u@a.x/",
     "https://a.x:0/", "https://a.x:99999999/", "https://[::1/", "https://a:b:c/",
     "https://a.x/a b", "https://a.x/ä"],
)  # fmt: skip
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(RequestError) as told:
        asked("GET", url)
    assert told.value.code in {"authority", "request_line", "target_form"}


RULES = (
    DomainRule("direct", "d.x:443", Action.DIRECT),
    DomainRule("range", "8.8.8.0/24", Action.DENY),
    DomainRule("api", "a.x", Action.ALLOW, (HttpRule("get", "GET", "/a", Action.ALLOW),)),
)
BUNDLE = Bundle(1, 1, (Layer(LayerKind.TEAM, "t", "T", RULES),))


@pytest.mark.parametrize(
    ("method", "url", "addresses", "action", "rule"),
    [
        ("GET", "https://a.x/a", (), Action.ALLOW, "get"),
        ("GET", "https://a.x/b", (), Action.DENY, "api"),
        ("GET", "https://a.x/a", ("9.9.9.9",), Action.ALLOW, "get"),
        ("GET", "https://a.x/a", ("8.8.8.8",), Action.DENY, "range"),
        ("GET", "https://a.x/a", ("10.0.0.1",), Action.DENY, "address"),
        ("GET", "https://d.x/../a", (), Action.DIRECT, "direct"),
        ("GET", "https://d.x/", ("10.0.0.1",), Action.DENY, "address"),
        ("CONNECT", "a.x:443", (), Action.ALLOW, "api"),
        ("GET", "https://b.x/a", (), Action.DENY, ""),
    ],
)
def test_the_first_refusal_or_the_last_answer(
    method: str, url: str, addresses: tuple[str, ...], action: Action, rule: str
) -> None:
    found = answer(BUNDLE, asked(method, url, addresses))
    assert (found.action, found.rule) == (action, rule)
