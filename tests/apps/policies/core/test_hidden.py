"""The hidden-rule check against brute force over a small world of requests."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.policies.core.hidden import Hidden, hidden_rules
from apps.policies.types import (
    Action,
    AgentCredentials,
    DomainRule,
    HttpRule,
    Layer,
    LayerKind,
    ToolRule,
)

ALLOW, DENY, ASK, APPROVE = Action.ALLOW, Action.DENY, Action.ASK, Action.APPROVE


def document(
    domains: tuple[DomainRule, ...] = (), tools: tuple[ToolRule, ...] = ()
) -> list[Hidden]:
    return hidden_rules(Layer(LayerKind.TEAM, "t", "T", domains, tools))


def hosts(*rules: tuple[str, Action]) -> list[tuple[str, str]]:
    """The hidden pairs of a document whose rules are numbered from 1."""
    listed = tuple(DomainRule(str(n), text, action) for n, (text, action) in enumerate(rules, 1))
    return [(found.rule, found.by) for found in document(listed)]


def paths(*rules: tuple[str, str | None, Action]) -> list[tuple[str, str]]:
    listed = tuple(HttpRule(str(n), *rule) for n, rule in enumerate(rules, 1))
    return [(found.rule, found.by) for found in document((DomainRule("d", "a", ALLOW, listed),))]


def tools(*rules: tuple[str, Action, str | None]) -> list[tuple[str, str]]:
    listed = tuple(ToolRule(str(n), *rule) for n, rule in enumerate(rules, 1))
    return [(found.rule, found.by) for found in document((), listed)]


@pytest.mark.parametrize(
    ("rules", "hidden"),
    [
        ((("*", ALLOW), ("a.x", DENY)), [("2", "1")]),
        ((("a.x", DENY), ("*", ALLOW)), []),
        ((("*.x", ALLOW), ("a.x", ALLOW)), []),
        ((("*.x", ALLOW), ("x", DENY)), []),
        ((("*", ALLOW), ("a.x:8443", DENY)), []),
        ((("*", DENY), ("a.x:8443", ALLOW)), [("2", "1")]),
        ((("a.x:443", ALLOW), ("a.x", DENY)), []),
        ((("10.0.0.0/8", DENY), ("10.1.0.0/16", ALLOW)), [("2", "1")]),
        ((("*.x", ALLOW), ("*.a.x", ASK), ("b.a.x", DENY)), [("2", "1"), ("3", "1")]),
        ((("a.x", ALLOW), ("A.X.", DENY)), [("2", "1")]),
        ((("a..x", ALLOW), ("a..x", DENY)), []),
    ],
)
def test_domain_rules(rules: tuple[tuple[str, Action], ...], hidden: list[tuple[str, str]]) -> None:
    assert hosts(*rules) == hidden


@pytest.mark.parametrize(
    ("rules", "hidden"),
    [
        ((("*", None, ALLOW), ("DELETE", "/a", DENY)), [("2", "1")]),
        ((("GET", "/**", ALLOW), ("*", "/a", DENY)), []),
        ((("GET", "/a/**", ALLOW), ("GET", "/a/*/b", DENY)), [("2", "1")]),
        ((("GET", "/a/*", ALLOW), ("GET", "/a/**", DENY)), []),
        ((("GET", "/**", ALLOW), ("GET", None, DENY)), [("2", "1")]),
        ((("GET", None, ALLOW), ("GET", "/**", DENY)), [("2", "1")]),
        ((("GET", "/a", DENY), ("GET", "/A", ALLOW)), [("2", "1")]),
        ((("GET", "/A", ALLOW), ("GET", "/a", DENY)), []),
        ((("GET", "/a", ALLOW), ("GET", "/a/", ASK)), [("2", "1")]),
    ],
)
def test_http_rules(
    rules: tuple[tuple[str, str | None, Action], ...], hidden: list[tuple[str, str]]
) -> None:
    assert paths(*rules) == hidden


@pytest.mark.parametrize(
    ("rules", "hidden"),
    [
        ((("shell_*", ALLOW, None), ("shell_exec", DENY, None)), [("2", "1")]),
        ((("shell_*", ALLOW, None), ("shell_exec", DENY, "api")), [("2", "1")]),
        ((("shell_*", ALLOW, "api"), ("shell_exec", DENY, None)), []),
        ((("shell_exec", APPROVE, None), ("shell_*", ALLOW, None)), []),
    ],
)
def test_tool_rules(
    rules: tuple[tuple[str, Action, str | None], ...], hidden: list[tuple[str, str]]
) -> None:
    assert tools(*rules) == hidden


def test_other_http_rules_or_credentials_are_another_effect() -> None:
    http = (HttpRule("h", "GET", None, ALLOW),)
    plain = DomainRule("1", "*.x", ALLOW)
    assert document((plain, DomainRule("2", "a.x", ALLOW))) == []
    assert document((plain, DomainRule("2", "a.x", ALLOW, http)))
    same = (HttpRule("other id", "GET", None, ALLOW),)
    assert (
        document((DomainRule("1", "*.x", ALLOW, http), DomainRule("2", "a.x", ALLOW, same))) == []
    )
    kept = DomainRule("2", "a.x", ALLOW, agent_credentials=AgentCredentials.KEEP)
    assert document((plain, kept))


def test_the_message_names_both_rules_and_the_remedy() -> None:
    (found,) = document((DomainRule("1", "*.x", ALLOW), DomainRule("2", "a.x", DENY)))
    assert found.message == (
        "Rule 2 (`a.x`: deny) can never apply: rule 1 (`*.x`: allow) matches all of it first. "
        "Move rule 2 above rule 1, or remove it."
    )
    http = (HttpRule("h1", "*", None, ALLOW), HttpRule("h2", "GET", "/a", DENY))
    (found,) = document((DomainRule("1", "b.x", DENY), DomainRule("2", "a.x", ALLOW, http)))
    assert found.section == "http"
    assert "(`GET /a`: deny) under rule 2 (`a.x`)" in found.message


NAMES = ("a", "x", "a.x", "b.x", "a.a.x", "b.a.x", "z")
PORTS = (80, 443, 22, 23)
bodies = st.sampled_from(["*", "a", "x", "a.x", "*.x", "*.a.x"])
patterns = st.builds(lambda body, port: body + port, bodies, st.sampled_from(["", ":80", ":22"]))
actions = st.sampled_from([ALLOW, ASK, DENY])


def naive_host(body: str, name: str) -> bool:
    return body in ("*", name) or (body.startswith("*.") and name.endswith(body[1:]))


def naive_domain(pattern: str, *, wide: bool) -> set[tuple[str, int]]:
    """What a pattern matches; `wide` reads a missing port as every port."""
    body, _, port = pattern.partition(":")
    ports = {int(port)} if port else set(PORTS) if wide else {80, 443}
    return {pair for pair in itertools.product(NAMES, ports) if naive_host(body, pair[0])}


@given(st.lists(st.tuples(patterns, actions), max_size=6))
def test_domain_rules_against_brute_force(rules: list[tuple[str, Action]]) -> None:
    expected = []
    for later, (text, action) in enumerate(rules, 1):
        named = naive_domain(text, wide=False)
        for earlier, (other, said) in enumerate(rules[: later - 1], 1):
            if said is not action and named <= naive_domain(other, wide=said is DENY):
                expected.append((str(later), str(earlier)))
                break
    assert hosts(*rules) == expected


SEGMENTS = "abAz"
ALL_PATHS = tuple(path for size in range(5) for path in itertools.product(SEGMENTS, repeat=size))
METHODS = ("GET", "PUT", "ODD")
path_globs = st.none() | st.lists(st.sampled_from(["a", "b", "A", "*", "**"]), max_size=3).map(
    lambda parts: "/" + "/".join(parts)
)
http_rules = st.tuples(st.sampled_from(["GET", "PUT", "*"]), path_globs, actions)


def naive_glob(parts: list[str], path: tuple[str, ...]) -> bool:
    if not parts:
        return not path
    if parts[0] == "**":
        return any(naive_glob(parts[1:], path[at:]) for at in range(len(path) + 1))
    return bool(path) and parts[0] in ("*", path[0]) and naive_glob(parts[1:], path[1:])


def naive_http(method: str, glob: str | None, *, wide: bool) -> set[tuple[str, tuple[str, ...]]]:
    """What an HTTP rule matches; `wide` reads past upper and lower case."""
    text = glob or "/**"
    parts = [] if text == "/" else (text.lower() if wide else text)[1:].split("/")
    return {
        (verb, path)
        for verb, path in itertools.product(METHODS, ALL_PATHS)
        if method in ("*", verb)
        and naive_glob(parts, tuple(part.lower() for part in path) if wide else path)
    }


@settings(max_examples=60)
@given(st.lists(http_rules, max_size=4))
def test_http_rules_against_brute_force(rules: list[tuple[str, str | None, Action]]) -> None:
    expected = []
    for later, (method, glob, action) in enumerate(rules, 1):
        named = naive_http(method, glob, wide=False)
        for earlier, (verb, other, said) in enumerate(rules[: later - 1], 1):
            if said is not action and named <= naive_http(verb, other, wide=said is DENY):
                expected.append((str(later), str(earlier)))
                break
    assert paths(*rules) == expected


TOOLS = tuple("".join(name) for size in range(5) for name in itertools.product("abz", repeat=size))
TIERS = ("api", "background", "interactive")
tool_rules = st.tuples(
    st.text("ab*", min_size=1, max_size=4),
    st.sampled_from([ALLOW, APPROVE, DENY]),
    st.sampled_from([None, "api", "background"]),
)


def naive_name(glob: str, name: str) -> bool:
    if not glob:
        return not name
    if glob[0] == "*":
        return any(naive_name(glob[1:], name[at:]) for at in range(len(name) + 1))
    return name[:1] == glob[0] and naive_name(glob[1:], name[1:])


def naive_tool(glob: str, tier: str | None) -> set[tuple[str, str]]:
    tiers = TIERS if tier is None else (tier,)
    return {pair for pair in itertools.product(TOOLS, tiers) if naive_name(glob, pair[0])}


def test_many_intricate_paths_are_compared_in_a_moment() -> None:
    """Each pair by the walk of all paths took eight seconds, and a document has many such lists."""
    listed = (("GET", f"/**/a/**/x{n}/**/b/*/c/**", (ALLOW, DENY)[n % 2]) for n in range(500))
    started = time.process_time()
    assert paths(*listed) == []
    assert time.process_time() - started < 3


@settings(max_examples=60)
@given(st.lists(tool_rules, max_size=5))
def test_tool_rules_against_brute_force(rules: list[tuple[str, Action, str | None]]) -> None:
    expected = []
    for later, (glob, action, tier) in enumerate(rules, 1):
        named = naive_tool(glob, tier)
        for earlier, (other, said, when) in enumerate(rules[: later - 1], 1):
            if said is not action and named <= naive_tool(other, when):
                expected.append((str(later), str(earlier)))
                break
    assert tools(*rules) == expected
