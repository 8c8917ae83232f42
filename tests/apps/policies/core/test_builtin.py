"""What no policy opens, and what looks like it but is no such thing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.common.hosts import parse_host, parse_pattern
from apps.policies.core.builtin import (
    address_refusal,
    is_provider,
    name_refusal,
    platform_refusal,
    provider_refusal,
)
from apps.policies.core.providers import PROVIDER_HOSTS


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("metadata.google.internal", "metadata"),
        ("METADATA.google.internal.", "metadata"),
        ("metadata", "metadata"),
        ("instance-data.ec2.internal", "metadata"),
        ("localhost", "loopback"),
        ("LOCALHOST.", "loopback"),
        ("a.b.localhost", "loopback"),
        ("localhost.localdomain", "loopback"),
        ("ip6-localhost", "loopback"),
        ("host.docker.internal", "loopback"),
    ],
)
def test_names_that_no_policy_opens(name: str, rule: str) -> None:
    refusal = name_refusal(parse_host(name))
    assert refusal is not None
    assert refusal.rule == rule


@pytest.mark.parametrize("name", ["localhost.example.com", "mylocalhost", "metadata.example.com"])
def test_names_that_only_look_like_it(name: str) -> None:
    assert name_refusal(parse_host(name)) is None


def test_the_platform_itself_is_refused_on_every_port() -> None:
    platform = (parse_pattern("lens.acme.test"), parse_pattern("db.acme.test:5432"))
    assert platform_refusal(parse_host("lens.acme.test"), platform, 8443) is not None
    assert platform_refusal(parse_host("db.acme.test"), platform, 5432) is not None
    assert platform_refusal(parse_host("db.acme.test"), platform, 443) is None
    assert platform_refusal(parse_host("www.acme.test"), platform, 443) is None


def test_addresses_say_whether_a_connection_could_open_them() -> None:
    private = address_refusal("10.0.0.1", "10.0.0.1", ())
    metadata = address_refusal("a.x resolves to an address that", "169.254.169.254", ("::/0",))
    assert private is not None
    assert "no connection" in private.reason
    assert metadata is not None
    assert "a.x resolves to an address that is the cloud metadata" in metadata.reason
    assert address_refusal("10.0.0.1", "10.0.0.1", ("10.0.0.0/8",)) is None


@pytest.mark.parametrize(
    "name",
    [
        "api.openai.com",
        "eu.api.openai.com",
        "api.anthropic.com",
        "acme.openai.azure.com",
        "bedrock-runtime.us-east-1.amazonaws.com",
        "bedrock-runtime-fips.us-gov-west-1.amazonaws.com",
        "bedrock-runtime.cn-north-1.amazonaws.com.cn",
        "bedrock-runtime.eu-west-1.api.aws",
        "bedrock-mantle.us-east-1.api.aws",
        "vpce-0a1b-c2d3.bedrock-runtime.us-east-1.vpce.amazonaws.com",
        "generativelanguage.googleapis.com",
        "us-central1-aiplatform.googleapis.com",
        "aiplatform.eu.rep.googleapis.com",
        "api.mistral.ai",
        "openrouter.ai",
    ],
)
def test_model_providers(name: str) -> None:
    assert is_provider(name)
    assert provider_refusal(parse_host(name.upper()), ()) is not None
    assert provider_refusal(parse_host(name), (parse_pattern(name),)) is None
    assert provider_refusal(parse_host(name), (parse_pattern("other.example"),)) is not None


@pytest.mark.parametrize(
    "name",
    [
        "openai.com.evil.example",
        "notapi.openai.com.example",
        "bedrock.us-east-1.amazonaws.com",
        "s3.us-east-1.amazonaws.com",
        "storage.googleapis.com",
        "api.github.com",
        "openai.azure.com",
        "amazonaws.com",
        "bedrock-runtime.amazonaws.com.example",
    ],
)
def test_other_hosts_are_no_model_providers(name: str) -> None:
    assert not is_provider(name)


def test_the_provider_list_is_clean() -> None:
    assert len(set(PROVIDER_HOSTS)) == len(PROVIDER_HOSTS)
    for entry in PROVIDER_HOSTS:
        plain = parse_host(entry.replace("**", "a").replace("*", "b"))
        assert plain.name == entry.replace("**", "a").replace("*", "b")
        assert is_provider(plain.name)


@given(st.text(max_size=40))
def test_any_name_has_an_answer(name: str) -> None:
    assert is_provider(name) in (True, False)
