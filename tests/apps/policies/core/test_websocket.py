"""A WebSocket is opened by a rule that names it, and by nothing wider."""

from __future__ import annotations

import pytest

from apps.policies.core.decide import evaluate
from apps.policies.core.hidden import hidden_rules
from apps.policies.types import (
    BUNDLE_FORMAT,
    WEBSOCKET,
    Action,
    Binding,
    Bundle,
    DomainRule,
    HttpRequest,
    HttpRule,
    Injection,
    Layer,
    LayerKind,
)

ALLOW, ASK, DENY = Action.ALLOW, Action.ASK, Action.DENY
ASKED = HttpRequest("https", "a.x", 443, "GET", "/live/1", websocket=True)
Rule = tuple[str, str | None, Action]


def layer(kind: LayerKind, *rules: Rule, action: Action = ALLOW) -> Layer:
    listed = tuple(HttpRule(str(number), *rule) for number, rule in enumerate(rules))
    return Layer(kind, kind.value, "X", (DomainRule("d", "a.x", action, listed),))


def decided(*layers: Layer) -> Action:
    return evaluate(Bundle(BUNDLE_FORMAT, 1, layers), ASKED).action


@pytest.mark.parametrize(
    ("rules", "action"),
    [
        ((), DENY),
        ((("*", None, ALLOW),), DENY),
        ((("GET", "/**", ALLOW),), DENY),
        (((WEBSOCKET, None, ALLOW),), ALLOW),
        (((WEBSOCKET, "/live/*", ALLOW),), ALLOW),
        (((WEBSOCKET, "/other", ALLOW),), DENY),
        (((WEBSOCKET, None, ASK),), ASK),
        ((("*", None, ALLOW), (WEBSOCKET, None, ALLOW)), ALLOW),
        ((("GET", "/LIVE/**", DENY), (WEBSOCKET, None, ALLOW)), DENY),
        ((("*", "/live/1", DENY), (WEBSOCKET, None, ALLOW)), DENY),
        ((("GET", None, ASK), (WEBSOCKET, None, ALLOW)), ASK),
        ((("POST", None, DENY), (WEBSOCKET, None, ALLOW)), ALLOW),
        (((WEBSOCKET, None, ALLOW), ("*", None, DENY)), ALLOW),
    ],
)
def test_rules_of_the_team(rules: tuple[Rule, ...], action: Action) -> None:
    assert decided(layer(LayerKind.TEAM, *rules)) is action


def test_other_layers_only_take_away() -> None:
    team = layer(LayerKind.TEAM, (WEBSOCKET, None, ALLOW))
    assert decided(layer(LayerKind.CEILING), team) is ALLOW
    assert decided(layer(LayerKind.CEILING, ("GET", None, ALLOW)), team) is DENY
    assert decided(layer(LayerKind.CEILING, (WEBSOCKET, None, ALLOW)), team) is ALLOW
    assert decided(team, layer(LayerKind.AGENT, action=DENY)) is DENY
    assert decided(layer(LayerKind.CEILING, (WEBSOCKET, None, ALLOW))) is DENY


@pytest.mark.parametrize("method", ["GET", "POST", WEBSOCKET])
def test_the_rule_opens_nothing_else(method: str) -> None:
    bundle = Bundle(BUNDLE_FORMAT, 1, (layer(LayerKind.TEAM, (WEBSOCKET, None, ALLOW)),))
    request = HttpRequest("https", "a.x", 443, method, "/live/1")
    assert evaluate(bundle, request).action is DENY
    if method != "GET":
        asked = HttpRequest("https", "a.x", 443, method, "/live/1", websocket=True)
        assert evaluate(bundle, asked).action is DENY


@pytest.mark.parametrize(
    ("method", "bound"), [("*", True), ("GET", True), (WEBSOCKET, True), ("POST", False)]
)
def test_credentials_of_the_handshake(method: str, *, bound: bool) -> None:
    binding = Binding("b", "c", "C", "a.x", Injection.BEARER, ("a.x",), method)
    team = layer(LayerKind.TEAM, (WEBSOCKET, None, ALLOW))
    decision = evaluate(Bundle(BUNDLE_FORMAT, 1, (team,), (binding,)), ASKED)
    assert decision.action is ALLOW
    assert decision.binding == (binding if bound else None)


@pytest.mark.parametrize(
    ("first", "second", "hidden"),
    [
        (("*", None, ALLOW), (WEBSOCKET, None, DENY), False),
        (("*", None, DENY), (WEBSOCKET, None, ALLOW), True),
        (("GET", None, DENY), (WEBSOCKET, None, ALLOW), True),
        (("POST", None, DENY), (WEBSOCKET, None, ALLOW), False),
        ((WEBSOCKET, None, DENY), (WEBSOCKET, "/a", ALLOW), True),
        ((WEBSOCKET, None, DENY), ("GET", None, ALLOW), False),
    ],
)
def test_hidden_rules(first: Rule, second: Rule, *, hidden: bool) -> None:
    assert bool(hidden_rules(layer(LayerKind.TEAM, first, second))) is hidden


def test_what_is_passed_over_is_said() -> None:
    bundle = Bundle(BUNDLE_FORMAT, 1, (layer(LayerKind.TEAM, ("*", None, ALLOW)),))
    decision = evaluate(bundle, ASKED)
    assert "WEBSOCKET" in decision.reason
    assert "WebSockets" in decision.passed_over[0].why
