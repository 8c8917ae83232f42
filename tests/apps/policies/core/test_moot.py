"""A rule is called moot only when nothing that it names can get through, whatever else it says."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.policies.core.decide import evaluate
from apps.policies.core.moot import moot_rules
from apps.policies.types import (
    BUNDLE_FORMAT,
    Action,
    Bundle,
    ConnectRequest,
    DomainRule,
    HttpRule,
    Layer,
    LayerKind,
    ToolRequest,
    ToolRule,
)

ALLOW, ASK, DENY, DIRECT = Action.ALLOW, Action.ASK, Action.DENY, Action.DIRECT
CEILING, TEAM, AGENT = LayerKind.CEILING, LayerKind.TEAM, LayerKind.AGENT


def domains(kind: LayerKind, *rules: tuple[str, Action]) -> Layer:
    listed = tuple(DomainRule(str(n), text, action) for n, (text, action) in enumerate(rules, 1))
    return Layer(kind, kind, "SRE", listed)


def tools(kind: LayerKind, *rules: tuple[str, Action, str | None]) -> Layer:
    listed = tuple(ToolRule(str(n), *rule) for n, rule in enumerate(rules, 1))
    return Layer(kind, kind, "SRE", tools=listed)


def moot(*layers: Layer) -> list[tuple[str, str]]:
    return [(found.layer, found.rule) for found in moot_rules(layers)]


TEAM_RULES = domains(TEAM, ("a.x", ALLOW), ("*.y", ALLOW), ("db.x:5432", DIRECT))


@pytest.mark.parametrize(
    ("ceiling", "rules"),
    [
        ((("*", ALLOW), ("*:5432", ALLOW)), ["3"]),
        ((("*", ALLOW), ("db.x:5432", DIRECT)), []),
        ((("*", DENY),), ["1", "2", "3"]),
        ((), ["1", "2", "3"]),
        ((("*.x", ALLOW), ("*.x:5432", ALLOW)), ["2", "3"]),
        ((("b.y", ALLOW), ("a.x", DENY), ("*", ALLOW)), ["1", "3"]),
        ((("b.y", ASK), ("a.x", ASK), ("db.x:5432", DIRECT)), []),
    ],
)
def test_a_ceiling_makes_rules_moot(
    ceiling: tuple[tuple[str, Action], ...], rules: list[str]
) -> None:
    assert moot(TEAM_RULES, domains(CEILING, *ceiling)) == [("team", rule) for rule in rules]


def test_an_absent_section_makes_nothing_moot() -> None:
    assert moot(TEAM_RULES, Layer(CEILING, "c", "c")) == []
    assert moot(tools(TEAM, ("*", ALLOW, None)), Layer(CEILING, "c", "c")) == []


def test_a_layer_above_whose_http_rules_all_deny_is_a_denial() -> None:
    http = (HttpRule("h", "GET", None, DENY),)
    ceiling = Layer(CEILING, "c", "c", (DomainRule("1", "*", ALLOW, http),))
    assert moot(domains(TEAM, ("a.x", ALLOW)), ceiling) == [("team", "1")]


def test_messages_name_the_layer_above() -> None:
    (found,) = moot_rules((domains(TEAM, ("a.x", ALLOW)), domains(CEILING, ("*", DENY))))
    assert found.message == (
        "The rule `a.x` of the team policy “SRE” has no effect: the organization ceiling “SRE” "
        "denies all that it names."
    )


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        ("api.openai.com", "model provider"),
        ("localhost", "this machine"),
        ("metadata.google.internal", "metadata"),
        ("169.254.169.254", "metadata"),
        ("127.0.0.0/8", "loopback"),
        ("lens.x:8443", "platform"),
    ],
)
def test_built_in_refusals_make_rules_moot(pattern: str, word: str) -> None:
    layer = domains(TEAM, (pattern, ALLOW))
    (found,) = moot_rules((layer,), platform_hosts=("lens.x",))
    assert word in found.message
    assert moot_rules((domains(TEAM, (pattern, DENY)),), platform_hosts=("lens.x",)) == []


@pytest.mark.parametrize("pattern", ["api.openai.com", "*.openai.com", "10.0.0.0/8", "0.0.0.0/0"])
def test_what_can_be_opened_is_not_moot(pattern: str) -> None:
    layer = domains(TEAM, (pattern, ALLOW))
    assert moot_rules((layer,), provider_override=("api.openai.com",)) == []


def test_a_platform_entry_with_a_port_leaves_the_other_ports() -> None:
    layer = domains(TEAM, ("db.x", ALLOW))
    assert moot_rules((layer,), platform_hosts=("db.x:5432",)) == []


@pytest.mark.parametrize(
    ("ceiling", "rules"),
    [
        ((("*", ALLOW, None),), []),
        ((("file_*", ALLOW, None),), ["1", "2"]),
        ((("shell_*", ALLOW, "api"),), ["2"]),
        ((("shell_*", DENY, "background"), ("*", ALLOW, None)), ["2"]),
        ((("shell_e*", ALLOW, None),), []),
    ],
)
def test_tool_rules(ceiling: tuple[tuple[str, Action, str | None], ...], rules: list[str]) -> None:
    team = tools(TEAM, ("shell_*", ALLOW, None), ("shell_exec", ALLOW, "background"))
    assert moot(team, tools(CEILING, *ceiling)) == [("team", rule) for rule in rules]


def test_documents_that_cannot_be_read_are_left_out() -> None:
    assert moot(domains(TEAM, ("a..x", ALLOW)), domains(CEILING, ("*", DENY))) == []
    assert moot(domains(TEAM, ("a.x", ALLOW)), domains(CEILING, ("a..x", DENY))) == []


NAMES = ("a", "x", "a.x", "b.x", "a.a.x", "z")
bodies = st.sampled_from(["*", "a", "x", "a.x", "*.x", "*.a.x"])
patterns = st.builds(lambda body, port: body + port, bodies, st.sampled_from(["", ":80", ":22"]))
rule_lists = st.lists(st.tuples(patterns, st.sampled_from([ALLOW, ASK, DENY])), max_size=4)


@given(rule_lists, patterns)
def test_domain_rules_against_the_evaluator(
    ceiling: list[tuple[str, Action]], pattern: str
) -> None:
    """The lower document allows just what the pattern names: is any of it let through?"""
    upper, lower = domains(CEILING, *ceiling), domains(TEAM, (pattern, ALLOW))
    bundle = Bundle(BUNDLE_FORMAT, 1, (upper, lower))
    pairs = itertools.product(NAMES, (80, 443, 22))
    reached = any(evaluate(bundle, ConnectRequest(*pair)).action is not DENY for pair in pairs)
    if moot(upper, lower):
        assert not reached
    elif not reached:
        # Only several denials together may go unnoticed, never a single one or no rule at all.
        assert len([rule for rule in ceiling if rule[1] is DENY]) >= 1
        assert any(rule[1] is not DENY for rule in ceiling)


@given(
    st.lists(
        st.tuples(
            st.text("ab*", min_size=1, max_size=3),
            st.sampled_from([ALLOW, Action.APPROVE, DENY]),
            st.sampled_from([None, "api"]),
        ),
        max_size=3,
    ),
    st.text("ab*", min_size=1, max_size=3),
    st.sampled_from([None, "api"]),
)
def test_tool_rules_against_the_evaluator(
    ceiling: list[tuple[str, Action, str | None]], glob: str, tier: str | None
) -> None:
    upper, lower = tools(CEILING, *ceiling), tools(TEAM, (glob, ALLOW, tier))
    if not moot(upper, lower):
        return
    bundle = Bundle(BUNDLE_FORMAT, 1, (upper, lower))
    names = (
        "".join(name) for size in range(1, 5) for name in itertools.product("abz", repeat=size)
    )
    for name, when in itertools.product(names, ("api", "background")):
        assert evaluate(bundle, ToolRequest(name, when)).action is DENY


def test_the_layer_of_the_same_kind_counts_too() -> None:
    first = replace(domains(AGENT, ("*", DENY)), id="one")
    second = replace(domains(AGENT, ("a.x", ALLOW)), id="two")
    assert moot(first, second) == [("two", "1")]
