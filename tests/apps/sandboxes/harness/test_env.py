"""The environment of commands."""

from __future__ import annotations

import pytest

from apps.common.errors import Invalid
from apps.policies.core.sentinels import RESERVED
from apps.sandboxes.harness import env


def test_the_default_is_frozen_and_layers_go_on_top() -> None:
    with pytest.raises(TypeError):
        env.DEFAULT["PATH"] = "/evil"  # type: ignore[index]  # that it cannot be set is the test
    assert env.merged({"A": "1", "HOME": "/x"}, {"A": "2"})["A"] == "2"
    assert env.DEFAULT["HOME"] == "/workspace"


def test_every_client_is_sent_to_the_proxy_and_trusts_the_authority() -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        assert env.DEFAULT[name] == env.DEFAULT[name.lower()] == "http://127.0.0.1:18080"
    assert env.DEFAULT["NO_PROXY"] == env.DEFAULT["no_proxy"] == ""
    for name in (
        "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT",
        "AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO",
    ):  # fmt: skip
        assert env.DEFAULT[name] == env.CA_BUNDLE
    assert env.DEFAULT["NODE_EXTRA_CA_CERTS"] == env.SANDBOX_CA


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "A=1",
        {"": "x"},
        {"1A": "x"},
        {"A B": "x"},
        {"A": 1},
        {"A": "x\0y"},
        {"A": "x" * 70_000},
    ],
)
def test_what_is_no_environment(value: object) -> None:
    with pytest.raises(Invalid):
        env.checked(value)


def test_ordinary_names_pass() -> None:
    assert env.checked({"_A1": "ü\n", "B": ""}) == {"_A1": "ü\n", "B": ""}


def test_no_sentinel_takes_the_place_of_what_we_set() -> None:
    assert {name.upper() for name in env.DEFAULT} <= RESERVED


def test_sentinels_of_a_bundle() -> None:
    def binding(name: object, text: object) -> dict[str, object]:
        return {"id": "b", "env_name": name, "sentinel": text}

    good = binding("GITHUB_TOKEN", "lens-sentinel-github")
    bad = [
        {"id": "b"},
        binding("", "lens-sentinel-x"),
        binding("PATH", "lens-sentinel-x"),
        binding("LD_PRELOAD", "lens-sentinel-x"),
        binding("lower", "lens-sentinel-x"),
        binding("TOKEN", "/evil.so"),
        binding("TOKEN", "lens-sentinel-x\n"),
        binding(1, None),
    ]
    assert env.sentinels({"bindings": [*bad, good]}) == {"GITHUB_TOKEN": "lens-sentinel-github"}
    assert env.sentinels({}) == {}
