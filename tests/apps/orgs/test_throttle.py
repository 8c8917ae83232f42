"""The brake on sign-ins: floods are stopped, and a company behind one address is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.core.cache import cache
from django.http import HttpResponse
from django.test import RequestFactory

from apps.orgs.addresses import address_of
from apps.orgs.throttle import throttled

if TYPE_CHECKING:
    from django.http import HttpRequest
    from pytest_django import Settings

PROXIES = ["10.0.0.0/24", "fd12::/64"]


@throttled("test", times=5, each=3)
def page(_request: HttpRequest, thing: str = "") -> HttpResponse:
    return HttpResponse(thing)


@pytest.fixture(autouse=True)
def fresh() -> None:
    cache.clear()


def call(thing: str = "a", *, address: str = "192.0.2.1", via: str = "") -> int:
    request = RequestFactory().get("/", REMOTE_ADDR=address)
    if via:
        request.META["HTTP_X_FORWARDED_FOR"] = via
    return int(page(request, thing=thing).status_code)


def test_one_thing_from_one_address_is_bounded_first() -> None:
    assert [call("a") for _ in range(4)] == [200, 200, 200, 429]
    assert call("b") == 200


def test_all_things_from_one_address_are_bounded_too() -> None:
    assert [call(str(n)) for n in range(6)] == [200] * 5 + [429]


def test_a_flood_from_one_address_stops_nobody_else() -> None:
    for _ in range(50):
        call("a")
    assert call("a", address="192.0.2.2") == 200


def test_people_behind_a_trusted_proxy_are_told_apart(settings: Settings) -> None:
    settings.TRUSTED_PROXIES = PROXIES
    for _ in range(10):
        call("a", address="10.0.0.7", via="198.51.100.1")
    assert call("a", address="10.0.0.7", via="198.51.100.2") == 200
    assert call("a", address="10.0.0.7", via="198.51.100.1") == 429


def test_nobody_makes_up_addresses(settings: Settings) -> None:
    """A caller who is no proxy of ours, and one who puts words before what the proxy wrote."""
    settings.TRUSTED_PROXIES = PROXIES
    codes = {call("a", via=f"198.51.100.{n}") for n in range(20)}
    assert 429 in codes
    for n in range(20):
        call("b", address="10.0.0.7", via=f"203.0.113.{n}, 198.51.100.9")
    assert call("b", address="10.0.0.7", via="198.51.100.9") == 429


@pytest.mark.parametrize(
    ("remote", "via", "found"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
        ("10.0.0.7", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.7", "198.51.100.1, 10.0.0.8", "198.51.100.1"),
        ("10.0.0.7", "evil, 198.51.100.1, 10.0.0.8", "198.51.100.1"),
        ("10.0.0.7", "198.51.100.1, nonsense", "10.0.0.7"),
        ("10.0.0.7", ",".join(["10.0.0.1"] * 100), "10.0.0.1"),
        ("fd12::1", "2001:db8::1", "2001:db8::1"),
        ("", "198.51.100.1", ""),
    ],
)
def test_where_a_request_comes_from(settings: Settings, remote: str, via: str, found: str) -> None:
    settings.TRUSTED_PROXIES = PROXIES
    request = RequestFactory().get("/", REMOTE_ADDR=remote, HTTP_X_FORWARDED_FOR=via)
    assert address_of(request) == found
