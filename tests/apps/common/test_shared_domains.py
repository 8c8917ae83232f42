"""Which wildcards reach strangers."""

from __future__ import annotations

import pytest

from apps.common.hosts import parse_pattern
from apps.common.shared_domains import SHARED_DOMAINS, registry, shared_domain


@pytest.mark.parametrize("name", ["com", "internal", "co.uk", "com.br", "or.jp", "uk.com"])
def test_a_registry_is_refused_and_a_name_in_it_is_not(name: str) -> None:
    assert registry(parse_pattern(f"*.{name}")) == shared_domain(parse_pattern(f"*.{name}")) == name
    assert shared_domain(parse_pattern(f"*.example.{name}")) == ""
    assert shared_domain(parse_pattern(f"example.{name}")) == ""


@pytest.mark.parametrize("domain", SHARED_DOMAINS)
def test_nothing_below_a_shared_domain_is_ones_own(domain: str) -> None:
    for pattern in (f"*.{domain}", f"*.mine.{domain}", f"*.{domain}:8443"):
        assert shared_domain(parse_pattern(pattern)) == domain
    assert shared_domain(parse_pattern(f"mine.{domain}")) == ""


@pytest.mark.parametrize("pattern", ["api.github.com", "10.0.0.0/8", "1.2.3.4", "[::1]:80"])
def test_exact_names_and_addresses_reach_nobody_else(pattern: str) -> None:
    assert shared_domain(parse_pattern(pattern)) == registry(parse_pattern(pattern)) == ""


def test_any_host_is_everybody() -> None:
    assert shared_domain(parse_pattern("*")) == "*"


@pytest.mark.parametrize("pattern", ["*.co.example", "*.acme.uk", "*.uk.example.com", "*.core.io"])
def test_what_only_looks_like_a_registry(pattern: str) -> None:
    assert registry(parse_pattern(pattern)) == ""
