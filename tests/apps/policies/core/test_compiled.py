"""Compiling is done once for a bundle, and never mistakes one bundle for another."""

from __future__ import annotations

import pytest

from apps.policies.core import compiled as module
from apps.policies.core.compiled import best_action, compiled, stricter
from apps.policies.types import (
    BUNDLE_FORMAT,
    Action,
    Bundle,
    DomainRule,
    HttpRule,
    Layer,
    LayerKind,
)


def make(pattern: str) -> Bundle:
    layer = Layer(LayerKind.TEAM, "t", "T", (DomainRule("d", pattern, Action.ALLOW),))
    return Bundle(BUNDLE_FORMAT, 1, (layer,))


def test_one_bundle_is_compiled_once() -> None:
    bundle = make("a.x")
    assert compiled(bundle) is compiled(bundle)


def test_an_equal_bundle_is_another_bundle() -> None:
    assert compiled(make("a.x")) is not compiled(make("a.x"))


def test_many_short_lived_bundles_never_get_each_others_rules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_CACHE_SIZE", 4)
    for number in range(200):
        entry = compiled(make(f"h{number}.x"))
        domains = entry.layers[0].domains
        assert domains is not None
        assert domains[0].pattern.name == f"h{number}.x"
        assert len(module._cache) <= 4


@pytest.mark.parametrize("first", list(Action))
@pytest.mark.parametrize("second", list(Action))
def test_the_stricter_of_two(first: Action, second: Action) -> None:
    order = [Action.DIRECT, Action.ALLOW, Action.ASK, Action.APPROVE, Action.DENY]
    found = stricter(first, second)
    assert found in (first, second)
    if {first, second} != {Action.ASK, Action.APPROVE}:
        assert found is max(first, second, key=order.index)


def test_the_best_that_a_request_can_get() -> None:
    def rule(action: Action, *http: Action) -> DomainRule:
        listed = tuple(HttpRule(str(n), "GET", None, said) for n, said in enumerate(http))
        return DomainRule("d", "a.x", action, listed)

    assert best_action(rule(Action.ALLOW)) is Action.ALLOW
    assert best_action(rule(Action.ALLOW, Action.DENY, Action.ASK)) is Action.ASK
    assert best_action(rule(Action.ASK, Action.ALLOW)) is Action.ASK
    assert best_action(rule(Action.ALLOW, Action.DENY)) is Action.DENY
