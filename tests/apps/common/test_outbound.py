"""Leaving the platform: what may be reached, what a hostile answer can cost, what errors tell."""

from __future__ import annotations

import json
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from apps.common import addresses, outbound
from apps.common.errors import Invalid, Upstream
from tests.twins.ca import TwinCa
from tests.twins.upstream import UpstreamTwin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_django.fixtures import Settings

HOST = "api.partner.test"
SECRET = "s3cr3t-in-the-query"


@pytest.fixture
def ca() -> TwinCa:
    return TwinCa()


@pytest.fixture
def twin(tmp_path: Path, ca: TwinCa) -> Iterator[UpstreamTwin]:
    with UpstreamTwin(ca.issue(tmp_path, HOST)) as running:
        yield running


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch, ca: TwinCa, twin: UpstreamTwin) -> Callable[..., Any]:
    """Fetch from the twin: its name leads to loopback, which is let through for once."""
    context = ssl.create_default_context(cadata=ca.pem)
    monkeypatch.setattr(outbound, "_tls", lambda: context)
    monkeypatch.setattr(outbound, "vet", lambda *_, **__: addresses.OK)
    resolve_to(monkeypatch, "127.0.0.1")

    def fetch(path: str, **more: Any) -> outbound.Answer:
        return outbound.fetch(f"https://{HOST}:{twin.port}{path}", **more)

    return fetch


def resolve_to(monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    """Names resolve to these addresses."""
    rows = [(0, 0, 0, "", (address, 0)) for address in found]
    monkeypatch.setattr(outbound, "getaddrinfo", lambda *_, **__: rows)


def test_get_and_post(reach: Callable[..., Any], twin: UpstreamTwin) -> None:
    assert reach("/echo", headers={"X-One": "1"}).status == 200
    seen = twin.seen[-1]
    assert (seen.method, seen.target, seen.sni) == ("GET", "/echo", HOST)
    assert seen.header("host") == f"{HOST}:{twin.port}"
    assert seen.header("x-one") == "1"
    assert seen.header("accept-encoding") == "identity"

    reach("/echo", form={"a": "1 2", "b": "ü"}, basic=("us:er", "p w"))
    seen = twin.seen[-1]
    assert (seen.method, seen.body) == ("POST", b"a=1+2&b=%C3%BC")
    assert seen.header("authorization") == "Basic dXMlM0FlcjpwK3c="


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.partner.test",
        "http://api.partner.test/",
        "ftp://api.partner.test/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "https://",
        "https:///path",
        "https://user@api.partner.test/",
        "https://user:pass@api.partner.test/",
        "https://api.partner.test\\@evil.test/",
        "https://api.partner.test:0/",
        "https://api.partner.test:99999/",
        "https://[::1",
        "https://api.partner.test/\r\nHost: evil.test",
        "https://api.partner.test/ x",
        "https://ärger.test/",
        "https://api.partner.test/" + "x" * 2000,
    ],
)
def test_what_is_no_https_url_is_refused(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        outbound.fetch(url, field="issuer")
    assert caught.value.field == "issuer"


REFUSED = [
    "127.0.0.1",
    "::1",
    "0.0.0.0",  # noqa: S104  an address to refuse
    "10.0.0.1",
    "172.16.5.4",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "fd00:ec2::254",
    "fe80::1",
    "::ffff:127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "224.0.0.1",
]


@pytest.mark.parametrize("address", REFUSED)
def test_address_inside_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    resolve_to(monkeypatch, address)
    with pytest.raises(Invalid, match="may not be reached"):
        outbound.fetch(f"https://{HOST}/")
    shown = f"[{address}]" if ":" in address else address
    with pytest.raises(Invalid, match="may not be reached"):
        outbound.fetch(f"https://{shown}/")


def test_one_refused_address_refuses_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "93.184.216.34", "127.0.0.1")
    with pytest.raises(Invalid, match="loopback"):
        outbound.fetch(f"https://{HOST}/")


@pytest.mark.parametrize("spelling", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1", "localhost."])
def test_odd_spellings_of_loopback_are_refused(spelling: str) -> None:
    """Resolved by the system's own resolver, then vetted."""
    with pytest.raises(Invalid):
        outbound.fetch(f"https://{spelling}/")


def test_operator_may_open_private_ranges_and_nothing_else(settings: Settings) -> None:
    settings.OUTBOUND_PRIVATE = ["10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16"]
    for address in ("127.0.0.1", "169.254.169.254"):
        with pytest.raises(Invalid, match="may not be reached"):
            outbound.fetch(f"https://{address}/")


def test_connection_goes_to_the_address_that_was_vetted(
    reach: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that changes between the look-up and the connection (rebinding) changes nothing."""
    asked: list[str] = []

    def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        return [(0, 0, 0, "", ("127.0.0.1" if len(asked) == 1 else "203.0.113.9", 0))]

    monkeypatch.setattr(outbound, "getaddrinfo", resolve)
    assert reach("/echo").status == 200
    assert asked == [HOST]


def test_next_address_is_tried(reach: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "::1", "127.0.0.1")
    assert reach("/echo").status == 200


def test_loopback_origin_is_one_origin_exactly() -> None:
    origin = "http://127.0.0.1:9"
    with pytest.raises(Upstream):
        outbound.fetch(f"{origin}/x", loopback_origin=origin)
    for url in ("http://127.0.0.1:99/x", "http://127.0.0.1:9@evil.test/", "http://localhost:9/"):
        with pytest.raises(Invalid):
            outbound.fetch(url, loopback_origin=origin)


def test_certificate_must_be_trusted_and_for_the_name(
    reach: Callable[..., Any], twin: UpstreamTwin, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Upstream, match="certificate is not trusted"):
        outbound.fetch(f"https://other.partner.test:{twin.port}/echo")
    monkeypatch.setattr(outbound, "_tls", ssl.create_default_context)
    with pytest.raises(Upstream, match="certificate is not trusted"):
        reach("/echo")


def test_redirect_is_an_answer_and_not_followed(
    reach: Callable[..., Any], twin: UpstreamTwin
) -> None:
    assert reach("/redirect").status in (301, 302, 307, 308)
    assert len(twin.seen) == 1


def test_long_answer_is_cut_off(reach: Callable[..., Any]) -> None:
    assert len(reach("/bytes/1000000").body) == 1_000_000
    with pytest.raises(Upstream, match="more than 1000000 bytes"):
        reach("/bytes/1000001")


def test_slow_answer_ends_at_the_deadline(
    reach: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbound, "MAX_SECONDS", 0.6)
    for path in ("/slow/2", "/drip/2"):
        with pytest.raises(Upstream, match="no answer in time"):
            reach(path)


@pytest.mark.parametrize("path", ["/truncate", "/silent", "/raw/garbage", "/raw/two-lengths"])
def test_broken_answer_is_an_upstream_error(reach: Callable[..., Any], path: str) -> None:
    with pytest.raises(Upstream, match="no connection"):
        reach(path)


def test_errors_name_the_host_and_never_the_url(reach: Callable[..., Any]) -> None:
    for path in (f"/truncate?{SECRET}", f"/bytes/1?{SECRET}"):
        with pytest.raises(Upstream) as caught:
            reach(path).json()
        assert HOST in caught.value.message
        assert SECRET not in caught.value.message


def test_only_an_object_is_json() -> None:
    for body in (b"", b"[]", b"1", b"{", b"\xff", b"[" * 10_000):
        with pytest.raises(Upstream):
            outbound.Answer(HOST, 200, "", body).json()
    found = outbound.Answer(HOST, 200, "", json.dumps({"a": 1}).encode()).json()
    assert found == {"a": 1}


def test_environment_proxies_are_not_used(
    reach: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{dead.getsockname()[1]}")
        assert reach("/echo").status == 200
