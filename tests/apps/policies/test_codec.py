"""Bundles survive the way between processes unchanged, and nothing else is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.policies.codec import BundleError, decode, encode, from_obj, to_obj
from apps.policies.types import (
    BUNDLE_FORMAT,
    Action,
    AgentCredentials,
    Binding,
    Bundle,
    Connection,
    DomainRule,
    HttpRule,
    Injection,
    Layer,
    LayerKind,
    ToolRule,
)

http_rules = st.builds(
    HttpRule,
    id=st.text(max_size=5),
    method=st.sampled_from(["GET", "*", "M-SEARCH"]),
    path=st.none() | st.sampled_from(["/", "/a/**", "/*", "/é"]),
    action=st.sampled_from([Action.ALLOW, Action.ASK, Action.DENY]),
)
domain_rules = st.builds(
    DomainRule,
    id=st.text(max_size=5),
    pattern=st.sampled_from(["a.x", "*.x", "*", "10.0.0.0/8", "[::1]:443"]),
    action=st.sampled_from([Action.ALLOW, Action.ASK]),
    http=st.lists(http_rules, max_size=2).map(tuple),
    agent_credentials=st.sampled_from(AgentCredentials),
)
tool_rules = st.builds(
    ToolRule,
    id=st.text(max_size=5),
    pattern=st.sampled_from(["shell_*", "*"]),
    action=st.sampled_from([Action.ALLOW, Action.APPROVE, Action.DENY]),
    tier=st.none() | st.sampled_from(["api", "background"]),
)
layers = st.builds(
    Layer,
    kind=st.sampled_from([LayerKind.TEAM, LayerKind.AGENT]),
    id=st.text(max_size=5),
    name=st.text(max_size=5),
    domains=st.none() | st.lists(domain_rules, max_size=3).map(tuple),
    tools=st.none() | st.lists(tool_rules, max_size=3).map(tuple),
)
bindings = st.builds(
    Binding,
    id=st.text(max_size=5),
    credential_id=st.text(max_size=5),
    credential_name=st.text(max_size=5),
    pattern=st.just("a.x"),
    injection=st.sampled_from([Injection.BEARER, Injection.BASIC]),
    allowed_hosts=st.just(("a.x", "*.y")),
    parameter=st.sampled_from(["", "key"]),
)
bundles = st.builds(
    Bundle,
    format=st.just(BUNDLE_FORMAT),
    version=st.integers(0, 2**62),
    layers=st.lists(layers, max_size=3, unique_by=lambda layer: layer.kind).map(tuple),
    bindings=st.lists(bindings, max_size=2).map(tuple),
    connections=st.just((Connection("a.x", ("10.0.0.0/8",)),)),
    platform_hosts=st.just(("lens.x",)),
)

PLAIN: dict[str, Any] = {
    "format": BUNDLE_FORMAT,
    "version": 3,
    "layers": [
        {
            "kind": "team",
            "id": "t",
            "name": "SRE",
            "domains": [{"id": "d", "pattern": "a.x", "action": "allow"}],
        }
    ],
}


@given(bundles)
def test_round_trip(bundle: Bundle) -> None:
    assert decode(encode(bundle)) == bundle
    carried = json.loads(json.dumps({"op": "bundle", "bundle": to_obj(bundle)}))
    assert from_obj(carried["bundle"]) == bundle


def test_absent_and_empty_sections_stay_apart() -> None:
    bundle = from_obj(PLAIN)
    assert bundle.layers[0].tools is None
    assert decode(encode(bundle)).layers[0].tools is None
    emptied = {**PLAIN, "layers": [{**PLAIN["layers"][0], "domains": [], "tools": []}]}
    assert from_obj(emptied).layers[0].tools == ()
    assert decode(encode(from_obj(emptied))).layers[0].domains == ()


def test_newer_fields_are_ignored() -> None:
    layer = {**PLAIN["layers"][0], "colour": "amber"}
    assert from_obj({**PLAIN, "layers": [layer], "models": {"any": ["thing"]}}) == from_obj(PLAIN)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"[]", b"null", b"\xff", b"[" * 100_000, b"{}"])
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        decode(data)


@pytest.mark.parametrize("number", [0, BUNDLE_FORMAT + 1, -1, True, "1", 1.0, None])
def test_another_format_is_refused(number: object) -> None:
    with pytest.raises(BundleError, match="format"):
        from_obj({**PLAIN, "format": number})


def broken(**fields: object) -> dict[str, Any]:
    """The plain bundle with its one domain rule changed."""
    layer = PLAIN["layers"][0]
    return {**PLAIN, "layers": [{**layer, "domains": [{**layer["domains"][0], **fields}]}]}


@pytest.mark.parametrize(
    "obj",
    [
        broken(action="permit"),
        broken(action="ALLOW"),
        broken(action="approve"),
        broken(action=None),
        broken(pattern="a..x"),
        broken(pattern=None),
        broken(pattern=["a.x"]),
        broken(id=7),
        broken(http=None),
        broken(http=[{"id": "h", "method": "get", "path": None, "action": "allow"}]),
        broken(http=[{"id": "h", "method": "GET", "path": "a", "action": "allow"}]),
        broken(http=[{"id": "h", "method": "GET", "action": "allow"}]),
        broken(agent_credentials="drop"),
        {**PLAIN, "version": "3"},
        {**PLAIN, "version": True},
        {**PLAIN, "layers": None},
        {**PLAIN, "layers": [{"kind": "boss", "id": "", "name": ""}]},
        {**PLAIN, "layers": PLAIN["layers"] * 2},
        {**PLAIN, "platform_hosts": "lens.x"},
        {**PLAIN, "connections": [{"pattern": "a.x", "addresses": ["10.0.0.1/8"]}]},
        {"format": BUNDLE_FORMAT},
    ],
)
def test_what_is_wrong_inside_is_refused(obj: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="not valid"):
        from_obj(obj)
    with pytest.raises(BundleError):
        decode(json.dumps(obj).encode())


@given(st.binary(max_size=60))
def test_any_bytes_are_a_bundle_or_a_bundle_error(data: bytes) -> None:
    try:
        bundle = decode(data)
    except BundleError:
        return
    assert bundle.format == BUNDLE_FORMAT
