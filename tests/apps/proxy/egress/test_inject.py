"""What a credential becomes, and which bindings cannot become anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.policies.types import Injection
from apps.proxy.egress.head import parse_request
from apps.proxy.egress.inject import render, request_bytes
from apps.proxy.egress.place import InjectionError
from tests.apps.proxy.egress.conftest import binding

VALUE = "0123456789abcdef-secret"


def header(name: str, template: str = "{value}") -> None:
    render(binding("a.test", Injection.HEADER, header=name, template=template), VALUE)


@pytest.mark.parametrize(
    "name",
    ["", "X Y", "X:", "X\r\nY", "Host", "host", "Content-Length", "Transfer-Encoding", "Connection",
     "TE", "Trailer", "Upgrade", "Proxy-Authorization", "X-HTTP-Method-Override", "X-Forwarded-For",
     "Expect", "X" * 200, "X-\xe9"],
)  # fmt: skip
def test_headers_that_may_not_be_set(name: str) -> None:
    with pytest.raises(InjectionError):
        header(name)


@pytest.mark.parametrize(
    "template", ["", "Token", "{value}{value}", "a\r\n{value}", "{value}\n", "\0{value}"]
)
def test_templates_that_may_not_be_used(template: str) -> None:
    with pytest.raises(InjectionError):
        header("X-Api-Key", template)


@given(st.text(max_size=30))
def test_a_value_is_one_header_line_or_an_error(value: str) -> None:
    try:
        injected = render(binding("a.test"), value)
    except InjectionError:
        return
    assert injected.line == f"Authorization: Bearer {value}"
    assert injected.line.isprintable()


def test_the_secret_does_not_show_in_a_repr() -> None:
    for kind in (Injection.BEARER, Injection.BASIC):
        assert VALUE not in repr(render(binding("a.test", kind, username="robot"), VALUE))


def test_braces_in_a_value_are_letters() -> None:
    odd = "{value}-{0}-{value.__class__}"
    made = render(binding("a.test", Injection.HEADER, header="X-K", template="t {value}"), odd)
    assert made.line == f"X-K: t {odd}"


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Authorization", "AUTHORIZATION", "X-A", "Connection", "X_A", "TE"]),
            st.sampled_from(["mine", "x-a", "Authorization", "close"]),
        ),
        max_size=6,
    )
)
def test_the_outbound_head_has_one_authorization_and_parses_again(
    fields: list[tuple[str, str]],
) -> None:
    seen: set[str] = set()
    lines = []
    for name, value in fields:
        if name.lower() != "authorization" or not seen & {"authorization"}:
            lines.append(f"{name}: {value}")
        seen.add(name.lower())
    head = parse_request("\r\n".join(["GET /x HTTP/1.1", "Host: a.test", *lines]).encode())
    sent = request_bytes(
        head, "/x", "a.test", strip=True, injected=render(binding("a.test"), VALUE)
    )
    again = parse_request(sent.removesuffix(b"\r\n\r\n"))
    assert [value for key, _, value in again.fields if key == "authorization"] == [
        f"Bearer {VALUE}"
    ]
    assert not again.options
    assert again.first("host") == "a.test"


@pytest.mark.parametrize("name", ["X_Api_Secret", "X-Api-Secret", "x_api-secret"])
def test_the_agents_own_field_is_replaced_in_every_spelling(name: str) -> None:
    head = parse_request(
        b"GET /x HTTP/1.1\r\nHost: a.test\r\nX-Api-Secret: own\r\nX_Api_Secret: own"
    )
    bound = binding("a.test", Injection.HEADER, header=name, template="{value}")
    sent = request_bytes(head, "/x", "a.test", strip=False, injected=render(bound, VALUE))
    assert b"own" not in sent
    assert sent.count(VALUE.encode()) == 1
