"""The simulator asks what the proxy asks: compared with the proxy's own reading of the request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.policies.core.asking import UrlError, http_request, request_of_url
from apps.policies.types import HttpRequest
from apps.proxy.egress.head import (
    HeadError,
    connect_authority,
    parse_request,
    plain_target,
    tunnel_target,
)

HOSTS = st.sampled_from(["api.example.com", "10.0.0.1", "[2001:db8::1]", "a.b", "x_y.example.com"])
PATHS = st.text(st.sampled_from("/a%2F.;~?=&*+"), max_size=12)


def seen_by_the_proxy(method: str, scheme: str, authority: str, target: str) -> HttpRequest | None:
    """What the proxy makes of the bytes that a client sends; None where it refuses them."""
    try:
        if scheme == "http":
            raw = f"{method} http://{authority}{target} HTTP/1.1\r\nHost: {authority}"
            where, path = plain_target(parse_request(raw.encode()))
        else:
            to = authority if authority.rpartition(":")[2].isdigit() else f"{authority}:443"
            where = connect_authority(
                parse_request(f"CONNECT {to} HTTP/1.1\r\nHost: {to}".encode())
            )
            raw = f"{method} {target} HTTP/1.1\r\nHost: {authority}"
            path = tunnel_target(parse_request(raw.encode()), where)
    except HeadError:
        return None
    return http_request(scheme, where.host, where.port, method, path, addresses=(), websocket=False)


@given(
    st.sampled_from(["GET", "POST", "DELETE"]),
    st.sampled_from(["http", "https"]),
    HOSTS,
    st.sampled_from(["", ":80", ":443", ":8443"]),
    PATHS,
)
def test_a_url_is_the_request_that_the_proxy_sees(
    method: str, scheme: str, host: str, port: str, path: str
) -> None:
    target = path if path.startswith("/") else f"/{path}"
    seen = seen_by_the_proxy(method, scheme, host + port, target)
    asked = request_of_url(method, f"{scheme}://{host}{port}{path if path[:1] in '/?' else target}")
    assert seen in (None, asked)


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
    assert request_of_url(method, url) == wanted


def test_another_method_stays_and_is_refused_by_the_decision() -> None:
    assert request_of_url("POST", "ws://a.x/").method == "POST"
    assert request_of_url("POST", "ws://a.x/").websocket


def test_a_fragment_is_left_out_and_an_address_keeps_no_brackets() -> None:
    asked = request_of_url("GET", "HTTPS://[2001:db8::1]/a?b#c", addresses=("2001:db8::1",))
    assert (asked.host, asked.port, asked.target) == ("2001:db8::1", 443, "/a?b")
    assert asked.addresses == ("2001:db8::1",)


@pytest.mark.parametrize(
    "url",
    ["", "/path", "a.x/path", "ftp://a.x/", "https://", "https:///x", "https://u@a.x/",
     "https://a.x:0/", "https://a.x:99999999/", "https://[::1/", "https://a:b:c/"],
)  # fmt: skip
def test_what_is_no_url_is_told(url: str) -> None:
    with pytest.raises(UrlError):
        request_of_url("GET", url)
