"""Credentials go where the team and the owner both say, over TLS, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from apps.common.hosts import parse_host, parse_pattern
from apps.common.shared_domains import SHARED_DOMAINS, shared_domain
from apps.policies.core.bindings import Outgoing, binding_refusal, choose_binding, strips
from apps.policies.core.compiled import compile_bundle
from apps.policies.types import (
    BUNDLE_FORMAT,
    AgentCredentials,
    Binding,
    Bundle,
    Injection,
    LayerKind,
)

GITHUB = Binding("b1", "c1", "GitHub", "api.github.com", Injection.BEARER, ("api.github.com",))
REQUEST = Outgoing("https", parse_host("api.github.com"), 443, "GET", ("repos", "acme"))
KEEP, STRIP, DEFAULT = AgentCredentials.KEEP, AgentCredentials.STRIP, AgentCredentials.DEFAULT
TEAM, AGENT, CEILING = LayerKind.TEAM, LayerKind.AGENT, LayerKind.CEILING


def chosen(request: Outgoing, *bindings: Binding) -> tuple[str, tuple[str, ...]]:
    ready = compile_bundle(Bundle(BUNDLE_FORMAT, 1, (), bindings))
    assert not ready.problem
    binding, passed = choose_binding(ready.bindings, request)
    return binding.id if binding else "", tuple(entry.why for entry in passed)


def test_the_first_binding_that_fits_is_taken() -> None:
    second = replace(GITHUB, id="b2")
    assert chosen(REQUEST, GITHUB, second) == ("b1", ())
    assert chosen(REQUEST, replace(GITHUB, method="POST"), second)[0] == "b2"


@pytest.mark.parametrize(
    ("binding", "why"),
    [
        (replace(GITHUB, pattern="api.github.com:8443"), "does not cover"),
        (replace(GITHUB, method="POST"), "method POST"),
        (replace(GITHUB, path="/repos"), "path"),
        (replace(GITHUB, path="/Repos/*"), "path"),
        (replace(GITHUB, allowed_hosts=()), "owner"),
        (replace(GITHUB, allowed_hosts=("*.github.com:8443", "github.com")), "owner"),
        (replace(GITHUB, pattern="*", allowed_hosts=("*",)), "every host"),
    ],
)
def test_a_binding_that_does_not_fit_says_why(binding: Binding, why: str) -> None:
    name, (reason,) = chosen(REQUEST, binding)
    assert name == ""
    assert why in reason


def test_plain_http_gets_no_credential() -> None:
    assert chosen(replace(REQUEST, scheme="http", port=80), GITHUB) == (
        "",
        ("credentials are sent over HTTPS only",),
    )


def test_a_wildcard_over_registrable_names_is_passed_over() -> None:
    bucket = replace(REQUEST, host=parse_host("evil.s3.amazonaws.com"))
    wide = replace(GITHUB, pattern="*.s3.amazonaws.com", allowed_hosts=("*.amazonaws.com",))
    exact = replace(GITHUB, pattern="evil.s3.amazonaws.com", allowed_hosts=("*.amazonaws.com",))
    assert chosen(bucket, wide)[0] == ""
    assert chosen(bucket, exact)[0] == "b1"


@pytest.mark.parametrize(
    ("said", "bound", "expected"),
    [
        ((), False, False),
        ((), True, True),
        (((TEAM, DEFAULT),), True, True),
        (((TEAM, KEEP),), True, False),
        (((TEAM, STRIP),), False, True),
        (((CEILING, STRIP), (TEAM, KEEP)), True, True),
        (((TEAM, KEEP), (AGENT, STRIP)), True, True),
        (((TEAM, DEFAULT), (AGENT, KEEP)), True, True),
        (((CEILING, KEEP), (TEAM, DEFAULT)), True, True),
        (((CEILING, DEFAULT), (TEAM, KEEP)), True, False),
    ],
)
def test_stripping(
    said: tuple[tuple[LayerKind, AgentCredentials], ...],
    bound: bool,  # noqa: FBT001 (a table)
    expected: bool,  # noqa: FBT001 (same)
) -> None:
    other = replace(GITHUB, pattern="other.example")
    ready = compile_bundle(Bundle(BUNDLE_FORMAT, 1, (), (GITHUB if bound else other,)))
    assert strips(said, ready.bindings, REQUEST.host, 443) is expected


@pytest.mark.parametrize(
    ("pattern", "allowed", "word"),
    [
        ("api.github.com", ("api.github.com",), ""),
        ("api.github.com", ("*.github.com",), ""),
        ("*.corp.example", ("*.corp.example",), ""),
        ("a.corp.example:8443", ("a.corp.example:8443",), ""),
        ("10.1.0.0/16", ("10.0.0.0/8",), ""),
        ("a.s3.amazonaws.com", ("*",), ""),
        ("api.github.com", (), "none"),
        ("api.github.com", ("github.com",), "outside"),
        ("*.github.com", ("api.github.com",), "outside"),
        ("a.corp.example:8443", ("a.corp.example",), "with its port"),
        ("a.corp.example", ("a.corp.example:443",), "outside"),
        ("*", ("*",), "every host"),
        ("*.s3.amazonaws.com", ("*",), "`amazonaws.com`"),
        ("*.amazonaws.com", ("*",), "`amazonaws.com`"),
        ("*.com", ("*",), "anybody"),
        ("*.de", ("*",), "`de`"),
        ("*.co.uk", ("*",), "`co.uk`"),
        ("*.acme.github.io", ("*",), "`github.io`"),
        ("a..b", ("*",), "empty label"),
        ("a.b", ("a..b",), "empty label"),
    ],
)
def test_what_may_be_saved(pattern: str, allowed: tuple[str, ...], word: str) -> None:
    found = binding_refusal(pattern, allowed)
    assert bool(found) == bool(word)
    assert word in found


def test_the_list_of_shared_domains_is_clean() -> None:
    assert len(set(SHARED_DOMAINS)) == len(SHARED_DOMAINS)
    for domain in SHARED_DOMAINS:
        assert shared_domain(parse_pattern("*.a." + domain))
        assert not shared_domain(parse_pattern("a." + domain))
        assert not shared_domain(parse_pattern("8.8.8.8"))
